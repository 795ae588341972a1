//! Bijectors one after the other.

use std::sync::Arc;

use super::reversible::{self, Step};
use super::{Bijector, Context, Mapped, Rebuilt, Upstream, no_log_det};
use crate::{Error, Result, Tensor};

/// What a [`Chain`] keeps for its gradient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Memory {
    /// All activations, as plain backpropagation does: memory grows with depth.
    #[default]
    Store,
    /// Only the chain's output; inputs are rebuilt by the inverse, those of the inverse
    /// by the forward map. Memory does not grow with depth, for about one third more time.
    /// Gradients of gradients are right, but keep the activations where they are asked for.
    Rebuild,
    /// As [`Memory::Rebuild`], but the output of every `k` layers is kept, so that the
    /// rounding of inverses adds up over `k` layers at most.
    Checkpoint(usize),
}

/// Layers one after the other, itself a bijector. Its name and the layers' positions
/// stand in errors and in what is observed ([`crate::Graph::observed`]):
/// `level 0.3 actnorm`.
#[derive(Clone)]
pub struct Chain {
    name: String,
    layers: Vec<Arc<dyn Bijector>>,
    memory: Memory,
}

impl Default for Chain {
    fn default() -> Self {
        Chain::new("chain")
    }
}

impl Chain {
    /// An empty chain: the identity.
    pub fn new(name: impl Into<String>) -> Self {
        Chain {
            name: name.into(),
            layers: Vec::new(),
            memory: Memory::Store,
        }
    }

    /// The chain with one more layer at the end.
    pub fn with(mut self, layer: impl Bijector + 'static) -> Self {
        self.push(layer);
        self
    }

    /// Adds a layer at the end.
    pub fn push(&mut self, layer: impl Bijector + 'static) {
        self.layers.push(Arc::new(layer));
    }

    /// The chain with another way to keep what its gradient needs.
    pub fn memory(mut self, memory: Memory) -> Self {
        self.memory = memory;
        self
    }

    /// The number of layers.
    pub fn len(&self) -> usize {
        self.layers.len()
    }

    /// Whether there is no layer.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    fn steps(&self) -> Vec<Step> {
        let steps = self.layers.iter().enumerate();
        steps.map(|(i, layer)| Step::new(layer, i)).collect()
    }

    /// Layers that are recorded together: reversible ones in segments, each of the
    /// others alone.
    fn segments(&self) -> Vec<(bool, Vec<Step>)> {
        let steps = self.steps();
        let most = match self.memory {
            Memory::Store => return vec![(false, steps)],
            Memory::Rebuild => usize::MAX,
            Memory::Checkpoint(k) => k.max(1),
        };
        let mut segments = Vec::new();
        let mut start = 0;
        for (i, layer) in self.layers.iter().enumerate() {
            let reversible = layer.is_reversible();
            if (!reversible || i - start == most) && start < i {
                segments.push((true, steps[start..i].to_vec()));
                start = i;
            }
            if !reversible {
                segments.push((false, steps[i..=i].to_vec()));
                start = i + 1;
            }
        }
        if start < self.layers.len() {
            segments.push((true, steps[start..].to_vec()));
        }
        segments
    }

    /// The segments of one direction on `x`, one after the other.
    #[track_caller]
    fn run(&self, segments: Vec<(bool, Vec<Step>)>, x: &Tensor, cx: &Context<'_>) -> Mapped {
        let from = x.graph().observed_so_far();
        let mut out = x.clone();
        let mut log_det: Option<Tensor> = None;
        for (reversible, steps) in segments {
            // First values are computed once and have no gradient.
            let mapped = match reversible && cx.first_values().is_none() {
                true => reversible::record(&steps, &out, cx),
                false => reversible::forward(&steps, &out, cx),
            };
            out = mapped.out;
            log_det = Some(match log_det {
                Some(sum) => sum.add(&mapped.log_det),
                None => mapped.log_det,
            });
        }
        x.graph()
            .place_observed(from, |inner| format!("{}.{inner}", self.name));
        let log_det = log_det.unwrap_or_else(|| no_log_det(x));
        Mapped { out, log_det }
    }
}

impl Bijector for Chain {
    fn name(&self) -> &str {
        &self.name
    }

    fn forward(&self, x: &Tensor, cx: &Context<'_>) -> Mapped {
        self.run(self.segments(), x, cx)
    }

    fn inverse(&self, z: &Tensor, cx: &Context<'_>) -> Mapped {
        let turned = self.segments().into_iter().rev();
        let turned = turned.map(|(reversible, steps)| (reversible, reversible::inverted(&steps)));
        self.run(turned.collect(), z, cx)
    }

    fn is_reversible(&self) -> bool {
        self.layers.iter().all(|l| l.is_reversible())
    }

    /// Per pixel of the input. What a layer behind a squeeze gives for a block of 2x2
    /// pixels is shared out equally among them.
    fn pixel_log_det(&self, x: &Tensor, cx: &Context<'_>) -> Tensor {
        let (height, width) = (x.dim(2), x.dim(3));
        let mut out = x.clone();
        let mut total = x.graph().full([x.dim(0), height, width], 0.0);
        for layer in &self.layers {
            let map = layer.pixel_log_det(&out, cx);
            if let Err(e) = map.check() {
                return x.graph().poisoned(e);
            }
            let (rows, columns) = (map.dim(1), map.dim(2));
            let factor = [height / rows, width / columns];
            if [rows * factor[0], columns * factor[1]] != [height, width] {
                return x.graph().poisoned(Error::shape(
                    self.name(),
                    format!(
                        "a layer gives {:?} for pixels of {:?}",
                        map.shape(),
                        x.shape()
                    ),
                ));
            }
            let spread = map
                .reshape([x.dim(0), 1, rows, columns])
                .upsample_nearest2d(factor)
                .mul_scalar(1.0 / (factor[0] * factor[1]) as f32);
            total = total.add(&spread.reshape(total.shape()));
            out = layer.forward(&out, cx).out;
        }
        total
    }

    fn backward(
        &self,
        z: &Tensor,
        upstream: &Upstream,
        wrt: &[&Tensor],
        cx: &Context<'_>,
    ) -> Result<Rebuilt> {
        let (x, dx, grads) = reversible::backward(&self.steps(), z, upstream, wrt, cx)?;
        Ok(Rebuilt { x, dx, grads })
    }

    fn backward_inverse(
        &self,
        x: &Tensor,
        upstream: &Upstream,
        wrt: &[&Tensor],
        cx: &Context<'_>,
    ) -> Result<Rebuilt> {
        let steps = reversible::inverted(&self.steps());
        let (x, dx, grads) = reversible::backward(&steps, x, upstream, wrt, cx)?;
        Ok(Rebuilt { x, dx, grads })
    }
}
