//! A graph pass for inference: batch norms with given statistics disappear into the
//! convolutions, transposed convolutions and linear layers before them, residual additions
//! and activations into what is left.

use std::any::Any;
use std::collections::HashMap;

use super::batch_norm::Normalize;
use crate::graph::rewrite::{Visit, rewrite};
use crate::graph::{Tensor, ValueId};
use crate::ops::Activation;
use crate::ops::Matmul;
use crate::ops::conv::conv2d::Conv;
use crate::ops::conv::input::ConvInput;
use crate::ops::pointwise::func::Func;
use crate::ops::pointwise::map::Map;
use crate::{Result, Shape};

/// What multiplies by a weight.
#[derive(Clone, Copy)]
enum Product {
    Conv(Conv),
    Transposed(ConvInput),
    Linear(Matmul),
}

/// A product without an activation.
#[derive(Clone)]
struct Plain {
    product: Product,
    x: Tensor,
    weight: Tensor,
    bias: Option<Tensor>,
    /// Convolutions alone have one.
    residual: Option<Tensor>,
}

/// The same `outputs`, with every `batch_norm_eval` that is all that reads a convolution, a
/// transposed convolution or a linear layer folded into its weight and bias (`w' = w gamma /
/// sqrt(var + eps)`, `b' = beta + (b - mean) gamma / sqrt(var + eps)`), and an addition of
/// equal shapes (to a convolution) and an activation that are all that reads the result done
/// by the same kernel. Equal up to rounding.
///
/// The folded weights are computed by the graph, so this pays together with
/// [`crate::Graph::compile_frozen`], which computes them once. Errors: those of
/// `outputs`.
pub fn fold_batch_norms(outputs: &[&Tensor]) -> Result<Vec<Tensor>> {
    let mut plain: HashMap<ValueId, Plain> = HashMap::new();
    rewrite(outputs, |visit| {
        let op: &dyn Any = visit.op;
        let own = visit.outputs[0].id();
        if let Some(product) = Product::of(op) {
            let found = Plain {
                product,
                x: visit.inputs[0].clone(),
                weight: visit.inputs[1].clone(),
                bias: visit.inputs.get(2).cloned(),
                residual: None,
            };
            plain.insert(own, found);
            return None;
        }
        // Where nothing else reads it, the product may be changed.
        let alone = |i: usize| {
            let source = *visit.old_inputs.get(i)?;
            plain.get(&source).filter(|_| visit.uses(source) == 1)
        };
        if let Some(norm) = op.downcast_ref::<Normalize>() {
            let found = alone(0).filter(|found| found.residual.is_none() && !norm.wide)?;
            let folded = fold(found, norm.eps, visit)?;
            let y = folded.push(Activation::None);
            plain.insert(own, folded);
            return Some(vec![y]);
        }
        let activation = match op.downcast_ref::<Map>()?.func {
            Func::Add => {
                let (at, conv) = [0, 1].into_iter().find_map(|i| Some((i, alone(i)?)))?;
                let other = &visit.inputs[1 - at];
                let equal = other.shape() == visit.outputs[0].shape();
                let able = matches!(conv.product, Product::Conv(_));
                let free = able && equal && conv.residual.is_none();
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

impl Product {
    /// A product by a weight of its own, nothing behind it.
    fn of(op: &dyn Any) -> Option<Product> {
        if let Some(conv) = op.downcast_ref::<Conv>() {
            let bare = conv.activation == Activation::None && !conv.residual;
            return bare.then_some(Product::Conv(*conv));
        }
        if let Some(conv) = op.downcast_ref::<ConvInput>() {
            let bare = conv.activation == Activation::None;
            return bare.then_some(Product::Transposed(*conv));
        }
        let linear = op.downcast_ref::<Matmul>()?;
        let bare = linear.activation == Activation::None;
        bare.then_some(Product::Linear(*linear))
    }

    /// Where a weight's output channels stand: the weight reshaped so that `scale`, one
    /// number a channel, broadcasts against it under the second shape. None for batches of
    /// matrices.
    fn channels(&self, weight: &Shape, channels: usize) -> Option<[Shape; 2]> {
        let d = weight.dims();
        Some(match self {
            Product::Conv(_) => [weight.clone(), Shape::from([channels, 1, 1, 1])],
            // [in, out / groups, kh, kw], the inputs of a group next to each other.
            Product::Transposed(conv) => {
                let groups = conv.window.groups;
                let apart = [groups, d[0] / groups, d[1], d[2] * d[3]];
                [Shape::from(apart), Shape::from([groups, 1, d[1], 1])]
            }
            Product::Linear(linear) if d.len() == 2 => {
                let scale = match linear.trans_b {
                    true => Shape::from([channels, 1]),
                    false => Shape::from([channels]),
                };
                [weight.clone(), scale]
            }
            Product::Linear(_) => return None,
        })
    }
}

/// The product that also normalises, if its statistics are per channel.
fn fold(plain: &Plain, eps: f32, visit: &Visit<'_>) -> Option<Plain> {
    let y = visit.outputs[0].shape();
    let channels = *y.dims().get(1)?;
    let per_channel: Vec<usize> = (0..y.rank())
        .map(|axis| if axis == 1 { channels } else { 1 })
        .collect();
    let statistics = visit.inputs.get(1..)?;
    if statistics.iter().any(|t| t.shape().dims() != per_channel) {
        return None;
    }
    // Of a product of more axes than two the second one is not that of the channels.
    if matches!(plain.product, Product::Linear(_)) && y.rank() != 2 {
        return None;
    }
    let [apart, along] = plain.product.channels(plain.weight.shape(), channels)?;
    let flat = |i: usize| statistics.get(i).map(|t| t.reshape([channels]));
    let (mean, var) = (flat(0)?, flat(1)?);
    let mut scale = var.add_scalar(eps).rsqrt();
    if let Some(gamma) = flat(2) {
        scale = scale.mul(&gamma);
    }
    let mut shift = match &plain.bias {
        Some(bias) => bias.sub(&mean),
        None => mean.neg(),
    }
    .mul(&scale);
    if let Some(beta) = flat(3) {
        shift = shift.add(&beta);
    }
    let weight = plain.weight.reshape(apart).mul(&scale.reshape(along));
    Some(Plain {
        weight: weight.reshape(plain.weight.shape()),
        bias: Some(shift),
        ..plain.clone()
    })
}

impl Plain {
    /// Appends it to the graph.
    fn push(&self, activation: Activation) -> Tensor {
        let mut inputs = vec![&self.x, &self.weight];
        inputs.extend(&self.bias);
        inputs.extend(&self.residual);
        let bias = self.bias.is_some();
        let graph = self.x.graph();
        match self.product {
            Product::Conv(conv) => {
                let op = Conv {
                    bias,
                    residual: self.residual.is_some(),
                    activation,
                    ..conv
                };
                graph.push1(op, &inputs)
            }
            Product::Transposed(conv) => graph.push1(ConvInput { activation, ..conv }, &inputs),
            Product::Linear(linear) => {
                let op = Matmul {
                    bias,
                    activation,
                    ..linear
                };
                graph.push1(op, &inputs)
            }
        }
    }
}
