//! Variances beyond float32. Deviations from 1.8e19 on have squares that float32 does not
//! hold, although what is normalised by them is an ordinary number. Between the moments and
//! what normalises by them such a variance is told as that of the numbers times 2^-80,
//! negative: a *wide* variance. All others are themselves. In float64 there are no such ones.

use crate::graph::{Array, Kind, Lower, Op, Pointwise, Spec, Tensor, Vjp};
use crate::{Error, Result};

/// 2^-80.
const FAR: f32 = 8.271806e-25;

/// A function of a wide variance.
#[derive(Debug, Clone, Copy, PartialEq)]
enum OfVariance {
    /// The variance itself, infinite where float32 has none.
    Narrow,
    /// With an epsilon added, wide itself.
    Raised(f32),
    /// `1 / sqrt(v)`; NaN of one that is infinite, and below zero where it is not wide.
    InverseDeviation { wide: bool },
}

impl Pointwise for OfVariance {
    fn wgsl(&self, x: &[&str]) -> String {
        match self {
            OfVariance::Narrow => format!("narrow_variance({})", x[0]),
            OfVariance::Raised(_) => format!("raised({}, {})", x[0], x[1]),
            OfVariance::InverseDeviation { wide: true } => {
                format!("inverse_deviation({})", x[0])
            }
            OfVariance::InverseDeviation { wide: false } => format!("(1.0 / deviation({}))", x[0]),
        }
    }

    fn imports(&self) -> &'static [&'static str] {
        &["math"]
    }

    fn scalars(&self) -> Vec<f32> {
        match self {
            OfVariance::Raised(eps) => vec![*eps],
            _ => Vec::new(),
        }
    }

    fn flops(&self) -> u64 {
        2
    }
}

impl Op for OfVariance {
    fn name(&self) -> &'static str {
        match self {
            OfVariance::Narrow => "narrow_variance",
            OfVariance::Raised(_) => "raised",
            OfVariance::InverseDeviation { .. } => "inverse_deviation",
        }
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        match inputs {
            [v] if **v == Spec::f32(&v.shape) => Ok(vec![(*v).clone()]),
            _ => Err(Error::dtype(self.name(), "expected one tensor of f32")),
        }
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let far = f64::from(FAR);
        let value = |v: f64| match self {
            OfVariance::Narrow if v < 0.0 => -v / far / far,
            OfVariance::Narrow => v,
            OfVariance::Raised(_) if v < 0.0 => v,
            OfVariance::Raised(eps) => v + f64::from(*eps),
            OfVariance::InverseDeviation { wide: true } if v < 0.0 => far / (-v).sqrt(),
            OfVariance::InverseDeviation { .. } if v.is_infinite() => f64::NAN,
            OfVariance::InverseDeviation { .. } => v.sqrt().recip(),
        };
        let data = inputs[0].data.iter().map(|v| value(*v)).collect();
        Ok(vec![Array::new(&inputs[0].shape, data)?])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        let (v, dy) = (cx.input(0).clone(), cx.grad(0));
        let grad = match self {
            // Of a variance that is infinite there is no gradient to tell.
            OfVariance::Narrow => {
                let wide = v.stop_gradient().less(&v.zeros_like());
                wide.select(&v.full_like(f32::NAN), &dy)
            }
            OfVariance::Raised(_) => dy,
            // Also below zero, where numbers times FAR are meant.
            OfVariance::InverseDeviation { .. } => dy.mul_scalar(-0.5).mul(cx.output(0)).div(&v),
        };
        cx.set(0, grad);
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

/// The variance that a wide one means; infinity where float32 has none, whose gradient
/// is NaN.
#[track_caller]
pub(super) fn narrow(wide: &Tensor) -> Tensor {
    wide.graph().push1(OfVariance::Narrow, &[wide])
}

/// With `eps` added, unless it is so large that this changes nothing.
#[track_caller]
pub(super) fn raised(wide: &Tensor, eps: f32) -> Tensor {
    wide.graph().push1(OfVariance::Raised(eps), &[wide])
}

/// `1 / sqrt(v)` of a variance, `wide` or not.
#[track_caller]
pub(super) fn inverse_deviation(v: &Tensor, wide: bool) -> Tensor {
    v.graph().push1(OfVariance::InverseDeviation { wide }, &[v])
}

/// Two factors whose product a wide variance is of the mean of squares: 1 and 1, or 2^-80
/// and -2^-80. Together they would be too small for float32.
#[track_caller]
pub(super) fn units(wide: &Tensor) -> [Tensor; 2] {
    let is_wide = wide.stop_gradient().less(&wide.zeros_like());
    [FAR, -FAR].map(|far| is_wide.select(&wide.full_like(far), &wide.ones_like()))
}
