//! The views by name: permute, transpose, broadcast, slice, pad, flip, roll.
//! All of them are one strided copy, see `ops/view.rs`.

use super::view::{AxisView, Outside};
use crate::graph::Tensor;
use crate::ops::pointwise::func::Func;
use crate::ops::pointwise::map::Map;
use crate::{DType, Error, Result, Shape};

/// Axis `axis` of `shape` counted from the front.
pub(crate) fn resolve_axis(op: &str, shape: &Shape, axis: isize) -> Result<usize> {
    let rank = shape.rank() as isize;
    let at = if axis < 0 { axis + rank } else { axis };
    if (0..rank).contains(&at) {
        Ok(at as usize)
    } else {
        Err(Error::shape(
            op,
            format!("there is no axis {axis} in shape {shape:?}"),
        ))
    }
}

const ZERO: Outside = Outside::Fill(0.0);

impl Tensor {
    /// A poisoned tensor; what poisoned this one goes before `error`.
    #[track_caller]
    pub(crate) fn poison(&self, error: Error) -> Tensor {
        let error = self.check().err().unwrap_or(error);
        self.graph().poisoned(error)
    }

    fn whole_axes(&self) -> Vec<AxisView> {
        (0..self.shape().rank()).map(AxisView::whole).collect()
    }

    /// Output axis `i` is input axis `axes[i]`: `[N, C, H, W]` becomes
    /// `[N, H, W, C]` by `[0, 2, 3, 1]`. Error: `axes` is not a permutation.
    #[track_caller]
    pub fn permute(&self, axes: &[usize]) -> Tensor {
        let rank = self.shape().rank();
        let mut sorted = axes.to_vec();
        sorted.sort_unstable();
        if !sorted.iter().copied().eq(0..rank) {
            return self.poison(Error::shape(
                "permute",
                format!(
                    "{axes:?} is not an order of the {rank} axes of {:?}",
                    self.shape()
                ),
            ));
        }
        let shape: Vec<usize> = axes.iter().map(|a| self.shape()[*a]).collect();
        let axes = axes.iter().map(|a| AxisView::whole(*a)).collect();
        self.view("permute", shape, axes, ZERO)
    }

    /// Exchanges two axes (counted from the end where negative).
    #[track_caller]
    pub fn transpose(&self, a: isize, b: isize) -> Tensor {
        let find = |axis| resolve_axis("transpose", self.shape(), axis);
        match (find(a), find(b)) {
            (Ok(a), Ok(b)) => {
                let mut axes: Vec<usize> = (0..self.shape().rank()).collect();
                axes.swap(a, b);
                self.permute(&axes)
            }
            (Err(e), _) | (_, Err(e)) => self.poison(e),
        }
    }

    /// Repeats extents of 1, and adds axes in front, up to `shape`. Its gradient sums.
    /// Error: an extent is neither 1 nor that of `shape`.
    #[track_caller]
    pub fn broadcast_to(&self, shape: impl Into<Shape>) -> Tensor {
        let shape = shape.into();
        let own = self.shape();
        let lead = match Shape::broadcast("broadcast_to", own, &shape) {
            Ok(common) if common == shape => shape.rank() - own.rank(),
            Ok(_) => {
                return self.poison(Error::shape(
                    "broadcast_to",
                    format!("{own:?} cannot be repeated to {shape:?}"),
                ));
            }
            Err(e) => return self.poison(e),
        };
        if own.numel() == 1 && shape.numel() > 1 && self.dtype() == DType::F32 {
            // As arithmetic it joins what it is added to, and takes no memory.
            let op = Map {
                func: Func::Repeat,
                shape: Some(shape),
            };
            return self.graph().push1(op, &[self]);
        }
        let axes = (0..shape.rank())
            .map(|i| {
                if i < lead || own[i - lead] != shape[i] {
                    AxisView::REPEAT
                } else {
                    AxisView::whole(i - lead)
                }
            })
            .collect();
        self.view("broadcast_to", shape, axes, ZERO)
    }

    /// `len` elements from `start` on along `axis`. Error: they are not all there.
    #[track_caller]
    pub fn slice(&self, axis: isize, start: usize, len: usize) -> Tensor {
        self.slice_step(axis, start, len, 1)
    }

    /// Elements `start`, `start + step`, ... (`len` of them) along `axis`; a negative
    /// step goes backwards. Error: they are not all there, or the step is 0.
    #[track_caller]
    pub fn slice_step(&self, axis: isize, start: usize, len: usize, step: isize) -> Tensor {
        let axis = match resolve_axis("slice", self.shape(), axis) {
            Ok(axis) => axis,
            Err(e) => return self.poison(e),
        };
        let extent = self.shape()[axis];
        let last = isize::try_from(len.max(1) - 1)
            .ok()
            .and_then(|steps| steps.checked_mul(step))
            .and_then(|way| way.checked_add(start as isize));
        let fits = start < extent && last.is_some_and(|l| (0..extent as isize).contains(&l));
        if step == 0 || !fits {
            return self.poison(Error::shape(
                "slice",
                format!(
                    "{len} elements from {start} in steps of {step} do not lie in axis {axis} of {:?}",
                    self.shape()
                ),
            ));
        }
        let mut shape = self.shape().dims().to_vec();
        shape[axis] = len;
        let mut axes = self.whole_axes();
        axes[axis].start = start as isize;
        axes[axis].step = step;
        self.view("slice", shape, axes, ZERO)
    }

    /// `value` before and after the elements of each axis: one pair per axis. In
    /// integer tensors the value is rounded toward zero.
    #[track_caller]
    pub fn pad(&self, amounts: &[(usize, usize)], value: f32) -> Tensor {
        if amounts.len() != self.shape().rank() {
            return self.poison(Error::shape(
                "pad",
                format!("{} pairs for the axes of {:?}", amounts.len(), self.shape()),
            ));
        }
        let value = match self.dtype() {
            DType::U32 => value.max(0.0).trunc(),
            _ => value,
        };
        let mut axes = self.whole_axes();
        let mut shape = self.shape().dims().to_vec();
        for (i, (before, after)) in amounts.iter().enumerate() {
            let around = before.checked_add(*after);
            match around.and_then(|n| n.checked_add(shape[i])) {
                Some(extent) if isize::try_from(extent).is_ok() => shape[i] = extent,
                _ => {
                    let detail = format!(
                        "{before} before and {after} after axis {i} of {:?} are too many",
                        self.shape()
                    );
                    return self.poison(Error::shape("pad", detail));
                }
            }
            axes[i].start = -(*before as isize);
        }
        // Before the axes are walked through.
        if let Err(e) = Shape::from(&shape).check_countable("pad") {
            return self.poison(e);
        }
        self.view("pad", shape, axes, Outside::Fill(value))
    }

    /// The elements in reverse order along `axes` (counted from the end where negative).
    #[track_caller]
    pub fn flip(&self, axes: &[isize]) -> Tensor {
        let mut views = self.whole_axes();
        for axis in axes {
            match resolve_axis("flip", self.shape(), *axis) {
                Ok(axis) => {
                    views[axis].start = self.shape()[axis] as isize - 1;
                    views[axis].step = -1;
                }
                Err(e) => return self.poison(e),
            }
        }
        self.view("flip", self.shape(), views, ZERO)
    }

    /// Moves elements by `shift` along `axis`; those pushed over one end come back at
    /// the other: `y[i + shift] = x[i]`.
    #[track_caller]
    pub fn roll(&self, axis: isize, shift: isize) -> Tensor {
        match resolve_axis("roll", self.shape(), axis) {
            Ok(axis) => {
                let mut axes = self.whole_axes();
                // Within the extent, so that nothing computed from it overflows.
                axes[axis].start = -(shift % self.shape()[axis] as isize);
                self.view("roll", self.shape(), axes, Outside::Wrap)
            }
            Err(e) => self.poison(e),
        }
    }
}
