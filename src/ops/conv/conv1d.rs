//! Convolution over the last axis of `[N, C, L]`: that of an image of one row.

use super::ConvParams;
use crate::Error;
use crate::graph::Tensor;
use crate::ops::Activation;

/// Parameters of [`Tensor::conv1d`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Conv1dParams {
    /// Step between windows.
    pub stride: usize,
    /// Zeros before the first and behind the last element.
    pub padding: [usize; 2],
    /// Distance between two taps.
    pub dilation: usize,
    /// Independent blocks of channels; the number of channels for a depthwise one.
    pub groups: usize,
    /// Applied last.
    pub activation: Activation,
}

impl Default for Conv1dParams {
    fn default() -> Self {
        Conv1dParams {
            stride: 1,
            padding: [0; 2],
            dilation: 1,
            groups: 1,
            activation: Activation::None,
        }
    }
}

impl Conv1dParams {
    /// The same on an image of one row.
    fn on_a_row(&self) -> ConvParams {
        let [before, after] = self.padding;
        ConvParams {
            stride: [1, self.stride],
            padding: [0, 0, before, after],
            dilation: [1, self.dilation],
            groups: self.groups,
            activation: self.activation,
        }
    }
}

impl Tensor {
    /// Convolution (cross-correlation) of `[N, C, L]` with a `weight` of `[O, C / groups, k]`
    /// and a `bias` of `[O]`, giving `[N, O, M]` with
    /// `M = (L + before + after - dilation * (k - 1) - 1) / stride + 1`, rounded down. It is
    /// [`Tensor::conv2d`] of an image of one row, without a copy. A causal convolution pads
    /// `[dilation * (k - 1), 0]`.
    ///
    /// Poisoned by: other ranks, and what poisons [`Tensor::conv2d`].
    #[track_caller]
    pub fn conv1d(&self, weight: &Tensor, bias: Option<&Tensor>, params: &Conv1dParams) -> Tensor {
        let (&[n, c, length], &[o, inputs, taps]) = (self.shape().dims(), weight.shape().dims())
        else {
            let detail = format!(
                "expected an input [N, C, L] and a weight [O, C / groups, k], got {:?} and {:?}",
                self.shape(),
                weight.shape()
            );
            let before = self.check().and_then(|()| weight.check()).err();
            let error = before.unwrap_or_else(|| Error::shape("conv1d", detail));
            return self.graph().poisoned(error);
        };
        let (row, kernel) = (
            self.reshape([n, c, 1, length]),
            weight.reshape([o, inputs, 1, taps]),
        );
        let y = row.conv2d(&kernel, bias, &params.on_a_row());
        match *y.shape().dims() {
            [n, o, 1, length] => y.reshape([n, o, length]),
            _ => y,
        }
    }
}
