//! Normalisation by statistics: batch, group and layer norm.
//!
//! Training is two ops: [`Moments`] (mean and variance, one or two passes over `x`) and
//! [`Normalize`], which is pointwise, so that the planner fuses it with the activation
//! that follows. The gradient needs one pass for two sums ([`CenteredSums`]) and one
//! pointwise chain. Ioffe and Szegedy 2015; Wu and He 2018; Ba et al. 2016.

use super::variance::{inverse_deviation, narrow, raised, units};
use crate::graph::{Array, Kind, Lower, Op, Pointwise, Samples, Slot, Spec, Tensor, Vjp};
use crate::ops::reduce::axes::{each, expect_f32, normalize_axes, reduced_shape};
use crate::ops::reduce::fold::{Fold, Split, fold, moments};
use crate::{Error, Result, Shape};

/// Mean and biased variance, a wide one, over `axes`, which stay with extent 1.
#[derive(Debug)]
struct Moments {
    axes: Vec<usize>,
}

/// `(x - mean) / sqrt(var + eps)`, with `* gamma + beta` where there are five inputs.
/// All inputs but the first have extent 1 or that of `x` along every axis.
#[derive(Debug)]
pub(in crate::ops) struct Normalize {
    pub eps: f32,
    /// Whether the variance is a wide one.
    pub wide: bool,
}

/// From `g`, `x` and `mean`: `sum g` and `sum g (x - mean)` over `axes`.
#[derive(Debug)]
pub(in crate::ops) struct CenteredSums {
    pub axes: Vec<usize>,
}

impl Op for Moments {
    fn name(&self) -> &'static str {
        "moments"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        expect_f32(self.name(), inputs)?;
        let spec = Spec::f32(reduced_shape(&inputs[0].shape, &self.axes, true));
        Ok(vec![spec.clone(), spec])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let x = inputs[0];
        let mut first = Array::zeros(reduced_shape(&x.shape, &self.axes, true));
        let (mut mean, mut var) = (first.clone(), first.clone());
        let count = x.numel() as f64 / mean.numel() as f64;
        // From the first element on, so that equal numbers have no variance.
        each(x, &self.axes, |o, r, v| {
            if r == 0 {
                first.data[o] = v;
            }
        });
        each(x, &self.axes, |o, _, v| {
            mean.data[o] += (v - first.data[o]) / count
        });
        each(x, &self.axes, |o, _, v| {
            var.data[o] += (v - first.data[o] - mean.data[o]).powi(2) / count
        });
        for (mean, first) in mean.data.iter_mut().zip(first.data) {
            *mean += first;
        }
        Ok(vec![mean, var])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        let (x, mean) = (cx.input(0).clone(), cx.output(0).clone());
        // Dividing keeps the rule exact in float64, multiplying by 1/n would not.
        let count = mean.full_like((x.numel() / mean.numel()) as f32);
        let [near, far] = units(cx.output(1));
        let by_var = cx.grad_if_any(1).map(|u| {
            let share = u.mul_scalar(2.0).div(&count).mul(&near);
            share.mul(&x.sub(&mean)).mul(&far)
        });
        let by_mean = cx.grad_if_any(0).map(|u| u.div(&count));
        let grad = match (by_mean, by_var) {
            (Some(a), Some(b)) => a.add(&b),
            (Some(a), None) => a.add(&x.zeros_like()),
            (None, Some(b)) => b,
            (None, None) => x.zeros_like(),
        };
        cx.set(0, grad);
        Ok(())
    }

    fn samples(&self, _: &[Spec]) -> Option<Samples> {
        (!self.axes.contains(&0)).then(|| Samples::Apart(vec![0]))
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let split = Split::new(&cx.input(0).shape, &self.axes);
        let share = 1.0 / split.count() as f32;
        let outputs = [Slot::Out(0), Slot::Out(1)];
        moments(cx, split, Slot::In(0), outputs, (share, true))
    }
}

/// Axes along which `stats` has one element: those it was taken over.
fn axes_of(stats: &Shape) -> Vec<usize> {
    (0..stats.rank()).filter(|i| stats[*i] == 1).collect()
}

impl Op for CenteredSums {
    fn name(&self) -> &'static str {
        "centered_sums"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        expect_f32(self.name(), inputs)?;
        let stats = reduced_shape(&inputs[0].shape, &self.axes, true);
        if inputs[0] != inputs[1] || inputs[2].shape != stats {
            return Err(Error::shape(
                self.name(),
                format!(
                    "g {:?}, x {:?} and the mean {:?} do not fit together",
                    inputs[0].shape, inputs[1].shape, inputs[2].shape
                ),
            ));
        }
        Ok(vec![Spec::f32(&stats), Spec::f32(&stats)])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let (g, x, mean) = (inputs[0], inputs[1], inputs[2]);
        let mut plain = Array::zeros(&mean.shape);
        let mut centered = plain.clone();
        let mut at = 0;
        each(g, &self.axes, |o, _, v| {
            plain.data[o] += v;
            centered.data[o] += v * (x.data[at] - mean.data[o]);
            at += 1;
        });
        Ok(vec![plain, centered])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        let (g, x, mean) = (
            cx.input(0).clone(),
            cx.input(1).clone(),
            cx.input(2).clone(),
        );
        let (u_plain, u_centered) = (cx.grad(0), cx.grad(1));
        if cx.needs(0) {
            cx.set(0, u_plain.add(&u_centered.mul(&x.sub(&mean))));
        }
        if cx.needs(1) {
            cx.set(1, u_centered.mul(&g));
        }
        if cx.needs(2) {
            let grad = u_centered.mul(cx.output(0)).neg();
            cx.set(2, grad);
        }
        Ok(())
    }

    fn samples(&self, _: &[Spec]) -> Option<Samples> {
        (!self.axes.contains(&0)).then(|| Samples::Apart(vec![0, 1, 2]))
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let split = Split::new(&cx.input(0).shape, &self.axes);
        let inputs = [Slot::In(0), Slot::In(1), Slot::In(2)];
        let outputs = [Slot::Out(0), Slot::Out(1)];
        fold(cx, split, Fold::Dot, &inputs, &outputs, 1.0)
    }
}

impl Pointwise for Normalize {
    fn wgsl(&self, x: &[&str]) -> String {
        let eps = x[x.len() - 1];
        let plain = match self.wide {
            true => format!("normalized({}, {}, {}, {eps})", x[0], x[1], x[2]),
            false => format!("({} - {}) / deviation({} + {eps})", x[0], x[1], x[2]),
        };
        match x {
            [_, _, _, gamma, beta, _] => format!("{plain} * {gamma} + {beta}"),
            _ => plain,
        }
    }

    fn imports(&self) -> &'static [&'static str] {
        &["math"]
    }

    fn scalars(&self) -> Vec<f32> {
        vec![self.eps]
    }

    fn flops(&self) -> u64 {
        6
    }
}

impl Op for Normalize {
    fn name(&self) -> &'static str {
        "normalize"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        expect_f32(self.name(), inputs)?;
        let (x, stats) = (&inputs[0].shape, &inputs[1].shape);
        let fits = x.rank() == stats.rank()
            && x.dims()
                .iter()
                .zip(stats.dims())
                .all(|(d, s)| s == d || *s == 1)
            && inputs[2..].iter().all(|s| &s.shape == stats);
        if !fits {
            let given: Vec<&Shape> = inputs[1..].iter().map(|s| &s.shape).collect();
            return Err(Error::shape(
                self.name(),
                format!(
                    "mean, variance, scale and shift must have one shape that fits {x:?}, they are {given:?}"
                ),
            ));
        }
        Ok(vec![inputs[0].clone()])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let axes = axes_of(&inputs[1].shape);
        let mut out = Vec::with_capacity(inputs[0].numel());
        each(inputs[0], &axes, |o, _, v| {
            let deviation = match inputs[2].data[o] {
                // What is divided by it would be 0, as if all were equal.
                var if var.is_infinite() => f64::NAN,
                var => (var + self.eps as f64).sqrt(),
            };
            let plain = (v - inputs[1].data[o]) / deviation;
            out.push(match inputs {
                [_, _, _, gamma, beta] => plain * gamma.data[o] + beta.data[o],
                _ => plain,
            });
        });
        Ok(vec![Array::new(&inputs[0].shape, out)?])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        let dy = cx.grad(0);
        let (x, mean) = (cx.input(0).clone(), cx.input(1).clone());
        let raised = match self.wide {
            true => raised(cx.input(2), self.eps),
            false => cx.input(2).add_scalar(self.eps),
        };
        let rstd = inverse_deviation(&raised, self.wide);
        let affine = cx.inputs() == 5;
        let scale = if affine {
            rstd.mul(cx.input(3))
        } else {
            rstd.clone()
        };
        if cx.needs(0) {
            cx.set(0, dy.mul(&scale));
        }
        if !(1..cx.inputs()).any(|i| cx.needs(i)) {
            return Ok(());
        }
        let op = CenteredSums {
            axes: axes_of(mean.shape()),
        };
        let sums = x.graph().push(op, &[&dy, &x, &mean]);
        if cx.needs(1) {
            cx.set(1, sums[0].mul(&scale).neg());
        }
        if cx.needs(2) {
            // A product of the three roots would leave float32 before a large sum joins it.
            let grad = sums[1].mul(&scale).div(&raised).mul_scalar(-0.5);
            cx.set(2, grad);
        }
        if affine && cx.needs(3) {
            cx.set(3, sums[1].mul(&rstd));
        }
        if affine && cx.needs(4) {
            cx.set(4, sums[0].clone());
        }
        Ok(())
    }

    fn lower(&self, _: &mut Lower<'_>) -> Result<()> {
        // The planner generates the dispatch of a whole chain.
        Ok(())
    }

    fn kind(&self) -> Kind<'_> {
        Kind::Pointwise(self)
    }
}

impl Tensor {
    /// Mean and biased variance over `axes`, as for [`Tensor::sum`]: all where empty, with
    /// extent 1 where `keepdim`, else gone. The variance is taken around the mean: few of
    /// its digits are lost far from zero.
    #[track_caller]
    pub fn moments(&self, axes: &[isize], keepdim: bool) -> (Tensor, Tensor) {
        let axes = match normalize_axes("moments", self.shape(), axes) {
            Ok(axes) => axes,
            Err(e) => {
                let poison = self.graph().poisoned(self.check().err().unwrap_or(e));
                return (poison.clone(), poison);
            }
        };
        let shape = reduced_shape(self.shape(), &axes, keepdim);
        let (mean, wide) = self.wide_moments(axes);
        (mean.reshape(&shape), narrow(&wide).reshape(shape))
    }

    /// Mean and wide variance over `axes`, which stay with extent 1.
    #[track_caller]
    fn wide_moments(&self, axes: Vec<usize>) -> (Tensor, Tensor) {
        let mut pair = self.graph().push(Moments { axes }, &[self]);
        let var = pair.swap_remove(1);
        (pair.swap_remove(0), var)
    }

    /// `(x - mean) / sqrt(var + eps) * gamma + beta`, where the other tensors have one
    /// shape, with extent 1 or that of `x` along every axis.
    #[track_caller]
    fn normalize(
        &self,
        mean: &Tensor,
        var: &Tensor,
        [gamma, beta]: [Option<&Tensor>; 2],
        op: Normalize,
    ) -> Tensor {
        if gamma.is_none() && beta.is_none() {
            return self.graph().push1(op, &[self, mean, var]);
        }
        let gamma = gamma.cloned().unwrap_or_else(|| mean.ones_like());
        let beta = beta.cloned().unwrap_or_else(|| mean.zeros_like());
        self.graph().push1(op, &[self, mean, var, &gamma, &beta])
    }

    /// The shape `[1, C, 1, ..]` of this tensor's statistics per channel.
    fn channel_shape(&self) -> Shape {
        let axes: Vec<usize> = (0..self.shape().rank()).filter(|i| *i != 1).collect();
        reduced_shape(self.shape(), &axes, true)
    }

    /// Batch norm with the batch's own statistics: `[N, C, ..]` is normalised per
    /// channel by mean and biased variance over all other axes, then scaled by `gamma`
    /// `[C]` and shifted by `beta` `[C]`. Returns the result, and mean and biased
    /// variance, both `[C]`; a variance beyond float32 (deviations from 1.8e19 on) is
    /// infinite, the result is right all the same.
    #[track_caller]
    pub fn batch_norm_train(
        &self,
        gamma: Option<&Tensor>,
        beta: Option<&Tensor>,
        eps: f32,
    ) -> (Tensor, Tensor, Tensor) {
        if self.shape().rank() < 2 {
            let poison = self.needs_channels();
            return (poison.clone(), poison.clone(), poison);
        }
        let stats = self.channel_shape();
        let axes = (0..self.shape().rank()).filter(|i| *i != 1).collect();
        let (mean, var) = self.wide_moments(axes);
        let [gamma, beta] = [gamma, beta].map(|t| t.map(|t| t.reshape(&stats)));
        let op = Normalize { eps, wide: true };
        let y = self.normalize(&mean, &var, [gamma.as_ref(), beta.as_ref()], op);
        let channels = [self.dim(1)];
        (y, mean.reshape(channels), narrow(&var).reshape(channels))
    }

    /// Batch norm with given statistics: `mean`, `var`, `gamma` and `beta` are `[C]`,
    /// the tensor `[N, C, ..]`. An infinite variance gives NaN, not zeros.
    #[track_caller]
    pub fn batch_norm_eval(
        &self,
        mean: &Tensor,
        var: &Tensor,
        gamma: Option<&Tensor>,
        beta: Option<&Tensor>,
        eps: f32,
    ) -> Tensor {
        if self.shape().rank() < 2 {
            return self.needs_channels();
        }
        let stats = self.channel_shape();
        let (mean, var) = (mean.reshape(&stats), var.reshape(&stats));
        let [gamma, beta] = [gamma, beta].map(|t| t.map(|t| t.reshape(&stats)));
        let op = Normalize { eps, wide: false };
        self.normalize(&mean, &var, [gamma.as_ref(), beta.as_ref()], op)
    }

    #[track_caller]
    fn needs_channels(&self) -> Tensor {
        let detail = format!("expected [N, C, ..], got {:?}", self.shape());
        let error = Error::shape("batch_norm", detail);
        self.graph().poisoned(self.check().err().unwrap_or(error))
    }

    /// Layer norm over the trailing axes `normalized`, scaled by `gamma` and shifted by
    /// `beta`, both of the shape `normalized`.
    #[track_caller]
    pub fn layer_norm(
        &self,
        normalized: &[usize],
        gamma: Option<&Tensor>,
        beta: Option<&Tensor>,
        eps: f32,
    ) -> Tensor {
        if normalized.is_empty() || !self.shape().dims().ends_with(normalized) {
            let detail = format!("{:?} does not end with {normalized:?}", self.shape());
            let error = Error::shape("layer_norm", detail);
            return self.graph().poisoned(self.check().err().unwrap_or(error));
        }
        let rank = self.shape().rank();
        let (mean, var) = self.wide_moments((rank - normalized.len()..rank).collect());
        let y = self.normalize(&mean, &var, [None, None], Normalize { eps, wide: true });
        y.affine(gamma, beta, normalized)
    }

    /// Group norm: the channels of `[N, C, ..]` are normalised in `groups` groups of
    /// consecutive ones, then scaled by `gamma` `[C]` and shifted by `beta` `[C]`.
    #[track_caller]
    pub fn group_norm(
        &self,
        groups: usize,
        gamma: Option<&Tensor>,
        beta: Option<&Tensor>,
        eps: f32,
    ) -> Tensor {
        if self.shape().rank() < 2 {
            return self.needs_channels();
        }
        let (n, channels) = (self.dim(0), self.dim(1));
        if groups == 0 || !channels.is_multiple_of(groups) {
            let detail = format!("{channels} channels do not fall into {groups} groups");
            let error = Error::shape("group_norm", detail);
            return self.graph().poisoned(error);
        }
        let rows = self.reshape([n, groups, self.numel() / (n * groups)]);
        let (mean, var) = rows.wide_moments(vec![2]);
        let y = rows.normalize(&mean, &var, [None, None], Normalize { eps, wide: true });
        let stats = self.channel_shape();
        y.reshape(self.shape())
            .affine(gamma, beta, &stats.dims()[1..])
    }

    /// `x * gamma + beta`, both reshaped to `shape` and broadcast.
    #[track_caller]
    fn affine(&self, gamma: Option<&Tensor>, beta: Option<&Tensor>, shape: &[usize]) -> Tensor {
        let scaled = match gamma {
            Some(gamma) => self.mul(&gamma.reshape(shape)),
            None => self.clone(),
        };
        match beta {
            Some(beta) => scaled.add(&beta.reshape(shape)),
            None => scaled,
        }
    }
}
