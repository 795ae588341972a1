//! Matrix products as a problem for kernels: what `matmul`, and convolutions with 1x1
//! kernels, become before one of the variants is chosen.

use crate::graph::{KernelBuilder, Lower, Slot};
use crate::ops::Activation;

/// What is added to a product.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bias {
    None,
    /// `[n]`, to every row.
    Columns(Slot),
    /// `[m]`, to every column.
    Rows(Slot),
}

/// `out[b] = act(op(a[b]) @ op(b[b]) + bias + residual[b])` into output 0, with `out[b]` `[m, n]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Product {
    pub batch: usize,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    /// The operand, elements between two of its matrices (0: all share one), and
    /// whether it is stored transposed.
    pub a: (Slot, usize, bool),
    pub b: (Slot, usize, bool),
    pub bias: Bias,
    /// Like the output.
    pub residual: Option<Slot>,
    pub activation: Activation,
}

/// How the types and the functions of lib/half.wgsl begin for what lies in a slot.
pub(in crate::ops) fn half_names(cx: &Lower<'_>, slot: Slot) -> (&'static str, &'static str) {
    match cx.is_f16(slot) {
        true => ("Half", "half_"),
        false => ("", ""),
    }
}

impl Product {
    pub(in crate::ops) fn flops(&self) -> usize {
        2 * self.batch * self.m * self.n * self.k
    }

    /// The shape class: what the order of variants turns on.
    pub fn shape_class(&self) -> &'static str {
        let work = self.m * self.n * self.k;
        match (self.m.min(self.n), work) {
            (0..4, _) => "vector",
            (4..32, _) => "thin",
            (_, 0..0x20_0000) => "small",
            (_, 0x20_0000..0x800_0000) => "medium",
            _ => "large",
        }
    }

    /// What all the kernels are told alike; `bias` is left out where a second pass adds it.
    pub(in crate::ops) fn common<'l, 'a>(
        &self,
        kernel: KernelBuilder<'l, 'a>,
        whole: bool,
    ) -> KernelBuilder<'l, 'a> {
        let (bias, slot) = match self.bias {
            Bias::Columns(slot) if whole => (1, Some(slot)),
            Bias::Rows(slot) if whole => (2, Some(slot)),
            _ => (0, None),
        };
        let (activation, residual) = match whole {
            true => (self.activation, self.residual),
            false => (Activation::None, None),
        };
        let kernel = kernel
            .define("TRANS_A", self.a.2 as u32)
            .define("TRANS_B", self.b.2 as u32)
            .define("BIAS", bias)
            .define("HAS_BIAS", slot.is_some() as u32)
            .define("RESIDUAL", residual.is_some() as u32)
            .stored("A", self.a.0)
            .stored("B", self.b.0)
            .arg("m", self.m)
            .arg("n", self.n)
            .arg("k", self.k)
            .arg("batch", self.batch)
            .arg("stride_a", self.a.1)
            .arg("stride_b", self.b.1)
            .read(self.a.0)
            .read(self.b.0)
            .flops(self.flops());
        let added = [slot, residual].into_iter().flatten();
        added.fold(activation.define(kernel), |kernel, slot| kernel.read(slot))
    }
}
