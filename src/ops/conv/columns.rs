//! Convolutions of few pixels and many channels: what each pixel sees is written out,
//! and the rest is a product with the weight as it is stored.

use super::direct::{Convolution, Direct};
use super::packed::worth;
use super::register::fours;
use crate::Result;
use crate::device::{DeviceClass, DeviceProfile};
use crate::graph::{Lower, Slot};
use crate::ops::product::problem::{Bias, Product};
use crate::ops::product::variants;
use crate::ops::variant::Variant;

const SHADER: &str = include_str!("../../../shaders/conv/columns.wgsl");

/// Inputs along x that an invocation may hold at most.
const WIDEST: usize = 64;

/// Bytes of columns that are worth their memory where other kernels would do.
const SMALL: usize = 16 << 20;

pub(in crate::ops) struct Columns;

impl Variant<Convolution> for Columns {
    fn name(&self) -> &'static str {
        "columns"
    }

    fn possible(&self, problem: &Convolution, device: &DeviceProfile) -> bool {
        let mut parts = problem.parts.iter();
        parts.all(|p| p.is_product(device.max_binding))
    }

    /// Lanes of the other kernels share weights along pixels; where a sample has fewer
    /// tiles of these than a subgroup has lanes, they read every weight for a few pixels.
    fn pays(&self, problem: &Convolution, device: &DeviceProfile) -> bool {
        let lanes = device.subgroup_size.unwrap_or(1) as usize;
        let few = |p: &Direct| p.n * p.count[0] * p.count[1] < 4 * lanes;
        let packed = worth(device, problem.flops());
        let pay = |p: &Direct| p.columns_pay(packed, device);
        let (parts, channels_out) = (&problem.parts, problem.channels_out());
        (parts.iter().all(few) && channels_out >= 64)
            || device.class == DeviceClass::Software && channels_out >= 32 && parts.iter().all(pay)
    }

    fn lower(&self, problem: &Convolution, cx: &mut Lower<'_>) -> Result<()> {
        problem.parts.iter().try_for_each(|p| p.lower_columns(cx))
    }
}

impl Direct {
    /// Whether the weight is a matrix `[channels_out, channels_in * taps]` and every pixel
    /// of the output is computed, and columns fit into a binding.
    fn is_product(&self, max_binding: u64) -> bool {
        let [ky, kx] = self.taps;
        let plain = self.groups == 1
            && self.step == [1, 1]
            && self.first == [0, 0]
            && self.count == self.output
            && self.weight_first == 0
            && self.weight_tap == [kx as isize, 1]
            && self.weight_in == ky * kx
            && self.weight_out == self.channels_in * ky * kx;
        plain && ky * kx > 0 && self.span(4) <= WIDEST && 4 * self.columns() as u64 <= max_binding
    }

    /// Whether columns are small, or at least less work than the copy of the weight that
    /// another kernel would make for every run, and their product is one that shares its reads.
    fn columns_pay(&self, packed: bool, device: &DeviceProfile) -> bool {
        let weights = self.channels_out * self.channels_in * self.taps[0] * self.taps[1];
        let most = if packed { 2 * weights } else { SMALL / 4 };
        self.columns() <= most
            && variants::choose(&self.product(Slot::In(0)), device).name() == "shuffle"
    }

    /// Inputs along x that `each` pixels of a row see.
    fn span(&self, each: usize) -> usize {
        (each - 1) * self.stride[1] + (self.taps[1] - 1) * self.dilation[1] + 1
    }

    /// Elements of the columns of all samples.
    fn columns(&self) -> usize {
        self.n * self.channels_in * self.taps[0] * self.taps[1] * self.count[0] * self.count[1]
    }

    fn lower_columns(&self, cx: &mut Lower<'_>) -> Result<()> {
        let columns = cx.scratch(4 * self.columns() as u64);
        let each = if self.count[1].is_multiple_of(4) {
            4
        } else {
            1
        };
        let span = self.span(each);
        let apart = each * self.stride[1];
        let (left, full) = fours(self.input[1], apart, self.before[1], span);
        let groups_x = self.count[1] / each;
        let total = self.n * self.channels_in * self.taps[0] * self.count[0] * groups_x;
        let kernel = cx
            .kernel("conv2d_columns", SHADER)
            .define("EACH", each)
            .define("LEFT", left)
            .define("FULL", full)
            .define("FOURS", (full > 0) as u32)
            .define("REST", span - left - 4 * full)
            .define("TAPS_X", self.taps[1])
            .define("STRIDE_X", self.stride[1])
            .define("DILATION_X", self.dilation[1])
            .define("CELL", if each == 4 { "Quad" } else { "f32" })
            .arg("total", total)
            .arg("in_y", self.input[0])
            .arg("in_x", self.input[1])
            .arg("out_y", self.count[0])
            .arg("groups_x", groups_x)
            .arg("taps_y", self.taps[0])
            .arg("stride_y", self.stride[0])
            .arg("dilation_y", self.dilation[0])
            .arg_i32("before_y", self.before[0])
            .arg_i32("before_x", self.before[1])
            .read(Slot::In(0));
        let kernel = match full {
            0 => kernel,
            _ => kernel.read(Slot::In(0)),
        };
        kernel.write(columns).threads(total, 64)?;
        variants::lower(&self.product(columns), cx)
    }

    /// The product of the weight and `columns`.
    fn product(&self, columns: Slot) -> Product {
        let depth = self.channels_in * self.taps[0] * self.taps[1];
        let pixels = self.count[0] * self.count[1];
        Product {
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
        }
    }
}
