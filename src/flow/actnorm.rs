//! Activation normalisation (Kingma, Dhariwal 2018, arXiv 1807.03039, section 3.1).

use super::{Bijector, Context, FirstValues, Mapped, for_all_samples, pixels};
use crate::{Init, Param, Params, Result, Tensor};

/// How an [`ActNorm`] holds its scale.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ActNormScale {
    /// Parameters `loc` and `log_scale` `[C]`; the scale is
    /// `exp(factor * log_scale)`. The factor is 1, in OpenAI's Glow 3.
    Log {
        /// What the stored logarithm is multiplied with.
        factor: f32,
    },
    /// Parameters `loc` and `scale` `[1, C, 1, 1]`, multiplied as it stands
    /// (rosinality/glow-pytorch). Its magnitude counts as at least 1e-6.
    Multiplicative,
}

/// One shift and one scale per channel, `z = (x + loc) * scale`, over `[N, C]` or
/// `[N, C, H, W]`; `log_det = H * W * sum(log |scale|)`.
///
/// The first values depend on data ([`Context::computing`]): the batch leaves with mean
/// 0 and deviation 1 per channel (biased deviation, `scale = 1 / (std + 1e-6)`). A
/// channel without variance is an error, unless a minimum deviation was set.
pub struct ActNorm {
    loc: Param,
    scale: Param,
    kind: ActNormScale,
    min_std: Option<f32>,
    eps: f32,
}

/// The smallest magnitude of a multiplicative scale.
const SMALLEST: f32 = 1e-6;

impl ActNorm {
    /// The identity until first values are set. Errors: see [`Params::add`].
    pub fn new(params: &Params, channels: usize) -> Result<Self> {
        ActNorm::with(params, channels, ActNormScale::Log { factor: 1.0 })
    }

    /// With another way to hold the scale.
    pub fn with(params: &Params, channels: usize, kind: ActNormScale) -> Result<Self> {
        let (loc, scale) = match kind {
            ActNormScale::Log { .. } => (
                params.add("loc", [channels], Init::Zeros)?,
                params.add("log_scale", [channels], Init::Zeros)?,
            ),
            ActNormScale::Multiplicative => (
                params.add("loc", [1, channels, 1, 1], Init::Zeros)?,
                params.add("scale", [1, channels, 1, 1], Init::Ones)?,
            ),
        };
        Ok(ActNorm {
            loc,
            scale,
            kind,
            min_std: None,
            eps: 1e-6,
        })
    }

    /// Channels whose deviation in the first batch is smaller than `min_std` count as
    /// having it, and are no error.
    pub fn min_std(mut self, min_std: f32) -> Self {
        self.min_std = Some(min_std);
        self
    }

    /// What is added to the deviation of the first batch; 1e-6 without this.
    pub fn eps(mut self, eps: f32) -> Self {
        self.eps = eps;
        self
    }

    /// Shift, scale and log |scale|, each `[C]`.
    fn values(&self, x: &Tensor, cx: &Context<'_>) -> [Tensor; 3] {
        let channels = self.loc.shape().numel();
        let (loc, raw) = match cx.first_values() {
            Some(first) => self.normalising(x, first),
            None => (self.loc.on(x.graph()), self.scale.on(x.graph())),
        };
        let (loc, raw) = (loc.reshape([channels]), raw.reshape([channels]));
        match self.kind {
            ActNormScale::Log { factor } => {
                let log_scale = raw.mul_scalar(factor);
                [loc, log_scale.exp(), log_scale]
            }
            ActNormScale::Multiplicative => {
                let size = raw.abs().maximum(&raw.full_like(SMALLEST));
                let zero = raw.zeros_like();
                let negative = raw.stop_gradient().less(&zero);
                let scale = negative.select(&size.neg(), &size);
                [loc, scale, size.log()]
            }
        }
    }

    /// The parameters that normalise this batch.
    fn normalising(&self, x: &Tensor, first: &FirstValues) -> (Tensor, Tensor) {
        let init = x.actnorm_init(self.eps, self.min_std.unwrap_or(0.0));
        let (loc, log_scale, std) = (init.bias, init.log_scale, init.std);
        let raw = match self.kind {
            ActNormScale::Log { factor } => log_scale.mul_scalar(1.0 / factor),
            ActNormScale::Multiplicative => log_scale.exp(),
        };
        first.report(&self.loc, &loc);
        match self.min_std {
            Some(_) => first.report(&self.scale, &raw),
            None => {
                // Relative to the mean: a constant channel has a deviation of rounding only.
                let size = loc.abs().add(&std).maximum(&std.full_like(1e-30));
                first.report_scale(&self.scale, &raw, &std.div(&size));
            }
        }
        (loc, raw)
    }

    fn checked(&self, x: &Tensor) -> Option<Tensor> {
        let channels = self.loc.shape().numel();
        let right = matches!(x.shape().rank(), 2 | 4) && x.dim(1) == channels;
        (!right && x.check().is_ok()).then(|| {
            x.graph().poisoned(crate::Error::shape(
                "actnorm",
                format!(
                    "the input is {:?}, this layer takes [N, {channels}] or [N, {channels}, H, W]",
                    x.shape()
                ),
            ))
        })
    }
}

/// `[C]` beside `[N, C, ..]`.
fn along_channels(v: &Tensor, x: &Tensor) -> Tensor {
    let mut dims = vec![1; x.shape().rank()];
    if let Some(channels) = dims.get_mut(1) {
        *channels = v.numel();
    }
    v.reshape(dims)
}

impl Bijector for ActNorm {
    fn name(&self) -> &str {
        "actnorm"
    }

    fn forward(&self, x: &Tensor, cx: &Context<'_>) -> Mapped {
        if let Some(wrong) = self.checked(x) {
            return Mapped {
                out: wrong.clone(),
                log_det: wrong,
            };
        }
        let [loc, scale, log_scale] = self.values(x, cx);
        if let ActNormScale::Log { .. } = self.kind {
            let (out, log_det) = x.actnorm(&loc, &log_scale);
            return Mapped { out, log_det };
        }
        let out = x
            .add(&along_channels(&loc, x))
            .mul(&along_channels(&scale, x));
        let total = log_scale.sum(&[], false).mul_scalar(pixels(x) as f32);
        Mapped {
            out,
            log_det: for_all_samples(&total, x),
        }
    }

    fn inverse(&self, z: &Tensor, cx: &Context<'_>) -> Mapped {
        if let Some(wrong) = self.checked(z) {
            return Mapped {
                out: wrong.clone(),
                log_det: wrong,
            };
        }
        let [loc, scale, log_scale] = self.values(z, cx);
        if let ActNormScale::Log { .. } = self.kind {
            let (out, log_det) = z.actnorm_inverse(&loc, &log_scale);
            return Mapped { out, log_det };
        }
        let out = z
            .div(&along_channels(&scale, z))
            .sub(&along_channels(&loc, z));
        let total = log_scale.sum(&[], false).mul_scalar(-(pixels(z) as f32));
        Mapped {
            out,
            log_det: for_all_samples(&total, z),
        }
    }

    fn pixel_log_det(&self, x: &Tensor, cx: &Context<'_>) -> Tensor {
        if let Some(wrong) = self.checked(x) {
            return wrong;
        }
        let [_, _, log_scale] = self.values(x, cx);
        let total = log_scale.sum(&[], false).reshape([1, 1, 1]);
        total.broadcast_to([x.dim(0), x.dim(2), x.dim(3)])
    }
}
