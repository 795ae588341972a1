//! Editing of discrete latents: code grids `[N, H, W]` (u32) and latents `[N, C, H, W]`,
//! by the same calls. What comes out is decoded like what went in.
//!
//! All work on the last two axes, rows and columns of the grid, of tensors with any axes
//! before them, and know no model: VQ-VAE, dVAE and VQGAN alike. Codes above 2^24 are not
//! exact where two grids are mixed.

use crate::{DType, Error, Result, Tensor};

/// One of the two axes of a grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axis {
    /// Rows change places: above becomes below.
    Rows,
    /// Columns change places: left becomes right.
    Columns,
}

/// Half of a grid; of an odd number of rows or columns the middle one belongs to `Bottom`
/// and `Right`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// The first rows.
    Top,
    /// The last rows.
    Bottom,
    /// The first columns.
    Left,
    /// The last columns.
    Right,
}

/// A rectangle of a grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// Row and column of its first element.
    pub at: [usize; 2],
    /// Its rows and columns.
    pub size: [usize; 2],
}

/// Moves everything down by `rows` and right by `columns` (up and left where negative);
/// what leaves on one side comes back on the other. Error: less than two axes.
#[track_caller]
pub fn shift(x: &Tensor, rows: isize, columns: isize) -> Tensor {
    match grid("shift", x) {
        Ok(_) => x.roll(-2, rows).roll(-1, columns),
        Err(e) => x.graph().poisoned(e),
    }
}

/// Turns counterclockwise by `turns` quarters (clockwise where negative), as numpy's
/// `rot90`; rows and columns change places for odd `turns`. Error: less than two axes.
#[track_caller]
pub fn rotate90(x: &Tensor, turns: isize) -> Tensor {
    if let Err(e) = grid("rotate90", x) {
        return x.graph().poisoned(e);
    }
    match turns.rem_euclid(4) {
        0 => x.clone(),
        1 => x.transpose(-2, -1).flip(&[-2]),
        2 => x.flip(&[-2, -1]),
        _ => x.transpose(-2, -1).flip(&[-1]),
    }
}

/// Mirrors along `axis`. Error: less than two axes.
#[track_caller]
pub fn flip(x: &Tensor, axis: Axis) -> Tensor {
    match grid("flip", x) {
        Ok(_) => x.flip(&[match axis {
            Axis::Rows => -2,
            Axis::Columns => -1,
        }]),
        Err(e) => x.graph().poisoned(e),
    }
}

/// Values the other way round: latents change their sign, of `codes` codes number `k`
/// becomes `codes - 1 - k` (codes that are out of range stay). Error: `codes` is 0 or
/// above 2^24.
#[track_caller]
pub fn invert(x: &Tensor, codes: usize) -> Tensor {
    if x.dtype() == DType::F32 {
        return x.neg();
    }
    if let Err(e) = grid("invert", x) {
        return x.graph().poisoned(e);
    }
    if !(1..=1 << 24).contains(&codes) {
        return x.graph().poisoned(Error::argument(
            "invert",
            format!("{codes} codes; give the number that the quantiser has, 1 to 2^24"),
        ));
    }
    let there = x.less(&x.graph().constant_u32([1], &[codes as u32]));
    let number = x.to_f32();
    let mirrored = number.neg().add_scalar((codes - 1) as f32);
    there.select(&mirrored, &number).to_u32()
}

/// `half` of `a`, the other half of `b`. Errors: shapes or types that differ, less than two
/// rows or columns to halve.
#[track_caller]
pub fn splice(a: &Tensor, b: &Tensor, half: Half) -> Tensor {
    let [rows, columns] = match pair("splice", a, b) {
        Ok(extents) => extents,
        Err(e) => return a.graph().poisoned(e),
    };
    let (axis, extent) = match half {
        Half::Top | Half::Bottom => (-2, rows),
        Half::Left | Half::Right => (-1, columns),
    };
    if extent < 2 {
        return a.graph().poisoned(Error::shape(
            "splice",
            format!("{:?} cannot be halved along axis {axis}", a.shape()),
        ));
    }
    let first = extent / 2;
    let (before, after) = match half {
        Half::Top | Half::Left => (a, b),
        Half::Bottom | Half::Right => (b, a),
    };
    let before = before.slice(axis, 0, first);
    let after = after.slice(axis, first, extent - first);
    Tensor::concat(&[&before, &after], axis)
}

/// `a` where `mask` is not 0, else `b`; the f32 mask is `[H, W]` or anything that repeats to
/// the grids' shape. Errors: shapes or types that differ, a mask that does not fit.
#[track_caller]
pub fn splice_by_mask(a: &Tensor, b: &Tensor, mask: &Tensor) -> Tensor {
    let checked = pair("splice_by_mask", a, b).and_then(|_| mask.check());
    if let Err(e) = checked {
        return a.graph().poisoned(e);
    }
    let mask = mask.broadcast_to(a.shape());
    choose(&mask, a, b)
}

/// `region` of `from` put into `into` with its first element at `at`; the rest of `into`
/// stays. The grids may differ in rows and columns. Errors: a region that is empty or does
/// not lie in one of them, other axes or types that differ.
#[track_caller]
pub fn transplant(from: &Tensor, into: &Tensor, region: Region, at: [usize; 2]) -> Tensor {
    let found = grid("transplant", from).and_then(|f| Ok((f, grid("transplant", into)?)));
    let (source, target) = match found {
        Ok(found) => found,
        Err(e) => return into.graph().poisoned(e),
    };
    let lead = |t: &Tensor| t.shape().dims()[..t.shape().rank() - 2].to_vec();
    if lead(from) != lead(into) || from.dtype() != into.dtype() {
        return into.graph().poisoned(Error::shape(
            "transplant",
            format!(
                "{} {:?} cannot go into {} {:?}: axes before the grid and types must agree",
                from.dtype(),
                from.shape(),
                into.dtype(),
                into.shape()
            ),
        ));
    }
    let inside = |at: [usize; 2], extents: [usize; 2]| {
        (0..2).all(|i| {
            let end = at[i].checked_add(region.size[i]);
            region.size[i] > 0 && end.is_some_and(|end| end <= extents[i])
        })
    };
    if !inside(region.at, source) || !inside(at, target) {
        return into.graph().poisoned(Error::shape(
            "transplant",
            format!(
                "{region:?} must lie in a grid of {source:?}, and at {at:?} in one of {target:?}"
            ),
        ));
    }
    let [rows, columns] = region.size;
    let piece = from
        .slice(-2, region.at[0], rows)
        .slice(-1, region.at[1], columns);
    let band = into.slice(-2, at[0], rows);
    let band = framed(&band, piece, -1, at[1], target[1]);
    framed(into, band, -2, at[0], target[0])
}

/// `piece` from `start` on along `axis`, around it what stands in `whole`.
#[track_caller]
fn framed(whole: &Tensor, piece: Tensor, axis: isize, start: usize, extent: usize) -> Tensor {
    let end = start + piece.dim(axis);
    let before = (start > 0).then(|| whole.slice(axis, 0, start));
    let after = (end < extent).then(|| whole.slice(axis, end, extent - end));
    let parts = before.iter().chain([&piece]).chain(&after);
    let parts: Vec<&Tensor> = parts.collect();
    match parts[..] {
        [_] => piece,
        _ => Tensor::concat(&parts, axis),
    }
}

/// The way from `a` (`t` = 0) to `b` (`t` = 1). Latents are mixed, `(1 - t) a + t b`. Codes
/// have nothing between them: position by position changes from `a`'s to `b`'s, in an
/// order spread evenly over the grid, so that for growing `t` none changes back. Errors:
/// shapes or types that differ, `t` outside 0..=1.
#[track_caller]
pub fn interpolate(a: &Tensor, b: &Tensor, t: f32) -> Tensor {
    let [rows, columns] = match pair("interpolate", a, b) {
        Ok(extents) => extents,
        Err(e) => return a.graph().poisoned(e),
    };
    if !(0.0..=1.0).contains(&t) {
        return a.graph().poisoned(Error::argument(
            "interpolate",
            format!("t is {t}; it must lie in 0..=1"),
        ));
    }
    if a.dtype() == DType::F32 {
        return a.mul_scalar(1.0 - t).add(&b.mul_scalar(t));
    }
    // Multiples of the golden ratio fill 0..1 evenly; ranks of them make every share exact.
    let count = rows * columns;
    let mut order: Vec<usize> = (0..count).collect();
    let place = |i: &usize| (*i as f64 * 0.618_033_988_749_895).fract();
    order.sort_by(|i, j| place(i).total_cmp(&place(j)));
    let changed = (f64::from(t) * count as f64).round() as usize;
    let mut from_b = vec![0.0; count];
    for i in &order[..changed] {
        from_b[*i] = 1.0;
    }
    let mask = a.graph().constant([rows, columns], &from_b);
    choose(&mask.broadcast_to(a.shape()), b, a)
}

/// `a` where `mask`, of their shape, is not 0, else `b`.
#[track_caller]
fn choose(mask: &Tensor, a: &Tensor, b: &Tensor) -> Tensor {
    match a.dtype() {
        DType::U32 => mask.select(&a.to_f32(), &b.to_f32()).to_u32(),
        _ => mask.select(a, b),
    }
}

/// Rows and columns of a grid.
fn grid(op: &str, x: &Tensor) -> Result<[usize; 2]> {
    x.check()?;
    match x.shape().rank() {
        0 | 1 => Err(Error::shape(
            op,
            format!("expected a grid [.., H, W], got {:?}", x.shape()),
        )),
        _ => Ok([x.dim(-2), x.dim(-1)]),
    }
}

/// Rows and columns of two grids that are alike.
fn pair(op: &str, a: &Tensor, b: &Tensor) -> Result<[usize; 2]> {
    let extents = grid(op, a)?;
    grid(op, b)?;
    match a.spec() == b.spec() {
        true => Ok(extents),
        false => Err(Error::shape(
            op,
            format!(
                "the grids must be alike, they are {} {:?} and {} {:?}",
                a.dtype(),
                a.shape(),
                b.dtype(),
                b.shape()
            ),
        )),
    }
}
