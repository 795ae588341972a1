//! Activations that kernels apply before they store: see `shaders/lib/activation.wgsl`.

use super::func::Func;
use crate::graph::{KernelBuilder, Tensor};

/// An activation that a kernel applies before it stores. All of these have
/// gradients that can be told from the output alone.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Activation {
    /// The identity.
    #[default]
    None,
    /// `max(x, 0)`
    Relu,
    /// `x` above 0, `slope * x` below; the slope must be positive.
    LeakyRelu(f32),
    /// `1 / (1 + e^-x)`
    Sigmoid,
    /// Hyperbolic tangent.
    Tanh,
}

impl Activation {
    /// The activation as tensor ops.
    #[track_caller]
    pub fn apply(self, x: &Tensor) -> Tensor {
        match self {
            Activation::None => x.clone(),
            Activation::Relu => x.relu(),
            Activation::LeakyRelu(s) => x.leaky_relu(s),
            Activation::Sigmoid => x.sigmoid(),
            Activation::Tanh => x.tanh(),
        }
    }

    /// In float64.
    pub fn eval(self, x: f64) -> f64 {
        match self {
            Activation::None => x,
            Activation::Relu => Func::Relu.eval(&[x]),
            Activation::LeakyRelu(s) => x * if x > 0.0 { 1.0 } else { s as f64 },
            Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Activation::Tanh => x.tanh(),
        }
    }

    /// The gradient before the activation, from the output and its gradient.
    #[track_caller]
    pub(crate) fn backward(self, y: &Tensor, dy: &Tensor) -> Tensor {
        let positive = || y.zeros_like().less(y);
        match self {
            Activation::None => dy.clone(),
            Activation::Relu => positive().select(dy, &dy.zeros_like()),
            Activation::LeakyRelu(s) => positive().select(dy, &dy.mul_scalar(s)),
            Activation::Sigmoid => dy.mul(y).mul(&y.neg().add_scalar(1.0)),
            Activation::Tanh => dy.mul(&y.neg().add_scalar(1.0).mul(&y.add_scalar(1.0))),
        }
    }

    /// Sets what `shaders/lib/activation.wgsl` wants. A slope is an argument, the next one:
    /// as a define every new one would be a kernel of its own.
    pub(crate) fn define<'l, 'a>(self, kernel: KernelBuilder<'l, 'a>) -> KernelBuilder<'l, 'a> {
        let name = match self {
            Activation::None => "none",
            Activation::Relu => "relu",
            Activation::LeakyRelu(_) => "leaky_relu",
            Activation::Sigmoid => "sigmoid",
            Activation::Tanh => "tanh",
        };
        let kernel = kernel.define("ACT", name);
        match self {
            Activation::LeakyRelu(s) => kernel.arg_f32("slope", s),
            _ => kernel,
        }
    }
}
