//! A graph pass for inference: batch norms with given statistics disappear into the
//! convolutions before them, residual additions and activations into what is left.

use std::any::Any;
use std::collections::HashMap;

use super::batch_norm::Normalize;
use crate::graph::rewrite::{Visit, rewrite};
use crate::graph::{Tensor, ValueId};
use crate::ops::Activation;
use crate::ops::conv::conv2d::Conv;
use crate::ops::conv::window::Window;
use crate::ops::pointwise::func::Func;
use crate::ops::pointwise::map::Map;
use crate::{Result, Shape};

/// A convolution without an activation.
#[derive(Clone)]
struct Plain {
    window: Window,
    x: Tensor,
    weight: Tensor,
    bias: Option<Tensor>,
    residual: Option<Tensor>,
}

/// The same `outputs`, with every `batch_norm_eval` that is all that reads a convolution
/// folded into its weight and bias (`w' = w gamma / sqrt(var + eps)`, `b' = beta + (b -
/// mean) gamma / sqrt(var + eps)`), and an addition of equal shapes and an activation
/// that are all that reads the result done by the same kernel. Equal up to rounding.
///
/// The folded weights are computed by the graph, so this pays together with
/// [`crate::Graph::compile_frozen`], which computes them once. Errors: those of
/// `outputs`.
pub fn fold_batch_norms(outputs: &[&Tensor]) -> Result<Vec<Tensor>> {
    let mut plain: HashMap<ValueId, Plain> = HashMap::new();
    rewrite(outputs, |visit| {
        let op: &dyn Any = visit.op;
        let own = visit.outputs[0].id();
        if let Some(conv) = op.downcast_ref::<Conv>() {
            if conv.activation == Activation::None && !conv.residual {
                let found = Plain {
                    window: conv.window,
                    x: visit.inputs[0].clone(),
                    weight: visit.inputs[1].clone(),
                    bias: visit.inputs.get(2).cloned(),
                    residual: None,
                };
                plain.insert(own, found);
            }
            return None;
        }
        // Where nothing else reads it, the convolution may be changed.
        let alone = |i: usize| {
            let source = *visit.old_inputs.get(i)?;
            plain.get(&source).filter(|_| visit.uses(source) == 1)
        };
        if let Some(norm) = op.downcast_ref::<Normalize>() {
            let conv = alone(0).filter(|conv| conv.residual.is_none() && !norm.wide)?;
            let folded = fold(conv, norm.eps, visit)?;
            let y = folded.push(Activation::None);
            plain.insert(own, folded);
            return Some(vec![y]);
        }
        let activation = match op.downcast_ref::<Map>()?.func {
            Func::Add => {
                let (at, conv) = [0, 1].into_iter().find_map(|i| Some((i, alone(i)?)))?;
                let other = &visit.inputs[1 - at];
                let equal = other.shape() == visit.outputs[0].shape();
                let free = equal && conv.residual.is_none();
                let added = Plain {
                    residual: Some(other.clone()),
                    ..conv.clone()
                };
                let y = free.then(|| added.push(Activation::None))?;
                plain.insert(own, added);
                return Some(vec![y]);
            }
            Func::Relu => Activation::Relu,
            Func::LeakyRelu(slope) if slope > 0.0 => Activation::LeakyRelu(slope),
            Func::Sigmoid => Activation::Sigmoid,
            Func::Tanh => Activation::Tanh,
            _ => return None,
        };
        Some(vec![alone(0)?.push(activation)])
    })
}

/// The convolution that also normalises, if its statistics are per channel.
fn fold(conv: &Plain, eps: f32, visit: &Visit<'_>) -> Option<Plain> {
    let channels = conv.weight.dim(0);
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
    let mut shift = match &conv.bias {
        Some(bias) => bias.sub(&mean),
        None => mean.neg(),
    }
    .mul(&scale);
    if let Some(beta) = flat(3) {
        shift = shift.add(&beta);
    }
    Some(Plain {
        weight: conv.weight.mul(&scale.reshape([channels, 1, 1, 1])),
        bias: Some(shift),
        ..conv.clone()
    })
}

impl Plain {
    /// Appends it to the graph.
    fn push(&self, activation: Activation) -> Tensor {
        let op = Conv {
            window: self.window,
            bias: self.bias.is_some(),
            residual: self.residual.is_some(),
            activation,
        };
        let mut inputs = vec![&self.x, &self.weight];
        inputs.extend(&self.bias);
        inputs.extend(&self.residual);
        self.x.graph().push1(op, &inputs)
    }
}
