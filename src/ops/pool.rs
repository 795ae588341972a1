//! Average pooling and nearest-neighbour up-sampling over the last two axes of `[N, C, H, W]`.
//!
//! Gradients gather over the windows that a pixel is in, so they need no atomics
//! and always sum in the same order. Axes are vertical, horizontal.

use super::conv::four;
use crate::device::{DeviceClass, DeviceProfile};
use crate::graph::{Array, KernelBuilder, Lower, Op, Slot, Spec, Tensor, Vjp};
use crate::{DType, Error, Result};

const AVG: &str = include_str!("../../shaders/avg_pool2d.wgsl");
const AVG_SPREAD: &str = include_str!("../../shaders/avg_pool2d_spread.wgsl");

/// Parameters of [`Tensor::max_pool2d`] and [`Tensor::avg_pool2d`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolParams {
    /// The window.
    pub kernel: [usize; 2],
    /// Step between windows.
    pub stride: [usize; 2],
    /// Rows and columns around the image, at most half the window: minus infinity
    /// for the maximum, zero for the average.
    pub padding: [usize; 2],
    /// Whether the average divides by the window's area (the default) or by the
    /// number of pixels inside the image. The maximum ignores it.
    pub count_include_pad: bool,
}

impl PoolParams {
    /// Windows of `kernel` at steps of `stride` without padding.
    pub fn new(kernel: [usize; 2], stride: [usize; 2]) -> Self {
        PoolParams {
            kernel,
            stride,
            padding: [0, 0],
            count_include_pad: true,
        }
    }

    /// The same with rows and columns around the image.
    pub fn padding(mut self, padding: [usize; 2]) -> Self {
        self.padding = padding;
        self
    }

    /// The output's extents for an image of `h` x `w`.
    pub(super) fn output(&self, op: &str, [n, c, h, w]: [usize; 4]) -> Result<[usize; 4]> {
        const LARGEST: usize = 65_535;
        let argument =
            |name: &str, detail: String| Err(Error::argument(&format!("{op}, {name}"), detail));
        for (name, values) in [("kernel", self.kernel), ("stride", self.stride)] {
            if values.iter().any(|v| !(1..=LARGEST).contains(v)) {
                return argument(
                    name,
                    format!("{values:?} given, 1 to {LARGEST} are possible"),
                );
            }
        }
        if (0..2).any(|a| self.padding[a] > self.kernel[a] / 2) {
            return argument(
                "padding",
                format!(
                    "{:?} given, at most half the kernel {:?} is possible",
                    self.padding, self.kernel
                ),
            );
        }
        let size = |axis: usize, extent: usize| {
            let padded = extent + 2 * self.padding[axis];
            match padded.checked_sub(self.kernel[axis]) {
                Some(room) => Ok(room / self.stride[axis] + 1),
                None => Err(Error::shape(
                    op,
                    format!(
                        "windows of {:?} do not fit into {h} x {w} with padding {:?}",
                        self.kernel, self.padding
                    ),
                )),
            }
        };
        Ok([n, c, size(0, h)?, size(1, w)?])
    }

    /// Rows or columns of an image that window `i` covers, cut at the borders.
    pub(super) fn covers(&self, axis: usize, i: usize, extent: usize) -> std::ops::Range<usize> {
        let first = i * self.stride[axis];
        let end = (first + self.kernel[axis]).saturating_sub(self.padding[axis]);
        first.saturating_sub(self.padding[axis])..end.min(extent)
    }

    /// Appends what `Args` in `shaders/lib/pool.wgsl` reads, and tells the text how an
    /// invocation takes `take`. The kernel reads the windows where it `spreads`.
    pub(super) fn args<'l, 'a>(
        &self,
        kernel: KernelBuilder<'l, 'a>,
        x: [usize; 4],
        y: [usize; 4],
        take: &Take,
    ) -> KernelBuilder<'l, 'a> {
        let mut kernel = kernel.arg(x[0] * x[1]);
        for pair in [
            [x[2], x[3]],
            [y[2], y[3]],
            self.kernel,
            self.stride,
            self.padding,
        ] {
            kernel = kernel.arg(pair[0]).arg(pair[1]);
        }
        let Some(cell) = take.pixels else {
            return kernel;
        };
        let ([ky, kx], [sy, sx], [py, px]) = (self.kernel, self.stride, self.padding);
        let out = cell / sx;
        let (from, read, left, right) = match take.spreads {
            true => ("dy", out, kx > sx + px, px > 0),
            false => ("x", cell, px > 0, kx > sx + px),
        };
        kernel
            .define("CELL", cell)
            .define("OUT", out)
            .define("FROM", from)
            .define("N", read)
            .define("WRITTEN", take.each())
            .define("LEFT", u32::from(left))
            .define("RIGHT", u32::from(right))
            .define("KY", ky)
            .define("KX", kx)
            .define("SY", sy)
            .define("SX", sx)
            .define("PY", py)
            .define("PX", px)
            .define("ROWS", ky.div_ceil(sy))
            .define("COLUMNS", kx.div_ceil(sx))
    }

    /// How much an invocation takes of images `x` and windows `y`.
    pub(super) fn take(
        &self,
        device: &DeviceProfile,
        x: [usize; 4],
        y: [usize; 4],
        spreads: bool,
    ) -> Take {
        let ([_, k], [_, s], [_, pad]) = (self.kernel, self.stride, self.padding);
        let fits = device.class == DeviceClass::Software
            && y[3] * s == x[3]
            && self.area() <= 25
            && pad <= 2
            // Windows reach two pixels beyond the piece at most, pixels two windows.
            && k <= s + pad + 2
            && k.div_ceil(s) <= 3 + pad / s;
        let whole = |cell: usize| [2, 4, 8].into_iter().any(|windows| windows * s == cell);
        let pixels = [8, 4]
            .into_iter()
            .find(|cell| fits && x[3].is_multiple_of(*cell) && whole(*cell));
        Take {
            pixels,
            spreads,
            stride: s,
        }
    }

    /// Windows that one pixel is in, at most.
    pub(super) fn overlap(&self) -> usize {
        self.kernel[0].div_ceil(self.stride[0]) * (1 + self.kernel[1].div_ceil(self.stride[1]))
    }

    pub(super) fn area(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }
}

/// What an invocation of a pooling kernel takes.
pub(super) struct Take {
    /// So many neighbours of a row of pixels, see `shaders/lib/pool_row.wgsl`: 8 or 4 on
    /// software adapters, where windows and rows allow it. Otherwise a single result.
    pixels: Option<usize>,
    spreads: bool,
    stride: usize,
}

impl Take {
    /// Results of an invocation: pixels where the kernel spreads, otherwise windows.
    pub fn each(&self) -> usize {
        match self.pixels {
            Some(pixels) if self.spreads => pixels,
            Some(pixels) => pixels / self.stride,
            None => 1,
        }
    }
}

pub(super) fn shape_of(a: &Array) -> [usize; 4] {
    [a.shape[0], a.shape[1], a.shape[2], a.shape[3]]
}

pub(super) fn check_like(
    op: &str,
    what: &str,
    spec: &Spec,
    want: [usize; 4],
    dtype: DType,
) -> Result<()> {
    if spec.shape.dims() != want || spec.dtype != dtype {
        return Err(Error::shape(
            op,
            format!(
                "{what} must be {dtype} {want:?}, it is {} {:?}",
                spec.dtype, spec.shape
            ),
        ));
    }
    Ok(())
}

/// What the sum over a window is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Divisor {
    /// Nothing: the sum.
    One,
    /// The window's area.
    Area,
    /// The number of pixels inside the image.
    Inside,
}

impl Divisor {
    fn define<'l, 'a>(self, kernel: KernelBuilder<'l, 'a>) -> KernelBuilder<'l, 'a> {
        let name = match self {
            Divisor::One => "one",
            Divisor::Area => "area",
            Divisor::Inside => "inside",
        };
        kernel.variant(name).define("DIVISOR", name)
    }
}

/// Sums or averages over windows.
#[derive(Debug, Clone, Copy)]
struct AvgPool {
    params: PoolParams,
    divisor: Divisor,
}

/// The transpose of [`AvgPool`]: every upstream element, divided likewise, goes to
/// all pixels of its window. With windows side by side and no divisor this is
/// nearest-neighbour up-sampling.
#[derive(Debug, Clone, Copy)]
struct AvgSpread {
    pool: AvgPool,
    size: [usize; 2],
    name: &'static str,
}

impl AvgPool {
    fn weight(&self, x: [usize; 4], i: usize, j: usize) -> f64 {
        let inside = self.params.covers(0, i, x[2]).len() * self.params.covers(1, j, x[3]).len();
        match self.divisor {
            Divisor::One => 1.0,
            Divisor::Area => 1.0 / self.params.area() as f64,
            Divisor::Inside => 1.0 / inside as f64,
        }
    }
}

impl Op for AvgPool {
    fn name(&self) -> &'static str {
        match self.divisor {
            Divisor::One => "sum_pool2d",
            _ => "avg_pool2d",
        }
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        let x = four(self.name(), "the input", inputs[0])?;
        Ok(vec![Spec::f32(self.params.output(self.name(), x)?)])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let x = shape_of(inputs[0]);
        let y = self.params.output(self.name(), x)?;
        Ok(vec![Array::from_fn(y, |i| {
            let mut sum = 0.0;
            for h in self.params.covers(0, i[2], x[2]) {
                for w in self.params.covers(1, i[3], x[3]) {
                    sum += inputs[0].at(&[i[0], i[1], h, w]);
                }
            }
            sum * self.weight(x, i[2], i[3])
        })])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        let x = cx.input(0).shape();
        let op = AvgSpread {
            pool: *self,
            size: [x[2], x[3]],
            name: "avg_pool2d_spread",
        };
        let dy = cx.grad(0);
        cx.set(0, dy.graph().push1(op, &[&dy]));
        Ok(())
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let x = four(self.name(), "the input", cx.input(0))?;
        let y = self.params.output(self.name(), x)?;
        let count = y.iter().product::<usize>();
        let take = self.params.take(cx.device(), x, y, false);
        let kernel = self.divisor.define(cx.kernel("avg_pool2d", AVG));
        self.params
            .args(kernel, x, y, &take)
            .define("BEYOND", "zero")
            .read(Slot::In(0))
            .write(Slot::Out(0))
            .flops(count * self.params.area())
            .trips(self.params.kernel[0] * (1 + self.params.kernel[1]))
            .threads(count / take.each(), 64)
    }
}

impl AvgSpread {
    fn shapes(&self, dy: [usize; 4]) -> Result<([usize; 4], [usize; 4])> {
        let x = [dy[0], dy[1], self.size[0], self.size[1]];
        Ok((x, self.pool.params.output(self.name, x)?))
    }
}

impl Op for AvgSpread {
    fn name(&self) -> &'static str {
        self.name
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        let (x, y) = self.shapes(four(self.name, "the input", inputs[0])?)?;
        check_like(self.name, "the input", inputs[0], y, DType::F32)?;
        Ok(vec![Spec::f32(x)])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let (x, y) = self.shapes(shape_of(inputs[0]))?;
        let mut grad = Array::zeros(x);
        for flat in 0..inputs[0].numel() {
            let i = inputs[0].shape.unravel(flat);
            let v = inputs[0].data[flat] * self.pool.weight(x, i[2], i[3]);
            let plane = flat / (y[2] * y[3]);
            for h in self.pool.params.covers(0, i[2], x[2]) {
                for w in self.pool.params.covers(1, i[3], x[3]) {
                    grad.data[(plane * x[2] + h) * x[3] + w] += v;
                }
            }
        }
        Ok(vec![grad])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        let up = cx.grad(0);
        cx.set(0, up.graph().push1(self.pool, &[&up]));
        Ok(())
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let (x, y) = self.shapes(four(self.name, "the input", cx.input(0))?)?;
        let count = x.iter().product::<usize>();
        let take = self.pool.params.take(cx.device(), x, y, true);
        let kernel = self
            .pool
            .divisor
            .define(cx.kernel("avg_pool2d_spread", AVG_SPREAD));
        self.pool
            .params
            .args(kernel, x, y, &take)
            .define("BEYOND", "zero")
            .read(Slot::In(0))
            .write(Slot::Out(0))
            .flops(y.iter().product::<usize>() * self.pool.params.area())
            .trips(self.pool.params.overlap() * 2)
            .threads(count / take.each(), 64)
    }
}

impl Tensor {
    /// The average of every window of `[N, C, H, W]`, with the output size of
    /// [`Tensor::max_pool2d`].
    ///
    /// Poisoned by what poisons [`Tensor::max_pool2d`].
    #[track_caller]
    pub fn avg_pool2d(&self, params: &PoolParams) -> Tensor {
        let divisor = if params.count_include_pad {
            Divisor::Area
        } else {
            Divisor::Inside
        };
        let params = *params;
        self.graph().push1(AvgPool { params, divisor }, &[self])
    }

    /// The average over both image axes: `[N, C, H, W]` to `[N, C]`.
    ///
    /// Poisoned by other ranks.
    #[track_caller]
    pub fn global_avg_pool2d(&self) -> Tensor {
        if let Err(e) = self
            .check()
            .and(four("global_avg_pool2d", "the input", self.spec()))
        {
            return self.graph().poisoned(e);
        }
        let pixels = self.dim(2) * self.dim(3);
        self.sum(&[2, 3], false).mul_scalar(1.0 / pixels as f32)
    }

    /// Every pixel of `[N, C, H, W]` becomes a block of `factor` pixels: `[N, C, H *
    /// factor[0], W * factor[1]]`.
    ///
    /// Poisoned by: other ranks, a factor of 0.
    #[track_caller]
    pub fn upsample_nearest2d(&self, factor: [usize; 2]) -> Tensor {
        let scaled = |axis: usize| self.dim(axis as isize + 2).saturating_mul(factor[axis]);
        let op = AvgSpread {
            pool: AvgPool {
                params: PoolParams::new(factor, factor),
                divisor: Divisor::One,
            },
            size: [scaled(0), scaled(1)],
            name: "upsample_nearest2d",
        };
        self.graph().push1(op, &[self])
    }
}
