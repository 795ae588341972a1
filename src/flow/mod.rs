//! Normalizing flows: bijectors with log-determinants, chains of them, base
//! distributions, and reversible backpropagation. Compositions of tensor methods; no
//! kernel of their own. They must not know whole models, data sets or training loops.
//!
//! Directions: *forward* (encode) goes from data `x` to latents `z`, *inverse* (decode)
//! back. Log-determinants are `log |det dz/dx|` in nats, one per sample, `[N]`.
//!
//! ```
//! use flowgrad::flow::{ActNorm, Chain, Context, Coupling, Flow, Memory, StandardNormal};
//! use flowgrad::nn::Linear;
//! use flowgrad::ops::{CouplingMask, CouplingParams};
//! use flowgrad::{Graph, Params};
//! # fn main() -> flowgrad::Result<()> {
//! let params = Params::new(1);
//! let mut chain = Chain::new("flow").memory(Memory::Rebuild);
//! for (k, mask) in [CouplingMask::Even, CouplingMask::Odd].into_iter().enumerate() {
//!     let scope = params.scope(k);
//!     let coupling = CouplingParams::glow(mask);
//!     let seen = Coupling::seen_channels(mask, 5);
//!     let network = Linear::new(&scope.scope("net"), seen, coupling.raw_channels(5))?;
//!     chain.push(ActNorm::new(&scope.scope("actnorm"), 5)?);
//!     chain.push(Coupling::new(coupling, network));
//! }
//! let flow = Flow::new(chain, StandardNormal::new([5]));
//!
//! let graph = Graph::new();
//! let log_prob = flow.log_prob(&graph.input("x", [64, 5]), &Context::train());
//! let samples = flow.sample(&graph, 16, 0.8, &Context::eval());
//! assert_eq!(log_prob.shape().dims(), [64]); // nats
//! assert_eq!(samples.shape().dims(), [16, 5]);
//! # Ok(())
//! # }
//! ```

mod actnorm;
mod base;
mod chain;
mod context;
mod coupling;
mod density;
mod dequantize;
mod inv1x1;
mod mixture;
mod multiscale;
mod permute;
mod preprocess;
mod reversible;
mod scaling;
mod spline_coupling;

pub use actnorm::{ActNorm, ActNormScale};
pub use base::{
    DiagonalGaussian, Logistic, StandardNormal, gaussian_log_prob, standard_logistic_log_prob,
    standard_normal_log_prob,
};
pub use chain::{Chain, Memory};
pub use context::{Context, FirstValues};
pub use coupling::Coupling;
pub use density::{Batch, Flow, bits_per_dim};
pub use dequantize::{Dequantize, VariationalDequantize};
pub use inv1x1::Inv1x1;
pub use mixture::{ClassGaussian, GaussianMixture, mixture_joint_log_prob, mixture_log_prob};
pub use multiscale::{MultiScale, PriorLayout, Split, TopPrior};
pub use permute::{Flatten, Permutation, Squeeze};
pub use preprocess::{Affine, Logit, Sigmoid};
pub use scaling::{BatchNorm, DiagonalScaling};
pub use spline_coupling::SplineCoupling;

use crate::graph::Tensor;
use crate::nn::Layer;
use crate::{Error, Graph, Result, tape};

/// What a bijector gives: the image of its input, and the log-determinant of the map
/// per sample, `[N]`, in nats.
#[derive(Clone)]
pub struct Mapped {
    /// The mapped tensor; axis 0 is the batch.
    pub out: Tensor,
    /// `log |det d out / d in|` per sample, `[N]`, nats.
    pub log_det: Tensor,
}

/// What [`Bijector::backward`] gives.
pub struct Rebuilt {
    /// The layer's input, from its output.
    pub x: Tensor,
    /// The gradient by the input.
    pub dx: Tensor,
    /// The gradients by the tensors of `wrt`, in their order; none where the layer does
    /// not read the tensor.
    pub grads: Vec<Option<Tensor>>,
}

/// An invertible map with a tractable log-determinant. Axis 0 of all tensors is the
/// batch. A wrong shape gives poisoned tensors, never a panic.
pub trait Bijector: Send + Sync {
    /// The kind of layer, for errors and observers ([`Graph::observed`]); a [`Chain`] adds
    /// the position.
    fn name(&self) -> &str;

    /// From data to latents.
    #[track_caller]
    fn forward(&self, x: &Tensor, cx: &Context<'_>) -> Mapped;

    /// From latents to data; the log-determinant is that of the inverse map, minus
    /// that of [`Bijector::forward`] at the same point.
    #[track_caller]
    fn inverse(&self, z: &Tensor, cx: &Context<'_>) -> Mapped;

    /// Whether a call of [`Bijector::inverse`] on the output gives the input back:
    /// not for layers that draw random numbers, use statistics of the batch, or update
    /// states. A [`Chain`] stores what surrounds these.
    fn is_reversible(&self) -> bool {
        true
    }

    /// What every pixel of an image `[N, C, H, W]` contributes to the log-determinant
    /// of [`Bijector::forward`]: `[N, H, W]`, nats. Poisoned where a layer does not
    /// allow it.
    #[track_caller]
    fn pixel_log_det(&self, x: &Tensor, cx: &Context<'_>) -> Tensor {
        let _ = cx;
        x.graph().poisoned(Error::argument(
            self.name(),
            "this layer has no log-determinant per pixel",
        ))
    }

    /// Backpropagation that stores nothing: from the output `z` and the upstream
    /// gradients, rebuilds the input and gives the gradients by it and by `wrt`
    /// (parameters and other tensors that [`Bijector::forward`] reads).
    ///
    /// The provided method records the inverse, replays the layer on the rebuilt input
    /// and differentiates that; layers with an expensive network inside override it to
    /// run the network once. Second derivatives do not flow through the results (those of
    /// a [`Chain`] do). Errors: those of [`tape::backward_from`].
    fn backward(
        &self,
        z: &Tensor,
        upstream: &Upstream,
        wrt: &[&Tensor],
        cx: &Context<'_>,
    ) -> Result<Rebuilt> {
        let x = self.inverse(&z.stop_gradient(), cx).out.stop_gradient();
        let replayed = self.forward(&x, cx);
        let (dx, grads) = upstream.pull(&replayed, &x, wrt)?;
        Ok(Rebuilt { x, dx, grads })
    }

    /// The same for [`Bijector::inverse`]: from its output `x` and the upstream gradients,
    /// rebuilds the latents ([`Rebuilt::x`]) and gives the gradients by them and by `wrt`.
    fn backward_inverse(
        &self,
        x: &Tensor,
        upstream: &Upstream,
        wrt: &[&Tensor],
        cx: &Context<'_>,
    ) -> Result<Rebuilt> {
        let z = self.forward(&x.stop_gradient(), cx).out.stop_gradient();
        let replayed = self.inverse(&z, cx);
        let (dx, grads) = upstream.pull(&replayed, &z, wrt)?;
        Ok(Rebuilt { x: z, dx, grads })
    }
}

/// Gradients of a loss by the two results of a layer; none where the loss does not
/// depend on the result.
#[derive(Clone, Default)]
pub struct Upstream {
    /// By the output.
    pub out: Option<Tensor>,
    /// By the log-determinant, `[N]`.
    pub log_det: Option<Tensor>,
}

impl Upstream {
    /// The gradients by `x` and by `wrt` through recorded results.
    fn pull(
        &self,
        results: &Mapped,
        x: &Tensor,
        wrt: &[&Tensor],
    ) -> Result<(Tensor, Vec<Option<Tensor>>)> {
        let pairs = [(&results.out, &self.out), (&results.log_det, &self.log_det)];
        let seeds: Vec<(Tensor, Tensor)> = pairs
            .into_iter()
            .filter_map(|(value, grad)| Some((value.clone(), grad.clone()?)))
            .collect();
        let mut targets = vec![x];
        targets.extend(wrt);
        let mut grads = tape::partial_gradients(&seeds, &targets)?;
        let rest = grads.split_off(1);
        let dx = grads.pop().flatten();
        Ok((dx.unwrap_or_else(|| x.zeros_like()), rest))
    }
}

impl<B: Bijector + ?Sized> Bijector for Box<B> {
    fn name(&self) -> &str {
        (**self).name()
    }
    fn forward(&self, x: &Tensor, cx: &Context<'_>) -> Mapped {
        (**self).forward(x, cx)
    }
    fn inverse(&self, z: &Tensor, cx: &Context<'_>) -> Mapped {
        (**self).inverse(z, cx)
    }
    fn is_reversible(&self) -> bool {
        (**self).is_reversible()
    }
    fn pixel_log_det(&self, x: &Tensor, cx: &Context<'_>) -> Tensor {
        (**self).pixel_log_det(x, cx)
    }
    fn backward(
        &self,
        z: &Tensor,
        upstream: &Upstream,
        wrt: &[&Tensor],
        cx: &Context<'_>,
    ) -> Result<Rebuilt> {
        (**self).backward(z, upstream, wrt, cx)
    }
    fn backward_inverse(
        &self,
        x: &Tensor,
        upstream: &Upstream,
        wrt: &[&Tensor],
        cx: &Context<'_>,
    ) -> Result<Rebuilt> {
        (**self).backward_inverse(x, upstream, wrt, cx)
    }
}

/// A network inside a layer of a flow. Every [`Layer`] is one; networks that use the
/// condition or have data-dependent first values implement this themselves.
pub trait Network: Send + Sync {
    /// Appends the network to the graph of `x`.
    #[track_caller]
    fn apply(&self, x: &Tensor, cx: &Context<'_>) -> Tensor;
}

/// The raw values that a coupling's network gives. Layers in it that have no name of their
/// own are observed under the coupling's.
#[track_caller]
fn raw_values(network: &dyn Network, seen: &Tensor, cx: &Context<'_>) -> Tensor {
    if seen.check().is_err() {
        return seen.clone();
    }
    let graph = seen.graph();
    let from = graph.observed_so_far();
    let raw = network.apply(seen, cx);
    graph.place_observed(from, |inner| format!("network {inner}"));
    raw
}

impl<L: Layer> Network for L {
    fn apply(&self, x: &Tensor, cx: &Context<'_>) -> Tensor {
        Layer::forward(self, x, cx.mode())
    }
}

/// A distribution over latents, with what a flow needs of it.
pub trait Base: Send + Sync {
    /// The log-density of every sample, `[N]`, in nats.
    #[track_caller]
    fn log_prob(&self, z: &Tensor, cx: &Context<'_>) -> Tensor;

    /// `n` samples, `[n, ..]`, drawn on the GPU. The temperature scales the deviation
    /// from the mean; 1 is the distribution itself. The seed is the program's random
    /// state. Poisoned where the temperature is not above 0.
    #[track_caller]
    fn sample(&self, graph: &Graph, n: usize, temperature: f32, cx: &Context<'_>) -> Tensor;
}

/// Zeros `[N]`: the log-determinant of maps that keep volumes.
fn no_log_det(x: &Tensor) -> Tensor {
    x.graph().full([x.dim(0)], 0.0)
}

/// One number for all samples, as `[N]`.
fn for_all_samples(value: &Tensor, x: &Tensor) -> Tensor {
    value.reshape([1]).broadcast_to([x.dim(0)])
}

/// Elements of one channel of `x` `[N, C, ..]`: 1 for vectors `[N, C]`.
fn pixels(x: &Tensor) -> usize {
    x.shape().dims().iter().skip(2).product()
}
