//! ActNorm: `(x + bias) * e^log_scale` per channel (Kingma and Dhariwal 2018, Glow), its
//! inverse, and the values of bias and log-scale that normalise a batch.
//!
//! Both directions are pointwise, so the planner fuses them with their neighbours; the
//! gradient needs one pass for two sums, over the output and its gradient, and one chain.

use super::batch_norm::CenteredSums;
use crate::graph::{Array, Kind, Lower, Op, Pointwise, Spec, Tensor, Vjp};
use crate::ops::reduce::axes::{each, expect_f32, reduced_shape};
use crate::{Error, Result, Shape};

/// `(x + bias) * e^log_scale`, or the inverse `x * e^-log_scale - bias`. The parameters
/// have the shape `[1, C, 1, ..]`.
#[derive(Debug)]
struct ActNorm {
    inverse: bool,
}

/// The shape `[1, C, 1, ..]` for a tensor `[N, C, ..]`.
fn channel_shape(shape: &Shape) -> Shape {
    let axes: Vec<usize> = (0..shape.rank()).filter(|i| *i != 1).collect();
    reduced_shape(shape, &axes, true)
}

impl Pointwise for ActNorm {
    fn wgsl(&self, x: &[&str]) -> String {
        match self.inverse {
            false => format!("({} + {}) * exp_f32({})", x[0], x[1], x[2]),
            true => format!("{} * exp_f32(-({})) - {}", x[0], x[2], x[1]),
        }
    }

    fn imports(&self) -> &'static [&'static str] {
        &["math"]
    }

    fn flops(&self) -> u64 {
        10
    }
}

impl Op for ActNorm {
    fn name(&self) -> &'static str {
        if self.inverse {
            "actnorm_inverse"
        } else {
            "actnorm"
        }
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        expect_f32(self.name(), inputs)?;
        let (x, bias, log_scale) = (&inputs[0].shape, &inputs[1].shape, &inputs[2].shape);
        if x.rank() < 2 || *bias != channel_shape(x) || log_scale != bias {
            return Err(Error::shape(
                self.name(),
                format!(
                    "expected [N, C, ..] and one bias and one log-scale per channel, got {x:?}, {bias:?} and {log_scale:?}"
                ),
            ));
        }
        Ok(vec![inputs[0].clone()])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let axes: Vec<usize> = (0..inputs[0].shape.rank()).filter(|i| *i != 1).collect();
        let (bias, log_scale) = (inputs[1], inputs[2]);
        let mut out = Vec::with_capacity(inputs[0].numel());
        each(inputs[0], &axes, |c, _, v| {
            out.push(match self.inverse {
                false => (v + bias.data[c]) * log_scale.data[c].exp(),
                true => v * (-log_scale.data[c]).exp() - bias.data[c],
            });
        });
        Ok(vec![Array::new(&inputs[0].shape, out)?])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        let (y, dy) = (cx.output(0).clone(), cx.grad(0));
        let (bias, log_scale) = (cx.input(1).clone(), cx.input(2).clone());
        let scale = match self.inverse {
            false => log_scale.exp(),
            true => log_scale.neg().exp(),
        };
        if cx.needs(0) {
            cx.set(0, dy.mul(&scale));
        }
        if !cx.needs(1) && !cx.needs(2) {
            return Ok(());
        }
        // Forward: sum dy and sum dy y. Inverse: sum dy and sum dy (y + bias).
        let axes = (0..y.shape().rank()).filter(|i| *i != 1).collect();
        let middle = match self.inverse {
            false => bias.zeros_like(),
            true => bias.neg(),
        };
        let mut sums = y.graph().push(CenteredSums { axes }, &[&dy, &y, &middle]);
        let by_log = sums.swap_remove(1);
        let plain = sums.swap_remove(0);
        if cx.needs(1) {
            cx.set(
                1,
                match self.inverse {
                    false => plain.mul(&scale),
                    true => plain.neg(),
                },
            );
        }
        if cx.needs(2) {
            cx.set(2, if self.inverse { by_log.neg() } else { by_log });
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

/// Bias and log-scale that normalise a batch, as [`Tensor::actnorm_init`] finds them, all
/// `[C]`.
pub struct ActNormInit {
    /// Minus the mean.
    pub bias: Tensor,
    /// Minus the logarithm of the standard deviation.
    pub log_scale: Tensor,
    /// The standard deviation; rounding only where a channel is constant.
    pub std: Tensor,
}

impl Tensor {
    /// `(x + bias) * e^log_scale` per channel of `[N, C, ..]`, with `bias` and `log_scale`
    /// `[C]`, and the log-determinant `[N]` in nats, `H * W * sum(log_scale)` for every
    /// sample of `[N, C, H, W]`.
    ///
    /// Other conventions by their parameters: OpenAI's Glow stores a third of the
    /// log-scale, DenseFlow has `(x - shift) * e^-log_scale`.
    #[track_caller]
    pub fn actnorm(&self, bias: &Tensor, log_scale: &Tensor) -> (Tensor, Tensor) {
        self.act_normalize(bias, log_scale, false)
    }

    /// The inverse of [`Tensor::actnorm`], `x * e^-log_scale - bias`, and its own
    /// log-determinant `[N]`: the other's with the opposite sign.
    #[track_caller]
    pub fn actnorm_inverse(&self, bias: &Tensor, log_scale: &Tensor) -> (Tensor, Tensor) {
        self.act_normalize(bias, log_scale, true)
    }

    #[track_caller]
    fn act_normalize(&self, bias: &Tensor, log_scale: &Tensor, inverse: bool) -> (Tensor, Tensor) {
        let channels = self.dim(1);
        let per_channel = |t: &Tensor| match t.shape().dims() == [channels] {
            true => t.reshape(channel_shape(self.shape())),
            // The op says what is wrong with it.
            false => t.clone(),
        };
        let op = ActNorm { inverse };
        let inputs = [self, &per_channel(bias), &per_channel(log_scale)];
        let y = self.graph().push1(op, &inputs);
        if y.check().is_err() {
            return (y.clone(), y);
        }
        let samples = self.dim(0);
        let pixels = (self.numel() / (samples * channels)) as f32;
        let sign = if inverse { -1.0 } else { 1.0 };
        let total = log_scale.sum(&[0], false).mul_scalar(sign * pixels);
        (y, total.broadcast_to([samples]))
    }

    /// The parameters for which [`Tensor::actnorm`] of this batch `[N, C, ..]` has mean 0
    /// and variance 1 per channel: `bias = -mean`, `log_scale = -log(std + eps)` with the
    /// biased standard deviation, which counts as `least` where it is smaller.
    #[track_caller]
    pub fn actnorm_init(&self, eps: f32, least: f32) -> ActNormInit {
        let rank = self.shape().rank();
        let axes: Vec<isize> = (0..rank as isize).filter(|i| *i != 1).collect();
        let sensible = |v: f32| v >= 0.0 && v.is_finite();
        if rank < 2 || !sensible(eps) || !sensible(least) {
            let detail = format!(
                "a tensor {:?} with eps {eps} and a least deviation {least}: expected [N, C, ..] and numbers from 0 on",
                self.shape()
            );
            let error = Error::shape("actnorm_init", detail);
            let poison = self.graph().poisoned(self.check().err().unwrap_or(error));
            return ActNormInit {
                bias: poison.clone(),
                log_scale: poison.clone(),
                std: poison,
            };
        }
        let (mean, variance) = self.moments(&axes, true);
        let channels = [self.dim(1)];
        let std = variance.reshape(channels).sqrt();
        let held = match least > 0.0 {
            true => std.maximum(&std.full_like(least)),
            false => std.clone(),
        };
        ActNormInit {
            bias: mean.reshape(channels).neg(),
            log_scale: held.add_scalar(eps).log().neg(),
            std,
        }
    }
}
