//! What a rational-quadratic spline is made of.

use crate::graph::Spec;
use crate::{Error, Result, Shape};

/// The least width and height of a bin as a share of the interval, and the least slope.
pub(super) const LEAST: f32 = 1e-3;

/// What a rational-quadratic spline is made of; see [`Tensor::spline`](crate::Tensor::spline).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SplineParams {
    /// Bins of `-bound .. bound`; 1 to 256.
    pub bins: usize,
    /// Beyond it the spline is the identity.
    pub bound: f32,
}

impl SplineParams {
    /// Raw values per element: widths and heights of all bins, slopes at inner knots.
    pub fn raw_values(&self) -> usize {
        3 * self.bins - 1
    }

    /// Added to raw slopes, so that `LEAST + softplus(0 + offset)` is 1.
    pub(super) fn offset() -> f32 {
        (1.0 - LEAST as f64).exp_m1().ln() as f32
    }

    /// Error: parameters out of range, shapes that do not fit together.
    pub(super) fn check(&self, op: &str, x: &Spec, raw: &Spec) -> Result<()> {
        let bounded = self.bound > 0.0 && self.bound.is_finite();
        if !bounded || !(1..=256).contains(&self.bins) {
            let detail = format!(
                "{} bins within +-{}: 1 to 256 bins and a bound above 0 are needed",
                self.bins, self.bound
            );
            return Err(Error::argument(op, detail));
        }
        let mut wanted = x.shape.dims().to_vec();
        match wanted.get_mut(1) {
            Some(channels) => *channels = channels.saturating_mul(self.raw_values()),
            None => {
                let detail = format!("expected [N, C, ..], got {:?}", x.shape);
                return Err(Error::shape(op, detail));
            }
        }
        if raw.shape.dims() != wanted {
            return Err(Error::shape(
                op,
                format!(
                    "{} bins for {:?} need raw values of shape {:?}, these have {:?}",
                    self.bins,
                    x.shape,
                    Shape::from(wanted),
                    raw.shape
                ),
            ));
        }
        Ok(())
    }
}
