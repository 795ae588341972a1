//! LU factorisation with partial pivoting, and the determinant that falls out of it.

use super::lu_shuffle;
use super::triangular::{Triangular, square};
use crate::device::DeviceClass;
use crate::graph::{Access, Array, Lower, Op, Slot, Spec, Tensor, Vjp};
use crate::ops::reduce::axes::expect_f32;
use crate::{Error, Result};

const PANEL: &str = include_str!("../../../shaders/linalg/lu.wgsl");
const SOLVE: &str = include_str!("../../../shaders/linalg/lu_solve.wgsl");
const UPDATE: &str = include_str!("../../../shaders/linalg/lu_update.wgsl");

/// Matrices up to this size are factored by one workgroup, which knows no dispatch
/// boundaries; larger ones block by block, by all of the device.
const WHOLE: usize = 128;
/// Columns of a block: a multiple of the 8 columns that fit into registers.
const BLOCK: usize = 32;
/// Rows of registers that one invocation holds at most.
const MOST_ROWS: usize = 8;

/// `a[perm, :] = L U` for matrices whose size is a multiple of 4. Outputs: `lu` (both factors in one matrix), `perm`, `pivots`,
/// `sign` and `log |det|`.
#[derive(Debug)]
struct Lu;

/// One matrix factored in float64.
pub(crate) struct Factored {
    /// U with its diagonal, and L without.
    pub lu: Vec<f64>,
    /// Row `k` of the product `L U` is row `perm[k]` of the matrix.
    pub perm: Vec<usize>,
    /// Row `k` was exchanged with row `pivots[k]` in step `k`.
    pub pivots: Vec<usize>,
    /// The determinant's sign, 0 for a singular matrix.
    pub sign: f64,
    /// `log |det|`, minus infinity for a singular matrix.
    pub log_det: f64,
}

/// Factors the matrix `a` `[n, n]`: the row with the largest magnitude of each column is
/// its pivot, the highest one of equals. NaN leaves no order of rows: then all is NaN.
pub(crate) fn factor(a: &[f64], n: usize) -> Factored {
    if a.iter().any(|v| v.is_nan()) {
        return Factored {
            lu: vec![f64::NAN; n * n],
            perm: (0..n).collect(),
            pivots: (0..n).collect(),
            sign: f64::NAN,
            log_det: f64::NAN,
        };
    }
    let mut m = a.to_vec();
    let mut perm: Vec<usize> = (0..n).collect();
    let mut pivots = Vec::with_capacity(n);
    let (mut sign, mut log_det) = (1.0, 0.0);
    for k in 0..n {
        let mut q = k;
        for i in k + 1..n {
            if m[i * n + k].abs() > m[q * n + k].abs() {
                q = i;
            }
        }
        pivots.push(q);
        if q != k {
            perm.swap(k, q);
            (0..n).for_each(|j| m.swap(k * n + j, q * n + j));
            sign = -sign;
        }
        let d = m[k * n + k];
        sign *= if d == 0.0 { 0.0 } else { d.signum() };
        log_det += d.abs().ln();
        if d == 0.0 {
            continue;
        }
        for i in k + 1..n {
            m[i * n + k] /= d;
            for j in k + 1..n {
                m[i * n + j] -= m[i * n + k] * m[k * n + j];
            }
        }
    }
    Factored {
        lu: m,
        perm,
        pivots,
        sign,
        log_det,
    }
}

impl Op for Lu {
    fn name(&self) -> &'static str {
        "lu"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        expect_f32(self.name(), inputs)?;
        let shape = &inputs[0].shape;
        let n = square(self.name(), shape)?;
        let rows = &shape.dims()[..shape.rank() - 1];
        let batch = &rows[..rows.len() - 1];
        let most = MOST_ROWS * 256;
        if n > most || !n.is_multiple_of(4) {
            return Err(Error::shape(
                self.name(),
                format!("matrices of 4, 8 .. {most} rows can be factored, got {shape:?}"),
            ));
        }
        Ok(vec![
            inputs[0].clone(),
            Spec::u32(rows),
            Spec::u32(rows),
            Spec::f32(batch),
            Spec::f32(batch),
        ])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let shape = &inputs[0].shape;
        let n = square(self.name(), shape)?;
        let mut outputs = vec![Vec::new(); 5];
        for a in inputs[0].data.chunks(n * n) {
            let f = factor(a, n);
            let whole = |v: Vec<usize>| v.into_iter().map(|i| i as f64);
            outputs[0].extend(f.lu);
            outputs[1].extend(whole(f.perm));
            outputs[2].extend(whole(f.pivots));
            outputs[3].push(f.sign);
            outputs[4].push(f.log_det);
        }
        let specs = self.infer(&[&Spec::f32(shape)])?;
        let shapes = specs.into_iter().map(|s| s.shape);
        shapes
            .zip(outputs)
            .map(|(shape, data)| Array::new(shape, data))
            .collect()
    }

    /// De Hoog, Anderssen, Lukas, "Differentiation of matrix functionals using
    /// triangular factorization", Mathematics of Computation 80 (2011): with `A' = LU`,
    /// `dA' = L^-T (tril(L^T dL, -1) + triu(dU U^T)) U^-T`.
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        let (lu, perm) = (cx.output(0).clone(), cx.output(1).clone());
        let mut total = None;
        if let Some(grad) = cx.grad_if_any(0) {
            let n = lu.dim(-1);
            let (l, u) = (lu.unit_lower(), lu.triu(0));
            let below = l.matmul_with(&grad.tril(-1), true, false).tril(-1);
            let above = grad.triu(0).matmul_with(&u, false, true).triu(0);
            let middle = below.add(&above);
            let left = lu.solve_masked(&middle, Triangular::lower().unit().transposed());
            // left U^-T is the transpose of U^-1 left^T.
            let flat = left.transpose(-1, -2);
            let grad = lu.solve_masked(&flat, Triangular::upper());
            // Row k belongs to row perm[k] of the matrix: P^T dA'.
            total = Some(
                perm.stop_gradient()
                    .one_hot(n)
                    .matmul_with(&grad, true, true),
            );
        }
        if let Some(grad) = cx.grad_if_any(4) {
            let inverse = super::singular::finite(&super::solve::lu_inverse(&lu, &perm));
            let mut shape = grad.shape().dims().to_vec();
            shape.extend([1, 1]);
            let by_log_det = inverse.transpose(-1, -2).mul(&grad.reshape(shape));
            total = Some(match total {
                Some(t) => Tensor::add(&t, &by_log_det),
                None => by_log_det,
            });
        }
        let zeros = || cx.input(0).zeros_like();
        let total = total.unwrap_or_else(zeros);
        cx.set(0, total);
        Ok(())
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let shape = cx.input(0).shape.clone();
        let n = square(self.name(), &shape)?;
        let batch = shape.numel() / (n * n);
        if let Some(parts) = lu_shuffle::register_lanes(cx, batch, n) {
            return lu_shuffle::registers(cx, [batch, n], parts);
        }
        let block = match lu_shuffle::subgroup(cx) {
            _ if n <= WHOLE => n,
            // As many columns as eight lanes update at a time.
            Some(_) if n.is_multiple_of(8) => 2 * BLOCK,
            _ => BLOCK,
        };
        for first in (0..n).step_by(block) {
            let end = (first + block).min(n);
            panel(cx, [batch, n, first, end])?;
            if block < n {
                carry(cx, [batch, n, first, end])?;
            }
        }
        Ok(())
    }
}

/// Factors the columns `first..end`.
fn panel(cx: &mut Lower<'_>, [batch, n, first, end]: [usize; 4]) -> Result<()> {
    if let Some((lanes, groups)) = lu_shuffle::subgroups(cx, n) {
        return lu_shuffle::panel(cx, [batch, n, first, end], [lanes, groups]);
    }
    // On a software adapter a barrier costs by the lanes, so each takes several rows.
    let (least, each) = match cx.device().class {
        DeviceClass::Software => (8, 4),
        _ => (32, 1),
    };
    let lanes = n.div_ceil(each).next_power_of_two().clamp(least, 256);
    let rows_each = n.div_ceil(lanes).max(each);
    let width = end - first;
    let tiles = n.div_ceil(4) * width.div_ceil(4);
    let steps = 200 + 8 * width.div_ceil(4 * lanes) + 2 * tiles.div_ceil(lanes);
    let copied = if first == 0 { n * n.div_ceil(lanes) } else { 0 };
    let mut kernel = cx
        .kernel("lu", PANEL)
        .variant(if width == n { "whole" } else { "block" })
        .define("FIRST", (first == 0) as u32)
        .define("LANES", lanes)
        .define("ROWS", rows_each);
    for (name, value) in [("batch", batch), ("n", n), ("first", first), ("end", end)] {
        kernel = kernel.arg(name, value);
    }
    let access = if first == 0 {
        Access::Write
    } else {
        Access::ReadWrite
    };
    for output in 0..5 {
        kernel = kernel.bind(Slot::Out(output), access);
    }
    if first == 0 {
        kernel = kernel.read(Slot::In(0));
    }
    kernel
        .flops(lu_shuffle::panel_flops([batch, n, first, end]))
        .trips(copied + width.div_ceil(8) * steps)
        .flat_groups(batch)
}

/// Carries the factored columns `first..end` to all others.
fn carry(cx: &mut Lower<'_>, [batch, n, first, end]: [usize; 4]) -> Result<()> {
    let (width, rest) = (end - first, n - end);
    let m = Slot::Out(0);
    if let Some(lanes) = lu_shuffle::subgroup(cx) {
        return lu_shuffle::carry(cx, [batch, n, first, end], lanes);
    }
    cx.kernel("lu_solve", SOLVE)
        .arg("batch", batch)
        .arg("n", n)
        .arg("first", first)
        .arg("end", end)
        .bind(m, Access::ReadWrite)
        .read(Slot::Out(2))
        .flops(batch * rest * width * width)
        .trips(width + width * width)
        .threads(batch * n, 64)?;
    if rest == 0 {
        return Ok(());
    }
    cx.kernel("lu_update", UPDATE)
        .arg("batch", batch)
        .arg("n", n)
        .arg("first", first)
        .arg("end", end)
        .bind(m, Access::ReadWrite)
        .flops(2 * batch * rest * rest * width)
        .trips(width)
        .threads(batch * rest.div_ceil(8) * rest.div_ceil(8), 64)
}

/// The outputs of [`Tensor::lu`] for a stack of matrices `[.., n, n]`.
#[derive(Debug, Clone)]
pub struct LuFactors {
    /// `U` with its diagonal and, below it, `L` without its diagonal of ones: `[.., n, n]`.
    pub lu: Tensor,
    /// `a[perm, :] = L U`; u32, `[.., n]`.
    pub perm: Tensor,
    /// Row `k` was exchanged with row `pivots[k]` in step `k`; u32, `[.., n]`.
    pub pivots: Tensor,
    /// The determinant's sign, 0 where a pivot is zero: `[..]`. It has no gradient.
    pub sign: Tensor,
    /// `log |det|` in nats, minus infinity where a pivot is zero: `[..]`.
    pub log_det: Tensor,
}

impl LuFactors {
    /// The permutation matrix `P` with `a = P L U`, `[.., n, n]`.
    #[track_caller]
    pub fn p(&self) -> Tensor {
        let perm = self.perm.stop_gradient();
        perm.one_hot(self.lu.dim(-1)).transpose(-1, -2)
    }

    /// The unit lower triangle `L`, `[.., n, n]`.
    #[track_caller]
    pub fn l(&self) -> Tensor {
        self.lu.unit_lower()
    }

    /// The upper triangle `U`, `[.., n, n]`.
    #[track_caller]
    pub fn u(&self) -> Tensor {
        self.lu.triu(0)
    }
}

impl Tensor {
    /// The LU factors of square matrices `[.., n, n]` with partial pivoting: in every
    /// column the largest magnitude is the pivot, the first of equals.
    ///
    /// A singular matrix is factored, too: `U` then has a zero on its diagonal, and
    /// `sign` is 0. Pivots below the smallest normal float32 (1.2e-38) count as zero.
    /// Gradients flow through `lu` and `log_det` and are zero for singular matrices.
    /// Errors: not square, or more than 2048 rows.
    #[track_caller]
    pub fn lu(&self) -> LuFactors {
        let (padded, n) = match self.padded() {
            Ok(padded) => padded,
            Err(error) => {
                let wrong = self.graph().poisoned(error);
                return LuFactors::from([0; 5].map(|_| wrong.clone()));
            }
        };
        let factors = padded.lu_padded();
        if padded.dim(-1) == n {
            return factors;
        }
        let rows = |t: &Tensor| t.slice(-1, 0, n);
        LuFactors {
            lu: rows(&factors.lu).slice(-2, 0, n),
            perm: rows(&factors.perm),
            pivots: rows(&factors.pivots),
            ..factors
        }
    }

    /// Square matrices, filled up with a unit matrix to a multiple of 4 rows, and the
    /// number of their own rows: neither their factors nor the determinant changes.
    #[track_caller]
    pub(crate) fn padded(&self) -> Result<(Tensor, usize)> {
        self.check()?;
        let n = square("lu", self.shape())?;
        let all = n.next_multiple_of(4);
        if all == n {
            return Ok((self.clone(), n));
        }
        let mut amounts = vec![(0, 0); self.shape().rank() - 2];
        amounts.extend([(0, all - n); 2]);
        let column = |i: usize| if i < n { -1.0 } else { i as f32 };
        let rows: Vec<f32> = (0..all).map(column).collect();
        let columns: Vec<f32> = (0..all).map(|i| i as f32).collect();
        let rows = self.graph().constant([all, 1], &rows);
        let columns = self.graph().constant([all], &columns);
        let zeros = self.pad(&amounts, 0.0);
        let unit = rows.equal(&columns);
        Ok((unit.select(&zeros.ones_like(), &zeros), n))
    }

    /// The factors of matrices whose size is a multiple of 4.
    #[track_caller]
    pub(crate) fn lu_padded(&self) -> LuFactors {
        let mut out = self.graph().push(Lu, &[self]).into_iter();
        // A poisoned node has outputs enough.
        LuFactors::from([0; 5].map(|_| out.next().unwrap_or_else(|| self.clone())))
    }
}

impl From<[Tensor; 5]> for LuFactors {
    fn from([lu, perm, pivots, sign, log_det]: [Tensor; 5]) -> Self {
        LuFactors {
            lu,
            perm,
            pivots,
            sign,
            log_det,
        }
    }
}
