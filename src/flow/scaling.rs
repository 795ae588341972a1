//! Learned scales without a network: one per dimension, and batch normalisation.

use super::preprocess::no_pixels;
use super::{Bijector, Context, Mapped, for_all_samples, pixels};
use crate::graph::Tensor;
use crate::{Error, Init, Param, Params, Result, Shape};

/// `z = x * e^log_scale` with one scale per element of an event: the last layer of NICE
/// (Dinh et al. 2014, section 3.3). `log_det = sum(log_scale)`.
///
/// Parameter `log_scale` `[event..]`, 0 at first. The first values may depend on data
/// ([`Context::computing`]): `-log(std)` of every element over the batch, where a deviation
/// counts as at least 0.05 of the largest (images have borders that never change).
pub struct DiagonalScaling {
    log_scale: Param,
}

impl DiagonalScaling {
    /// Over `[N, event..]`. Errors: see [`Params::add`].
    pub fn new(params: &Params, event: impl Into<Shape>) -> Result<Self> {
        Ok(DiagonalScaling {
            log_scale: params.add("log_scale", event, Init::Zeros)?,
        })
    }

    fn map(&self, x: &Tensor, sign: f32, cx: &Context<'_>) -> Mapped {
        let event = self.log_scale.shape().dims();
        let fits = x
            .shape()
            .dims()
            .split_first()
            .is_some_and(|(_, rest)| rest == event);
        if !fits {
            let detail = format!(
                "the input is {:?}, this layer takes [N, ..{event:?}]",
                x.shape()
            );
            return poisoned(x, Error::shape(self.name(), detail));
        }
        let log_scale = match cx.first_values() {
            Some(first) => {
                let std = x.var(&[0], false, false).sqrt();
                let least = std.max(&[], false).mul_scalar(0.05).add_scalar(1e-6);
                let log_scale = std.maximum(&least).log().neg();
                first.report(&self.log_scale, &log_scale);
                log_scale
            }
            None => self.log_scale.on(x.graph()),
        };
        let log_scale = log_scale.mul_scalar(sign);
        Mapped {
            out: x.mul(&log_scale.exp()),
            log_det: for_all_samples(&log_scale.sum(&[], false), x),
        }
    }
}

#[track_caller]
fn poisoned(x: &Tensor, error: Error) -> Mapped {
    let wrong = x.graph().poisoned(x.check().err().unwrap_or(error));
    Mapped {
        out: wrong.clone(),
        log_det: wrong,
    }
}

impl Bijector for DiagonalScaling {
    fn name(&self) -> &str {
        "diagonal scaling"
    }

    fn forward(&self, x: &Tensor, cx: &Context<'_>) -> Mapped {
        self.map(x, 1.0, cx)
    }

    fn inverse(&self, z: &Tensor, cx: &Context<'_>) -> Mapped {
        self.map(z, -1.0, cx)
    }

    fn pixel_log_det(&self, x: &Tensor, cx: &Context<'_>) -> Tensor {
        let mapped = self.forward(x, cx);
        if mapped.out.check().is_err() || x.shape().rank() != 4 {
            return no_pixels(self.name(), &mapped.out);
        }
        let each = self.log_scale.on(x.graph()).sum(&[0], false);
        each.broadcast_to([x.dim(0), x.dim(2), x.dim(3)])
    }
}

/// Batch normalisation as a layer of a flow (Dinh et al. 2017, RealNVP, section 3.7;
/// Papamakarios et al. 2017, MAF): `z = (x - mean) / sqrt(var + eps) * e^log_gamma + beta`
/// per channel of `[N, C]` or `[N, C, H, W]`, with the log-determinant
/// `H W sum(log_gamma - log(var + eps) / 2)`.
///
/// Parameters `log_gamma` and `beta` `[C]`, 0 at first; states `running_mean` (0) and
/// `running_var` (1). In training the batch's own mean and biased variance normalise, and
/// the states move toward them by `momentum`; the inverse exists in evaluation only.
pub struct BatchNorm {
    log_gamma: Param,
    beta: Param,
    running_mean: Param,
    running_var: Param,
    eps: f32,
    momentum: f32,
}

impl BatchNorm {
    /// `eps` 1e-5, momentum 0.1. Errors: see [`Params::add`].
    pub fn new(params: &Params, channels: usize) -> Result<Self> {
        Ok(BatchNorm {
            log_gamma: params.add("log_gamma", [channels], Init::Zeros)?,
            beta: params.add("beta", [channels], Init::Zeros)?,
            running_mean: params.add_state("running_mean", [channels], Init::Zeros)?,
            running_var: params.add_state("running_var", [channels], Init::Ones)?,
            eps: 1e-5,
            momentum: 0.1,
        })
    }

    /// The same layer with another `eps`.
    pub fn eps(mut self, eps: f32) -> Self {
        self.eps = eps;
        self
    }

    /// The same layer with another momentum.
    pub fn momentum(mut self, momentum: f32) -> Self {
        self.momentum = momentum;
        self
    }

    fn check(&self, x: &Tensor) -> Result<()> {
        x.check()?;
        let channels = self.beta.shape().numel();
        match x.shape().rank() >= 2 && x.dim(1) == channels {
            true => Ok(()),
            false => Err(Error::shape(
                "batch norm",
                format!(
                    "the input is {:?}, this layer takes [N, {channels}, ..]",
                    x.shape()
                ),
            )),
        }
    }

    /// What a pixel contributes to the log-determinant.
    fn of_a_pixel(&self, var: &Tensor) -> Tensor {
        let half = var.add_scalar(self.eps).log().mul_scalar(0.5);
        self.log_gamma.on(var.graph()).sub(&half).sum(&[], false)
    }

    fn log_det(&self, x: &Tensor, var: &Tensor) -> Tensor {
        for_all_samples(&self.of_a_pixel(var).mul_scalar(pixels(x) as f32), x)
    }
}

impl Bijector for BatchNorm {
    fn name(&self) -> &str {
        "batch norm"
    }

    fn forward(&self, x: &Tensor, cx: &Context<'_>) -> Mapped {
        if let Err(e) = self.check(x) {
            return poisoned(x, e);
        }
        let graph = x.graph();
        let (gamma, beta) = (self.log_gamma.on(graph).exp(), self.beta.on(graph));
        let (old_mean, old_var) = (self.running_mean.on(graph), self.running_var.on(graph));
        if !cx.mode().uses_batch_statistics() {
            let out = x.batch_norm_eval(&old_mean, &old_var, Some(&gamma), Some(&beta), self.eps);
            let log_det = self.log_det(x, &old_var);
            return Mapped { out, log_det };
        }
        let (out, mean, var) = x.batch_norm_train(Some(&gamma), Some(&beta), self.eps);
        for (state, new) in [(&old_mean, &mean), (&old_var, &var)] {
            let new = new.mul_scalar(self.momentum);
            let keep = 1.0 - self.momentum;
            graph.update(state, |old| old.mul_scalar(keep).add(&new));
        }
        let log_det = self.log_det(x, &var);
        Mapped { out, log_det }
    }

    fn inverse(&self, z: &Tensor, cx: &Context<'_>) -> Mapped {
        if let Err(e) = self.check(z) {
            return poisoned(z, e);
        }
        if cx.mode().uses_batch_statistics() {
            let detail = "the statistics of a training batch are not known to the inverse; use Context::eval()";
            return poisoned(z, Error::argument(self.name(), detail));
        }
        let graph = z.graph();
        let (mean, var) = (self.running_mean.on(graph), self.running_var.on(graph));
        let mut shape = vec![1; z.shape().rank()];
        shape[1] = z.dim(1);
        let std = var.add_scalar(self.eps).sqrt();
        let scale = std.mul(&self.log_gamma.on(graph).neg().exp());
        let along = |t: &Tensor| t.reshape(&shape[..]);
        let centred = z.sub(&along(&self.beta.on(graph)));
        Mapped {
            out: centred.mul(&along(&scale)).add(&along(&mean)),
            log_det: self.log_det(z, &var).neg(),
        }
    }

    fn pixel_log_det(&self, x: &Tensor, cx: &Context<'_>) -> Tensor {
        if self.check(x).is_err() || x.shape().rank() != 4 {
            return no_pixels(self.name(), x);
        }
        let var = match cx.mode().uses_batch_statistics() {
            true => x.moments(&[0, 2, 3], true).1.reshape(self.beta.shape()),
            false => self.running_var.on(x.graph()),
        };
        let each = self.of_a_pixel(&var).reshape([1, 1, 1]);
        each.broadcast_to([x.dim(0), x.dim(2), x.dim(3)])
    }

    fn is_reversible(&self) -> bool {
        false
    }
}
