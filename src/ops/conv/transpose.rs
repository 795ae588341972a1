//! Transposed convolution: the gradient of a convolution by its input, as a layer.

use super::input::ConvInput;
use super::window::{Window, same_padding};
use crate::Error;
use crate::graph::Tensor;
use crate::ops::Activation;

/// Parameters of [`Tensor::conv_transpose2d`]. Axes are vertical, horizontal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ConvTransposeParams {
    /// Distance in the output between neighbours of the input.
    pub stride: [usize; 2],
    /// Rows and columns that are cut off: top, bottom, left, right, what a convolution
    /// with this padding would have added.
    pub padding: [usize; 4],
    /// Rows and columns that are added at the bottom and the right; below the
    /// larger of stride and dilation.
    pub output_padding: [usize; 2],
    /// Distance between two taps.
    pub dilation: [usize; 2],
    /// Independent blocks of channels.
    pub groups: usize,
    /// Applied last.
    pub activation: Activation,
}

impl Default for ConvTransposeParams {
    fn default() -> Self {
        ConvTransposeParams {
            stride: [1, 1],
            padding: [0; 4],
            output_padding: [0, 0],
            dilation: [1, 1],
            groups: 1,
            activation: Activation::None,
        }
    }
}

impl ConvTransposeParams {
    /// The same cut as TensorFlow's `SAME` does for kernels of `kernel`: `stride` outputs
    /// for every pixel, the odd row and column lost below and to the right. (PyTorch's
    /// `padding` with `output_padding` loses them above and to the left instead.)
    pub fn same(mut self, kernel: [usize; 2]) -> Self {
        // Every stride-th window of the convolution back begins in a stride of its own.
        let cut =
            |a: usize| same_padding(self.stride[a], kernel[a], self.stride[a], self.dilation[a]);
        let ([top, bottom], [left, right]) = (cut(0), cut(1));
        self.padding = [top, bottom, left, right];
        self.output_padding = [0, 1].map(|a| {
            let reach = kernel[a].saturating_sub(1).saturating_mul(self.dilation[a]) + 1;
            self.stride[a].saturating_sub(reach)
        });
        self
    }
}

impl Tensor {
    /// Transposed convolution of `[N, C, H, W]` with a `weight` of `[C, O / groups,
    /// kh, kw]` and a `bias` of `[O]`, giving `[N, O, P, Q]` with `P = (H - 1) *
    /// stride - top - bottom + dilation * (kh - 1) + output_padding + 1`.
    ///
    /// Poisoned by: other ranks or types, channels that do not divide into the
    /// groups, an output without pixels, an output padding that is too large.
    #[track_caller]
    pub fn conv_transpose2d(
        &self,
        weight: &Tensor,
        bias: Option<&Tensor>,
        params: &ConvTransposeParams,
    ) -> Tensor {
        const NAME: &str = "conv_transpose2d";
        let poisoned = |e: Error| self.check().err().or(weight.check().err()).unwrap_or(e);
        let [top, bottom, left, right] = params.padding.map(|p| p.min(1 << 16) as isize);
        // What is added below and to the right is what the convolution back pads less.
        let added = params.output_padding.map(|p| p.min(1 << 16) as isize);
        let window = Window {
            stride: params.stride,
            before: [top, left],
            after: [bottom - added[0], right - added[1]],
            dilation: params.dilation,
            groups: params.groups,
        };
        let mut size = [0, 0];
        for (axis, size) in size.iter_mut().enumerate() {
            let most = params.stride[axis].max(params.dilation[axis]);
            if params.output_padding[axis] >= most.max(1) {
                let detail = format!(
                    "{:?} given, it must stay below the larger of stride and dilation",
                    params.output_padding
                );
                let what = format!("{NAME}, output_padding");
                return self
                    .graph()
                    .poisoned(poisoned(Error::argument(&what, detail)));
            }
            let extent = self.dim(axis as isize + 2) as isize;
            let kernel = weight.dim(axis as isize + 2) as isize;
            let pixels = (extent - 1)
                .saturating_mul(params.stride[axis].min(1 << 16) as isize)
                .saturating_add((params.dilation[axis].min(1 << 16) as isize) * (kernel - 1) + 1)
                .saturating_sub(window.before[axis] + window.after[axis]);
            if pixels < 1 {
                let detail = format!(
                    "nothing is left of the output: input {:?}, weight {:?}, {params:?}",
                    self.shape(),
                    weight.shape()
                );
                return self.graph().poisoned(poisoned(Error::shape(NAME, detail)));
            }
            *size = pixels as usize;
        }
        let op = ConvInput {
            window,
            size,
            activation: params.activation,
            name: NAME,
        };
        let mut inputs = vec![self, weight];
        inputs.extend(bias);
        self.graph().push1(op, &inputs)
    }
}
