//! The functions that pointwise ops apply: in float64 for the oracle, as WGSL for the
//! generated kernels. The WGSL helpers stand in `shaders/lib/math.wgsl`.

/// The functions. Derivatives at kinks: `relu'(0) = 0`, `abs'(0) = 0`,
/// `leaky_relu'(0) = slope`, `elu'(0) = 1`.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs)]
pub enum Func {
    Fill(f32),
    /// The value itself, repeated to the output's shape.
    Repeat,
    Neg,
    Abs,
    Sign,
    Exp,
    Log,
    Sqrt,
    Rsqrt,
    Recip,
    Square,
    Sin,
    Cos,
    Tanh,
    Sigmoid,
    Softplus,
    Relu,
    LeakyRelu(f32),
    Elu(f32),
    Erf,
    Gelu,
    Silu,
    Floor,
    Ceil,
    Round,
    AddScalar(f32),
    MulScalar(f32),
    PowScalar(f32),
    Clamp(f32, f32),
    Add,
    Sub,
    Mul,
    Div,
    Pow,
    Max,
    Min,
    Less,
    LessEqual,
    Equal,
    /// `condition != 0 ? a : b`
    Select,
    /// u32 to f32
    ToF32,
    /// f32 to u32, rounding toward zero
    ToU32,
}

impl Func {
    pub(in crate::ops) fn inputs(self) -> usize {
        use Func::*;
        match self {
            Fill(_) => 0,
            Add | Sub | Mul | Div | Pow | Max | Min | Less | LessEqual | Equal => 2,
            Select => 3,
            _ => 1,
        }
    }

    pub(in crate::ops) fn name(self) -> &'static str {
        use Func::*;
        match self {
            Fill(_) => "fill",
            Repeat => "broadcast_to",
            Neg => "neg",
            Abs => "abs",
            Sign => "sign",
            Exp => "exp",
            Log => "log",
            Sqrt => "sqrt",
            Rsqrt => "rsqrt",
            Recip => "recip",
            Square => "square",
            Sin => "sin",
            Cos => "cos",
            Tanh => "tanh",
            Sigmoid => "sigmoid",
            Softplus => "softplus",
            Relu => "relu",
            LeakyRelu(_) => "leaky_relu",
            Elu(_) => "elu",
            Erf => "erf",
            Gelu => "gelu",
            Silu => "silu",
            Floor => "floor",
            Ceil => "ceil",
            Round => "round",
            AddScalar(_) => "add_scalar",
            MulScalar(_) => "mul_scalar",
            PowScalar(_) => "pow_scalar",
            Clamp(..) => "clamp",
            Add => "add",
            Sub => "sub",
            Mul => "mul",
            Div => "div",
            Pow => "pow",
            Max => "maximum",
            Min => "minimum",
            Less => "less",
            LessEqual => "less_equal",
            Equal => "equal",
            Select => "select",
            ToF32 => "to_f32",
            ToU32 => "to_u32",
        }
    }

    /// The function in float64.
    pub fn eval(self, x: &[f64]) -> f64 {
        use Func::*;
        let truth = |b: bool| if b { 1.0 } else { 0.0 };
        let sigmoid = |v: f64| 1.0 / (1.0 + (-v).exp());
        match self {
            Fill(c) => c as f64,
            Repeat => x[0],
            Neg => -x[0],
            Abs => x[0].abs(),
            Sign if x[0].is_nan() => x[0],
            Sign => truth(x[0] > 0.0) - truth(x[0] < 0.0),
            Exp => x[0].exp(),
            Log => x[0].ln(),
            Sqrt => x[0].sqrt(),
            Rsqrt => 1.0 / x[0].sqrt(),
            Recip => 1.0 / x[0],
            Square => x[0] * x[0],
            Sin => x[0].sin(),
            Cos => x[0].cos(),
            Tanh => x[0].tanh(),
            Sigmoid => sigmoid(x[0]),
            Softplus => larger(x[0], 0.0) + (-x[0].abs()).exp().ln_1p(),
            Relu => larger(x[0], 0.0),
            LeakyRelu(s) => x[0] * if x[0] > 0.0 { 1.0 } else { s as f64 },
            Elu(a) => {
                if x[0] > 0.0 {
                    x[0]
                } else {
                    a as f64 * x[0].exp_m1()
                }
            }
            Erf => erf(x[0]),
            Gelu => 0.5 * x[0] * (1.0 + erf(x[0] * std::f64::consts::FRAC_1_SQRT_2)),
            Silu => x[0] * sigmoid(x[0]),
            Floor => x[0].floor(),
            Ceil => x[0].ceil(),
            Round => x[0].round_ties_even(),
            AddScalar(c) => x[0] + c as f64,
            MulScalar(c) => x[0] * c as f64,
            PowScalar(e) => x[0].powf(e as f64),
            Clamp(lo, hi) => smaller(larger(x[0], lo as f64), hi as f64),
            Add => x[0] + x[1],
            Sub => x[0] - x[1],
            Mul => x[0] * x[1],
            Div => x[0] / x[1],
            Pow => x[0].powf(x[1]),
            Max => larger(x[0], x[1]),
            Min => smaller(x[0], x[1]),
            Less => truth(x[0] < x[1]),
            LessEqual => truth(x[0] <= x[1]),
            Equal => truth(x[0] == x[1]),
            Select => {
                if x[0] != 0.0 {
                    x[1]
                } else {
                    x[2]
                }
            }
            ToF32 => x[0],
            ToU32 => x[0].max(0.0).trunc(),
        }
    }
}

impl Func {
    /// Numbers that the expression takes behind its inputs.
    pub(in crate::ops) fn scalars(self) -> Vec<f32> {
        use Func::*;
        match self {
            Fill(c) | LeakyRelu(c) | Elu(c) | AddScalar(c) | MulScalar(c) => vec![c],
            PowScalar(e) if short_power("x", e).is_none() => vec![e],
            Clamp(lo, hi) => vec![lo, hi],
            _ => vec![],
        }
    }

    /// The expression of one element, from those of its inputs and its scalars.
    pub(in crate::ops) fn wgsl(self, x: &[&str]) -> String {
        use Func::*;
        let call = |name: &str| format!("{name}({})", x.join(", "));
        match self {
            Fill(_) => x[0].into(),
            Repeat => x[0].into(),
            Neg => format!("-({})", x[0]),
            Square => format!("{0} * {0}", x[0]),
            Recip => format!("1.0 / {}", x[0]),
            Abs => call("abs"),
            Sign => call("sign_f32"),
            Exp => call("exp_f32"),
            Log => call("log_f32"),
            Sqrt => call("sqrt"),
            Rsqrt => format!("1.0 / sqrt({})", x[0]),
            Sin => call("sin_f32"),
            Cos => call("cos_f32"),
            Floor => call("floor"),
            Ceil => call("ceil"),
            Round => call("round"),
            Tanh => call("tanh_f32"),
            Sigmoid => call("sigmoid"),
            Softplus => call("softplus"),
            Relu => call("relu"),
            LeakyRelu(_) => format!("select({1} * {0}, {0}, {0} > 0.0)", x[0], x[1]),
            Elu(_) => format!("select({1} * expm1({0}), {0}, {0} > 0.0)", x[0], x[1]),
            Erf => call("erf"),
            Gelu => call("gelu"),
            Silu => format!("{0} * sigmoid({0})", x[0]),
            AddScalar(_) => format!("{} + {}", x[0], x[1]),
            MulScalar(_) => format!("{} * {}", x[0], x[1]),
            PowScalar(e) => short_power(x[0], e).unwrap_or_else(|| match e.fract() == 0.0 {
                true => call("powi"),
                false => call("pow_f32"),
            }),
            Clamp(..) => call("clamp_f32"),
            Add => format!("{} + {}", x[0], x[1]),
            // Of one value with itself drivers know the result, and are wrong about NaN.
            Sub if x[0] == x[1] => format!("self_difference({})", x[0]),
            Div if x[0] == x[1] => format!("self_quotient({})", x[0]),
            Equal | LessEqual if x[0] == x[1] => format!("self_equal({})", x[0]),
            Sub => format!("{} - {}", x[0], x[1]),
            Mul => format!("{} * {}", x[0], x[1]),
            Div => format!("{} / {}", x[0], x[1]),
            Pow => call("pow_any"),
            Max => call("max_f32"),
            Min => call("min_f32"),
            Less => format!("select(0.0, 1.0, {} < {})", x[0], x[1]),
            LessEqual => format!("select(0.0, 1.0, {} <= {})", x[0], x[1]),
            Equal => format!("select(0.0, 1.0, {} == {})", x[0], x[1]),
            Select => format!("select({2}, {1}, {0} != 0.0)", x[0], x[1], x[2]),
            ToF32 => call("f32"),
            // Conversions of numbers outside the range differ between drivers.
            ToU32 => format!("u32(clamp({}, 0.0, 4294967040.0))", x[0]),
        }
    }

    /// Snippets in `shaders/lib/` that the expression calls.
    pub(in crate::ops) fn imports(self) -> &'static [&'static str] {
        use Func::*;
        match self {
            Exp | Log | Sin | Cos | Tanh | Sigmoid | Softplus | Elu(_) | Erf | Gelu | Silu
            | Pow | PowScalar(_) | Relu | Sign | Clamp(..) | Max | Min | Sub | Div | Equal
            | LessEqual => &["math"],
            _ => &[],
        }
    }

    /// Floating-point operations per element.
    pub(in crate::ops) fn flops(self) -> u64 {
        use Func::*;
        match self {
            Fill(_) | Repeat | ToF32 | ToU32 => 0,
            Exp | Log | Sin | Cos | Tanh | Sigmoid | Softplus | Elu(_) | Erf | Gelu | Silu
            | Pow | PowScalar(_) => 8,
            _ => 1,
        }
    }
}

/// The powers that need no function.
fn short_power(x: &str, e: f32) -> Option<String> {
    Some(match e {
        0.0 => "1.0".into(),
        1.0 => x.into(),
        2.0 => format!("{x} * {x}"),
        3.0 => format!("{x} * {x} * {x}"),
        4.0 => format!("({x} * {x}) * ({x} * {x})"),
        -1.0 => format!("1.0 / {x}"),
        -2.0 => format!("1.0 / ({x} * {x})"),
        0.5 => format!("sqrt({x})"),
        -0.5 => format!("1.0 / sqrt({x})"),
        _ => return None,
    })
}

/// The larger of two; NaN where either is, which `f64::max` passes over.
pub(in crate::ops) fn larger(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

/// The smaller of two; NaN where either is.
pub(in crate::ops) fn smaller(a: f64, b: f64) -> f64 {
    if a.is_nan() || a < b { a } else { b }
}

/// The error function by its series and continued fraction, to float64 accuracy.
pub(crate) fn erf(x: f64) -> f64 {
    let a = x.abs();
    if a < 3.0 {
        // erf(x) = 2/sqrt(pi) * exp(-x^2) * sum 2^n x^(2n+1) / (1 * 3 * ... * (2n+1))
        let mut term = a;
        let mut sum = a;
        let mut n = 0.0;
        while term > 1e-18 * sum && n < 200.0 {
            n += 1.0;
            term *= 2.0 * a * a / (2.0 * n + 1.0);
            sum += term;
        }
        (std::f64::consts::FRAC_2_SQRT_PI * (-a * a).exp() * sum).copysign(x)
    } else if a > 6.0 {
        1f64.copysign(x)
    } else {
        let mut fraction = 0.0;
        for k in (1..=60).rev() {
            fraction = k as f64 / 2.0 / (a + fraction);
        }
        let erfc = (-a * a).exp() / ((a + fraction) * std::f64::consts::PI.sqrt());
        (1.0 - erfc).copysign(x)
    }
}
