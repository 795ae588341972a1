//! A graph pass for inference: batch norms with given statistics disappear into the
//! convolutions before them, and activations into what is left.

use std::any::Any;
use std::collections::HashMap;

use super::Activation;
use super::batch_norm::Normalize;
use super::conv::{Conv, Window};
use super::func::Func;
use super::pointwise::Map;
use crate::graph::rewrite::{Visit, rewrite};
use crate::graph::{Tensor, ValueId};
use crate::{Result, Shape};

/// A convolution without an activation: window, input, weight and perhaps bias.
struct Plain {
    window: Window,
    inputs: Vec<Tensor>,
}

/// The same `outputs`, with every `batch_norm_eval` that is all that reads a convolution
/// folded into its weight and bias (`w' = w gamma / sqrt(var + eps)`, `b' = beta + (b -
/// mean) gamma / sqrt(var + eps)`), and an activation that is all that reads the result
/// applied by the same kernel. Equal up to rounding.
///
/// The folded weights are computed by the graph, so this pays together with
/// [`crate::Graph::compile_frozen`], which computes them once. Errors: those of
/// `outputs`.
pub fn fold_batch_norms(outputs: &[&Tensor]) -> Result<Vec<Tensor>> {
    let mut plain: HashMap<ValueId, Plain> = HashMap::new();
    rewrite(outputs, |visit| {
        let op: &dyn Any = visit.op;
        if let Some(conv) = op.downcast_ref::<Conv>() {
            if conv.activation == Activation::None {
                let inputs = visit.inputs.to_vec();
                let window = conv.window;
                plain.insert(visit.outputs[0].id(), Plain { window, inputs });
            }
            return None;
        }
        let source = *visit.old_inputs.first()?;
        let conv = plain.get(&source).filter(|_| visit.uses(source) == 1)?;
        if let Some(norm) = op.downcast_ref::<Normalize>() {
            let folded = fold(conv, norm.eps, visit)?;
            let y = push(&folded, Activation::None);
            plain.insert(visit.outputs[0].id(), folded);
            return Some(vec![y]);
        }
        let activation = match op.downcast_ref::<Map>()?.func {
            Func::Relu => Activation::Relu,
            Func::LeakyRelu(slope) if slope > 0.0 => Activation::LeakyRelu(slope),
            Func::Sigmoid => Activation::Sigmoid,
            Func::Tanh => Activation::Tanh,
            _ => return None,
        };
        Some(vec![push(conv, activation)])
    })
}

/// The convolution that also normalises, if its statistics are per channel.
fn fold(conv: &Plain, eps: f32, visit: &Visit<'_>) -> Option<Plain> {
    let weight = &conv.inputs[1];
    let channels = weight.dim(0);
    let per_channel = Shape::from([1, channels, 1, 1]);
    let statistics = visit.inputs.get(1..)?;
    if statistics.iter().any(|t| *t.shape() != per_channel) {
        return None;
    }
    let flat = |i: usize| statistics.get(i).map(|t| t.reshape([channels]));
    let (mean, var) = (flat(0)?, flat(1)?);
    let mut scale = var.add_scalar(eps).rsqrt();
    if let Some(gamma) = flat(2) {
        scale = scale.mul(&gamma);
    }
    let mut shift = match conv.inputs.get(2) {
        Some(bias) => bias.sub(&mean),
        None => mean.neg(),
    }
    .mul(&scale);
    if let Some(beta) = flat(3) {
        shift = shift.add(&beta);
    }
    let weight = weight.mul(&scale.reshape([channels, 1, 1, 1]));
    Some(Plain {
        window: conv.window,
        inputs: vec![conv.inputs[0].clone(), weight, shift],
    })
}

fn push(conv: &Plain, activation: Activation) -> Tensor {
    let op = Conv {
        window: conv.window,
        activation,
    };
    let inputs: Vec<&Tensor> = conv.inputs.iter().collect();
    conv.inputs[0].graph().push1(op, &inputs)
}
