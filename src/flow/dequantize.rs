//! From whole numbers (pixels) to continuous values: a density of these, integrated over
//! the noise, bounds the probability of those (Theis et al. 2016; Ho et al. 2019, Flow++).

use super::base::{per_sample, standard_normal_log_prob};
use super::preprocess::{log_sigmoid_slope, pixels_of};
use super::{Bijector, Context, Mapped};
use crate::graph::Tensor;
use crate::{DType, Error, Result};

/// Whole numbers `0 .. levels` as the unit interval.
#[derive(Debug, Clone, Copy)]
struct Levels {
    levels: usize,
}

impl Levels {
    fn new(what: &str, levels: usize) -> Result<Self> {
        match (2..=65_536).contains(&levels) {
            true => Ok(Levels { levels }),
            false => Err(Error::argument(
                what,
                format!("{levels} levels; 2 to 65536 are possible"),
            )),
        }
    }

    /// How much of a level the noise may fill: near its end, `x + u` and the division
    /// round up to the next one, and pixels would not come back.
    fn filled(self) -> f32 {
        1.0 - self.levels as f32 / (1 << 22) as f32
    }

    /// `(x + u) / levels` for noise in `0 .. 1`.
    fn fill(self, x: &Tensor, u: &Tensor) -> Tensor {
        let filled = x.add(&u.mul_scalar(self.filled()));
        filled.mul_scalar(1.0 / self.levels as f32)
    }

    /// The logarithm of [`Levels::fill`]'s slope by u.
    fn log_slope(self) -> f32 {
        (self.filled() / self.levels as f32).ln()
    }

    /// The level of a value.
    fn level(self, v: &Tensor) -> Tensor {
        let whole = v.mul_scalar(self.levels as f32).floor();
        whole.clamp(0.0, (self.levels - 1) as f32)
    }
}

fn floats(x: &Tensor) -> Tensor {
    match x.dtype() {
        DType::U32 => x.to_f32(),
        _ => x.clone(),
    }
}

fn dims(x: &Tensor) -> f32 {
    (x.numel() / x.dim(0)) as f32
}

/// Uniform dequantisation: `z = (x + u) / levels` for whole numbers `x` in `0 .. levels`
/// (f32 or u32) and uniform noise `u`, in the unit interval. The log-determinant is that
/// from `u` to `z`, `-D log levels`; with it, `log p` bounds that of the whole numbers.
///
/// The inverse rounds down to the level, exactly; its log-determinant is
/// `D log levels`. In evaluation the noise is drawn as well.
#[derive(Debug, Clone, Copy)]
pub struct Dequantize {
    levels: Levels,
    noise: bool,
}

impl Dequantize {
    /// Error: not 2 to 65,536 levels.
    pub fn new(levels: usize) -> Result<Self> {
        Ok(Dequantize {
            levels: Levels::new("Dequantize", levels)?,
            noise: true,
        })
    }

    /// The same map with `u = 0`: for comparisons that must not be random.
    pub fn without_noise(mut self) -> Self {
        self.noise = false;
        self
    }

    /// The logarithm of dz/du, or of dz/dx where there is no noise.
    fn log_slope(&self) -> f32 {
        match self.noise {
            true => self.levels.log_slope(),
            false => -(self.levels.levels as f32).ln(),
        }
    }
}

impl Bijector for Dequantize {
    fn name(&self) -> &str {
        "dequantize"
    }

    fn forward(&self, x: &Tensor, _: &Context<'_>) -> Mapped {
        let out = match self.noise {
            true => self.levels.fill(&floats(x), &x.graph().uniform(x.shape())),
            false => floats(x).mul_scalar(1.0 / self.levels.levels as f32),
        };
        Mapped {
            out,
            log_det: x.graph().full([x.dim(0)], dims(x) * self.log_slope()),
        }
    }

    fn inverse(&self, z: &Tensor, _: &Context<'_>) -> Mapped {
        Mapped {
            out: self.levels.level(z),
            log_det: z.graph().full([z.dim(0)], -dims(z) * self.log_slope()),
        }
    }

    fn pixel_log_det(&self, x: &Tensor, _: &Context<'_>) -> Tensor {
        pixels_of(self.name(), x, self.log_slope())
    }

    fn is_reversible(&self) -> bool {
        false
    }
}

/// Variational dequantisation (Ho et al. 2019, Flow++, section 3.1): the noise comes from
/// a conditional flow `q(u|x)` that is trained along, `u = sigmoid(flow(e; x))` with
/// standard normal `e`, and the log-determinant is `-D log levels - log q(u|x)`. Summed
/// with the flow's log-density of `z = (x + u) / levels` it bounds the log-probability of
/// the whole numbers `x`.
///
/// The flow maps noise of the shape of `x` to the same shape; its layers find the pixels,
/// scaled to -1 .. 1, as the condition of their [`Context`] (another condition is hidden
/// from them). The inverse rounds down to the level; it has no log-determinant of its
/// own and gives `D log levels`, as for uniform noise.
pub struct VariationalDequantize {
    levels: Levels,
    noise: Box<dyn Bijector>,
}

impl VariationalDequantize {
    /// Error: not 2 to 65,536 levels.
    pub fn new(levels: usize, noise: impl Bijector + 'static) -> Result<Self> {
        Ok(VariationalDequantize {
            levels: Levels::new("VariationalDequantize", levels)?,
            noise: Box::new(noise),
        })
    }
}

impl Bijector for VariationalDequantize {
    fn name(&self) -> &str {
        "variational dequantize"
    }

    fn forward(&self, x: &Tensor, cx: &Context<'_>) -> Mapped {
        let x = floats(x);
        let centred = x
            .mul_scalar(2.0 / (self.levels.levels - 1) as f32)
            .add_scalar(-1.0);
        let e = x.graph().normal(x.shape());
        let Mapped { out, log_det } = self.noise.forward(&e, &cx.with_condition(&centred));
        let log_q = standard_normal_log_prob(&e)
            .sub(&log_det)
            .sub(&per_sample(&log_sigmoid_slope(&out)));
        if out.check().is_ok() && out.shape() != x.shape() {
            let wrong = x.graph().poisoned(Error::shape(
                self.name(),
                format!("the flow makes {:?} of noise {:?}", out.shape(), x.shape()),
            ));
            return Mapped {
                out: wrong.clone(),
                log_det: wrong,
            };
        }
        Mapped {
            out: self.levels.fill(&x, &out.sigmoid()),
            log_det: log_q.neg().add_scalar(dims(&x) * self.levels.log_slope()),
        }
    }

    fn inverse(&self, z: &Tensor, _: &Context<'_>) -> Mapped {
        let log_levels = (self.levels.levels as f32).ln();
        Mapped {
            out: self.levels.level(z),
            log_det: z.graph().full([z.dim(0)], dims(z) * log_levels),
        }
    }

    fn is_reversible(&self) -> bool {
        false
    }
}
