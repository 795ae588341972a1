//! Gradient accumulation: the sums of several runs, then one step.

use super::{Accumulation, Optimizer, Part, Step};
use crate::params::ArenaInit;
use crate::{Graph, Result, Tensor};

impl Optimizer {
    /// Gradient accumulation, first half: adds the gradients of `loss` to
    /// accumulator arenas. Put it in a program of its own, run that `k` times, then
    /// run once a program with [`Optimizer::apply`] in it.
    #[track_caller]
    pub fn accumulate(&self, loss: &Tensor) -> Result<Accumulation> {
        let graph = loss.graph();
        let (mut parts, packed) = self.pack(graph, &self.grads(loss)?)?;
        let layout = self.params.layout();
        let mut updates = Vec::new();
        for (part, grad) in parts.iter_mut().zip(packed) {
            let sums = self.mirror(&layout, "sum", part.arena, ArenaInit::Zeros)?;
            part.sums = Some(sums);
            let sum = self.params.arena_tensor(graph, sums);
            let new = graph.newest(&sum).add(&grad);
            new.check()?;
            // Groups without arenas of their own add to the same one.
            graph.update(&sum, |_| new.clone());
            updates.push((sums, new));
        }
        Ok(Accumulation { updates, parts })
    }

    /// Gradient accumulation, second half: one step with the mean of `k`
    /// accumulated gradients; the accumulators are zero afterwards.
    #[track_caller]
    pub fn apply(&self, graph: &Graph, sums: &Accumulation, k: usize) -> Result<Step> {
        let arena = |part: &Part| part.sums.unwrap_or(usize::MAX);
        let tensors: Vec<Tensor> = sums
            .parts
            .iter()
            .map(|part| self.params.arena_tensor(graph, arena(part)))
            .collect();
        let factor = 1.0 / k.max(1) as f32;
        let means = tensors.iter().zip(&sums.parts).map(|(sum, part)| {
            let mean = sum.mul_scalar(factor);
            match part.mask(graph, sum.numel()) {
                // Other groups may add to the same arena.
                Some(mask) => mask.select(&mean, &mean.zeros_like()),
                None => mean,
            }
        });
        let means = means.collect();
        let mut step = self.update(graph, &sums.parts, means)?;
        for (part, sum) in sums.parts.iter().zip(tensors) {
            let zero = sum.zeros_like();
            graph.update(&sum, |_| zero.clone());
            step.updates.push((arena(part), zero));
        }
        Ok(step)
    }
}
