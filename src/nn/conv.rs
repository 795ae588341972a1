//! Convolutions as layers.

use super::{Layer, Mode};
use crate::ops::{Conv1dParams, ConvParams, ConvTransposeParams};
use crate::{Init, Param, Params, Result, Tensor};

/// `act(conv(x, weight) + bias)`: `[N, in, H, W]` to `[N, out, H', W']`.
///
/// Parameters `weight` `[out, in / groups, kh, kw]` and `bias` `[out]`, both uniform
/// in `+-1 / sqrt(in / groups * kh * kw)` at first, as in PyTorch.
pub struct Conv2d {
    weight: Param,
    bias: Option<Param>,
    options: ConvParams,
    same: bool,
}

impl Conv2d {
    /// A layer with bias. Errors: see [`Params::add`].
    pub fn new(
        params: &Params,
        [inputs, outputs]: [usize; 2],
        kernel: [usize; 2],
        options: ConvParams,
    ) -> Result<Self> {
        let layer = Conv2d::without_bias(params, [inputs, outputs], kernel, options)?;
        let fan_in = Init::fan_in(layer.weight.shape().dims());
        let bias = params.add("bias", [outputs], Init::bias(fan_in))?;
        Ok(Conv2d {
            bias: Some(bias),
            ..layer
        })
    }

    /// A layer with bias and other first values: those of the kernel and of the bias.
    pub fn with_init(
        params: &Params,
        [inputs, outputs]: [usize; 2],
        kernel: [usize; 2],
        options: ConvParams,
        [weight, bias]: [Init; 2],
    ) -> Result<Self> {
        let shape = [
            outputs,
            inputs / options.groups.max(1),
            kernel[0],
            kernel[1],
        ];
        Ok(Conv2d {
            weight: params.add("weight", shape, weight)?,
            bias: Some(params.add("bias", [outputs], bias)?),
            options,
            same: false,
        })
    }

    /// A layer that is a kernel only, as before a normalisation.
    pub fn without_bias(
        params: &Params,
        [inputs, outputs]: [usize; 2],
        kernel: [usize; 2],
        options: ConvParams,
    ) -> Result<Self> {
        let fan_in = inputs / options.groups.max(1) * kernel[0] * kernel[1];
        let weight = Init::weight(&[1, fan_in]);
        Conv2d::without_bias_from(params, [inputs, outputs], kernel, options, weight)
    }

    /// The same with other first values.
    pub fn without_bias_from(
        params: &Params,
        [inputs, outputs]: [usize; 2],
        kernel: [usize; 2],
        options: ConvParams,
        weight: Init,
    ) -> Result<Self> {
        let shape = [
            outputs,
            inputs / options.groups.max(1),
            kernel[0],
            kernel[1],
        ];
        Ok(Conv2d {
            weight: params.add("weight", shape, weight)?,
            bias: None,
            options,
            same: false,
        })
    }

    /// The same layer with TensorFlow's `SAME` padding, whatever the size of the images: see
    /// [`ConvParams::same`].
    pub fn same(mut self) -> Self {
        self.same = true;
        self
    }

    /// `weight` `[out, in / groups, kh, kw]`.
    pub fn weight(&self) -> &Param {
        &self.weight
    }

    /// `bias` `[out]`, if there is one.
    pub fn bias(&self) -> Option<&Param> {
        self.bias.as_ref()
    }
}

impl Layer for Conv2d {
    fn forward(&self, x: &Tensor, _: Mode) -> Tensor {
        let bias = self.bias.as_ref().map(|b| b.on(x.graph()));
        let kernel = [2, 3].map(|axis| self.weight.shape()[axis]);
        let options = match self.same {
            true => self.options.same(kernel, [x.dim(2), x.dim(3)]),
            false => self.options,
        };
        let y = x.conv2d(&self.weight.on(x.graph()), bias.as_ref(), &options);
        let name = self.weight.scope_name();
        x.graph().observe(name, "conv2d", x, &y);
        y
    }
}

/// `act(conv(x, weight) + bias)`: `[N, in, L]` to `[N, out, L']`.
///
/// Parameters `weight` `[out, in / groups, k]` and `bias` `[out]`, both uniform in
/// `+-1 / sqrt(in / groups * k)` at first, as in PyTorch.
pub struct Conv1d {
    weight: Param,
    bias: Option<Param>,
    options: Conv1dParams,
}

impl Conv1d {
    /// A layer with bias. Errors: see [`Params::add`].
    pub fn new(
        params: &Params,
        [inputs, outputs]: [usize; 2],
        kernel: usize,
        options: Conv1dParams,
    ) -> Result<Self> {
        let layer = Conv1d::without_bias(params, [inputs, outputs], kernel, options)?;
        let fan_in = Init::fan_in(layer.weight.shape().dims());
        let bias = params.add("bias", [outputs], Init::bias(fan_in))?;
        Ok(Conv1d {
            bias: Some(bias),
            ..layer
        })
    }

    /// A layer that is a kernel only, as before a normalisation.
    pub fn without_bias(
        params: &Params,
        [inputs, outputs]: [usize; 2],
        kernel: usize,
        options: Conv1dParams,
    ) -> Result<Self> {
        let shape = [outputs, inputs / options.groups.max(1), kernel];
        Ok(Conv1d {
            weight: params.add("weight", shape, Init::weight(&shape))?,
            bias: None,
            options,
        })
    }

    /// `weight` `[out, in / groups, k]`.
    pub fn weight(&self) -> &Param {
        &self.weight
    }

    /// `bias` `[out]`, if there is one.
    pub fn bias(&self) -> Option<&Param> {
        self.bias.as_ref()
    }
}

impl Layer for Conv1d {
    fn forward(&self, x: &Tensor, _: Mode) -> Tensor {
        let bias = self.bias.as_ref().map(|b| b.on(x.graph()));
        let y = x.conv1d(&self.weight.on(x.graph()), bias.as_ref(), &self.options);
        let name = self.weight.scope_name();
        x.graph().observe(name, "conv1d", x, &y);
        y
    }
}

/// `act(transposed conv(x, weight) + bias)`: `[N, in, H, W]` to `[N, out, H', W']`.
///
/// Parameters `weight` `[in, out / groups, kh, kw]` and `bias` `[out]`, both uniform
/// in `+-1 / sqrt(out / groups * kh * kw)` at first: PyTorch takes the second axis
/// for the inputs here, too.
pub struct ConvTranspose2d {
    weight: Param,
    bias: Option<Param>,
    options: ConvTransposeParams,
}

impl ConvTranspose2d {
    /// A layer with bias. Errors: see [`Params::add`].
    pub fn new(
        params: &Params,
        [inputs, outputs]: [usize; 2],
        kernel: [usize; 2],
        options: ConvTransposeParams,
    ) -> Result<Self> {
        let layer = ConvTranspose2d::without_bias(params, [inputs, outputs], kernel, options)?;
        let fan_in = Init::fan_in(layer.weight.shape().dims());
        let bias = params.add("bias", [outputs], Init::bias(fan_in))?;
        Ok(ConvTranspose2d {
            bias: Some(bias),
            ..layer
        })
    }

    /// A layer that is a kernel only.
    pub fn without_bias(
        params: &Params,
        [inputs, outputs]: [usize; 2],
        kernel: [usize; 2],
        options: ConvTransposeParams,
    ) -> Result<Self> {
        let shape = [
            inputs,
            outputs / options.groups.max(1),
            kernel[0],
            kernel[1],
        ];
        Ok(ConvTranspose2d {
            weight: params.add("weight", shape, Init::weight(&shape))?,
            bias: None,
            options,
        })
    }

    /// `weight` `[in, out / groups, kh, kw]`.
    pub fn weight(&self) -> &Param {
        &self.weight
    }

    /// `bias` `[out]`, if there is one.
    pub fn bias(&self) -> Option<&Param> {
        self.bias.as_ref()
    }
}

impl Layer for ConvTranspose2d {
    fn forward(&self, x: &Tensor, _: Mode) -> Tensor {
        let bias = self.bias.as_ref().map(|b| b.on(x.graph()));
        let y = x.conv_transpose2d(&self.weight.on(x.graph()), bias.as_ref(), &self.options);
        let name = self.weight.scope_name();
        x.graph().observe(name, "conv_transpose2d", x, &y);
        y
    }
}
