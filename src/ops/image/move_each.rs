//! Pictures moved by whole pixels, each sample by an amount of its own.

use crate::graph::{Array, Lower, Op, Samples, Slot, Spec, Tensor, Vjp};
use crate::ops::conv::window::{extents, four};
use crate::{DType, Error, Result, Shape};

const SHADER: &str = include_str!("../../../shaders/image/move_each.wgsl");

/// Whole pixels beyond which floats count as so many; `move_each.wgsl`.
const MOST: f64 = (1u32 << 30) as f64;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Motion {
    Roll,
    Crop,
    Flip,
}

/// `y[n, c, p, q] = x[n, c, source(p), source(q)]`: inputs `x` and the amounts `[N]` or
/// `[N, 2]`. The transposed map is of the same kind.
#[derive(Debug, Clone, Copy)]
struct MoveEach {
    motion: Motion,
    /// Sources lie at `p - amount`, not `p + amount`.
    minus: bool,
    /// Height and width of the output.
    size: [usize; 2],
    /// The type of the amounts.
    dtype: DType,
}

impl MoveEach {
    /// Where output `at` of an axis comes from; none outside.
    fn source(&self, at: usize, by: f64, extent: usize) -> Option<usize> {
        let whole = match self.dtype {
            DType::F32 => by.clamp(-MOST, MOST).round_ties_even(),
            _ => by,
        };
        let to = if self.minus {
            at as f64 - whole
        } else {
            at as f64 + whole
        };
        let to = match self.motion {
            Motion::Flip if by != 0.0 => (extent - 1 - at) as f64,
            Motion::Flip => at as f64,
            Motion::Roll => to.rem_euclid(extent as f64),
            Motion::Crop => to,
        };
        (0.0..extent as f64).contains(&to).then_some(to as usize)
    }
}

impl Op for MoveEach {
    fn name(&self) -> &'static str {
        match self.motion {
            Motion::Roll => "roll_each",
            Motion::Crop => "crop_each",
            Motion::Flip => "flip_each",
        }
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        let [n, c, ..] = four(self.name(), "the picture", inputs[0])?;
        let by = inputs[1];
        if by.dtype == DType::F16 || !(by.shape.dims() == [n] || by.shape.dims() == [n, 2]) {
            return Err(Error::shape(
                self.name(),
                format!(
                    "expected one amount (horizontal) or two (vertical, horizontal) per sample, f32 or u32 [{n}] or [{n}, 2], got {} {:?}",
                    by.dtype, by.shape
                ),
            ));
        }
        let [h, w] = self.size;
        if h == 0 || w == 0 {
            let detail = format!("nothing is left of a picture of {h}x{w}");
            return Err(Error::shape(self.name(), detail));
        }
        let shape = Shape::from([n, c, h, w]);
        shape.check_countable(self.name())?;
        Ok(vec![Spec::f32(shape)])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let (x, by) = (inputs[0], inputs[1]);
        let [n, c, in_y, in_x] = extents(&x.shape);
        let [out_y, out_x] = self.size;
        let axes = by.numel() / n;
        let mut out = Array::zeros([n, c, out_y, out_x]);
        for i in 0..out.numel() {
            let (line, q) = (i / out_x, i % out_x);
            let (plane, p) = (line / out_y, line % out_y);
            let amounts = &by.data[plane / c * axes..][..axes];
            if amounts.iter().any(|a| a.is_nan()) {
                out.data[i] = f64::NAN;
                continue;
            }
            let h = match axes {
                2 => self.source(p, amounts[0], in_y),
                _ => Some(p).filter(|p| *p < in_y),
            };
            let w = self.source(q, amounts[axes - 1], in_x);
            if let (Some(h), Some(w)) = (h, w) {
                out.data[i] = x.data[(plane * in_y + h) * in_x + w];
            }
        }
        Ok(vec![out])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        if cx.needs(0) {
            let [.., h, w] = extents(cx.input(0).shape());
            let op = MoveEach {
                minus: !self.minus,
                size: [h, w],
                ..*self
            };
            let (dy, by) = (cx.grad(0), cx.input(1).clone());
            cx.set(0, dy.graph().push1(op, &[&dy, &by]));
        }
        Ok(())
    }

    fn samples(&self, _: &[Spec]) -> Option<Samples> {
        Some(Samples::Apart(vec![0, 1]))
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let [n, c, in_y, in_x] = extents(&cx.input(0).shape);
        let by = cx.input(1).clone();
        let total = cx.output(0).shape.numel();
        let motion = match self.motion {
            Motion::Roll => "roll",
            Motion::Crop => "crop",
            Motion::Flip => "flip",
        };
        cx.kernel("move_each", SHADER)
            .variant(motion)
            .define("MOTION", motion)
            .define("TYPE", by.dtype.wgsl())
            .arg("total", total)
            .arg("channels", c)
            .arg("in_y", in_y)
            .arg("in_x", in_x)
            .arg("out_y", self.size[0])
            .arg("out_x", self.size[1])
            .arg("axes", by.shape.numel() / n)
            .arg("minus", self.minus as usize)
            .read(Slot::In(0))
            .read(Slot::In(1))
            .write(Slot::Out(0))
            .bytes(8 * total)
            .threads(total, 64)
    }
}

impl Tensor {
    #[track_caller]
    fn move_each(&self, motion: Motion, by: &Tensor, size: Option<[usize; 2]>) -> Tensor {
        let size = size.unwrap_or(match *self.shape().dims() {
            [.., h, w] => [h, w],
            // The op says what is wrong.
            _ => [1, 1],
        });
        let op = MoveEach {
            motion,
            minus: motion == Motion::Roll,
            size,
            dtype: by.dtype(),
        };
        self.graph().push1(op, &[self, by])
    }

    /// [`Tensor::roll`] with shifts of its own for every sample, which lie on the GPU:
    /// `[N, C, H, W]` moves by `shifts` `[N, 2]` (down, right) or `[N]` (right), and what is
    /// pushed over an edge comes back at the other: `y[p + shift] = x[p]`.
    ///
    /// `shifts` is u32, or f32 (rounded to whole numbers, to even ones at ties; beyond 2^30
    /// it counts as that); NaN there makes the sample NaN. Its gradient goes to the picture
    /// alone: whole pixels have none.
    #[track_caller]
    pub fn roll_each(&self, shifts: &Tensor) -> Tensor {
        self.move_each(Motion::Roll, shifts, None)
    }

    /// A window of `size` (height, width) from every sample of `[N, C, H, W]`, whose first
    /// pixel is at `corners` `[N, 2]` (row, column) or `[N]` (column, from row 0):
    /// `y[p] = x[p + corner]`, and 0 outside of the picture. Types as for
    /// [`Tensor::roll_each`]: with f32, corners above and left of the picture are negative.
    /// Random translations are `x.crop_each(&corners, [h, w])` of the picture's own size.
    #[track_caller]
    pub fn crop_each(&self, corners: &Tensor, size: [usize; 2]) -> Tensor {
        self.move_each(Motion::Crop, corners, Some(size))
    }

    /// Every sample of `[N, C, H, W]` mirrored or not: `flags` is `[N]` (left and right
    /// change places where it is not 0) or `[N, 2]` (top and bottom, left and right). Types
    /// as for [`Tensor::roll_each`]; [`Graph::bernoulli`](crate::Graph::bernoulli) draws them.
    #[track_caller]
    pub fn flip_each(&self, flags: &Tensor) -> Tensor {
        self.move_each(Motion::Flip, flags, None)
    }
}
