//! Averages over a given number of parts along each image axis, whatever the image's size.
//!
//! Part `p` of `P` covers the pixels from `floor(p H / P)` up to `ceil((p + 1) H / P)`: parts
//! overlap where `P` does not divide `H`. Pixel `h` then lies in the parts from
//! `floor(h P / H)` up to `ceil((h + 1) P / H)`, the same rule the other way round, so that
//! one kernel serves the op and its gradient.

use std::ops::Range;

use super::windows::PoolParams;
use crate::graph::{Array, Lower, Op, Samples, Slot, Spec, Tensor, Vjp};
use crate::ops::conv::window::four;
use crate::{Error, Result};

const SHADER: &str = include_str!("../../../shaders/pool/adaptive_avg_pool2d.wgsl");

/// Pixels along an axis at most: what is multiplied in the kernel stays below 2^32.
const LARGEST: usize = 65_535;

/// From images of any size to `to` parts; with `spread`, its transpose: the gradient by
/// images of `to` pixels from that of the parts.
#[derive(Debug, Clone, Copy)]
struct Adaptive {
    to: [usize; 2],
    spread: bool,
}

/// What part `i` of `to` covers of `from`.
fn covers(i: usize, to: usize, from: usize) -> Range<usize> {
    i * from / to..((i + 1) * from).div_ceil(to)
}

impl Adaptive {
    fn shapes(&self, x: &Spec) -> Result<([usize; 4], [usize; 4])> {
        let x = four(self.name(), "the input", x)?;
        let y = [x[0], x[1], self.to[0], self.to[1]];
        if x[2..]
            .iter()
            .chain(&self.to)
            .any(|n| !(1..=LARGEST).contains(n))
        {
            let detail = format!(
                "{:?} parts of an image of {} x {}: 1 to {LARGEST} are possible",
                self.to, x[2], x[3]
            );
            return Err(Error::shape(self.name(), detail));
        }
        Ok((x, y))
    }
}

impl Op for Adaptive {
    fn name(&self) -> &'static str {
        match self.spread {
            false => "adaptive_avg_pool2d",
            true => "adaptive_avg_pool2d_spread",
        }
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        Ok(vec![Spec::f32(self.shapes(inputs[0])?.1)])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let (x, y) = self.shapes(&Spec::f32(&inputs[0].shape))?;
        // A part's share is told by the axis that has the parts: the output's, or the input's.
        let share = |axis: usize, from: usize, to: usize| match self.spread {
            false => covers(to, y[axis], x[axis]).len(),
            true => covers(from, x[axis], y[axis]).len(),
        };
        Ok(vec![Array::from_fn(y, |i| {
            let mut sum = 0.0;
            for h in covers(i[2], y[2], x[2]) {
                for w in covers(i[3], y[3], x[3]) {
                    let count = share(2, h, i[2]) * share(3, w, i[3]);
                    sum += inputs[0].at(&[i[0], i[1], h, w]) / count as f64;
                }
            }
            sum
        })])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        let x = cx.input(0).shape();
        let op = Adaptive {
            to: [x[2], x[3]],
            spread: !self.spread,
        };
        let dy = cx.grad(0);
        cx.set(0, dy.graph().push1(op, &[&dy]));
        Ok(())
    }

    fn samples(&self, _: &[Spec]) -> Option<Samples> {
        Some(Samples::Apart(vec![0]))
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let (x, y) = self.shapes(cx.input(0))?;
        let total = y.iter().product::<usize>();
        let most = |axis: usize| x[axis].div_ceil(y[axis]) + 1;
        cx.kernel("adaptive_avg_pool2d", SHADER)
            .variant(if self.spread { "spread" } else { "" })
            .define("SPREAD", u32::from(self.spread))
            .arg("total", total)
            .arg("in_y", x[2])
            .arg("in_x", x[3])
            .arg("out_y", y[2])
            .arg("out_x", y[3])
            .read(Slot::In(0))
            .write(Slot::Out(0))
            .flops(total * most(2) * most(3))
            .trips(most(2) * (1 + most(3)))
            .threads(total, 64)
    }
}

impl Tensor {
    /// The averages over `parts` parts along both image axes, whatever their extents: `[N,
    /// C, H, W]` to `[N, C, parts[0], parts[1]]`. Part `p` of `P` covers the pixels from
    /// `floor(p H / P)` up to `ceil((p + 1) H / P)`, as in PyTorch.
    ///
    /// Poisoned by: other ranks, no parts, more than 65,535 parts or pixels along an axis.
    #[track_caller]
    pub fn adaptive_avg_pool2d(&self, parts: [usize; 2]) -> Tensor {
        let size = [self.dim(2), self.dim(3)];
        if self.check().is_ok() && self.shape().rank() == 4 {
            if parts == [1, 1] {
                // A sum of many pixels is shared by many invocations.
                return self.mean(&[2, 3], true);
            }
            if (0..2).all(|a| parts[a] > 0 && size[a] > 0 && size[a].is_multiple_of(parts[a])) {
                let window = [size[0] / parts[0], size[1] / parts[1]];
                return self.avg_pool2d(&PoolParams::new(window, window));
            }
        }
        let op = Adaptive {
            to: parts,
            spread: false,
        };
        self.graph().push1(op, &[self])
    }
}
