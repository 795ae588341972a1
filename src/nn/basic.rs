//! Layers that need no image: linear, dropout, flatten, and chains of layers.

use super::{Layer, Mode};
use crate::ops::Activation;
use crate::{Error, Init, Param, Params, Result, Tensor};

/// `act(x @ weight^T + bias)` over the last axis: `[.., in]` to `[.., out]`.
///
/// Parameters `weight` `[out, in]` and `bias` `[out]`, both uniform in
/// `+-1 / sqrt(in)` at first, as in PyTorch.
pub struct Linear {
    weight: Param,
    bias: Option<Param>,
    activation: Activation,
}

impl Linear {
    /// A layer with bias and without activation. Errors: see [`Params::add`].
    pub fn new(params: &Params, inputs: usize, outputs: usize) -> Result<Self> {
        let bias = params.add("bias", [outputs], Init::bias(inputs))?;
        Ok(Linear {
            bias: Some(bias),
            ..Linear::without_bias(params, inputs, outputs)?
        })
    }

    /// A layer with bias that gives zeros at first.
    pub fn zeros(params: &Params, inputs: usize, outputs: usize) -> Result<Self> {
        Ok(Linear {
            weight: params.add("weight", [outputs, inputs], Init::Zeros)?,
            bias: Some(params.add("bias", [outputs], Init::Zeros)?),
            activation: Activation::None,
        })
    }

    /// A layer that is a matrix only.
    pub fn without_bias(params: &Params, inputs: usize, outputs: usize) -> Result<Self> {
        let shape = [outputs, inputs];
        Ok(Linear {
            weight: params.add("weight", shape, Init::weight(&shape))?,
            bias: None,
            activation: Activation::None,
        })
    }

    /// The same layer with an activation in its kernel.
    pub fn activation(mut self, activation: Activation) -> Self {
        self.activation = activation;
        self
    }

    /// `weight` `[out, in]`.
    pub fn weight(&self) -> &Param {
        &self.weight
    }

    /// `bias` `[out]`, if there is one.
    pub fn bias(&self) -> Option<&Param> {
        self.bias.as_ref()
    }
}

impl Layer for Linear {
    fn forward(&self, x: &Tensor, _: Mode) -> Tensor {
        let bias = self.bias.as_ref().map(|b| b.on(x.graph()));
        let y = x.linear(&self.weight.on(x.graph()), bias.as_ref(), self.activation);
        let name = self.weight.scope_name();
        x.graph().observe(name, "linear", x, &y);
        y
    }
}

/// In training each element becomes 0 with probability `p`, and the others are
/// divided by `1 - p`; otherwise the identity.
#[derive(Debug, Clone, Copy)]
pub struct Dropout {
    p: f32,
}

impl Dropout {
    /// Error: `p` is not in `0..1`.
    pub fn new(p: f32) -> Result<Self> {
        if !(0.0..1.0).contains(&p) {
            return Err(Error::argument(
                "Dropout",
                format!("the probability is {p}; it must lie in 0..1"),
            ));
        }
        Ok(Dropout { p })
    }
}

impl Layer for Dropout {
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        if !mode.is_train() || self.p == 0.0 {
            x.graph().observe("", "dropout", x, x);
            return x.clone();
        }
        let keep = 1.0 - self.p;
        let mask = x.graph().bernoulli(x.shape(), keep);
        let y = x.mul(&mask.mul_scalar(1.0 / keep));
        x.graph().observe("", "dropout", x, &y);
        y
    }
}

/// `[N, ..]` to `[N, rest]`.
#[derive(Debug, Clone, Copy)]
pub struct Flatten;

impl Layer for Flatten {
    fn forward(&self, x: &Tensor, _: Mode) -> Tensor {
        let rows = x.dim(0);
        let y = x.reshape([rows, x.numel() / rows.max(1)]);
        x.graph().observe("", "flatten", x, &y);
        y
    }
}

/// A function of tensors as a layer.
pub struct Apply<F>(pub F);

impl<F: Fn(&Tensor) -> Tensor + Send + Sync> Layer for Apply<F> {
    fn forward(&self, x: &Tensor, _: Mode) -> Tensor {
        let y = (self.0)(x);
        x.graph().observe("", "function", x, &y);
        y
    }
}

/// Layers one after the other.
#[derive(Default)]
pub struct Sequential {
    layers: Vec<Box<dyn Layer>>,
}

impl Sequential {
    /// The identity, so far.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same chain and one more layer at its end.
    pub fn with(mut self, layer: impl Layer + 'static) -> Self {
        self.push(layer);
        self
    }

    /// Adds a layer at the end.
    pub fn push(&mut self, layer: impl Layer + 'static) {
        self.layers.push(Box::new(layer));
    }

    /// The number of layers.
    pub fn len(&self) -> usize {
        self.layers.len()
    }

    /// Whether there is no layer.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }
}

impl Layer for Sequential {
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let graph = x.graph();
        let mut y = x.clone();
        for (i, layer) in self.layers.iter().enumerate() {
            let from = graph.observed_so_far();
            y = layer.forward(&y, mode);
            graph.place_observed(from, |inner| match inner {
                "" => i.to_string(),
                _ => format!("{i}.{inner}"),
            });
        }
        y
    }
}
