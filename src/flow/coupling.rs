//! Coupling layers: one part of the channels or pixels passes through and, by a network,
//! tells how the rest is scaled and shifted.

use super::{Bijector, Context, Mapped, Network, Rebuilt, Upstream, raw_values};
use crate::ops::{CouplingMask, CouplingParams, CouplingScale, RawLayout};
use crate::{Error, Result, Tensor, tape};

/// An affine or additive coupling of `[N, C]` or `[N, C, H, W]` (NICE, arXiv 1410.8516;
/// RealNVP, arXiv 1605.08803; Glow, arXiv 1807.03039).
///
/// The network sees what passes through: those channels, or for a checkerboard all
/// channels with zeros where the layer transforms. It gives
/// [`CouplingParams::raw_channels`] channels of the same height and width.
pub struct Coupling {
    params: CouplingParams,
    network: Box<dyn Network>,
}

impl Coupling {
    /// A coupling with these conventions around a network.
    pub fn new(params: CouplingParams, network: impl Network + 'static) -> Self {
        Coupling {
            params,
            network: Box::new(network),
        }
    }

    /// The conventions.
    pub fn params(&self) -> &CouplingParams {
        &self.params
    }

    /// How many of `channels` channels the network sees under `mask`.
    pub fn seen_channels(mask: CouplingMask, channels: usize) -> usize {
        match mask {
            CouplingMask::After(n) => n.min(channels),
            CouplingMask::Before(n) => channels.saturating_sub(n),
            CouplingMask::Even => channels / 2,
            CouplingMask::Odd => channels.div_ceil(2),
            CouplingMask::Checkerboard { .. } => channels,
        }
    }

    /// The raw scales and shifts for `x` (or for the layer's output: what passes
    /// through is the same).
    fn raw(&self, x: &Tensor, cx: &Context<'_>) -> Tensor {
        let seen = passed(self.name(), self.params.mask, x);
        raw_values(&*self.network, &seen, cx)
    }

    /// From the output of the layer or of its inverse: the input rebuilt, and the gradients.
    /// What passes through is the same in both, so one evaluation of the network serves the
    /// way back and the gradient.
    fn pull(
        &self,
        output: &Tensor,
        inverse: bool,
        upstream: &Upstream,
        wrt: &[&Tensor],
        cx: &Context<'_>,
    ) -> Result<Rebuilt> {
        let y = output.stop_gradient();
        let raw = self.raw(&y, cx);
        let x = match inverse {
            false => y.coupling_inverse(&raw, &self.params).0,
            true => y.coupling(&raw, &self.params).0,
        };
        let x = x.stop_gradient();
        raw.check()?;
        let dy = match &upstream.out {
            Some(dy) => dy.clone(),
            None => y.zeros_like(),
        };
        let log_det = upstream.log_det.as_ref();
        let (dx, draw) = y.coupling_grad(&raw, &dy, log_det, &self.params, inverse);
        draw.check()?;
        let mut targets = vec![&y];
        targets.extend(wrt);
        let mut grads = tape::partial_gradients(&[(raw, draw)], &targets)?;
        let rest = grads.split_off(1);
        let dx = match grads.pop().flatten() {
            Some(through_network) => dx.add(&through_network),
            None => dx,
        };
        Ok(Rebuilt { x, dx, grads: rest })
    }
}

/// What a coupling's network sees of `x`: the channels that pass through, or for a
/// checkerboard all of them with zeros where they do not. Poisoned where that is nothing.
#[track_caller]
pub(super) fn passed(layer: &str, mask: CouplingMask, x: &Tensor) -> Tensor {
    if x.check().is_err() {
        return x.clone();
    }
    let count = Coupling::seen_channels(mask, x.dim(1));
    if count == 0 || x.shape().rank() < 2 {
        let detail = format!(
            "the mask {mask:?} lets nothing of {:?} pass through",
            x.shape()
        );
        return x.graph().poisoned(Error::shape(layer, detail));
    }
    match mask {
        CouplingMask::After(_) => x.slice(1, 0, count),
        CouplingMask::Before(n) => x.slice(1, n, count),
        CouplingMask::Even => x.slice_step(1, 1, count, 2),
        CouplingMask::Odd => x.slice_step(1, 0, count, 2),
        CouplingMask::Checkerboard { parity } => x.mul(&passes(x, parity)),
    }
}

/// 1 where a checkerboard of this parity passes through, else 0: `[H, W]`.
pub(super) fn passes(x: &Tensor, parity: usize) -> Tensor {
    let (height, width) = (x.dim(-2), x.dim(-1));
    let mask: Vec<f32> = (0..height * width)
        .map(|i| f32::from((i / width + i % width) % 2 == parity))
        .collect();
    x.graph().constant([height, width], &mask)
}

impl Bijector for Coupling {
    fn name(&self) -> &str {
        "coupling"
    }

    fn forward(&self, x: &Tensor, cx: &Context<'_>) -> Mapped {
        let (out, log_det) = x.coupling(&self.raw(x, cx), &self.params);
        Mapped { out, log_det }
    }

    fn inverse(&self, z: &Tensor, cx: &Context<'_>) -> Mapped {
        let (out, log_det) = z.coupling_inverse(&self.raw(z, cx), &self.params);
        Mapped { out, log_det }
    }

    fn backward(
        &self,
        z: &Tensor,
        upstream: &Upstream,
        wrt: &[&Tensor],
        cx: &Context<'_>,
    ) -> Result<Rebuilt> {
        self.pull(z, false, upstream, wrt, cx)
    }

    fn backward_inverse(
        &self,
        x: &Tensor,
        upstream: &Upstream,
        wrt: &[&Tensor],
        cx: &Context<'_>,
    ) -> Result<Rebuilt> {
        self.pull(x, true, upstream, wrt, cx)
    }

    fn pixel_log_det(&self, x: &Tensor, cx: &Context<'_>) -> Tensor {
        let raw = self.raw(x, cx);
        if raw.check().is_err() || x.shape().rank() != 4 {
            return x.graph().poisoned(raw.check().err().unwrap_or_else(|| {
                Error::shape(
                    self.name(),
                    format!("{:?} has no pixels, expected [N, C, H, W]", x.shape()),
                )
            }));
        }
        let count = self.params.transformed(x.dim(1));
        let scales = |first, step| raw.slice_step(1, first, count, step);
        let s = match (self.params.scale, self.params.layout) {
            (CouplingScale::None, _) => {
                return x.graph().full([x.dim(0), x.dim(2), x.dim(3)], 0.0);
            }
            (_, RawLayout::ScaleShift) => scales(0, 1),
            (_, RawLayout::ShiftScale) => scales(count, 1),
            (_, RawLayout::ScaleShiftInterleaved) => scales(0, 2),
            (_, RawLayout::ShiftScaleInterleaved) => scales(1, 2),
        };
        let log = match self.params.scale {
            CouplingScale::Sigmoid { offset } => s.add_scalar(offset).neg().softplus().neg(),
            CouplingScale::Tanh { clamp } => s.mul_scalar(1.0 / clamp).tanh().mul_scalar(clamp),
            _ => s,
        };
        let log = match self.params.minimum > 0.0 {
            true => log.exp().add_scalar(self.params.minimum).log(),
            false => log,
        };
        let log = match self.params.mask {
            CouplingMask::Checkerboard { parity } => log.mul(&passes(x, 1 - parity.min(1))),
            _ => log,
        };
        log.sum(&[1], false)
    }
}
