//! Coupling layers whose maps are rational-quadratic splines (Durkan et al. 2019, "Neural
//! spline flows", arXiv 1906.04032).

use super::base::per_sample;
use super::coupling::{passed, passes};
use super::preprocess::per_pixel;
use super::{Bijector, Context, Mapped, Network, Rebuilt, Upstream, raw_values};
use crate::ops::{CouplingMask, CouplingParams, SplineParams};
use crate::{Error, Result, Tensor, tape};

/// One part of `[N, C]` or `[N, C, H, W]` passes through and, by a network, tells the
/// splines that map the elements of the rest, each by its own; see [`Tensor::spline`].
///
/// The network sees what passes through: those channels, or for a checkerboard all
/// channels with zeros where the layer transforms. It gives
/// [`SplineCoupling::raw_channels`] channels of the same height and width; zeros make the
/// layer the identity.
pub struct SplineCoupling {
    mask: CouplingMask,
    spline: SplineParams,
    network: Box<dyn Network>,
}

impl SplineCoupling {
    /// A coupling with this mask and these splines around a network.
    pub fn new(mask: CouplingMask, spline: SplineParams, network: impl Network + 'static) -> Self {
        SplineCoupling {
            mask,
            spline,
            network: Box::new(network),
        }
    }

    /// How many channels the network gives for a layer over `channels` channels:
    /// [`SplineParams::raw_values`] for each that is transformed.
    pub fn raw_channels(mask: CouplingMask, spline: &SplineParams, channels: usize) -> usize {
        CouplingParams::new(mask).transformed(channels) * spline.raw_values()
    }

    fn raw(&self, x: &Tensor, cx: &Context<'_>) -> Tensor {
        let seen = passed(self.name(), self.mask, x);
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
        raw.check()?;
        let given = raw.stop_gradient();
        let x = self.map(&y, &given, !inverse).out.stop_gradient();
        let replayed = self.map(&x, &given, inverse);
        let (dx, mut draw) = upstream.pull(&replayed, &x, &[&given])?;
        let Some(draw) = draw.pop().flatten() else {
            let grads = vec![None; wrt.len()];
            return Ok(Rebuilt { x, dx, grads });
        };
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

    /// The layer or its inverse, with given raw values.
    fn map(&self, x: &Tensor, raw: &Tensor, inverse: bool) -> Mapped {
        let (out, log_slope) = self.elements(x, raw, inverse);
        Mapped {
            out,
            log_det: per_sample(&log_slope),
        }
    }

    /// The result, and the logarithms of all slopes that belong to it (without those
    /// of channels that pass through).
    fn elements(&self, x: &Tensor, raw: &Tensor, inverse: bool) -> (Tensor, Tensor) {
        if let Err(e) = x.check().and_then(|()| raw.check()) {
            let wrong = x.graph().poisoned(e);
            return (wrong.clone(), wrong);
        }
        let map = |part: &Tensor| match inverse {
            false => part.spline(raw, &self.spline),
            true => part.spline_inverse(raw, &self.spline),
        };
        let channels = x.dim(1);
        let count = CouplingParams::new(self.mask).transformed(channels);
        if let CouplingMask::Checkerboard { parity } = self.mask {
            if parity > 1 || x.shape().rank() != 4 {
                let detail = format!(
                    "parity {parity} on {:?}: expected 0 or 1 and [N, C, H, W]",
                    x.shape()
                );
                let wrong = x.graph().poisoned(Error::shape(self.name(), detail));
                return (wrong.clone(), wrong);
            }
            let (all, log_slope) = map(x);
            let kept = passes(x, parity);
            let none = log_slope.zeros_like();
            return (kept.select(x, &all), kept.select(&none, &log_slope));
        }
        let kept = passed(self.name(), self.mask, x);
        let moved = match self.mask {
            CouplingMask::After(n) => x.slice(1, n, count),
            CouplingMask::Even => x.slice_step(1, 0, count, 2),
            CouplingMask::Odd => x.slice_step(1, 1, count, 2),
            _ => x.slice(1, 0, count),
        };
        let (moved, log_slope) = map(&moved);
        let out = match self.mask {
            CouplingMask::Even => alternate(&moved, &kept, channels),
            CouplingMask::Odd => alternate(&kept, &moved, channels),
            CouplingMask::Before(_) => Tensor::concat(&[&moved, &kept], 1),
            _ => Tensor::concat(&[&kept, &moved], 1),
        };
        (out, log_slope)
    }
}

/// Channels of `even` and `odd` in turn, `channels` in all.
fn alternate(even: &Tensor, odd: &Tensor, channels: usize) -> Tensor {
    let rows = channels.div_ceil(2);
    let mut pair = even.shape().dims().to_vec();
    pair[1] = rows;
    pair.insert(2, 1);
    let stacked = |t: &Tensor| {
        let mut amounts = vec![(0, 0); t.shape().rank()];
        amounts[1].1 = rows - t.dim(1);
        t.pad(&amounts, 0.0).reshape(&pair[..])
    };
    let mut whole = even.shape().dims().to_vec();
    whole[1] = 2 * rows;
    Tensor::concat(&[&stacked(even), &stacked(odd)], 2)
        .reshape(whole)
        .slice(1, 0, channels)
}

impl Bijector for SplineCoupling {
    fn name(&self) -> &str {
        "spline coupling"
    }

    fn forward(&self, x: &Tensor, cx: &Context<'_>) -> Mapped {
        self.map(x, &self.raw(x, cx), false)
    }

    fn inverse(&self, z: &Tensor, cx: &Context<'_>) -> Mapped {
        self.map(z, &self.raw(z, cx), true)
    }

    fn pixel_log_det(&self, x: &Tensor, cx: &Context<'_>) -> Tensor {
        let (_, log_slope) = self.elements(x, &self.raw(x, cx), false);
        per_pixel(self.name(), &log_slope)
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
}
