//! The tensor methods of pointwise ops, and the operators.

use super::func::Func;
use super::map::Map;
use crate::{Shape, Tensor};

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
    /// Natural logarithm, also of subnormal numbers; adapters that replace these by 0
    /// before they reach the kernel give `-inf`.
    log => Log,
    /// Square root.
    sqrt => Sqrt,
    /// `1 / sqrt(x)`
    rsqrt => Rsqrt,
    /// `1 / x`
    recip => Recip,
    /// `x * x`
    square => Square,
    /// Sine of radians; of infinity NaN.
    sin => Sin,
    /// Cosine of radians; of infinity NaN.
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

    /// `self ^ other`, broadcasting; negative `self` is allowed where `other` is a whole
    /// number. The gradient by `other` is 0 where `self` is 0 and `other` is not
    /// negative, and NaN where `self` is negative.
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

    /// `a` where `self` is not 0, else `b`. The condition has no gradient, and what it was
    /// computed from needs none.
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
    pub(in crate::ops) fn where_positive(&self, other: &Tensor, slope: f32) -> Tensor {
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

    /// The approximation of [`Tensor::gelu`] that GPT-2 and many older networks were trained
    /// with: `0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`. Hendrycks and Gimpel 2016,
    /// arXiv 1606.08415.
    #[track_caller]
    pub fn gelu_tanh(&self) -> Tensor {
        // 0.5 (1 + tanh u) = sigmoid(2 u)
        let twice = std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::SQRT_2;
        let inner = self.pow_scalar(3.0).mul_scalar(0.044_715).add(self);
        self.mul(&inner.mul_scalar(twice).sigmoid())
    }

    /// `x` limited to `0..=6`.
    #[track_caller]
    pub fn relu6(&self) -> Tensor {
        self.clamp(0.0, 6.0)
    }

    /// `relu6(x + 3) / 6`. Howard et al. 2019, arXiv 1905.02244.
    #[track_caller]
    pub fn hard_sigmoid(&self) -> Tensor {
        self.add_scalar(3.0).relu6().mul_scalar(1.0 / 6.0)
    }

    /// `x * relu6(x + 3) / 6`. Howard et al. 2019, arXiv 1905.02244.
    #[track_caller]
    pub fn hard_swish(&self) -> Tensor {
        self.mul(&self.hard_sigmoid())
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
