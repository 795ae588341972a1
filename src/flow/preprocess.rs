//! Fixed maps between pixels, the unit interval and the real line, element by element.

use super::base::per_sample;
use super::{Bijector, Context, Mapped};
use crate::{Error, Result, Tensor};

/// `z = scale * x + shift`, the same for all elements; `log_det = D log |scale|`.
#[derive(Debug, Clone, Copy)]
pub struct Affine {
    scale: f32,
    shift: f32,
}

impl Affine {
    /// Error: a scale of 0, or numbers that are not finite.
    pub fn new(scale: f32, shift: f32) -> Result<Self> {
        if scale == 0.0 || !scale.is_finite() || !shift.is_finite() {
            let detail = format!("{scale} x + {shift}: the scale must be a number other than 0");
            return Err(Error::argument("Affine", detail));
        }
        Ok(Affine { scale, shift })
    }

    /// From `levels` whole numbers with noise, `0 .. levels`, to `-0.5 .. 0.5` (Glow).
    /// Error: no level.
    pub fn centred(levels: usize) -> Result<Self> {
        match levels {
            0 => Err(Error::argument(
                "Affine",
                "there must be at least one level",
            )),
            _ => Affine::new(1.0 / levels as f32, -0.5),
        }
    }

    fn log_det(&self, x: &Tensor, sign: f32) -> Tensor {
        let dims = (x.numel() / x.dim(0)) as f32;
        x.graph()
            .full([x.dim(0)], sign * dims * self.scale.abs().ln())
    }
}

impl Bijector for Affine {
    fn name(&self) -> &str {
        "affine"
    }

    fn forward(&self, x: &Tensor, _: &Context<'_>) -> Mapped {
        Mapped {
            out: x.mul_scalar(self.scale).add_scalar(self.shift),
            log_det: self.log_det(x, 1.0),
        }
    }

    fn inverse(&self, z: &Tensor, _: &Context<'_>) -> Mapped {
        Mapped {
            out: z.add_scalar(-self.shift).mul_scalar(1.0 / self.scale),
            log_det: self.log_det(z, -1.0),
        }
    }

    fn pixel_log_det(&self, x: &Tensor, _: &Context<'_>) -> Tensor {
        pixels_of(self.name(), x, self.scale.abs().ln())
    }
}

/// `[N, H, W]` for `x` `[N, C, H, W]`, if every element contributes as much.
#[track_caller]
pub(super) fn pixels_of(layer: &str, x: &Tensor, each: f32) -> Tensor {
    let shape = [x.dim(0), x.dim(2), x.dim(3)];
    match x.shape().rank() {
        4 => x.graph().full(shape, each * x.dim(1) as f32),
        _ => no_pixels(layer, x),
    }
}

/// Poison for layers asked for their pixels where there are none.
#[track_caller]
pub(super) fn no_pixels(layer: &str, x: &Tensor) -> Tensor {
    let detail = format!("{:?} has no pixels, expected [N, C, H, W]", x.shape());
    let error = x.check().err().unwrap_or(Error::shape(layer, detail));
    x.graph().poisoned(error)
}

/// The sum over channels of `[N, C, H, W]`.
#[track_caller]
pub(super) fn per_pixel(layer: &str, x: &Tensor) -> Tensor {
    match x.shape().rank() {
        4 => x.sum(&[1], false),
        _ => no_pixels(layer, x),
    }
}

/// From the unit interval to the real line: `z = log(w / (1 - w))` with
/// `w = low + (high - low) x`. RealNVP (Dinh et al. 2017, section 4.1) keeps pixels away
/// from the ends by `low` 0.05.
#[derive(Debug, Clone, Copy)]
pub struct Logit {
    low: f32,
    /// `1 - high`, which a rounded `high` would not tell exactly.
    gap: f32,
}

impl Logit {
    /// `w = alpha + (1 - 2 alpha) x`, the same distance from both ends. Error: `alpha` is
    /// not in `0 .. 0.5`. With 0, pixels at the very ends become infinite.
    pub fn new(alpha: f32) -> Result<Self> {
        Logit::with(alpha, alpha)
    }

    /// `w = low + (high - low) x`; RealNVP has `between(0.05, 1.0)`. Error: not
    /// `0 <= low < high <= 1`.
    pub fn between(low: f32, high: f32) -> Result<Self> {
        Logit::with(low, 1.0 - high)
    }

    fn with(low: f32, gap: f32) -> Result<Self> {
        match low >= 0.0 && gap >= 0.0 && low + gap < 1.0 {
            true => Ok(Logit { low, gap }),
            false => Err(Error::argument(
                "Logit",
                format!("{low} .. {} is not an interval within 0 .. 1", 1.0 - gap),
            )),
        }
    }

    fn size(&self) -> f32 {
        1.0 - self.low - self.gap
    }

    /// `w` and `1 - w`, each without cancellation.
    fn sides(&self, x: &Tensor) -> (Tensor, Tensor) {
        let w = x.mul_scalar(self.size()).add_scalar(self.low);
        let rest = x.neg().add_scalar(1.0).mul_scalar(self.size());
        (w, rest.add_scalar(self.gap))
    }

    /// The logarithm of dz/dx, element by element.
    fn log_slope(&self, x: &Tensor) -> Tensor {
        let (w, rest) = self.sides(x);
        let log_size = self.size().ln();
        w.log().add(&rest.log()).neg().add_scalar(log_size)
    }
}

/// `log sigmoid'(x) = log sigmoid(x) + log sigmoid(-x)`, element by element.
pub(super) fn log_sigmoid_slope(x: &Tensor) -> Tensor {
    let a = x.abs();
    a.add(&a.neg().softplus().mul_scalar(2.0)).neg()
}

impl Bijector for Logit {
    fn name(&self) -> &str {
        "logit"
    }

    fn forward(&self, x: &Tensor, _: &Context<'_>) -> Mapped {
        let (w, rest) = self.sides(x);
        Mapped {
            out: w.log().sub(&rest.log()),
            log_det: per_sample(&self.log_slope(x)),
        }
    }

    fn inverse(&self, z: &Tensor, _: &Context<'_>) -> Mapped {
        let size = self.size();
        let w = z.sigmoid();
        let log_slope = log_sigmoid_slope(z).add_scalar(-size.ln());
        Mapped {
            out: w.add_scalar(-self.low).mul_scalar(1.0 / size),
            log_det: per_sample(&log_slope),
        }
    }

    fn pixel_log_det(&self, x: &Tensor, _: &Context<'_>) -> Tensor {
        per_pixel(self.name(), &self.log_slope(x))
    }
}

/// From the real line to the unit interval: `z = sigmoid(x)`.
///
/// The inverse of values at the very ends is infinite; where float32 rounds to an end,
/// from about 17 on, the way back is lost.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sigmoid;

impl Bijector for Sigmoid {
    fn name(&self) -> &str {
        "sigmoid"
    }

    fn forward(&self, x: &Tensor, _: &Context<'_>) -> Mapped {
        Mapped {
            out: x.sigmoid(),
            log_det: per_sample(&log_sigmoid_slope(x)),
        }
    }

    fn inverse(&self, z: &Tensor, _: &Context<'_>) -> Mapped {
        let (log, log_rest) = (z.log(), z.neg().add_scalar(1.0).log());
        Mapped {
            out: log.sub(&log_rest),
            log_det: per_sample(&log.add(&log_rest).neg()),
        }
    }

    fn pixel_log_det(&self, x: &Tensor, _: &Context<'_>) -> Tensor {
        per_pixel(self.name(), &log_sigmoid_slope(x))
    }
}
