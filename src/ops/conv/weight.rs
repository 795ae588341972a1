//! The gradient of a convolution by its weight: a reduction over all pixels of all
//! samples, split into chunks whose sums are added in a fixed order.

use super::register::{even_tile, fours, shared, unroll};
use super::weight_packed;
use super::window::{Dims, Window, extents, four};
use crate::device::{DeviceClass, LOOP_BUDGET};
use crate::graph::{Array, Lower, Op, Slot, Spec, Tensor, Vjp};
use crate::ops::Activation;
use crate::ops::product::problem::{Bias, Product};
use crate::ops::reduce::sum_chunks::sum_chunks;
use crate::{Error, Result, Shape};

const SHADER: &str = include_str!("../../../shaders/conv/weight.wgsl");

/// `dweight[o, c, k] = sum over n, i of dy[n, o, i] x[n, c, stride i + dilation k -
/// before]`: inputs `x [N, C, H, W]` and `dy [N, O, P, Q]`, output `[O, C / groups,
/// kh, kw]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConvWeight {
    pub window: Window,
    /// `kh`, `kw`: several kernels may give the same output size.
    pub kernel: [usize; 2],
}

impl ConvWeight {
    const NAME: &'static str = "conv2d_weight";

    fn dims(&self, x: &Spec, dy: &Spec) -> Result<Dims> {
        let x = four(Self::NAME, "the input", x)?;
        let dy = four(Self::NAME, "the upstream gradient", dy)?;
        self.window.check(Self::NAME)?;
        let [kh, kw] = self.kernel;
        let weight = [dy[1], x[1] / self.window.groups, kh, kw];
        let d = self.window.dims(Self::NAME, x, weight)?;
        if [d.n, d.o, d.output[0], d.output[1]] != dy {
            return Err(Error::shape(
                Self::NAME,
                format!(
                    "the upstream gradient must be {:?}, it is {dy:?}",
                    [d.n, d.o, d.output[0], d.output[1]]
                ),
            ));
        }
        Ok(d)
    }
}

impl Tensor {
    /// With this tensor as a convolution's input: the gradient by its weight, of the shape
    /// `like`, from that by its output.
    #[track_caller]
    pub(in crate::ops) fn conv2d_weight(
        &self,
        window: Window,
        dy: &Tensor,
        like: &Shape,
    ) -> Tensor {
        let [_, _, kh, kw] = extents(like);
        let kernel = [kh, kw];
        self.graph()
            .push1(ConvWeight { window, kernel }, &[self, dy])
    }
}

impl Op for ConvWeight {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        let d = self.dims(inputs[0], inputs[1])?;
        Ok(vec![Spec::f32([d.o, d.cg, d.kernel[0], d.kernel[1]])])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let (x, dy) = (inputs[0], inputs[1]);
        let d = self.dims(&Spec::f32(&x.shape), &Spec::f32(&dy.shape))?;
        let mut grad = Array::zeros([d.o, d.cg, d.kernel[0], d.kernel[1]]);
        self.window.each_product(&d, |ix, iw, iy| {
            grad.data[iw] += x.data[ix] * dy.data[iy];
        });
        Ok(vec![grad])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        let weight = cx.grad(0);
        let (x, dy) = (cx.input(0).clone(), cx.input(1).clone());
        if cx.needs(0) {
            cx.set(0, dy.conv2d_input(self.window, &weight, x.shape()));
        }
        if cx.needs(1) {
            cx.set(1, x.conv2d_plain(self.window, &weight));
        }
        Ok(())
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let mut d = self.dims(cx.input(0), cx.input(1))?;
        if d.is_pointwise(&self.window) && d.input[1] < 16 && d.input[0] * d.input[1] <= 1 << 12 {
            (d.input, d.output) = ([1, d.input[0] * d.input[1]], [1, d.output[0] * d.output[1]]);
        }
        if let Some(product) = self.product(cx, &d) {
            return product.shuffle_sum(cx);
        }
        if weight_packed::lower(&self.window, &d, cx)? {
            return Ok(());
        }
        let (tile, unrolled, span) = unroll(
            d.kernel[1],
            even_tile(d.output[1], 4),
            self.window.stride[1],
            self.window.dilation[1],
        );
        // Where a subgroup shares dy, its reads count little and tiles grow along it.
        let blocks = d.kernel[1] / unrolled;
        let software = cx.device().class == DeviceClass::Software;
        let lanes = match cx.device().subgroup_size {
            Some(size) if software && d.cg.div_ceil(4) * d.kernel[0] * blocks >= size as usize => {
                size as usize
            }
            _ => 0,
        };
        // Enough sums per invocation to make up for the loads, few enough for registers.
        let (most_out, most_in) = match unrolled {
            1 if lanes > 0 => (16, 4),
            2 | 3 if lanes > 0 => (16, 2),
            4 | 5 if lanes > 0 => (16, 1),
            1 => (8, 4),
            2 | 3 => (4, 4),
            4 | 5 => (4, 2),
            _ => (4, 1),
        };
        let (tile_out, tile_in) = (even_tile(d.og, most_out), even_tile(d.cg, most_in));
        let (tiles_out, tiles_in) = (d.og.div_ceil(tile_out), d.cg.div_ceil(tile_in));
        let padded_tiles = (tiles_in * d.kernel[0] * blocks).next_multiple_of(lanes.max(1));
        let tiles = self.window.groups * tiles_out * padded_tiles;
        let weights = d.o * d.cg * d.kernel[0] * d.kernel[1];

        let rows = d.n * d.output[0];
        let per_row = 1 + d.output[1].div_ceil(tile);
        let wanted = match cx.device().class {
            DeviceClass::Software => 1 << 10,
            _ => 1 << 14,
        };
        // At most 16 MiB of partial sums, unless the loop budget asks for more.
        let chunks = (wanted / tiles).min((4 << 20) / weights).clamp(1, rows);
        let longest = (LOOP_BUDGET as usize / per_row).max(1);
        let rows_per_chunk = rows.div_ceil(chunks).min(longest);
        let chunks = rows.div_ceil(rows_per_chunk);

        let before = self.window.before;
        let padded = (0..2).any(|axis| {
            let reach = (d.output[axis] - 1) * self.window.stride[axis]
                + (d.kernel[axis] - 1) * self.window.dilation[axis];
            before[axis] > 0 || reach as isize - before[axis] >= d.input[axis] as isize
        });
        let (left, full) = match tile == 4 && blocks == 1 && d.output[1].is_multiple_of(4) {
            true => fours(d.input[1], tile * self.window.stride[1], before[1], span),
            false => (0, 0),
        };
        let whole = full > 0;
        let held = if whole { tile_out } else { tile_out * tile };
        let target = if chunks > 1 {
            cx.scratch((chunks * weights * 4) as u64)
        } else {
            Slot::Out(0)
        };
        let kernel = cx
            .kernel("conv2d_weight", SHADER)
            .variant(format!(
                "registers {tile_out}x{tile_in}x{unrolled}{}, {chunks} chunks",
                shared(lanes)
            ))
            .define("LANES", lanes)
            .shuffles(lanes.min(held))
            .define("FOURS", whole as u32)
            .define("HELD", held.div_ceil(lanes.max(1)))
            .define("TO", tile_out)
            .define("TC", tile_in)
            .define("TX", tile)
            .define("TAPS", unrolled)
            .define("LEFT", left)
            .define("FULL", full)
            .define("REST", span - left - 4 * full)
            .define("STRIDE_X", self.window.stride[1])
            .define("DILATION_X", self.window.dilation[1])
            .define("PADDED", padded as u32)
            .define("RAGGED", !d.output[1].is_multiple_of(tile) as u32)
            .arg("total", tiles * chunks)
            .arg("padded", padded_tiles)
            .arg("blocks", blocks)
            .arg("taps_y", d.kernel[0])
            .arg("tiles_in", tiles_in)
            .arg("tiles_out", tiles_out)
            .arg("groups", self.window.groups)
            .arg("channels_out", d.og)
            .arg("channels_in", d.cg)
            .arg("rows", rows)
            .arg("rows_per_chunk", rows_per_chunk)
            .arg("out_y", d.output[0])
            .arg("out_x", d.output[1])
            .arg("in_y", d.input[0])
            .arg("in_x", d.input[1])
            .arg("stride_y", self.window.stride[0])
            .arg("dilation_y", self.window.dilation[0])
            .arg_i32("before_y", before[0])
            .arg_i32("before_x", before[1])
            .read(Slot::In(0));
        let kernel = match whole {
            true => kernel.read(Slot::In(0)),
            false => kernel,
        };
        kernel
            .read(Slot::In(1))
            .write(target)
            .flops(2 * rows * d.output[1] * weights)
            .trips(rows_per_chunk * per_row)
            .dealt(tiles * chunks, 64)?;
        if chunks > 1 {
            sum_chunks(cx, target, weights, chunks)?;
        }
        Ok(())
    }
}

impl ConvWeight {
    /// With a 1x1 kernel, the products of `dy` and the transposed input of every sample,
    /// to be added up, where a subgroup's lanes can read both as they lie.
    fn product(&self, cx: &Lower<'_>, d: &Dims) -> Option<Product> {
        let device = cx.device();
        let lanes = device.subgroup_size? as usize;
        let pixels = d.input[0] * d.input[1];
        let fits = device.class == DeviceClass::Software
            && (4..=64).contains(&lanes)
            && d.is_pointwise(&self.window)
            && d.c == d.cg
            && pixels.is_multiple_of(4)
            // Every sample is one loop.
            && (pixels as u64 / 4) < LOOP_BUDGET
            && d.c.is_multiple_of(4)
            && d.c >= 4 * lanes
            && d.o >= 8;
        fits.then_some(Product {
            batch: d.n,
            m: d.o,
            n: d.c,
            k: pixels,
            a: (Slot::In(1), d.o * pixels, false),
            b: (Slot::In(0), d.c * pixels, true),
            bias: Bias::None,
            residual: None,
            activation: Activation::None,
        })
    }
}
