//! Codes that no vector takes any more, and the vectors of the batch that they become.

use super::rows::Rows;
use crate::{Graph, Tensor};

/// The average count that a code starts with, or that it gets by a reset: at least
/// the threshold, or it would be reset again at once.
pub(super) fn fresh_size(threshold: f32) -> f32 {
    threshold.max(1.0)
}

/// 1 where a code's average count is below `threshold`; nowhere where all rows are padding.
#[track_caller]
pub(super) fn unused(rows: &Rows, size: &Tensor, threshold: f32) -> Tensor {
    let unused = size.less(&size.full_like(threshold));
    match &rows.valid {
        Some(valid) => unused.mul(&valid.max(&[], false)),
        None => unused,
    }
}

/// One row for each code, spread over all rows by the golden ratio (a fixed stride
/// would meet the same corner of every image) and others in every run. With padding,
/// the valid rows alone are counted.
#[track_caller]
pub(super) fn samples(rows: &Rows, codes: usize) -> Tensor {
    let graph: &Graph = rows.rows.graph();
    let shares: Vec<f64> = (1..=codes)
        .map(|k| (k as f64 * 0.618_033_988_7).fract())
        .collect();
    let (first, count) = match &rows.valid {
        None => {
            let count = rows.count() as f64;
            let first: Vec<f32> = shares.iter().map(|s| (s * count).floor() as f32).collect();
            let count = graph.full([1], count as f32);
            (graph.constant([codes], &first), count)
        }
        Some(valid) => {
            let count = valid.sum(&[], true).reshape([1]).clamp(1.0, f32::MAX);
            let shares: Vec<f32> = shares.iter().map(|s| *s as f32).collect();
            let first = graph.constant([codes], &shares).mul(&count).floor();
            (first, count)
        }
    };
    // Whole numbers below 2^24 are exact in f32; the selects undo a quotient that was
    // rounded across a whole number.
    let run = graph.random_state().slice(0, 2, 1).to_f32();
    let x = first.add(&run.mul_scalar(37.0));
    let r = x.sub(&x.mul(&count.recip()).floor().mul(&count));
    let r = r.less(&r.zeros_like()).select(&r.add(&count), &r);
    let r = r.less(&count).select(&r, &r.sub(&count));
    let last = count.add_scalar(-1.0);
    let picks = r.clamp(0.0, f32::MAX).minimum(&last).to_u32();
    let picks = match &rows.valid {
        None => picks,
        Some(valid) => {
            let order = valid_rows(valid).reshape([rows.count(), 1]);
            order.gather_rows(&picks).reshape([codes]).to_u32()
        }
    };
    rows.rows.stop_gradient().gather_rows(&picks)
}

/// The numbers of the rows that are valid, in order, then zeros.
fn valid_rows(valid: &Tensor) -> Tensor {
    let n = valid.numel();
    let numbers: Vec<f32> = (0..n).map(|i| i as f32).collect();
    let numbers = valid.graph().constant([n, 1], &numbers);
    let rank = valid.cumsum(0).add_scalar(-1.0);
    let place = valid.select(&rank, &rank.full_like(n as f32)).to_u32();
    numbers.segment_sum(&place, n).reshape([n])
}
