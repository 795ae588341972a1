//! Reversible backpropagation: layers recorded so that their gradient reads nothing
//! but their last output (Gomez et al. 2017, arXiv 1707.04585).
//!
//! The forward nodes are recorded as always. Their results are then replaced by aliases
//! with one gradient rule: from the last layer to the first, rebuild the input from the
//! output, then the layer's gradient. Nothing reads the values in between, so the
//! planner frees them.

use std::sync::Arc;

use super::{Bijector, Context, Mapped, Rebuilt, Upstream};
use crate::graph::{Graph, Kind, Source, Tensor, ValueId};
use crate::nn::Mode;
use crate::ops::{segment, stand_in};
use crate::{DType, Result, tape};

/// A layer of a chain, from data to latents or back.
#[derive(Clone)]
pub(super) struct Step {
    layer: Arc<dyn Bijector>,
    /// Its number in the chain.
    place: usize,
    inverse: bool,
}

impl Step {
    pub fn new(layer: &Arc<dyn Bijector>, place: usize) -> Self {
        Step {
            layer: layer.clone(),
            place,
            inverse: false,
        }
    }

    #[track_caller]
    fn run(&self, x: &Tensor, cx: &Context<'_>) -> Mapped {
        let graph = x.graph();
        let from = graph.observed_so_far();
        let name = self.layer.name();
        let (mapped, kind) = match self.inverse {
            false => (self.layer.forward(x, cx), name.to_string()),
            true => (self.layer.inverse(x, cx), format!("inverse {name}")),
        };
        graph.observe_step(name, &kind, x, &mapped.out, &mapped.log_det);
        graph.place_observed(from, |inner| format!("{} {inner}", self.place));
        mapped
    }

    fn backward(
        &self,
        output: &Tensor,
        upstream: &Upstream,
        wrt: &[&Tensor],
        cx: &Context<'_>,
    ) -> Result<Rebuilt> {
        match self.inverse {
            false => self.layer.backward(output, upstream, wrt, cx),
            true => self.layer.backward_inverse(output, upstream, wrt, cx),
        }
    }
}

/// The layers of the inverse, in the order in which it runs them.
pub(super) fn inverted(layers: &[Step]) -> Vec<Step> {
    let layers = layers.iter().rev().cloned();
    let turned = |step: Step| Step {
        inverse: !step.inverse,
        ..step
    };
    layers.map(turned).collect()
}

/// Records `layers` on `x` as one segment.
#[track_caller]
pub(super) fn record(layers: &[Step], x: &Tensor, cx: &Context<'_>) -> Mapped {
    let graph = x.graph();
    let start = graph.len();
    let mapped = forward(layers, x, cx);
    if mapped.out.check().is_err() || mapped.log_det.check().is_err() {
        return mapped;
    }
    let mut inputs = outside(graph, start, x);
    let mode = cx.mode();
    let condition = cx.condition().map(|condition| {
        let found = inputs.iter().position(|i| i.id() == condition.id());
        found.unwrap_or_else(|| {
            inputs.push(condition.clone());
            inputs.len() - 1
        })
    });
    let layers = layers.to_vec();
    let mut out = segment(
        &inputs.iter().collect::<Vec<_>>(),
        &[&mapped.out, &mapped.log_det],
        move |inputs, outputs, upstream, needs| {
            let mut cx = Context::new(mode);
            if let Some(condition) = condition {
                cx = cx.with_condition(&inputs[condition]);
            }
            let upstream = Upstream {
                out: upstream[0].clone(),
                log_det: upstream[1].clone(),
            };
            // Input 0 is the segment's own.
            let wanted: Vec<usize> = (1..inputs.len()).filter(|i| needs[*i]).collect();
            let wrt: Vec<&Tensor> = wanted.iter().map(|i| &inputs[*i]).collect();
            let (_, dx, grads) = backward(&layers, &outputs[0], &upstream, &wrt, &cx)?;
            let mut all = vec![None; inputs.len()];
            all[0] = Some(dx);
            for (i, grad) in wanted.into_iter().zip(grads) {
                all[i] = grad;
            }
            Ok(twice_differentiable(
                &layers,
                cx.mode(),
                condition,
                inputs,
                &upstream,
                all,
            ))
        },
    );
    let log_det = out.swap_remove(1);
    let out = out.swap_remove(0);
    Mapped { out, log_det }
}

/// The gradients `grads` by `inputs` of a segment, with gradients of their own: those of
/// the recorded layers, from the first input on. What was rebuilt is cut off from what it
/// was rebuilt from and has none. (Whoever asks for these stores activations after all.)
fn twice_differentiable(
    layers: &[Step],
    mode: Mode,
    condition: Option<usize>,
    inputs: &[Tensor],
    upstream: &Upstream,
    grads: Vec<Option<Tensor>>,
) -> Vec<Option<Tensor>> {
    let present: Vec<usize> = (0..grads.len()).filter(|i| grads[*i].is_some()).collect();
    let (layers, by, count) = (layers.to_vec(), present.clone(), inputs.len());
    let has = [upstream.out.is_some(), upstream.log_det.is_some()];
    let mut from: Vec<&Tensor> = inputs.iter().collect();
    from.extend(&upstream.out);
    from.extend(&upstream.log_det);
    let values: Vec<&Tensor> = grads.iter().flatten().collect();
    let values = segment(&from, &values, move |from, _, upstream, needs| {
        // New values, so that nothing recorded before depends on them.
        let mut from = from.to_vec();
        let own = [0].into_iter().chain(condition).chain(count..from.len());
        for i in own {
            from[i] = stand_in(&from[i]);
        }
        let (inputs, seeds) = from.split_at(count);
        let mut cx = Context::new(mode);
        if let Some(condition) = condition {
            cx = cx.with_condition(&inputs[condition]);
        }
        let mapped = forward(&layers, &inputs[0], &cx);
        let outputs = [mapped.out, mapped.log_det].into_iter().zip(has);
        let outputs = outputs.filter_map(|(output, has)| has.then_some(output));
        let pairs: Vec<(Tensor, Tensor)> = outputs.zip(seeds.iter().cloned()).collect();
        let wrt: Vec<&Tensor> = by.iter().map(|i| &inputs[*i]).collect();
        let first = tape::partial_gradients(&pairs, &wrt)?;
        let pairs: Vec<(Tensor, Tensor)> = first
            .into_iter()
            .zip(upstream)
            .filter_map(|(grad, upstream)| Some((grad?, upstream.clone()?)))
            .collect();
        let mut all = vec![None; from.len()];
        if pairs.is_empty() {
            return Ok(all);
        }
        let wanted: Vec<usize> = (0..from.len()).filter(|i| needs[*i]).collect();
        let wrt: Vec<&Tensor> = wanted.iter().map(|i| &from[*i]).collect();
        let second = tape::partial_gradients(&pairs, &wrt)?;
        for (i, grad) in wanted.into_iter().zip(second) {
            all[i] = grad;
        }
        Ok(all)
    });
    let mut all = vec![None; grads.len()];
    for (i, value) in present.into_iter().zip(values) {
        all[i] = Some(value);
    }
    all
}

/// The layers one after the other, log-determinants added up.
#[track_caller]
pub(super) fn forward(layers: &[Step], x: &Tensor, cx: &Context<'_>) -> Mapped {
    let mut out = x.clone();
    let mut log_det: Option<Tensor> = None;
    for layer in layers {
        let mapped = layer.run(&out, cx);
        out = mapped.out;
        log_det = Some(match log_det {
            Some(sum) => sum.add(&mapped.log_det),
            None => mapped.log_det,
        });
    }
    let log_det = log_det.unwrap_or_else(|| super::no_log_det(x));
    Mapped { out, log_det }
}

/// From the last layer to the first: the input rebuilt, and the gradients.
pub(super) fn backward(
    layers: &[Step],
    z: &Tensor,
    upstream: &Upstream,
    wrt: &[&Tensor],
    cx: &Context<'_>,
) -> Result<(Tensor, Tensor, Vec<Option<Tensor>>)> {
    let mut z = z.clone();
    let mut upstream = upstream.clone();
    let mut grads: Vec<Option<Tensor>> = vec![None; wrt.len()];
    for layer in layers.iter().rev() {
        let rebuilt = layer.backward(&z, &upstream, wrt, cx)?;
        z = rebuilt.x;
        upstream.out = Some(rebuilt.dx);
        for (sum, grad) in grads.iter_mut().zip(rebuilt.grads) {
            *sum = match (sum.take(), grad) {
                (Some(sum), Some(grad)) => Some(sum.add(&grad)),
                (sum, grad) => sum.or(grad),
            };
        }
    }
    let dx = upstream.out.unwrap_or_else(|| z.zeros_like());
    Ok((z, dx, grads))
}

/// What the nodes recorded since `start` read from elsewhere: `x` first, then
/// parameters, inputs and earlier values, in the order of their first use.
fn outside(graph: &Graph, start: usize, x: &Tensor) -> Vec<Tensor> {
    let mut found: Vec<ValueId> = vec![x.id()];
    {
        let nodes = graph.lock();
        let is_outside = |v: &ValueId| {
            let node = &nodes.nodes[v.node.0 as usize];
            let source = matches!(
                node.op.kind(),
                Kind::Source(Source::Param { .. } | Source::Arena { .. } | Source::Input { .. })
            );
            (source || (v.node.0 as usize) < start)
                && node.outputs[v.output as usize].dtype == DType::F32
        };
        let mut seen: std::collections::HashSet<ValueId> = found.iter().copied().collect();
        for node in &nodes.nodes[start..] {
            for input in node.inputs.iter().filter(|v| is_outside(v)) {
                if seen.insert(*input) {
                    found.push(*input);
                }
            }
        }
    }
    found.into_iter().map(|v| graph.tensor(v)).collect()
}
