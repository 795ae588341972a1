//! The gradient of a coupling's gradient. Its kernel is written once more in tensor ops
//! here, which the tape differentiates: score matching and gradient penalties through a
//! flow need it, and nothing that must be fast.

use super::coupling_layout::{CouplingMask, CouplingParams, CouplingScale, scale_and_shift};
use crate::Tensor;

/// 1 where a checkerboard coupling of `x` transforms, else 0: `[H, W]`.
pub(super) fn checkerboard(x: &Tensor, parity: usize) -> Tensor {
    let (height, width) = (x.dim(2), x.dim(3));
    let moved = |i: usize| (i / width + i % width) % 2 != parity;
    let mask: Vec<f32> = (0..height * width).map(|i| moved(i) as u8 as f32).collect();
    x.graph().constant([height, width], &mask)
}

/// The scale of raw values, and the derivative of its logarithm by them.
fn scale(params: &CouplingParams, s: &Tensor) -> (Tensor, Tensor) {
    let (log, slope) = match params.scale {
        CouplingScale::None => (s.zeros_like(), s.zeros_like()),
        CouplingScale::Exp => (s.clone(), s.ones_like()),
        CouplingScale::Sigmoid { offset } => {
            let below = s.add_scalar(offset).neg();
            (below.softplus().neg(), below.sigmoid())
        }
        CouplingScale::Tanh { clamp } => {
            let bound = s.full_like(clamp);
            let tanh = s.div(&bound).tanh();
            (
                tanh.mul(&bound),
                tanh.ones_like().sub(&tanh).mul(&tanh.add_scalar(1.0)),
            )
        }
    };
    let plain = log.exp();
    if params.minimum == 0.0 {
        return (plain, slope);
    }
    let scale = plain.add_scalar(params.minimum);
    let slope = slope.mul(&plain).div(&scale);
    (scale, slope)
}

/// `coupling_grad` of `[y, raw, dy, upstream of the log-determinant]` in parts, each with
/// its part of the gradients `by_dx` and `by_draw`.
pub(super) fn parts(
    params: &CouplingParams,
    inverse: bool,
    inputs: &[Tensor],
    by_dx: &Tensor,
    by_draw: &Tensor,
) -> Vec<(Tensor, Tensor)> {
    let [y, raw, dy, upstream] = inputs else {
        return Vec::new();
    };
    // What is not transformed has raw values that mean nothing, perhaps infinite scales.
    let mask = match params.mask {
        CouplingMask::Checkerboard { parity } => Some(checkerboard(y, parity)),
        _ => None,
    };
    let only = |t: Tensor| match &mask {
        Some(mask) => mask.select(&t, &t.zeros_like()),
        None => t,
    };
    let (moved, places) = (
        params.mask.moved(y.dim(1)),
        scale_and_shift(params, y.dim(1)),
    );
    let of_x = |t: &Tensor| only(t.slice_step(1, moved.first, moved.count, moved.step as isize));
    let of_raw =
        |t: &Tensor, first: usize| only(t.slice_step(1, first, moved.count, places.step as isize));

    let (v, g, t) = (of_x(y), of_x(dy), of_raw(raw, places.shift));
    let (scale, slope) = scale(params, &of_raw(raw, places.scale));
    let mut per_sample = vec![1; v.shape().rank()];
    per_sample[0] = v.dim(0);
    let u = upstream.reshape(per_sample);
    let (by_x, by_t, by_log) = match (inverse, params.shift_first) {
        (false, false) => (g.mul(&scale), g.clone(), g.mul(&v.sub(&t)).add(&u)),
        (false, true) => (g.mul(&scale), g.mul(&scale), g.mul(&v).add(&u)),
        (true, false) => (g.div(&scale), g.div(&scale).neg(), g.mul(&v).add(&u).neg()),
        (true, true) => (g.div(&scale), g.neg(), g.mul(&v.add(&t)).add(&u).neg()),
    };
    // All of `dy` passes through, and then what is transformed is put right.
    vec![
        (dy.clone(), by_dx.clone()),
        (by_x.sub(&g), of_x(by_dx)),
        (by_t, of_raw(by_draw, places.shift)),
        (slope.mul(&by_log), of_raw(by_draw, places.scale)),
    ]
}
