//! Reductions over any axes: sum, mean, max, min, var, logsumexp, argmax, argmin.
//!
//! Their dispatches are [`fold`]s.

use super::axes::{each, expect_f32, normalize_axes, reduced_shape};
use super::fold::{Fold, Split, fold, moments};
use crate::graph::{Array, Lower, Op, Samples, Slot, Spec, Tensor, Vjp};
use crate::ops::pointwise::func::{larger, smaller};
use crate::{Error, Result, Shape};

/// What is computed over the reduced axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduction {
    /// The sum.
    Sum,
    /// The mean.
    Mean,
    /// The largest element. The first of equals takes the gradient.
    Max,
    /// The smallest element. The first of equals takes the gradient.
    Min,
    /// The mean squared distance from the mean.
    Var {
        /// Divides by the number of elements less one.
        unbiased: bool,
    },
    /// `log sum e^x`, with the maximum taken out.
    LogSumExp,
}

/// A [`Reduction`] over `axes`; reduced axes stay with extent 1 where `keepdim`.
#[derive(Debug)]
pub struct Reduce {
    kind: Reduction,
    axes: Vec<usize>,
    keepdim: bool,
}

/// The position of the largest (or smallest) element over `axes`, row-major among
/// these; the lowest of equals.
#[derive(Debug)]
struct ArgReduce {
    largest: bool,
    axes: Vec<usize>,
}

impl Reduce {
    fn count(&self, shape: &Shape) -> usize {
        self.axes.iter().map(|a| shape[*a]).product()
    }

    /// What the sum is divided by.
    fn divisor(&self, shape: &Shape) -> f64 {
        match self.kind {
            Reduction::Mean | Reduction::Var { unbiased: false } => self.count(shape) as f64,
            Reduction::Var { unbiased: true } => self.count(shape) as f64 - 1.0,
            _ => 1.0,
        }
    }
}

impl Op for Reduce {
    fn name(&self) -> &'static str {
        match self.kind {
            Reduction::Sum => "sum",
            Reduction::Mean => "mean",
            Reduction::Max => "max",
            Reduction::Min => "min",
            Reduction::Var { .. } => "var",
            Reduction::LogSumExp => "logsumexp",
        }
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        expect_f32(self.name(), inputs)?;
        let shape = &inputs[0].shape;
        if self.divisor(shape) == 0.0 {
            return Err(Error::shape(
                self.name(),
                format!(
                    "the unbiased variance needs two elements or more, axes {:?} of {shape:?} have one",
                    self.axes
                ),
            ));
        }
        Ok(vec![Spec::f32(reduced_shape(
            shape,
            &self.axes,
            self.keepdim,
        ))])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let x = inputs[0];
        let divisor = self.divisor(&x.shape);
        let start = match self.kind {
            Reduction::Max | Reduction::LogSumExp => f64::NEG_INFINITY,
            Reduction::Min => f64::INFINITY,
            _ => 0.0,
        };
        let mut out = Array::full(reduced_shape(&x.shape, &self.axes, self.keepdim), start);
        let y = &mut out.data;
        match self.kind {
            Reduction::Sum | Reduction::Mean => each(x, &self.axes, |o, _, v| y[o] += v),
            Reduction::Max => each(x, &self.axes, |o, _, v| y[o] = larger(y[o], v)),
            Reduction::Min => each(x, &self.axes, |o, _, v| y[o] = smaller(y[o], v)),
            Reduction::Var { .. } => {
                // From the first element on, so that equal numbers have no variance.
                let (mut first, mut mean) = (vec![0.0; y.len()], vec![0.0; y.len()]);
                let count = self.count(&x.shape) as f64;
                each(x, &self.axes, |o, r, v| {
                    if r == 0 {
                        first[o] = v;
                    }
                });
                each(x, &self.axes, |o, _, v| mean[o] += (v - first[o]) / count);
                let away = |o: usize, v: f64| v - first[o] - mean[o];
                each(x, &self.axes, |o, _, v| y[o] += away(o, v).powi(2));
            }
            Reduction::LogSumExp => {
                each(x, &self.axes, |o, _, v| y[o] = larger(y[o], v));
                // An infinite peak cannot be taken out: e^ of what is left is 0 or inf.
                y.iter_mut()
                    .for_each(|v| *v = if v.is_finite() { *v } else { 0.0 });
                let mut sums = vec![0.0; y.len()];
                each(x, &self.axes, |o, _, v| sums[o] += (v - y[o]).exp());
                for (peak, sum) in y.iter_mut().zip(sums) {
                    *peak += sum.ln();
                }
            }
        }
        y.iter_mut().for_each(|v| *v /= divisor);
        Ok(vec![out])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        let x = cx.input(0).clone();
        let keep = reduced_shape(x.shape(), &self.axes, true);
        let dy = cx.grad(0).reshape(&keep);
        let axes: Vec<isize> = self.axes.iter().map(|a| *a as isize).collect();
        // Dividing keeps the rule exact in float64, multiplying by 1/n would not.
        let divisor = dy.full_like(self.divisor(x.shape()) as f32);
        let grad = match self.kind {
            Reduction::Sum => dy.add(&x.zeros_like()),
            Reduction::Mean => dy.div(&divisor).add(&x.zeros_like()),
            Reduction::Max | Reduction::Min => {
                let op = ArgReduce {
                    largest: self.kind == Reduction::Max,
                    axes: self.axes.clone(),
                };
                let winner = x.graph().push1(op, &[&x]);
                dy.reshape(winner.shape())
                    .place(&winner, x.shape(), &self.axes)
            }
            Reduction::Var { .. } => {
                let centered = x.sub(&x.mean(&axes, true));
                dy.mul_scalar(2.0).div(&divisor).mul(&centered)
            }
            Reduction::LogSumExp => {
                let y = cx.output(0).reshape(&keep);
                // Where all are minus infinity, each has the share 0.
                let nothing = y.stop_gradient().less(&y.full_like(f32::MIN));
                let peak = nothing.select(&y.zeros_like(), &y);
                dy.mul(&x.sub(&peak).exp())
            }
        };
        cx.set(0, grad);
        Ok(())
    }

    fn samples(&self, _: &[Spec]) -> Option<Samples> {
        match self.axes.contains(&0) {
            false => Some(Samples::Apart(vec![0])),
            true if self.kind == Reduction::Sum => Some(Samples::Added(vec![0])),
            true => None,
        }
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let shape = cx.input(0).shape.clone();
        let split = Split::new(&shape, &self.axes);
        let scale = (1.0 / self.divisor(&shape)) as f32;
        let (x, y) = (Slot::In(0), Slot::Out(0));
        let plain = match self.kind {
            Reduction::Sum | Reduction::Mean => Fold::Sum,
            Reduction::Max => Fold::Max { negate: false },
            Reduction::Min => Fold::Max { negate: true },
            Reduction::LogSumExp => Fold::LogSumExp,
            Reduction::Var { .. } => {
                let mean = cx.scratch(4 * split.outputs() as u64);
                return moments(cx, split, x, [mean, y], (scale, false));
            }
        };
        fold(cx, split, plain, &[x], &[y], scale)
    }
}

impl Op for ArgReduce {
    fn name(&self) -> &'static str {
        if self.largest { "argmax" } else { "argmin" }
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        expect_f32(self.name(), inputs)?;
        Ok(vec![Spec::u32(reduced_shape(
            &inputs[0].shape,
            &self.axes,
            false,
        ))])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let mut out = Array::zeros(reduced_shape(&inputs[0].shape, &self.axes, false));
        let mut best: Vec<Option<f64>> = vec![None; out.numel()];
        let sign = if self.largest { 1.0 } else { -1.0 };
        each(inputs[0], &self.axes, |o, r, v| {
            // The first NaN is largest.
            if best[o].is_none_or(|b| sign * v > b || v.is_nan() && !b.is_nan()) {
                best[o] = Some(sign * v);
                out.data[o] = r as f64;
            }
        });
        Ok(vec![out])
    }

    fn samples(&self, _: &[Spec]) -> Option<Samples> {
        (!self.axes.contains(&0)).then(|| Samples::Apart(vec![0]))
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let split = Split::new(&cx.input(0).shape, &self.axes);
        let negate = !self.largest;
        let (x, y) = (Slot::In(0), Slot::Out(0));
        fold(cx, split, Fold::Arg { negate }, &[x], &[y], 1.0)
    }
}

impl Tensor {
    #[track_caller]
    fn reduce(&self, kind: Reduction, axes: &[isize], keepdim: bool) -> Tensor {
        match normalize_axes("reduce", self.shape(), axes) {
            Ok(axes) => {
                let op = Reduce {
                    kind,
                    axes,
                    keepdim,
                };
                self.graph().push1(op, &[self])
            }
            Err(e) => self.graph().poisoned(self.check().err().unwrap_or(e)),
        }
    }

    #[track_caller]
    fn arg_reduce(&self, largest: bool, axis: Option<isize>) -> Tensor {
        match normalize_axes("argmax", self.shape(), axis.as_slice()) {
            Ok(axes) => self.graph().push1(ArgReduce { largest, axes }, &[self]),
            Err(e) => self.graph().poisoned(self.check().err().unwrap_or(e)),
        }
    }

    /// Sums over `axes` (counted from the end where negative; all axes where empty).
    /// Reduced axes stay with extent 1 where `keepdim`.
    #[track_caller]
    pub fn sum(&self, axes: &[isize], keepdim: bool) -> Tensor {
        self.reduce(Reduction::Sum, axes, keepdim)
    }

    /// The mean over `axes`, as for [`Tensor::sum`].
    #[track_caller]
    pub fn mean(&self, axes: &[isize], keepdim: bool) -> Tensor {
        self.reduce(Reduction::Mean, axes, keepdim)
    }

    /// The largest element over `axes`, as for [`Tensor::sum`].
    #[track_caller]
    pub fn max(&self, axes: &[isize], keepdim: bool) -> Tensor {
        self.reduce(Reduction::Max, axes, keepdim)
    }

    /// The smallest element over `axes`, as for [`Tensor::sum`].
    #[track_caller]
    pub fn min(&self, axes: &[isize], keepdim: bool) -> Tensor {
        self.reduce(Reduction::Min, axes, keepdim)
    }

    /// The variance over `axes`, as for [`Tensor::sum`]: the sum of squared distances
    /// from the mean, divided by the number of elements, less one where `unbiased`.
    #[track_caller]
    pub fn var(&self, axes: &[isize], unbiased: bool, keepdim: bool) -> Tensor {
        self.reduce(Reduction::Var { unbiased }, axes, keepdim)
    }

    /// `log sum e^x` over `axes`, as for [`Tensor::sum`]; never overflows. Infinity among
    /// the elements gives infinity; where all are minus infinity, so is the result, and
    /// the gradient is 0.
    #[track_caller]
    pub fn logsumexp(&self, axes: &[isize], keepdim: bool) -> Tensor {
        self.reduce(Reduction::LogSumExp, axes, keepdim)
    }

    /// The Euclidean norm over `axes`, as for [`Tensor::sum`]: the square root of the sum of
    /// squares, which must not exceed the range of f32. The gradient of a norm of 0 is 0,
    /// the least of its subgradients.
    #[track_caller]
    pub fn norm(&self, axes: &[isize], keepdim: bool) -> Tensor {
        let axes = match normalize_axes("norm", self.shape(), axes) {
            Ok(axes) => axes,
            Err(e) => return self.graph().poisoned(self.check().err().unwrap_or(e)),
        };
        let signed: Vec<isize> = axes.iter().map(|a| *a as isize).collect();
        let y = self.square().sum(&signed, keepdim).sqrt();
        let keep = reduced_shape(self.shape(), &axes, true);
        Tensor::with_gradient(&[self], &y, move |inputs, y, dy| {
            let (y, dy) = (y.reshape(&keep), dy.reshape(&keep));
            let zero = y.stop_gradient().equal(&y.zeros_like());
            vec![inputs[0].mul(&dy.div(&zero.select(&y.ones_like(), &y)))]
        })
    }

    /// This tensor over its Euclidean norm along `axis`: `x / max(norm, eps)`, as PyTorch's
    /// `normalize` does (there `eps` is 1e-12 by default). Vectors shorter than `eps` are
    /// divided by it; zeros stay zeros, and their gradient is that of a division by `eps`.
    /// For the range of the norm see [`Tensor::norm`]. Error: `eps` is not a positive number.
    #[track_caller]
    pub fn l2_normalize(&self, axis: isize, eps: f32) -> Tensor {
        if !(eps > 0.0 && eps.is_finite()) {
            let detail = format!("eps is {eps}; it must be a positive number, 1e-12 for example");
            let error = Error::argument("l2_normalize", detail);
            return self.graph().poisoned(self.check().err().unwrap_or(error));
        }
        let length = self.norm(&[axis], true);
        self.div(&length.clamp(eps, f32::INFINITY))
    }

    /// The u32 index of the largest element along `axis`, which vanishes; of the whole
    /// row-major tensor (a scalar) for `None`. The lowest of equals.
    #[track_caller]
    pub fn argmax(&self, axis: Option<isize>) -> Tensor {
        self.arg_reduce(true, axis)
    }

    /// The u32 index of the smallest element, as for [`Tensor::argmax`].
    #[track_caller]
    pub fn argmin(&self, axis: Option<isize>) -> Tensor {
        self.arg_reduce(false, axis)
    }
}
