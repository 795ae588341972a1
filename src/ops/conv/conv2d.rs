//! Convolution over the last two axes of `[N, C, H, W]`: cross-correlation,
//! without a kernel flip, with bias and activation in the epilogue.
//!
//! Convolution, its gradient by the input (`input.rs`) and its gradient by the
//! weight (`weight.rs`) are linear in both operands and each other's gradients,
//! so gradients of gradients need nothing more. All three share one [`Window`].

use super::direct::Direct;
use super::variants;
use super::window::{Dims, LARGEST, Window, check_bias, epilogue, four, four_stored, same_padding};
use crate::graph::{Array, Lower, Op, Samples, Slot, Spec, Tensor, Vjp};
use crate::ops::Activation;
use crate::ops::product::problem::{Bias, Product};
use crate::{Error, Result};

/// Parameters of [`Tensor::conv2d`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ConvParams {
    /// Step between windows, vertical and horizontal.
    pub stride: [usize; 2],
    /// Zeros around the image: top, bottom, left, right.
    pub padding: [usize; 4],
    /// Distance between two taps, vertical and horizontal.
    pub dilation: [usize; 2],
    /// Independent blocks of channels; the number of channels for a depthwise one.
    pub groups: usize,
    /// Applied last.
    pub activation: Activation,
}

impl Default for ConvParams {
    fn default() -> Self {
        ConvParams {
            stride: [1, 1],
            padding: [0; 4],
            dilation: [1, 1],
            groups: 1,
            activation: Activation::None,
        }
    }
}

impl ConvParams {
    /// The same with the padding that TensorFlow calls `SAME`, for kernels of `kernel` on
    /// images of `image` pixels: `ceil(image / stride)` outputs, the odd zero below and to
    /// the right.
    pub fn same(mut self, kernel: [usize; 2], image: [usize; 2]) -> Self {
        let pad = |a: usize| same_padding(image[a], kernel[a], self.stride[a], self.dilation[a]);
        let ([top, bottom], [left, right]) = (pad(0), pad(1));
        self.padding = [top, bottom, left, right];
        self
    }
}

/// `y = act(x * weight + bias + residual)`: inputs `x`, `weight`, then those that are
/// there of `bias [O]` and `residual [N, O, P, Q]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Conv {
    pub window: Window,
    pub bias: bool,
    pub residual: bool,
    pub activation: Activation,
}

impl Conv {
    const NAME: &'static str = "conv2d";

    /// The position of the bias among the inputs.
    fn bias(&self) -> Option<usize> {
        self.bias.then_some(2)
    }

    /// The position of the residual among the inputs.
    fn residual(&self) -> Option<usize> {
        self.residual.then_some(2 + self.bias as usize)
    }

    fn dims(&self, x: &Spec, weight: &Spec) -> Result<Dims> {
        let x = four(Self::NAME, "the input", x)?;
        let weight = four_stored(Self::NAME, weight)?;
        self.window.dims(Self::NAME, x, weight)
    }
}

impl Op for Conv {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        let d = self.dims(inputs[0], inputs[1])?;
        check_bias(Self::NAME, self.bias().map(|i| &inputs[i]), d.o)?;
        let output = Spec::f32([d.n, d.o, d.output[0], d.output[1]]);
        match self.residual().map(|i| inputs[i]) {
            Some(residual) if *residual != output => Err(Error::shape(
                Self::NAME,
                format!(
                    "the residual must be f32 {:?}, it is {} {:?}",
                    output.shape, residual.dtype, residual.shape
                ),
            )),
            _ => Ok(vec![output]),
        }
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let spec = |a: &Array| Spec::f32(&a.shape);
        let (x, weight) = (inputs[0], inputs[1]);
        let d = self.dims(&spec(x), &spec(weight))?;
        let mut y = Array::zeros([d.n, d.o, d.output[0], d.output[1]]);
        self.window.each_product(&d, |ix, iw, iy| {
            y.data[iy] += x.data[ix] * weight.data[iw];
        });
        if let Some(residual) = self.residual().map(|i| inputs[i]) {
            for (v, r) in y.data.iter_mut().zip(&residual.data) {
                *v += r;
            }
        }
        epilogue(&mut y, self.bias().map(|i| &inputs[i]), self.activation);
        Ok(vec![y])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        let dy = self.activation.backward(cx.output(0), &cx.grad(0));
        let (x, weight) = (cx.input(0).clone(), cx.input(1).clone());
        if cx.needs(0) {
            cx.set(0, dy.conv2d_input(self.window, &weight, x.shape()));
        }
        if cx.needs(1) {
            let grad = x.conv2d_weight(self.window, &dy, weight.shape());
            cx.set(1, grad);
        }
        if let Some(bias) = self.bias().filter(|i| cx.needs(*i)) {
            cx.set(bias, dy.sum(&[0, 2, 3], false));
        }
        if let Some(residual) = self.residual().filter(|i| cx.needs(*i)) {
            cx.set(residual, dy);
        }
        Ok(())
    }

    fn reads_f16(&self, i: usize) -> bool {
        i == 1
    }

    fn samples(&self, _: &[Spec]) -> Option<Samples> {
        Some(Samples::Apart(
            [0].into_iter().chain(self.residual()).collect(),
        ))
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let mut d = self.dims(cx.input(0), cx.input(1))?;
        let product = self.product(&d);
        let mut window = self.window;
        if d.is_pointwise(&window) {
            // Rows mean nothing to a 1x1 convolution: as one long row, tiles of
            // neighbouring pixels have no ragged end in every row.
            (d.input, d.output) = ([1, d.input[0] * d.input[1]], [1, d.output[0] * d.output[1]]);
            window.stride = [1, 1];
        }
        let taps = d.kernel[0] * d.kernel[1];
        let direct = Direct {
            name: "conv2d",
            n: d.n,
            groups: window.groups,
            channels_in: d.cg,
            channels_out: d.og,
            input: d.input,
            output: d.output,
            count: d.output,
            first: [0, 0],
            step: [1, 1],
            taps: d.kernel,
            stride: window.stride,
            dilation: window.dilation,
            before: window.before,
            weight_first: 0,
            weight_group: d.og * d.cg * taps,
            weight_out: d.cg * taps,
            weight_in: taps,
            weight_tap: [d.kernel[1] as isize, 1],
            bias: self.bias().map(Slot::In),
            residual: self.residual().map(Slot::In),
            activation: self.activation,
        };
        variants::lower(vec![direct], product, cx)
    }
}

impl Dims {
    /// Whether every output pixel sees exactly the input pixel at its own place.
    pub fn is_pointwise(&self, window: &Window) -> bool {
        self.kernel == [1, 1]
            && window.stride == [1, 1]
            && window.before == [0, 0]
            && self.input == self.output
    }
}

impl Conv {
    /// A 1x1 convolution as the product of its weight and every sample.
    fn product(&self, d: &Dims) -> Option<Product> {
        let pixels = d.input[0] * d.input[1];
        let product = Product {
            batch: d.n,
            m: d.o,
            n: pixels,
            k: d.c,
            a: (Slot::In(1), 0, false),
            b: (Slot::In(0), d.c * pixels, false),
            bias: match self.bias() {
                Some(i) => Bias::Rows(Slot::In(i)),
                None => Bias::None,
            },
            residual: self.residual().map(Slot::In),
            activation: self.activation,
        };
        let pointwise = d.is_pointwise(&self.window) && d.c == d.cg;
        pointwise.then_some(product)
    }
}

impl Tensor {
    /// A convolution by this window, without bias and activation.
    #[track_caller]
    pub(in crate::ops) fn conv2d_plain(&self, window: Window, weight: &Tensor) -> Tensor {
        let op = Conv {
            window,
            bias: false,
            residual: false,
            activation: Activation::None,
        };
        self.graph().push1(op, &[self, weight])
    }

    /// Convolution (cross-correlation) of `[N, C, H, W]` with a `weight` of
    /// `[O, C / groups, kh, kw]` and a `bias` of `[O]`, giving `[N, O, P, Q]` with
    /// `P = (H + top + bottom - dilation * (kh - 1) - 1) / stride + 1`, rounded down.
    ///
    /// Poisoned by: other ranks or types, channels that do not divide into the
    /// groups, a kernel larger than the padded image, a stride, dilation or group
    /// count of 0.
    #[track_caller]
    pub fn conv2d(&self, weight: &Tensor, bias: Option<&Tensor>, params: &ConvParams) -> Tensor {
        self.conv2d_residual(weight, bias, None, params)
    }

    /// The same with a `residual` of the output's shape added before the activation, by
    /// the same kernel.
    #[track_caller]
    pub fn conv2d_residual(
        &self,
        weight: &Tensor,
        bias: Option<&Tensor>,
        residual: Option<&Tensor>,
        params: &ConvParams,
    ) -> Tensor {
        let [top, bottom, left, right] = params.padding.map(|p| p.min(LARGEST + 1) as isize);
        let op = Conv {
            window: Window {
                stride: params.stride,
                before: [top, left],
                after: [bottom, right],
                dilation: params.dilation,
                groups: params.groups,
            },
            bias: bias.is_some(),
            residual: residual.is_some(),
            activation: params.activation,
        };
        let mut inputs = vec![self, weight];
        inputs.extend(bias);
        inputs.extend(residual);
        self.graph().push1(op, &inputs)
    }
}
