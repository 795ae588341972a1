//! Convolutions of few pixels and many channels: what each pixel sees is written out,
//! and the rest is a product with the weight as it is stored.

use super::conv_direct::Direct;
use super::product::{Bias, Product};
use crate::Result;
use crate::graph::{Lower, Slot};

const SHADER: &str = include_str!("../../shaders/conv2d_columns.wgsl");

impl Direct {
    /// Whether the weight is a matrix `[channels_out, channels_in * taps]` and every pixel
    /// of the output is computed, and columns fit into a binding.
    pub(super) fn is_product(&self, max_binding: u64) -> bool {
        let [ky, kx] = self.taps;
        let plain = self.groups == 1
            && self.step == [1, 1]
            && self.first == [0, 0]
            && self.count == self.output
            && self.weight_first == 0
            && self.weight_tap == [kx as isize, 1]
            && self.weight_in == ky * kx
            && self.weight_out == self.channels_in * ky * kx;
        plain && ky * kx > 0 && 4 * self.columns() as u64 <= max_binding
    }

    /// Elements of the columns of all samples.
    fn columns(&self) -> usize {
        self.n * self.channels_in * self.taps[0] * self.taps[1] * self.count[0] * self.count[1]
    }

    pub(super) fn lower_columns(&self, cx: &mut Lower<'_>) -> Result<()> {
        let total = self.columns();
        let depth = self.channels_in * self.taps[0] * self.taps[1];
        let pixels = self.count[0] * self.count[1];
        let columns = cx.scratch(4 * total as u64);
        cx.kernel("conv2d_columns", SHADER)
            .arg(total)
            .arg(self.input[0])
            .arg(self.input[1])
            .arg(self.count[0])
            .arg(self.count[1])
            .arg(self.taps[0])
            .arg(self.taps[1])
            .arg(self.stride[0])
            .arg(self.stride[1])
            .arg(self.dilation[0])
            .arg(self.dilation[1])
            .arg_i32(self.before[0])
            .arg_i32(self.before[1])
            .read(Slot::In(0))
            .write(columns)
            .threads(total, 64)?;
        let product = Product {
            batch: self.n,
            m: self.channels_out,
            n: pixels,
            k: depth,
            a: (Slot::In(1), 0, false),
            b: (columns, depth * pixels, false),
            bias: match self.bias {
                Some(slot) => Bias::Rows(slot),
                None => Bias::None,
            },
            residual: self.residual,
            activation: self.activation,
        };
        product.lower(cx)
    }
}
