//! Axes that are reduced and axes that are kept: shapes, places, and the loop of all
//! references.

use crate::graph::{Array, Spec};
use crate::{DType, Error, Result, Shape};

/// The shape that is left of `input` when `axes` are reduced.
pub(crate) fn reduced_shape(input: &Shape, axes: &[usize], keepdim: bool) -> Shape {
    let dims = input.dims().iter().enumerate();
    let kept = dims.filter_map(|(i, d)| match (axes.contains(&i), keepdim) {
        (false, _) => Some(*d),
        (true, true) => Some(1),
        (true, false) => None,
    });
    kept.collect::<Vec<_>>().into()
}

/// A WGSL expression for the offset of flat index `var` over `dims` with `strides`.
pub(crate) fn offset_expression(var: &str, dims: &[usize], strides: &[usize]) -> String {
    let mut terms = Vec::new();
    let mut divisor = 1;
    for (d, s) in dims.iter().zip(strides).rev() {
        if *d > 1 && *s > 0 {
            let index = match divisor {
                1 => format!("{var} % {d}u"),
                _ => format!("({var} / {divisor}u) % {d}u"),
            };
            terms.push(format!("({index}) * {s}u"));
        }
        divisor *= d;
    }
    if terms.is_empty() {
        "0u".into()
    } else {
        terms.join(" + ")
    }
}

/// Calls `f(o, r, v)` for every element `v` of `x`: its output, its number among the
/// elements behind that output, both row-major.
pub(crate) fn each(x: &Array, axes: &[usize], mut f: impl FnMut(usize, usize, f64)) {
    let kept = reduced_shape(&x.shape, axes, true);
    let other: Vec<usize> = (0..x.shape.rank()).filter(|i| !axes.contains(i)).collect();
    let reduced = reduced_shape(&x.shape, &other, true);
    let (o_strides, r_strides) = (
        kept.broadcast_strides(&x.shape),
        reduced.broadcast_strides(&x.shape),
    );
    let dot = |index: &[usize], s: &[usize]| index.iter().zip(s).map(|(i, s)| i * s).sum();
    for (flat, v) in x.data.iter().enumerate() {
        let index = x.shape.unravel(flat);
        f(dot(&index, &o_strides), dot(&index, &r_strides), *v);
    }
}

/// An error unless input `i` is float32.
pub(crate) fn expect_f32(op: &str, inputs: &[&Spec]) -> Result<()> {
    match inputs.iter().find(|s| s.dtype != DType::F32) {
        Some(wrong) => Err(Error::dtype(
            op,
            format!(
                "expected f32, got {} of shape {:?}",
                wrong.dtype, wrong.shape
            ),
        )),
        None => Ok(()),
    }
}

/// Axes in order, counted from the front; all of them where `axes` is empty.
pub(crate) fn normalize_axes(op: &str, shape: &Shape, axes: &[isize]) -> Result<Vec<usize>> {
    let rank = shape.rank() as isize;
    if axes.is_empty() {
        return Ok((0..shape.rank()).collect());
    }
    let mut out = Vec::new();
    for axis in axes {
        let at = if *axis < 0 { axis + rank } else { *axis };
        if at < 0 || at >= rank || out.contains(&(at as usize)) {
            return Err(Error::shape(
                op,
                format!("axis {axis} of shape {shape:?} is out of range or given twice"),
            ));
        }
        out.push(at as usize);
    }
    out.sort_unstable();
    Ok(out)
}
