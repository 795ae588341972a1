//! Element-by-element arithmetic and functions, with right-aligned broadcasting.
//!
//! Chains of these are fused by the planner into one generated dispatch; there is
//! no shader file. The WGSL helpers that expressions call stand in
//! `shaders/lib/math.wgsl`.

use crate::graph::{Array, Graph, Kind, Lower, Op, Pointwise, Spec, Tensor, Vjp};
use crate::{DType, Error, Result, Shape};

/// The functions. Derivatives at kinks: `relu'(0) = 0`, `abs'(0) = 0`,
/// `leaky_relu'(0) = slope`, `elu'(0) = 1`.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs)]
pub enum Func {
    Fill(f32),
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

/// One [`Func`] over broadcast inputs.
#[derive(Debug)]
pub struct Map {
    /// The function.
    pub func: Func,
    /// The output's shape where there are no inputs.
    pub shape: Option<Shape>,
}

impl Func {
    fn inputs(self) -> usize {
        use Func::*;
        match self {
            Fill(_) => 0,
            Add | Sub | Mul | Div | Pow | Max | Min | Less | LessEqual | Equal => 2,
            Select => 3,
            _ => 1,
        }
    }

    fn name(self) -> &'static str {
        use Func::*;
        match self {
            Fill(_) => "fill",
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
            Neg => -x[0],
            Abs => x[0].abs(),
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
            Softplus => x[0].max(0.0) + (-x[0].abs()).exp().ln_1p(),
            Relu => x[0].max(0.0),
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
            Clamp(lo, hi) => x[0].max(lo as f64).min(hi as f64),
            Add => x[0] + x[1],
            Sub => x[0] - x[1],
            Mul => x[0] * x[1],
            Div => x[0] / x[1],
            Pow => x[0].powf(x[1]),
            Max => x[0].max(x[1]),
            Min => x[0].min(x[1]),
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

/// A WGSL literal with exactly the bits of `v`.
pub(crate) fn literal(v: f32) -> String {
    if v.is_finite() {
        format!("{v:?}f")
    } else {
        // WGSL has no literals for these; the bit pattern goes through a helper
        // that the compiler cannot fold into a constant expression error.
        format!("from_bits({}u)", v.to_bits())
    }
}

impl Pointwise for Map {
    fn wgsl(&self, x: &[&str]) -> String {
        use Func::*;
        let call = |name: &str| format!("{name}({})", x.join(", "));
        match self.func {
            Fill(c) => literal(c),
            Neg => format!("-({})", x[0]),
            Square => format!("{0} * {0}", x[0]),
            Recip => format!("1.0 / {}", x[0]),
            Abs => call("abs"),
            Sign => call("sign"),
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
            Relu => format!("max({}, 0.0)", x[0]),
            LeakyRelu(s) => format!("select({1} * {0}, {0}, {0} > 0.0)", x[0], literal(s)),
            Elu(a) => format!("select({1} * expm1({0}), {0}, {0} > 0.0)", x[0], literal(a)),
            Erf => call("erf"),
            Gelu => call("gelu"),
            Silu => format!("{0} * sigmoid({0})", x[0]),
            AddScalar(c) => format!("{} + {}", x[0], literal(c)),
            MulScalar(c) => format!("{} * {}", x[0], literal(c)),
            PowScalar(e) => pow_scalar(x[0], e),
            Clamp(lo, hi) => format!("clamp({}, {}, {})", x[0], literal(lo), literal(hi)),
            Add => format!("{} + {}", x[0], x[1]),
            Sub => format!("{} - {}", x[0], x[1]),
            Mul => format!("{} * {}", x[0], x[1]),
            Div => format!("{} / {}", x[0], x[1]),
            Pow => call("pow_f32"),
            Max => call("max"),
            Min => call("min"),
            Less => format!("select(0.0, 1.0, {} < {})", x[0], x[1]),
            LessEqual => format!("select(0.0, 1.0, {} <= {})", x[0], x[1]),
            Equal => format!("select(0.0, 1.0, {} == {})", x[0], x[1]),
            Select => format!("select({2}, {1}, {0} != 0.0)", x[0], x[1], x[2]),
            ToF32 => call("f32"),
            // Conversions of numbers outside the range differ between drivers.
            ToU32 => format!("u32(clamp({}, 0.0, 4294967040.0))", x[0]),
        }
    }

    fn imports(&self) -> &'static [&'static str] {
        use Func::*;
        match self.func {
            Exp | Log | Sin | Cos | Tanh | Sigmoid | Softplus | Elu(_) | Erf | Gelu | Silu
            | Pow | PowScalar(_) => &["math"],
            Fill(c) | AddScalar(c) | MulScalar(c) if !c.is_finite() => &["math"],
            Clamp(a, b) if !a.is_finite() || !b.is_finite() => &["math"],
            _ => &[],
        }
    }

    fn flops(&self) -> u64 {
        use Func::*;
        match self.func {
            Fill(_) | ToF32 | ToU32 => 0,
            Exp | Log | Sin | Cos | Tanh | Sigmoid | Softplus | Elu(_) | Erf | Gelu | Silu
            | Pow | PowScalar(_) => 8,
            _ => 1,
        }
    }
}

fn pow_scalar(x: &str, e: f32) -> String {
    // Whole exponents by multiplication: `pow` is undefined for negative bases.
    match e {
        0.0 => "1.0".into(),
        1.0 => x.into(),
        2.0 => format!("{x} * {x}"),
        3.0 => format!("{x} * {x} * {x}"),
        4.0 => format!("({x} * {x}) * ({x} * {x})"),
        -1.0 => format!("1.0 / {x}"),
        -2.0 => format!("1.0 / ({x} * {x})"),
        0.5 => format!("sqrt({x})"),
        -0.5 => format!("1.0 / sqrt({x})"),
        _ if e.fract() == 0.0 => format!("powi({x}, {})", literal(e)),
        _ => format!("pow_f32({x}, {})", literal(e)),
    }
}

impl Op for Map {
    fn name(&self) -> &'static str {
        self.func.name()
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        let name = self.name();
        if inputs.len() != self.func.inputs() {
            return Err(Error::Graph(format!(
                "{name} takes {} inputs, {} were given",
                self.func.inputs(),
                inputs.len()
            )));
        }
        let (want, gives) = match self.func {
            Func::ToF32 => (DType::U32, DType::F32),
            Func::ToU32 => (DType::F32, DType::U32),
            _ => (DType::F32, DType::F32),
        };
        // Comparing integers with integers is exact and needs no cast.
        let integers = matches!(self.func, Func::Equal | Func::Less | Func::LessEqual)
            && inputs.iter().all(|s| s.dtype == DType::U32);
        if let Some(wrong) = inputs.iter().find(|s| s.dtype != want && !integers) {
            return Err(Error::dtype(
                name,
                format!(
                    "expected {want}, got {} of shape {:?}",
                    wrong.dtype, wrong.shape
                ),
            ));
        }
        if let Func::Clamp(lo, hi) = self.func
            && (lo > hi || lo.is_nan() || hi.is_nan())
        {
            return Err(Error::argument(
                name,
                format!("the lower bound {lo} is not below the upper bound {hi}"),
            ));
        }
        let mut shape = self.shape.clone().unwrap_or_default();
        for input in inputs {
            shape = Shape::broadcast(name, &shape, &input.shape)?;
        }
        Ok(vec![Spec {
            shape,
            dtype: gives,
        }])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let mut shape = self.shape.clone().unwrap_or_default();
        for input in inputs {
            shape = Shape::broadcast(self.name(), &shape, &input.shape)?;
        }
        let strides: Vec<Vec<usize>> = inputs
            .iter()
            .map(|a| a.shape.broadcast_strides(&shape))
            .collect();
        let mut x = vec![0.0; inputs.len()];
        Ok(vec![Array::from_fn(shape, |index| {
            for (k, input) in inputs.iter().enumerate() {
                let flat: usize = index.iter().zip(&strides[k]).map(|(i, s)| i * s).sum();
                x[k] = input.data[flat];
            }
            self.func.eval(&x)
        })])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        use Func::*;
        let dy = cx.grad(0);
        let y = cx.output(0).clone();
        let x = |i: usize| cx.input(i).clone();
        let grads: Vec<Tensor> = match self.func {
            Fill(_) => vec![],
            Neg => vec![dy.neg()],
            Abs => vec![dy.mul(&x(0).sign())],
            Exp => vec![dy.mul(&y)],
            Log => vec![dy.div(&x(0))],
            Sqrt => vec![dy.mul_scalar(0.5).div(&y)],
            Rsqrt => vec![dy.mul(&y).mul(&y).mul(&y).mul_scalar(-0.5)],
            Recip => vec![dy.mul(&y).mul(&y).neg()],
            Square => vec![dy.mul(&x(0)).mul_scalar(2.0)],
            Sin => vec![dy.mul(&x(0).cos())],
            Cos => vec![dy.mul(&x(0).sin()).neg()],
            // (1 - y)(1 + y) loses less than 1 - y^2 where y is close to 1.
            Tanh => vec![dy.mul(&y.neg().add_scalar(1.0).mul(&y.add_scalar(1.0)))],
            Sigmoid => vec![dy.mul(&y).mul(&x(0).neg().sigmoid())],
            Softplus => vec![dy.mul(&x(0).sigmoid())],
            Relu => vec![dy.where_positive(&y, 0.0)],
            LeakyRelu(s) => vec![dy.where_positive(&x(0), s)],
            Elu(a) => {
                let below = dy.mul(&y.add_scalar(a));
                vec![x(0).neg().less_equal(&x(0)).select(&dy, &below)]
            }
            Erf => {
                let c = std::f32::consts::FRAC_2_SQRT_PI;
                vec![dy.mul(&x(0).square().neg().exp().mul_scalar(c))]
            }
            Gelu => {
                let x = x(0);
                let cdf = x
                    .mul_scalar(std::f32::consts::FRAC_1_SQRT_2)
                    .erf()
                    .add_scalar(1.0)
                    .mul_scalar(0.5);
                let pdf = x.square().mul_scalar(-0.5).exp().mul_scalar(0.398_942_3);
                vec![dy.mul(&cdf.add(&x.mul(&pdf)))]
            }
            Silu => {
                let (x, s) = (x(0), x(0).sigmoid());
                let slope = x.mul(&x.neg().sigmoid()).add_scalar(1.0);
                vec![dy.mul(&s.mul(&slope))]
            }
            AddScalar(_) => vec![dy],
            MulScalar(c) => vec![dy.mul_scalar(c)],
            // Apart from the general rule, which is 0 * infinity at x = 0.
            PowScalar(0.0) => vec![dy.zeros_like()],
            PowScalar(1.0) => vec![dy],
            PowScalar(e) => vec![dy.mul(&x(0).pow_scalar(e - 1.0)).mul_scalar(e)],
            Clamp(lo, hi) => {
                let x = x(0);
                let (lo, hi) = (x.full_like(lo), x.full_like(hi));
                let inside = lo.less_equal(&x).mul(&x.less_equal(&hi));
                vec![inside.select(&dy, &dy.zeros_like())]
            }
            Add => vec![dy.clone(), dy],
            Sub => vec![dy.clone(), dy.neg()],
            Mul => vec![dy.mul(&x(1)), dy.mul(&x(0))],
            Div => {
                let da = dy.div(&x(1));
                let db = da.mul(&y).neg();
                vec![da, db]
            }
            Pow => {
                let (a, b) = (x(0), x(1));
                let da = dy.mul(&b).mul(&a.pow(&b.add_scalar(-1.0)));
                vec![da, dy.mul(&y).mul(&a.log())]
            }
            // At a tie the first operand takes the gradient.
            Max => {
                let first = x(1).less_equal(&x(0));
                let zero = dy.zeros_like();
                vec![first.select(&dy, &zero), first.select(&zero, &dy)]
            }
            Min => {
                let first = x(0).less_equal(&x(1));
                let zero = dy.zeros_like();
                vec![first.select(&dy, &zero), first.select(&zero, &dy)]
            }
            Select => {
                let zero = dy.zeros_like();
                vec![
                    x(0).zeros_like(),
                    x(0).select(&dy, &zero),
                    x(0).select(&zero, &dy),
                ]
            }
            Sign | Floor | Ceil | Round | Less | LessEqual | Equal | ToF32 | ToU32 => {
                return Err(Error::NotDifferentiable {
                    op: self.name().into(),
                    detail: "its output is piecewise constant".into(),
                });
            }
        };
        for (i, grad) in grads.into_iter().enumerate() {
            if cx.needs(i) {
                let grad = grad.sum_to(cx.input(i).shape());
                cx.set(i, grad);
            }
        }
        Ok(())
    }

    fn lower(&self, _: &mut Lower<'_>) -> Result<()> {
        // The planner generates the dispatch of a whole chain.
        Ok(())
    }

    fn kind(&self) -> Kind<'_> {
        Kind::Pointwise(self)
    }
}

impl Vjp<'_> {
    /// The gradient by output `i`; zeros where the loss does not depend on it.
    #[track_caller]
    pub fn grad(&self, i: usize) -> Tensor {
        self.grad_if_any(i)
            .unwrap_or_else(|| self.output(i).zeros_like())
    }
}

impl Graph {
    /// All elements equal to `value`.
    #[track_caller]
    pub fn full(&self, shape: impl Into<Shape>, value: f32) -> Tensor {
        let op = Map {
            func: Func::Fill(value),
            shape: Some(shape.into()),
        };
        self.push1(op, &[])
    }
}

macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident => $func:ident),* $(,)?) => {
        impl Tensor {
            $($(#[$doc])* #[track_caller] pub fn $name(&self) -> Tensor { self.map(Func::$func) })*
        }
    };
}

unary! {
    /// `-x`
    neg => Neg,
    /// `|x|`
    abs => Abs,
    /// -1, 0 or 1
    sign => Sign,
    /// `e^x`
    exp => Exp,
    /// Natural logarithm.
    log => Log,
    /// Square root.
    sqrt => Sqrt,
    /// `1 / sqrt(x)`
    rsqrt => Rsqrt,
    /// `1 / x`
    recip => Recip,
    /// `x * x`
    square => Square,
    /// Sine of radians.
    sin => Sin,
    /// Cosine of radians.
    cos => Cos,
    /// Hyperbolic tangent.
    tanh => Tanh,
    /// `1 / (1 + e^-x)`
    sigmoid => Sigmoid,
    /// `log(1 + e^x)`, stable on both sides.
    softplus => Softplus,
    /// `max(x, 0)`
    relu => Relu,
    /// The error function.
    erf => Erf,
    /// `x * Phi(x)`, exact (not the tanh approximation).
    gelu => Gelu,
    /// `x * sigmoid(x)`
    silu => Silu,
    /// Largest whole number not above.
    floor => Floor,
    /// Smallest whole number not below.
    ceil => Ceil,
    /// Nearest whole number, ties to even.
    round => Round,
    /// Integers as floats.
    to_f32 => ToF32,
    /// Floats as integers, toward zero; negative numbers give 0.
    to_u32 => ToU32,
}

impl Tensor {
    /// Applies a [`Func`] of one input.
    #[track_caller]
    pub fn map(&self, func: Func) -> Tensor {
        self.graph().push1(Map { func, shape: None }, &[self])
    }

    /// Applies a [`Func`] of two inputs, broadcasting.
    #[track_caller]
    pub fn zip(&self, func: Func, other: &Tensor) -> Tensor {
        self.graph()
            .push1(Map { func, shape: None }, &[self, other])
    }

    /// `self + other`, broadcasting.
    #[track_caller]
    pub fn add(&self, other: &Tensor) -> Tensor {
        self.zip(Func::Add, other)
    }

    /// `self - other`, broadcasting.
    #[track_caller]
    pub fn sub(&self, other: &Tensor) -> Tensor {
        self.zip(Func::Sub, other)
    }

    /// `self * other`, broadcasting.
    #[track_caller]
    pub fn mul(&self, other: &Tensor) -> Tensor {
        self.zip(Func::Mul, other)
    }

    /// `self / other`, broadcasting.
    #[track_caller]
    pub fn div(&self, other: &Tensor) -> Tensor {
        self.zip(Func::Div, other)
    }

    /// `self ^ other` for positive `self`, broadcasting.
    #[track_caller]
    pub fn pow(&self, other: &Tensor) -> Tensor {
        self.zip(Func::Pow, other)
    }

    /// The larger of two elements.
    #[track_caller]
    pub fn maximum(&self, other: &Tensor) -> Tensor {
        self.zip(Func::Max, other)
    }

    /// The smaller of two elements.
    #[track_caller]
    pub fn minimum(&self, other: &Tensor) -> Tensor {
        self.zip(Func::Min, other)
    }

    /// 1 where `self < other`, else 0.
    #[track_caller]
    pub fn less(&self, other: &Tensor) -> Tensor {
        self.zip(Func::Less, other)
    }

    /// 1 where `self <= other`, else 0.
    #[track_caller]
    pub fn less_equal(&self, other: &Tensor) -> Tensor {
        self.zip(Func::LessEqual, other)
    }

    /// 1 where the elements are equal, else 0.
    #[track_caller]
    pub fn equal(&self, other: &Tensor) -> Tensor {
        self.zip(Func::Equal, other)
    }

    /// `a` where `self` is not 0, else `b`.
    #[track_caller]
    pub fn select(&self, a: &Tensor, b: &Tensor) -> Tensor {
        let op = Map {
            func: Func::Select,
            shape: None,
        };
        self.graph().push1(op, &[self, a, b])
    }

    /// `self` where `other` is positive, else `slope * self`.
    #[track_caller]
    fn where_positive(&self, other: &Tensor, slope: f32) -> Tensor {
        let below = if slope == 0.0 {
            self.zeros_like()
        } else {
            self.mul_scalar(slope)
        };
        other.zeros_like().less(other).select(self, &below)
    }

    /// `x + c`
    #[track_caller]
    pub fn add_scalar(&self, c: f32) -> Tensor {
        self.map(Func::AddScalar(c))
    }

    /// `c * x`
    #[track_caller]
    pub fn mul_scalar(&self, c: f32) -> Tensor {
        self.map(Func::MulScalar(c))
    }

    /// `x^e`; negative `x` is allowed where `e` is a whole number.
    #[track_caller]
    pub fn pow_scalar(&self, e: f32) -> Tensor {
        self.map(Func::PowScalar(e))
    }

    /// `x` limited to `lo..=hi`.
    #[track_caller]
    pub fn clamp(&self, lo: f32, hi: f32) -> Tensor {
        self.map(Func::Clamp(lo, hi))
    }

    /// `x` above 0, `slope * x` below.
    #[track_caller]
    pub fn leaky_relu(&self, slope: f32) -> Tensor {
        self.map(Func::LeakyRelu(slope))
    }

    /// `x` above 0, `alpha * (e^x - 1)` below.
    #[track_caller]
    pub fn elu(&self, alpha: f32) -> Tensor {
        self.map(Func::Elu(alpha))
    }

    /// Zeros of the same shape.
    #[track_caller]
    pub fn zeros_like(&self) -> Tensor {
        self.full_like(0.0)
    }

    /// Ones of the same shape.
    #[track_caller]
    pub fn ones_like(&self) -> Tensor {
        self.full_like(1.0)
    }

    /// `value` everywhere, in the same shape.
    #[track_caller]
    pub fn full_like(&self, value: f32) -> Tensor {
        self.graph().full(self.shape(), value)
    }

    /// Sums over the axes along which `shape` was broadcast to this one.
    #[track_caller]
    pub fn sum_to(&self, shape: &Shape) -> Tensor {
        if self.shape() == shape {
            return self.clone();
        }
        let lead = self.shape().rank().saturating_sub(shape.rank());
        let axes: Vec<isize> = (0..self.shape().rank())
            .filter(|i| *i < lead || shape[i - lead] == 1 && self.shape()[*i] != 1)
            .map(|i| i as isize)
            .collect();
        self.sum(&axes, true).reshape(shape)
    }
}

macro_rules! operators {
    ($($trait:ident $method:ident $scalar:expr;)*) => {$(
        impl std::ops::$trait for &Tensor {
            type Output = Tensor;
            #[track_caller]
            fn $method(self, other: &Tensor) -> Tensor { Tensor::$method(self, other) }
        }
        impl std::ops::$trait<f32> for &Tensor {
            type Output = Tensor;
            #[track_caller]
            fn $method(self, c: f32) -> Tensor { let f: fn(&Tensor, f32) -> Tensor = $scalar; f(self, c) }
        }
    )*};
}

operators! {
    Add add |x, c| x.add_scalar(c);
    Sub sub |x, c| x.add_scalar(-c);
    Mul mul |x, c| x.mul_scalar(c);
    Div div |x, c| x.div(&x.full_like(c));
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
