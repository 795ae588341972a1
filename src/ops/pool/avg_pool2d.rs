//! Average pooling and nearest-neighbour up-sampling over the last two axes of `[N, C, H, W]`.
//!
//! Gradients gather over the windows that a pixel is in, so they need no atomics
//! and always sum in the same order. Axes are vertical, horizontal.

use super::windows::{PoolParams, check_like, shape_of};
use crate::graph::{Array, KernelBuilder, Lower, Op, Samples, Slot, Spec, Tensor, Vjp};
use crate::ops::conv::window::four;
use crate::{DType, Result};

const AVG: &str = include_str!("../../../shaders/pool/avg_pool2d.wgsl");
const AVG_SPREAD: &str = include_str!("../../../shaders/pool/avg_pool2d_spread.wgsl");

/// What the sum over a window is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Divisor {
    /// Nothing: the sum.
    One,
    /// The window's area.
    Area,
    /// What of the window lies in the padded image.
    Padded,
    /// The number of pixels inside the image.
    Inside,
}

impl Divisor {
    fn define<'l, 'a>(self, kernel: KernelBuilder<'l, 'a>) -> KernelBuilder<'l, 'a> {
        let name = match self {
            Divisor::One => "one",
            Divisor::Area => "area",
            Divisor::Padded => "padded",
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
            Divisor::Padded => {
                let [h, w] = [
                    self.params.padded(0, i, x[2]),
                    self.params.padded(1, j, x[3]),
                ];
                1.0 / (h * w) as f64
            }
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

    fn samples(&self, _: &[Spec]) -> Option<Samples> {
        Some(Samples::Apart(vec![0]))
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

    fn samples(&self, _: &[Spec]) -> Option<Samples> {
        Some(Samples::Apart(vec![0]))
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
        let divisor = match (params.count_include_pad, params.ceil_mode) {
            (true, false) => Divisor::Area,
            (true, true) => Divisor::Padded,
            (false, _) => Divisor::Inside,
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
