//! Base distributions without components: standard and learned diagonal Gaussians and
//! the logistic distribution.

use std::f32::consts::TAU;

use super::{Base, Context};
use crate::graph::Tensor;
use crate::{Error, Graph, Init, Param, Params, Result, Shape};

/// `log N(x; mean, diag(e^(2 log_std)))` of every sample: `[N]`, in nats. `mean` and
/// `log_std` are broadcast to `x` `[N, ..]`; the density is over all axes but the first.
#[track_caller]
pub fn gaussian_log_prob(x: &Tensor, mean: &Tensor, log_std: &Tensor) -> Tensor {
    let unit = x.sub(mean).mul(&log_std.neg().exp());
    let log_prob = unit.square().mul_scalar(-0.5).sub(log_std);
    per_sample(&log_prob).add_scalar(-0.5 * TAU.ln() * (x.numel() / x.dim(0)) as f32)
}

/// The log-density of the standard normal distribution over all axes but the first of
/// `x` `[N, ..]`: `[N]`, in nats.
#[track_caller]
pub fn standard_normal_log_prob(x: &Tensor) -> Tensor {
    let squares = per_sample(&x.square());
    let dims = (x.numel() / x.dim(0)) as f32;
    squares.mul_scalar(-0.5).add_scalar(-0.5 * TAU.ln() * dims)
}

/// The log-density of the standard logistic distribution, `-x - 2 softplus(-x)`, over
/// all axes but the first of `x` `[N, ..]`: `[N]`, in nats.
#[track_caller]
pub fn standard_logistic_log_prob(x: &Tensor) -> Tensor {
    // Even in x, so written with |x|: no term is large where the sum is small.
    let a = x.abs();
    per_sample(&a.add(&a.neg().softplus().mul_scalar(2.0)).neg())
}

/// The sum over all axes but the first.
#[track_caller]
pub(super) fn per_sample(x: &Tensor) -> Tensor {
    let axes: Vec<isize> = (1..x.shape().rank() as isize).collect();
    match axes.is_empty() {
        true => x.clone(), // one number per sample already (`sum` over no axes is over all)
        false => x.sum(&axes, false),
    }
}

/// `[n, event..]`
pub(super) fn batch_of(n: usize, event: &Shape) -> Shape {
    let mut dims = vec![n];
    dims.extend(event.dims());
    dims.into()
}

/// Poison unless `z` is `[N, event..]`.
#[track_caller]
pub(super) fn check_event(base: &str, z: &Tensor, event: &Shape) -> Option<Tensor> {
    if z.check().is_err() {
        return Some(z.clone());
    }
    let fits = z
        .shape()
        .dims()
        .split_first()
        .is_some_and(|(_, rest)| rest == event.dims());
    (!fits).then(|| {
        z.graph().poisoned(Error::shape(
            base,
            format!(
                "the samples are {:?}, this distribution is over [N, ..{event:?}]",
                z.shape()
            ),
        ))
    })
}

/// Poison unless there is something to draw at a temperature above 0.
#[track_caller]
pub(super) fn check_draw(graph: &Graph, n: usize, temperature: f32) -> Option<Tensor> {
    if n > 0 && temperature > 0.0 && temperature.is_finite() {
        return None;
    }
    Some(graph.poisoned(Error::argument(
        "sample",
        format!("{n} samples at temperature {temperature}: at least one sample and a temperature above 0 are needed"),
    )))
}

/// The standard normal distribution over events of one shape; no parameters.
pub struct StandardNormal {
    event: Shape,
}

impl StandardNormal {
    /// Over samples `[N, event..]`.
    pub fn new(event: impl Into<Shape>) -> Self {
        StandardNormal {
            event: event.into(),
        }
    }
}

impl Base for StandardNormal {
    fn log_prob(&self, z: &Tensor, _: &Context<'_>) -> Tensor {
        check_event("StandardNormal", z, &self.event).unwrap_or_else(|| standard_normal_log_prob(z))
    }

    fn sample(&self, graph: &Graph, n: usize, temperature: f32, _: &Context<'_>) -> Tensor {
        check_draw(graph, n, temperature).unwrap_or_else(|| {
            let noise = graph.normal(batch_of(n, &self.event));
            noise.mul_scalar(temperature)
        })
    }
}

/// The standard logistic distribution, independent in all dimensions (NICE's prior for
/// images); no parameters. Its density is `e^-x / (1 + e^-x)^2`.
pub struct Logistic {
    event: Shape,
}

impl Logistic {
    /// Over samples `[N, event..]`.
    pub fn new(event: impl Into<Shape>) -> Self {
        Logistic {
            event: event.into(),
        }
    }
}

impl Base for Logistic {
    fn log_prob(&self, z: &Tensor, _: &Context<'_>) -> Tensor {
        check_event("Logistic", z, &self.event).unwrap_or_else(|| standard_logistic_log_prob(z))
    }

    fn sample(&self, graph: &Graph, n: usize, temperature: f32, _: &Context<'_>) -> Tensor {
        check_draw(graph, n, temperature).unwrap_or_else(|| {
            // The inverse of the distribution function. Uniform numbers are multiples of
            // 2^-24 and may be 0, whose logarithm is not a number to draw.
            let u = graph.uniform(batch_of(n, &self.event));
            let u = u.maximum(&u.full_like(0.5f32.powi(25)));
            let rest = u.neg().add_scalar(1.0);
            u.log().sub(&rest.log()).mul_scalar(temperature)
        })
    }
}

/// A Gaussian with learned mean and standard deviation in every dimension.
///
/// Parameters `loc` and `log_scale`, 0 at first: the standard normal distribution.
pub struct DiagonalGaussian {
    event: Shape,
    loc: Param,
    log_scale: Param,
}

impl DiagonalGaussian {
    /// Over samples `[N, event..]`, with one mean and one deviation per element of the
    /// event. Errors: see [`Params::add`].
    pub fn new(params: &Params, event: impl Into<Shape>) -> Result<Self> {
        let event = event.into();
        Self::with(params, event.clone(), event)
    }

    /// Over images `[N, C, H, W]` with the event `[C, H, W]`, with one mean and one
    /// deviation per channel, `[C, 1, 1]` (DenseFlow).
    pub fn per_channel(params: &Params, event: [usize; 3]) -> Result<Self> {
        Self::with(params, event.into(), [event[0], 1, 1].into())
    }

    fn with(params: &Params, event: Shape, shape: Shape) -> Result<Self> {
        Ok(DiagonalGaussian {
            event,
            loc: params.add("loc", shape.clone(), Init::Zeros)?,
            log_scale: params.add("log_scale", shape, Init::Zeros)?,
        })
    }
}

impl Base for DiagonalGaussian {
    fn log_prob(&self, z: &Tensor, _: &Context<'_>) -> Tensor {
        check_event("DiagonalGaussian", z, &self.event).unwrap_or_else(|| {
            let whole = |p: &Param| p.on(z.graph()).broadcast_to(&self.event);
            gaussian_log_prob(z, &whole(&self.loc), &whole(&self.log_scale))
        })
    }

    fn sample(&self, graph: &Graph, n: usize, temperature: f32, _: &Context<'_>) -> Tensor {
        check_draw(graph, n, temperature).unwrap_or_else(|| {
            let noise = graph
                .normal(batch_of(n, &self.event))
                .mul_scalar(temperature);
            let scale = self.log_scale.on(graph).exp();
            noise.mul(&scale).add(&self.loc.on(graph))
        })
    }
}
