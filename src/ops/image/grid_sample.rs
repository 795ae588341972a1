//! Pictures sampled at the places of a grid, bilinearly, and the transpose: what every
//! place gives to the pixels around it. They are each other's gradients.

use super::bilinear::{GridPadding, Sampling, channels_each, check};
use crate::device::LOOP_BUDGET;
use crate::graph::{Access, Array, Lower, Op, Samples, Slot, Spec, Tensor, Vjp};
use crate::ops::conv::window::extents;
use crate::ops::index::segment_sum::sort;
use crate::{Error, Result};

const SAMPLE: &str = include_str!("../../../shaders/image/grid_sample.wgsl");
const SPREAD: &str = include_str!("../../../shaders/image/grid_spread.wgsl");

/// Inputs: pictures `[N, C, H, W]` and a grid `[N, P, Q, 2]`.
#[derive(Debug)]
struct GridSample(Sampling);

impl Op for GridSample {
    fn name(&self) -> &'static str {
        "grid_sample"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        let ([n, c, ..], [p, q]) = check(self.name(), inputs[0], inputs[1])?;
        Ok(vec![Spec::f32([n, c, p, q])])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let (x, grid) = (inputs[0], inputs[1]);
        let [n, c, h, w] = extents(&x.shape);
        let mut y = Array::zeros([n, c, grid.shape[1], grid.shape[2]]);
        let places = grid.numel() / 2 / n;
        self.0.each(grid, [h, w], |number, pixel, weight| {
            let (sample, place) = (number / places, number % places);
            for channel in sample * c..(sample + 1) * c {
                y.data[channel * places + place] += weight * x.data[channel * h * w + pixel];
            }
        });
        Ok(vec![y])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        let (x, grid, dy) = (cx.input(0).clone(), cx.input(1).clone(), cx.grad(0));
        if cx.needs(0) {
            let [.., h, w] = extents(x.shape());
            cx.set(0, spread(&dy, &grid, self.0, [h, w]));
        }
        if cx.needs(1) {
            cx.set(1, by_places(&x, &grid, &dy, self.0));
        }
        Ok(())
    }

    fn samples(&self, _: &[Spec]) -> Option<Samples> {
        Some(Samples::Apart(vec![0, 1]))
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let [n, c, h, w] = extents(&cx.input(0).shape);
        let places = cx.input(1).shape.numel() / 2 / n;
        let each = channels_each(c);
        let total = n * (c / each) * places;
        self.0
            .define(cx.kernel("grid_sample", SAMPLE))
            .define("CHANNELS", each)
            .arg("total", total)
            .arg("blocks", c / each)
            .arg("in_y", h)
            .arg("in_x", w)
            .arg("places", places)
            .read(Slot::In(0))
            .read(Slot::In(1))
            .write(Slot::Out(0))
            .flops(8 * total * each)
            .threads(total, 64)
    }
}

/// The transpose of [`GridSample`]: inputs `[N, C, P, Q]` and a grid `[N, P, Q, 2]`; output: pictures `[N, C, H, W]`.
#[derive(Debug)]
struct GridSpread {
    sampling: Sampling,
    size: [usize; 2],
}

impl Op for GridSpread {
    fn name(&self) -> &'static str {
        "grid_spread"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        let ([n, c, p, q], size) = check(self.name(), inputs[0], inputs[1])?;
        if [p, q] != size {
            return Err(Error::shape(
                self.name(),
                format!("a grid of {size:?} places for {:?}", inputs[0].shape),
            ));
        }
        Ok(vec![Spec::f32([n, c, self.size[0], self.size[1]])])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let (dy, grid) = (inputs[0], inputs[1]);
        let [n, c, p, q] = extents(&dy.shape);
        let [h, w] = self.size;
        let mut x = Array::zeros([n, c, h, w]);
        self.sampling
            .each(grid, self.size, |number, pixel, weight| {
                let (sample, place) = (number / (p * q), number % (p * q));
                for channel in sample * c..(sample + 1) * c {
                    x.data[channel * h * w + pixel] += weight * dy.data[channel * p * q + place];
                }
            });
        Ok(vec![x])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        // <u, spread dy> = <sample u, dy>
        let (dy, grid, u) = (cx.input(0).clone(), cx.input(1).clone(), cx.grad(0));
        if cx.needs(0) {
            cx.set(0, sample(&u, &grid, self.sampling));
        }
        if cx.needs(1) {
            cx.set(1, by_places(&u, &grid, &dy, self.sampling));
        }
        Ok(())
    }

    fn samples(&self, _: &[Spec]) -> Option<Samples> {
        Some(Samples::Apart(vec![0, 1]))
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let [n, c, p, q] = extents(&cx.input(0).shape);
        let ([h, w], places) = (self.size, p * q);
        let cells = (h + 1) * (w + 1) + 1;
        let cell = cx.scratch(4 * (n * places) as u64);
        self.sampling
            .define(cx.kernel("grid_spread", SPREAD))
            .variant("cells")
            .define("PHASE", "cells")
            .arg("total", n * places)
            .arg("in_y", h)
            .arg("in_x", w)
            .arg("places", places)
            .arg("samples", n)
            .read(Slot::In(1))
            .write(cell)
            .threads(n * places, 64)?;
        let lists = sort(cx, cell, n * places, n * cells)?;
        let each = channels_each(c);
        let total = n * (c / each) * h * w;
        // A place is in one cell: four lists have no more entries than there are places.
        // Of more than an invocation may take, each of the four gets a share, and nearly
        // all lists have ended after the first.
        let most = LOOP_BUDGET as usize / 4 * 3;
        let chunk = if places <= most { places } else { most / 4 };
        let entries = places.min(4 * chunk);
        for skip in (0..places).step_by(chunk) {
            let mut kernel = self
                .sampling
                .define(cx.kernel("grid_spread", SPREAD))
                .variant("sum")
                .define("PHASE", "sum")
                .define("CHANNELS", each)
                .define("MORE", (skip > 0) as u32)
                .arg("total", total)
                .arg("blocks", c / each)
                .arg("in_y", h)
                .arg("in_x", w)
                .arg("places", places)
                .arg("skip", skip)
                .arg("chunk", chunk)
                .read(Slot::In(0))
                .read(Slot::In(1));
            for list in &lists {
                kernel = kernel.read(*list);
            }
            let access = match skip {
                0 => Access::Write,
                _ => Access::ReadWrite,
            };
            kernel
                .bind(Slot::Out(0), access)
                .flops(8 * n * c * places)
                .trips(entries + entries / 64 + 8)
                .threads(total, 64)?;
        }
        Ok(())
    }
}

/// The transpose of sampling pictures of `size`.
#[track_caller]
pub(super) fn spread(dy: &Tensor, grid: &Tensor, sampling: Sampling, size: [usize; 2]) -> Tensor {
    dy.graph().push1(GridSpread { sampling, size }, &[dy, grid])
}

/// Samples of `x`, or their derivatives.
#[track_caller]
pub(super) fn sample(x: &Tensor, grid: &Tensor, sampling: Sampling) -> Tensor {
    x.graph().push1(GridSample(sampling), &[x, grid])
}

/// The gradient by the grid of the inner product of `dy` and the samples of `x`.
#[track_caller]
pub(super) fn by_places(x: &Tensor, grid: &Tensor, dy: &Tensor, sampling: Sampling) -> Tensor {
    let mut dims = grid.shape().dims().to_vec();
    dims[3] = 1;
    // The grid holds (x, y): the last axis of the picture comes first.
    let along = [1, 0].map(|axis| match sampling.derivative(axis) {
        Some(derivative) => {
            let slopes = sample(x, grid, derivative);
            slopes.mul(dy).sum(&[1], false).reshape(&dims)
        }
        None => grid.graph().full(&dims, 0.0),
    });
    Tensor::concat(&[&along[0], &along[1]], 3)
}

impl Tensor {
    /// Pictures `[N, C, H, W]` sampled at the places `grid` `[N, P, Q, 2]`, giving
    /// `[N, C, P, Q]`: PyTorch's `grid_sample` with `mode="bilinear"` and
    /// `align_corners=False`. A place is (x, y); -1 and 1 are the outer edges of the
    /// picture, so that pixel `i` of a row of `W` has its centre at `(2 i + 1) / W - 1`.
    ///
    /// Gradients go to the picture and to the grid. In the picture they are added in a
    /// fixed order, without atomics: the same bits in every run. In the grid they jump where
    /// a place meets the centre of a pixel, and with [`GridPadding::Border`] they are 0
    /// beyond the outer centres. A place that is NaN makes its samples NaN, and its
    /// picture's gradient.
    #[track_caller]
    pub fn grid_sample(&self, grid: &Tensor, padding: GridPadding) -> Tensor {
        let derived = [false; 2];
        sample(self, grid, Sampling { padding, derived })
    }
}
