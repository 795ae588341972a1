//! Flows over vectors: couplings of even and odd dimensions in turn, with small dense
//! networks, over a standard normal base.

use crate::flow::{Chain, Coupling, DiagonalScaling, Flow, SplineCoupling, StandardNormal};
use crate::nn::{Linear, Sequential};
use crate::ops::{Activation, CouplingMask, CouplingParams, CouplingScale, SplineParams};
use crate::{Error, Params, Result};

/// What the couplings of a [`vector_flow`] do with an element.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum VectorCoupling {
    /// `x + t`, and at the end one learned scale per dimension (NICE, Dinh et al. 2014).
    Additive,
    /// `x e^l + t` with `l = clamp * tanh(s / clamp)` (RealNVP, Dinh et al. 2017).
    Affine {
        /// The largest magnitude of a log-scale.
        clamp: f32,
    },
    /// A monotone rational-quadratic spline (Durkan et al. 2019).
    Spline(SplineParams),
}

/// The size of a [`vector_flow`].
#[derive(Debug, Clone, PartialEq)]
pub struct VectorFlowConfig {
    /// Dimensions of a vector; at least 2.
    pub dims: usize,
    /// What couplings do.
    pub coupling: VectorCoupling,
    /// The number of couplings; even dimensions are transformed first, then odd ones.
    pub layers: usize,
    /// Widths of the hidden layers of every coupling's network.
    pub hidden: Vec<usize>,
}

/// A flow over vectors `[N, dims]`.
///
/// Coupling `i` holds its network's linear layers as `i.net.0`, `i.net.1`, .. with
/// `weight` and `bias`, ReLU between them; the last one starts at 0, so that the flow
/// starts as the identity. Errors: fewer than 2 dimensions, no layer, a hidden width of 0;
/// see [`Params::add`].
pub fn vector_flow(params: &Params, config: &VectorFlowConfig) -> Result<Flow> {
    let VectorFlowConfig { dims, layers, .. } = *config;
    if dims < 2 || layers == 0 || config.hidden.contains(&0) {
        return Err(Error::argument(
            "vector_flow",
            format!("{config:?}: at least 2 dimensions, 1 layer and widths above 0 are needed"),
        ));
    }
    let mut chain = Chain::new("flow");
    for i in 0..layers {
        let mask = match i % 2 {
            0 => CouplingMask::Even,
            _ => CouplingMask::Odd,
        };
        let params = params.scope(i.to_string()).scope("net");
        let seen = Coupling::seen_channels(mask, dims);
        let network = |outputs: usize| dense(&params, seen, &config.hidden, outputs);
        let affine = |scale: CouplingScale| -> Result<Coupling> {
            let conventions = CouplingParams {
                scale,
                ..CouplingParams::new(mask)
            };
            let network = network(conventions.raw_channels(dims))?;
            Ok(Coupling::new(conventions, network))
        };
        match config.coupling {
            VectorCoupling::Additive => chain.push(affine(CouplingScale::None)?),
            VectorCoupling::Affine { clamp } => {
                chain.push(affine(CouplingScale::Tanh { clamp })?);
            }
            VectorCoupling::Spline(spline) => {
                let network = network(SplineCoupling::raw_channels(mask, &spline, dims))?;
                chain.push(SplineCoupling::new(mask, spline, network));
            }
        }
    }
    if config.coupling == VectorCoupling::Additive {
        chain.push(DiagonalScaling::new(&params.scope("scaling"), [dims])?);
    }
    Ok(Flow::new(chain, StandardNormal::new([dims])))
}

/// Linear layers with ReLU between them; the last one gives 0 at first.
fn dense(params: &Params, inputs: usize, hidden: &[usize], outputs: usize) -> Result<Sequential> {
    let mut network = Sequential::new();
    let mut width = inputs;
    for (i, next) in hidden.iter().enumerate() {
        let layer = Linear::new(&params.scope(i.to_string()), width, *next)?;
        network.push(layer.activation(Activation::Relu));
        width = *next;
    }
    let last = Linear::new(&params.scope(hidden.len().to_string()), width, outputs)?;
    last.weight().set(&vec![0.0; width * outputs])?;
    if let Some(bias) = last.bias() {
        bias.set(&vec![0.0; outputs])?;
    }
    network.push(last);
    Ok(network)
}
