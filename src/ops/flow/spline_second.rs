//! The gradient of a spline's gradient: the spline written in tensor ops, which the tape
//! differentiates twice. Every raw value of an element stands on an axis of its own here.

use super::spline_params::{LEAST, SplineParams};
use crate::graph::Backward;
use crate::{Result, Tensor};

/// The axis of bins in `[N, C, bins, plane]`.
const BINS: isize = 2;

/// A spline at points on its x axis: the value, and the logarithm of the derivative, both
/// `[N, C, 1, plane]`, from raw values `[N, C, 3 bins - 1, plane]`.
fn spline(params: &SplineParams, x: &Tensor, raw: &Tensor) -> (Tensor, Tensor) {
    let k = params.bins;
    let bound = x.full_like(params.bound);
    let inside = x.abs().less(&bound).stop_gradient();
    let (zero, value) = (x.zeros_like(), x);
    let x = inside.select(x, &zero);
    // The sizes of all bins, and where they start.
    let axis = |first: usize| {
        let shares = raw.slice(BINS, first, k).softmax(BINS);
        let free = 1.0 - LEAST * k as f32;
        let sizes = shares
            .mul_scalar(free)
            .add_scalar(LEAST)
            .mul_scalar(2.0 * params.bound);
        let starts = sizes.cumsum(BINS).sub(&sizes).sub(&bound);
        (sizes, starts)
    };
    let ((widths, left), (heights, low)) = (axis(0), axis(k));
    // Slopes at all knots: 1 at both ends.
    let ends = zero.ones_like();
    let slopes = match k {
        1 => Tensor::concat(&[&ends, &ends], BINS),
        _ => {
            let inner = raw.slice(BINS, 2 * k, k - 1);
            let inner = inner
                .add_scalar(SplineParams::offset())
                .softplus()
                .add_scalar(LEAST);
            Tensor::concat(&[&ends, &inner, &ends], BINS)
        }
    };
    // 1 at the bin that holds x: the last that does not start above it.
    let begun = left.less_equal(&x).stop_gradient();
    let begun = Tensor::concat(&[&ends, &begun.slice(BINS, 1, k - 1)], BINS);
    let here = match k {
        1 => ends.clone(),
        _ => begun.sub(&Tensor::concat(
            &[&begun.slice(BINS, 1, k - 1), &zero],
            BINS,
        )),
    };
    let at = |values: &Tensor| here.mul(values).sum(&[BINS], true);
    let (w, h) = (at(&widths), at(&heights));
    let (d0, d1) = (at(&slopes.slice(BINS, 0, k)), at(&slopes.slice(BINS, 1, k)));
    let s = x.sub(&at(&left)).div(&w);
    let d = h.div(&w);
    let rest = s.neg().add_scalar(1.0);
    let t = s.mul(&rest);
    let r = d.add(&d0.add(&d1).sub(&d.mul_scalar(2.0)).mul(&t));
    let a = d.mul(&s.square()).add(&d0.mul(&t));
    let q = d1
        .mul(&s.square())
        .add(&d.mul(&t).mul_scalar(2.0))
        .add(&d0.mul(&rest.square()));
    let y = at(&low).add(&h.mul(&a).div(&r));
    let log_slope = d.div(&r).log().mul_scalar(2.0).add(&q.log());
    (inside.select(&y, value), inside.select(&log_slope, &zero))
}

/// `spline_grad` of `[x, raw, u, v]` with the gradients `by_dx` and `by_draw` of its
/// outputs.
pub(super) fn parts(
    params: &SplineParams,
    inverse: bool,
    inputs: &[Tensor],
    by_dx: &Tensor,
    by_draw: &Tensor,
    backward: Backward,
) -> Result<Vec<(Tensor, Tensor)>> {
    let [x, raw, u, v] = inputs else {
        return Ok(Vec::new());
    };
    let plane = x.shape().dims()[2..].iter().product();
    let per_element = |t: &Tensor, n: usize| t.reshape([x.dim(0), x.dim(1), n, plane]);
    let (x, u, v) = (per_element(x, 1), per_element(u, 1), per_element(v, 1));
    let raw = per_element(raw, params.raw_values());
    let (y, log_slope) = spline(params, &x, &raw);
    let pull = |seeds: &[(Tensor, Tensor)], wrt: &Tensor| -> Result<Tensor> {
        let grad = backward(seeds, &[wrt])?.pop().flatten();
        Ok(grad.unwrap_or_else(|| wrt.zeros_like()))
    };
    let (dx, u, v) = match inverse {
        false => {
            let dx = pull(
                &[(y.clone(), u.clone()), (log_slope.clone(), v.clone())],
                &x,
            )?;
            (dx, u, v)
        }
        // By implicit differentiation: dy = (u - v l'(x)) / f'(x).
        true => {
            let steep = pull(&[(y.clone(), y.ones_like())], &x)?;
            let bent = pull(&[(log_slope.clone(), v.clone())], &x)?;
            let dy = u.sub(&bent).div(&steep);
            (dy.clone(), dy.neg(), v.neg())
        }
    };
    let draw = pull(&[(y, u), (log_slope, v)], &raw)?;
    Ok(vec![
        (dx, per_element(by_dx, 1)),
        (draw, per_element(by_draw, params.raw_values())),
    ])
}
