//! Convolutions as a problem for kernels: what convolutions and their gradients by the
//! input become before one of the variants is chosen.

use crate::graph::{KernelBuilder, Slot};
use crate::ops::Activation;
use crate::ops::product::problem::Product;

/// A stride, dilation and padding convolution from input 0 with the weights of
/// input 1 (any order of their axes, either direction of taps) to a lattice of
/// pixels of output 0. Axes are vertical, horizontal; channels are per group.
#[derive(Debug, Clone)]
pub(crate) struct Direct {
    pub name: &'static str,
    pub n: usize,
    pub groups: usize,
    pub channels_in: usize,
    pub channels_out: usize,
    pub input: [usize; 2],
    pub output: [usize; 2],
    /// Pixels that are computed, the first of them and the steps between them.
    pub count: [usize; 2],
    pub first: [usize; 2],
    pub step: [usize; 2],
    pub taps: [usize; 2],
    pub stride: [usize; 2],
    pub dilation: [usize; 2],
    pub before: [isize; 2],
    /// Offset of the first weight, and weights between groups, channels and taps.
    pub weight_first: usize,
    pub weight_group: usize,
    pub weight_out: usize,
    pub weight_in: usize,
    pub weight_tap: [isize; 2],
    /// Per output channel of all groups.
    pub bias: Option<Slot>,
    /// Like the output.
    pub residual: Option<Slot>,
    pub activation: Activation,
}

/// Convolutions that read the same input and together give one output.
pub(in crate::ops) struct Convolution {
    pub parts: Vec<Direct>,
    /// What a 1x1 convolution is as a matrix product.
    pub product: Option<Product>,
}

impl Convolution {
    pub fn flops(&self) -> usize {
        self.parts.iter().map(Direct::flops).sum()
    }

    /// Output channels of a group.
    pub fn channels_out(&self) -> usize {
        self.parts.iter().map(|p| p.channels_out).max().unwrap_or(1)
    }

    /// The shape class: what the order of variants turns on.
    pub fn shape_class(&self) -> &'static str {
        match (self.channels_out(), self.flops()) {
            (0..4, _) => "depthwise",
            (4..16, _) => "thin",
            (_, 0..0x40_0000) => "small",
            (_, 0x40_0000..0x1000_0000) => "medium",
            _ => "large",
        }
    }
}

impl Direct {
    /// What the epilogues of all convolution kernels are told alike.
    pub(in crate::ops) fn epilogue<'l, 'a>(
        &self,
        kernel: KernelBuilder<'l, 'a>,
    ) -> KernelBuilder<'l, 'a> {
        let kernel = kernel
            .define("BIAS", self.bias.is_some() as u32)
            .define("RESIDUAL", self.residual.is_some() as u32);
        let added = [self.bias, self.residual].into_iter().flatten();
        added.fold(self.activation.define(kernel), |kernel, slot| {
            kernel.read(slot)
        })
    }

    pub fn flops(&self) -> usize {
        let outputs = self.n * self.groups * self.channels_out * self.count[0] * self.count[1];
        2 * outputs * self.channels_in * self.taps[0] * self.taps[1]
    }
}
