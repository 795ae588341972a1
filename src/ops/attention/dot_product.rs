//! Attention in one kernel that never stores its scores (Rabe and Staats 2021, "Self-attention
//! does not need O(n^2) memory"; Dao et al. 2022, "FlashAttention"), and its gradients, each
//! a pass of the same kernel that computes the scores again.

use super::problem::{Mode, Problem};
use super::variants::ATTENTION;
use crate::graph::{Array, Lower, Op, Slot, Spec, Tensor, Vjp};
use crate::ops::reduce::axes::expect_f32;
use crate::{Error, Result, Shape};

/// `softmax(scale q k^T) v` and the logarithm of every row's sum of `e^(scale q k^T)`.
#[derive(Debug, Clone, Copy)]
struct Attention {
    scale: f32,
    causal: bool,
}

/// The gradient of [`Attention`] by one of its inputs, of `q`, `k`, `v`, the gradient by the
/// result, the logarithms, and the products of result and its gradient summed over rows.
/// The last two follow from the others, and the rule for this gradient's own gradients
/// counts them so.
#[derive(Debug, Clone, Copy)]
struct AttentionGrad {
    of: Attention,
    by: By,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum By {
    Queries,
    Keys,
    Values,
}

/// Queries `[.., T, d]`, keys `[.., S, d]` and values `[.., S, e]` with equal leading axes,
/// or what is wrong with them.
pub(crate) fn check_attention(op: &str, [q, k, v]: [&Shape; 3]) -> Result<()> {
    let parts = |shape: &Shape| match shape.dims() {
        [lead @ .., rows, width] => Some((lead.to_vec(), *rows, *width)),
        _ => None,
    };
    if let (Some((a, _, d)), Some((b, s, d_k)), Some((c, s_v, _))) = (parts(q), parts(k), parts(v))
        && a == b
        && b == c
        && d == d_k
        && s == s_v
    {
        return Ok(());
    }
    Err(Error::shape(
        op,
        format!(
            "expected queries [.., T, d], keys [.., S, d] and values [.., S, e], got {q:?}, {k:?} and {v:?}"
        ),
    ))
}

/// Batch, queries, keys, their width and that of values.
struct Extents {
    batch: usize,
    t: usize,
    s: usize,
    d: usize,
    e: usize,
}

impl Extents {
    fn new(q: &Shape, k: &Shape, v: &Shape) -> Extents {
        let rank = q.rank();
        let (t, d, s, e) = (q[rank - 2], q[rank - 1], k[rank - 2], v[rank - 1]);
        let batch = q.dims()[..rank - 2].iter().product();
        Extents { batch, t, s, d, e }
    }
}

impl Attention {
    /// Of one matrix of the batch: the weights `[T, S]` and the logarithms `[T]`.
    fn weights(&self, x: &Extents, q: &[f64], k: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let (mut weights, mut logs) = (Vec::new(), Vec::new());
        for (t, q) in q.chunks(x.d).enumerate() {
            let seen = if self.causal { (t + 1).min(x.s) } else { x.s };
            let dots = k.chunks(x.d).take(seen);
            let scores: Vec<f64> = dots.map(|k| f64::from(self.scale) * dot(q, k)).collect();
            let peak = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let mass: f64 = scores.iter().map(|s| (s - peak).exp()).sum();
            logs.push(peak + mass.ln());
            weights.extend(scores.iter().map(|s| (s - peak).exp() / mass));
            weights.extend(std::iter::repeat_n(0.0, x.s - seen));
        }
        (weights, logs)
    }

    /// The scores' gradient from that of the weights, row by row.
    fn scores_grad(x: &Extents, weights: &[f64], by_weights: &[f64]) -> Vec<f64> {
        let rows = weights.chunks(x.s).zip(by_weights.chunks(x.s));
        rows.flat_map(|(p, g)| {
            let mean = dot(p, g);
            p.iter()
                .zip(g)
                .map(move |(p, g)| p * (g - mean))
                .collect::<Vec<_>>()
        })
        .collect()
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `y[r, :] += sum over c of w[r, c] x[c, :]`, of the transposed `w` where `turned`.
fn accumulate(y: &mut [f64], w: &[f64], x: &[f64], wide: usize, turned: bool) {
    let (rows, cols) = (y.len() / wide, x.len() / wide);
    for (r, y) in y.chunks_mut(wide).enumerate() {
        for (c, x) in x.chunks(wide).enumerate() {
            let w = if turned {
                w[c * rows + r]
            } else {
                w[r * cols + c]
            };
            // What is not seen has no weight, whatever it is.
            if w != 0.0 {
                y.iter_mut().zip(x).for_each(|(y, x)| *y += w * x);
            }
        }
    }
}

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        expect_f32(self.name(), inputs)?;
        check_attention(self.name(), [0, 1, 2].map(|i| &inputs[i].shape))?;
        let mut shape = inputs[0].shape.dims().to_vec();
        shape.pop();
        let logs = Spec::f32(&shape);
        shape.extend(inputs[2].shape.dims().last());
        Ok(vec![Spec::f32(shape), logs])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let [q, k, v] = [0, 1, 2].map(|i| inputs[i]);
        let x = Extents::new(&q.shape, &k.shape, &v.shape);
        let mut shape = q.shape.dims().to_vec();
        shape.pop();
        let mut logs = Vec::new();
        let mut out = vec![0.0; x.batch * x.t * x.e];
        for b in 0..x.batch {
            let (q, k, v) = (
                part(q, b, x.t * x.d),
                part(k, b, x.s * x.d),
                part(v, b, x.s * x.e),
            );
            let (w, own) = self.weights(&x, q, k);
            accumulate(&mut out[b * x.t * x.e..][..x.t * x.e], &w, v, x.e, false);
            logs.extend(own);
        }
        let logs = Array::new(Shape::from(&shape), logs)?;
        shape.push(x.e);
        Ok(vec![Array::new(Shape::from(shape), out)?, logs])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        let [q, k, v] = [0, 1, 2].map(|i| cx.input(i).clone());
        let (y, logs, g) = (cx.output(0).clone(), cx.output(1).clone(), cx.grad(0));
        let delta = g.mul(&y).sum(&[-1], false);
        for (i, by) in [By::Queries, By::Keys, By::Values].into_iter().enumerate() {
            if cx.needs(i) {
                let op = AttentionGrad { of: *self, by };
                let grad = q.graph().push1(op, &[&q, &k, &v, &g, &logs, &delta]);
                cx.set(i, grad);
            }
        }
        Ok(())
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let x = Extents::new(&cx.input(0).shape, &cx.input(1).shape, &cx.input(2).shape);
        let problem = Problem {
            mode: Mode::Forward,
            causal: self.causal,
            scale: self.scale,
            batch: x.batch,
            rows: x.t,
            cols: x.s,
            width: x.d,
            second: 0,
            wide: x.e,
            inputs: vec![Slot::In(0), Slot::In(1), Slot::In(2)],
            stats: Vec::new(),
            outputs: vec![Slot::Out(0), Slot::Out(1)],
        };
        solve(problem, cx)
    }
}

/// Emits the kernel that the device prefers.
fn solve(problem: Problem, cx: &mut Lower<'_>) -> Result<()> {
    let variant = ATTENTION.choose(&problem, "*", cx.device());
    variant.lower(&problem, cx)
}

/// Matrix `b` of a batch.
fn part(x: &Array, b: usize, len: usize) -> &[f64] {
    &x.data[b * len..][..len]
}

impl Op for AttentionGrad {
    fn name(&self) -> &'static str {
        "attention_grad"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        Ok(vec![match self.by {
            By::Queries => inputs[0].clone(),
            By::Keys => inputs[1].clone(),
            By::Values => inputs[2].clone(),
        }])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let [q, k, v, g] = [0, 1, 2, 3].map(|i| inputs[i]);
        let x = Extents::new(&q.shape, &k.shape, &v.shape);
        let (to, wide) = match self.by {
            By::Queries => (q, x.d),
            By::Keys => (k, x.d),
            By::Values => (v, x.e),
        };
        let mut out = Array::zeros(&to.shape);
        let len = to.numel() / x.batch.max(1);
        for (b, out) in out.data.chunks_mut(len.max(1)).enumerate() {
            let (q, k) = (part(q, b, x.t * x.d), part(k, b, x.s * x.d));
            let (v, g) = (part(v, b, x.s * x.e), part(g, b, x.t * x.e));
            let (w, _) = self.of.weights(&x, q, k);
            if self.by == By::Values {
                accumulate(out, &w, g, wide, true);
                continue;
            }
            let by_weights: Vec<f64> = g
                .chunks(x.e)
                .flat_map(|g| v.chunks(x.e).map(move |v| dot(g, v)))
                .collect();
            let mut scores = Attention::scores_grad(&x, &w, &by_weights);
            scores
                .iter_mut()
                .for_each(|s| *s *= f64::from(self.of.scale));
            let turned = self.by == By::Keys;
            accumulate(out, &scores, if turned { q } else { k }, wide, turned);
        }
        Ok(vec![out])
    }

    /// With the scores stored: gradients of gradients are rare.
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        let [q, k, v, g] = [0, 1, 2, 3].map(|i| cx.input(i).clone());
        let (up, c) = (cx.grad(0), self.of.scale);
        let p = q.scores(&k, c, self.of.causal).softmax(-1);
        let by_weights = g.matmul_with(&v, false, true);
        let mean = p.mul(&by_weights).sum(&[-1], true);
        let centered = by_weights.sub(&mean);
        // By the weights p; by g v^T; and what reaches the inputs past both.
        let (by_p, by_dots, direct): (Tensor, Option<Tensor>, (usize, Tensor)) = match self.by {
            By::Values => (g.matmul_with(&up, false, true), None, (3, p.matmul(&up))),
            by => {
                // By the scores' gradient, p (g v^T - mean).
                let (w, direct) = if by == By::Queries {
                    let ds = p.mul(&centered);
                    let w = up.matmul_with(&k, false, true);
                    (w, (1, ds.matmul_with(&up, true, false)))
                } else {
                    let ds = p.mul(&centered);
                    let w = q.matmul_with(&up, false, true);
                    (w, (0, ds.matmul(&up)))
                };
                let w = w.mul_scalar(c);
                let w_mean = p.mul(&w).sum(&[-1], true);
                let by_p = w.mul(&centered).sub(&by_weights.mul(&w_mean));
                let by_dots = p.mul(&w.sub(&w_mean));
                (by_p, Some(by_dots), (direct.0, direct.1.mul_scalar(c)))
            }
        };
        let inner = p.mul(&by_p).sum(&[-1], true);
        let by_scores = p.mul(&by_p.sub(&inner)).mul_scalar(c);
        let mut grads = [
            Some(by_scores.matmul(&k)),
            Some(by_scores.matmul_with(&q, true, false)),
            by_dots.as_ref().map(|d| d.matmul_with(&g, true, false)),
            by_dots.as_ref().map(|d| d.matmul(&v)),
        ];
        let (i, direct) = direct;
        grads[i] = Some(match grads[i].take() {
            Some(grad) => grad.add(&direct),
            None => direct,
        });
        for (i, grad) in grads.into_iter().enumerate() {
            if cx.needs(i) {
                cx.set(i, grad.unwrap_or_else(|| cx.input(i).zeros_like()));
            }
        }
        for i in [4, 5] {
            if cx.needs(i) {
                let zeros = cx.input(i).zeros_like();
                cx.set(i, zeros);
            }
        }
        Ok(())
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let x = Extents::new(&cx.input(0).shape, &cx.input(1).shape, &cx.input(2).shape);
        let [q, k, v, g, logs, delta] = [0, 1, 2, 3, 4, 5].map(Slot::In);
        let (mode, rows, cols) = match self.by {
            By::Queries => (Mode::Queries, x.t, x.s),
            By::Keys => (Mode::Keys, x.s, x.t),
            By::Values => (Mode::Values, x.s, x.t),
        };
        let (inputs, stats) = match self.by {
            By::Queries => (vec![q, k, g, v], vec![logs, delta]),
            By::Keys => (vec![k, q, v, g], vec![logs, delta]),
            By::Values => (vec![k, q, g], vec![logs]),
        };
        let by_values = self.by == By::Values;
        let problem = Problem {
            mode,
            causal: self.of.causal,
            scale: self.of.scale,
            batch: x.batch,
            rows,
            cols,
            width: x.d,
            second: if by_values { 0 } else { x.e },
            wide: if by_values { x.e } else { x.d },
            inputs,
            stats,
            outputs: vec![Slot::Out(0)],
        };
        solve(problem, cx)
    }
}

/// What stands where a query may not look: far below any score, but finite, so that no
/// difference of infinities arises.
const HIDDEN: f32 = -1e30;

impl Tensor {
    /// `softmax(q k^T * scale) v` of these queries `q` `[.., T, d]` with keys `[.., S, d]`
    /// and values `[.., S, e]`: `[.., T, e]`. The usual scale is `1 / sqrt(d)`. Where
    /// `causal`, query `t` sees the keys `0..=t` only.
    ///
    /// Nothing of the size `T * S` is stored, in the gradient neither: 32 columns of the
    /// scores are there at a time. (Gradients of the gradient do store them.) Errors: shapes
    /// that do not fit.
    #[track_caller]
    pub fn attention(&self, keys: &Tensor, values: &Tensor, scale: f32, causal: bool) -> Tensor {
        let op = Attention { scale, causal };
        let y = self.graph().push(op, &[self, keys, values]).swap_remove(0);
        self.graph().observe("", "attention", self, &y);
        y
    }

    /// `q k^T * scale` `[.., T, S]`, far below zero where a query may not look.
    #[track_caller]
    fn scores(&self, keys: &Tensor, scale: f32, causal: bool) -> Tensor {
        let scores = self.matmul_with(keys, false, true).mul_scalar(scale);
        if !causal {
            return scores;
        }
        let numbers = |n: usize| -> Vec<f32> { (0..n).map(|i| i as f32).collect() };
        let (t, s) = (self.dim(-2), keys.dim(-2));
        let row = self.graph().constant([t, 1], &numbers(t));
        let column = self.graph().constant([s], &numbers(s));
        let hidden = scores.full_like(HIDDEN);
        column.less_equal(&row).select(&scores, &hidden)
    }
}
