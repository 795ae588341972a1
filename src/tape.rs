//! Reverse-mode differentiation, graph to graph.
//!
//! [`backward`] walks the recorded nodes from the last to the first and appends
//! each op's gradient as ordinary nodes. Gradients are ordinary tensors, so a
//! gradient can be differentiated again wherever the ops allow it.
//!
//! Several uses of a value are added in the order of their nodes, last use
//! first: the same graph always gives the same bits.

use std::collections::HashMap;

use crate::graph::{Graph, NodeId, Tensor, ValueId, Vjp};
use crate::{DType, Error, Result};

/// The gradients of the scalar `loss` by each of `wrt`, in their order.
///
/// A tensor the loss does not depend on gets zeros. Errors: a poisoned tensor,
/// a loss that is not a scalar, or [`Error::NotDifferentiable`] with the name
/// of the op that stands between the loss and a wanted tensor.
#[track_caller]
pub fn backward(loss: &Tensor, wrt: &[&Tensor]) -> Result<Vec<Tensor>> {
    loss.check()?;
    if loss.numel() != 1 {
        return Err(Error::shape(
            "backward",
            format!(
                "the loss must be a scalar, it is {:?}; use `sum`, `mean` or `backward_from`",
                loss.shape()
            ),
        )
        .located(std::panic::Location::caller()));
    }
    backward_from(&[(loss.clone(), loss.ones_like())], wrt)
}

/// Vector-Jacobian products: the gradients of `sum(output * upstream)` over all
/// given pairs by each of `wrt`. Upstream gradients have their output's shape.
#[track_caller]
pub fn backward_from(seeds: &[(Tensor, Tensor)], wrt: &[&Tensor]) -> Result<Vec<Tensor>> {
    let grads = gradients(seeds, wrt)?.into_iter().zip(wrt);
    Ok(grads
        .map(|(grad, t)| grad.unwrap_or_else(|| t.zeros_like()))
        .collect())
}

/// As [`backward_from`], but a tensor that no output depends on gets nothing.
#[track_caller]
pub(crate) fn gradients(
    seeds: &[(Tensor, Tensor)],
    wrt: &[&Tensor],
) -> Result<Vec<Option<Tensor>>> {
    pull(seeds, wrt, false)
}

/// As [`gradients`], but as if all of `wrt` were independent: what one of them was
/// computed from gets nothing through it.
#[track_caller]
pub(crate) fn partial_gradients(
    seeds: &[(Tensor, Tensor)],
    wrt: &[&Tensor],
) -> Result<Vec<Option<Tensor>>> {
    pull(seeds, wrt, true)
}

#[track_caller]
fn pull(
    seeds: &[(Tensor, Tensor)],
    wrt: &[&Tensor],
    independent: bool,
) -> Result<Vec<Option<Tensor>>> {
    let Some((first, _)) = seeds.first() else {
        return Err(Error::Graph("backward: no output was given".into()));
    };
    let graph = first.graph().clone();
    let place = std::panic::Location::caller();
    for tensor in seeds
        .iter()
        .flat_map(|(a, b)| [a, b])
        .chain(wrt.iter().copied())
    {
        tensor.check()?;
        if !tensor.graph().same(&graph) {
            return Err(Error::Graph(
                "backward: the tensors belong to different graphs".into(),
            ));
        }
    }
    for (output, upstream) in seeds {
        if output.dtype() != DType::F32 || upstream.dtype() != DType::F32 {
            return Err(Error::dtype(
                "backward",
                format!(
                    "an output of {} got an upstream gradient of {}; gradients are f32",
                    output.dtype(),
                    upstream.dtype()
                ),
            )
            .located(place));
        }
        if output.shape() != upstream.shape() {
            return Err(Error::shape(
                "backward",
                format!(
                    "an output of shape {:?} got an upstream gradient of shape {:?}",
                    output.shape(),
                    upstream.shape()
                ),
            )
            .located(place));
        }
    }
    let _unobserved = graph.unobserved();
    let last = seeds.iter().map(|(t, _)| t.id().node.0).max().unwrap_or(0) as usize;
    let needed = depends_on(&graph, wrt, last);
    let mut grads: HashMap<ValueId, Tensor> = HashMap::new();
    let accumulate = |grads: &mut HashMap<ValueId, Tensor>, id: ValueId, grad: Tensor| {
        let total = match grads.remove(&id) {
            Some(sum) => sum.add(&grad),
            None => grad,
        };
        grads.insert(id, total);
    };
    for (output, upstream) in seeds {
        if needed[output.id().node.0 as usize] {
            accumulate(&mut grads, output.id(), upstream.clone());
        }
    }
    for i in (0..=last).rev() {
        if !needed[i] {
            continue;
        }
        let node = graph.lock().nodes[i].clone();
        let id = NodeId(i as u32);
        let outputs: Vec<ValueId> = (0..node.outputs.len())
            .map(|o| ValueId {
                node: id,
                output: o as u32,
            })
            .collect();
        // A wanted tensor may itself be one that gradients end at.
        if node.inputs.is_empty() || node.op.stops_gradient() {
            continue;
        }
        let ends = |o: &ValueId| independent && wrt.iter().any(|t| t.id() == *o);
        let passes = |o: &ValueId| grads.get(o).filter(|_| !ends(o)).cloned();
        let upstream: Vec<Option<Tensor>> = outputs.iter().map(passes).collect();
        if upstream.iter().all(Option::is_none) {
            continue;
        }
        let needs: Vec<bool> = node
            .inputs
            .iter()
            .map(|v| needed[v.node.0 as usize])
            .collect();
        if !needs.contains(&true) {
            continue;
        }
        let input_tensors: Vec<Tensor> = node.inputs.iter().map(|v| graph.tensor(*v)).collect();
        let output_tensors: Vec<Tensor> = outputs.iter().map(|v| graph.tensor(*v)).collect();
        let mut cx = Vjp {
            inputs: &input_tensors,
            outputs: &output_tensors,
            upstream: &upstream,
            needs: &needs,
            result: vec![None; needs.len()],
            backward: gradients,
        };
        node.op
            .vjp(&mut cx)
            .map_err(|e| recorded_at(e, node.origin))?;
        let result = cx.result;
        for (k, grad) in result.into_iter().enumerate() {
            let (true, Some(grad)) = (needs[k], grad) else {
                continue;
            };
            grad.check()?;
            if grad.shape() != input_tensors[k].shape() {
                return Err(Error::Graph(format!(
                    "{}: the gradient of input {k} has shape {:?}, the input {:?}",
                    node.op.name(),
                    grad.shape(),
                    input_tensors[k].shape()
                )));
            }
            accumulate(&mut grads, node.inputs[k], grad);
        }
    }
    Ok(wrt.iter().map(|t| grads.get(&t.id()).cloned()).collect())
}

/// Adds where the op was recorded, for ops that cannot be differentiated.
fn recorded_at(error: Error, origin: &std::panic::Location<'_>) -> Error {
    match error {
        Error::NotDifferentiable { op, detail } => Error::NotDifferentiable {
            op,
            detail: format!("{detail} (recorded at {}:{})", origin.file(), origin.line()),
        },
        other => other,
    }
}

/// For every node up to `last`, whether it depends on one of `wrt`.
fn depends_on(graph: &Graph, wrt: &[&Tensor], last: usize) -> Vec<bool> {
    let nodes = graph.lock();
    let mut depends = vec![false; nodes.nodes.len()];
    for tensor in wrt {
        depends[tensor.id().node.0 as usize] = true;
    }
    for i in 0..=last {
        let through = nodes.nodes[i]
            .inputs
            .iter()
            .any(|v| depends[v.node.0 as usize]);
        depends[i] = depends[i] || (through && !nodes.nodes[i].op.stops_gradient());
    }
    depends
}

/// Whether a gradient can flow from `loss` to the source `wanted`. (A parameter
/// without one must be left alone by an optimiser, weight decay included.)
pub(crate) fn reaches(loss: &Tensor, wanted: &crate::graph::Source) -> bool {
    let nodes = loss.graph().lock();
    let last = loss.id().node.0 as usize;
    let mut reached = vec![false; last + 1];
    reached[last] = true;
    for i in (0..=last).rev() {
        let node = &nodes.nodes[i];
        if !reached[i] || node.op.stops_gradient() {
            continue;
        }
        if matches!(node.op.kind(), crate::graph::Kind::Source(s) if s == wanted) {
            return true;
        }
        for input in &node.inputs {
            reached[input.node.0 as usize] = true;
        }
    }
    false
}
