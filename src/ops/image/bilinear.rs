//! What sampling and its transpose share: where a place of the grid lies among the pixels,
//! and with which weights, or which derivatives of these.

use crate::graph::{Array, KernelBuilder, Spec};
use crate::ops::conv::window::four;
use crate::{DType, Error, Result, Shape};

/// What stands outside of a picture that is sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GridPadding {
    /// Zeros.
    Zeros,
    /// The nearest pixel of the picture.
    Border,
}

/// A linear map from pictures to samples of them: bilinear sampling, or its derivative by
/// the places, vertical, horizontal or both. (Twice by the same axis is zero.)
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sampling {
    pub padding: GridPadding,
    pub derived: [bool; 2],
}

impl Sampling {
    /// Its derivative by the places along `axis`, if that is not zero.
    pub fn derivative(self, axis: usize) -> Option<Self> {
        let mut derived = self.derived;
        derived[axis] = true;
        (!self.derived[axis]).then_some(Sampling { derived, ..self })
    }

    /// The first of two pixels along `axis`, and both weights; see `lib/bilinear.wgsl`.
    fn pair(self, place: f64, axis: usize, extent: usize) -> (isize, [f64; 2]) {
        let size = extent as f64;
        let at = ((place + 1.0) * size - 1.0) * 0.5;
        let (limited, moves) = match self.padding {
            GridPadding::Zeros => (at.clamp(-2.0, size + 1.0), true),
            GridPadding::Border => (at.clamp(0.0, size - 1.0), at > 0.0 && at < size - 1.0),
        };
        let part = limited - limited.floor();
        let slope = if moves { 0.5 * size } else { 0.0 };
        let weights = match self.derived[axis] {
            true => [-slope, slope],
            false => [1.0 - part, part],
        };
        (limited.floor() as isize, weights)
    }

    /// Calls `f(number of the place, flat pixel, weight)` for all places of a grid and all
    /// pixels of the picture of `size` that each samples; NaN gives NaN for all pixels.
    pub fn each(self, grid: &Array, size: [usize; 2], mut f: impl FnMut(usize, usize, f64)) {
        let [h, w] = size;
        for (number, place) in grid.data.chunks(2).enumerate() {
            if place.iter().any(|v| v.is_nan()) {
                (0..h * w).for_each(|pixel| f(number, pixel, f64::NAN));
                continue;
            }
            let (y, rows) = self.pair(place[1], 0, h);
            let (x, columns) = self.pair(place[0], 1, w);
            for (y, row) in (y..).zip(rows) {
                for (x, column) in (x..).zip(columns) {
                    let inside = (0..h as isize).contains(&y) && (0..w as isize).contains(&x);
                    if inside {
                        f(number, y as usize * w + x as usize, row * column);
                    }
                }
            }
        }
    }

    /// Tells a kernel that imports `bilinear`.
    pub fn define<'l, 'a>(self, kernel: KernelBuilder<'l, 'a>) -> KernelBuilder<'l, 'a> {
        let border = self.padding == GridPadding::Border;
        kernel
            .define("BORDER", border as u32)
            .define("ORDER_Y", self.derived[0] as u32)
            .define("ORDER_X", self.derived[1] as u32)
    }
}

/// How many channels an invocation takes, so that all take as many.
pub(super) fn channels_each(channels: usize) -> usize {
    (1..=4)
        .rev()
        .find(|n| channels.is_multiple_of(*n))
        .unwrap_or(1)
}

/// Checks a picture `[N, C, ..]` and a grid `[N, P, Q, 2]`; the extents of both.
pub(super) fn check(op: &str, x: &Spec, grid: &Spec) -> Result<([usize; 4], [usize; 2])> {
    let x = four(op, "the picture", x)?;
    match *grid.shape.dims() {
        [n, p, q, 2] if n == x[0] && grid.dtype == DType::F32 => {
            for size in [[p, q], [x[2], x[3]]] {
                Shape::from([n, x[1], size[0], size[1]]).check_countable(op)?;
            }
            Ok((x, [p, q]))
        }
        _ => Err(Error::shape(
            op,
            format!(
                "the grid must be f32 [{}, P, Q, 2], it is {} {:?}",
                x[0], grid.dtype, grid.shape
            ),
        )),
    }
}
