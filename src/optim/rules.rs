//! The update rules, one element-wise formula each, as PyTorch computes them; the
//! family of Adam has a file of its own.
//!
//! `p` is the parameter, `g` its gradient, `t = step + 1`. What changes from step
//! to step enters as scalars computed on the host in float64, so that the graph,
//! and with it the compiled program, stays the same.

use std::fmt::Debug;

use super::layers::Layers;
use crate::Tensor;
use crate::{Error, Result};

/// What a rule computes for one arena.
pub struct Updated {
    /// The new parameters.
    pub param: Tensor,
    /// The new moments, in the order of [`Rule::moments`].
    pub moments: Vec<Tensor>,
}

/// An optimiser's formula. A rule of your own is another implementation.
pub trait Rule: Debug + Send + Sync {
    /// The learning rate before the schedule.
    fn lr(&self) -> f64;

    /// Names of what is kept per element; all start at zero.
    fn moments(&self) -> Vec<&'static str>;

    /// Names and values of the scalars of step `t` (from 1) with learning rate `lr`.
    fn scalars(&self, lr: f64, t: u64) -> Vec<(&'static str, f64)>;

    /// The formula: `scalars` in the order of [`Rule::scalars`], each of shape `[]`;
    /// `layers` knows which elements belong to which parameter.
    fn update(
        &self,
        p: &Tensor,
        g: &Tensor,
        moments: &[Tensor],
        scalars: &[Tensor],
        layers: &Layers,
    ) -> Updated;

    /// Whether the numbers make sense.
    fn check(&self) -> Result<()>;
}

/// Stochastic gradient descent: `g += weight_decay p`, `b = momentum b + g`,
/// `p -= lr b`, or `p -= lr (g + momentum b)` with `nesterov`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sgd {
    /// Learning rate.
    pub lr: f64,
    /// Momentum, 0 for none.
    pub momentum: f64,
    /// Looks ahead along the momentum.
    pub nesterov: bool,
    /// L2 penalty, added to the gradient.
    pub weight_decay: f64,
}

impl Default for Sgd {
    fn default() -> Self {
        Sgd {
            lr: 1e-2,
            momentum: 0.0,
            nesterov: false,
            weight_decay: 0.0,
        }
    }
}

/// RMSprop (Hinton 2012): `s = alpha s + (1 - alpha) g^2`, centred by the running
/// mean `a` of the gradient where asked for, `q = g / (sqrt(s - a^2) + eps)`,
/// `b = momentum b + q`, `p -= lr b`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RmsProp {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the squared gradient.
    pub alpha: f64,
    /// Added to the denominator.
    pub eps: f64,
    /// L2 penalty, added to the gradient.
    pub weight_decay: f64,
    /// Momentum, 0 for none.
    pub momentum: f64,
    /// Divides by the standard deviation instead of the root mean square.
    pub centered: bool,
}

impl Default for RmsProp {
    fn default() -> Self {
        RmsProp {
            lr: 1e-2,
            alpha: 0.99,
            eps: 1e-8,
            weight_decay: 0.0,
            momentum: 0.0,
            centered: false,
        }
    }
}

/// `g + weight_decay p`
pub(super) fn penalised(g: &Tensor, p: &Tensor, weight_decay: f64) -> Tensor {
    match weight_decay == 0.0 {
        true => g.clone(),
        false => g.add(&p.mul_scalar(weight_decay as f32)),
    }
}

/// `beta a + (1 - beta) b`; `1 - beta` is rounded once, from float64.
pub(super) fn average(beta: f64, a: &Tensor, b: &Tensor) -> Tensor {
    a.mul_scalar(beta as f32)
        .add(&b.mul_scalar((1.0 - beta) as f32))
}

/// Every number finite and in its range, or an error that names it.
pub(super) fn check(rule: &str, ranges: &[(&str, f64, f64, f64)]) -> Result<()> {
    match ranges.iter().find(|(_, v, lo, hi)| !(v >= lo && v <= hi)) {
        Some((name, v, lo, hi)) => Err(Error::argument(
            rule,
            format!("{name} is {v}, it must lie in {lo}..={hi}"),
        )),
        None => Ok(()),
    }
}

/// The largest sensible number for what has no upper limit.
pub(super) const LARGE: f64 = f32::MAX as f64;
/// Decays must stay below 1 in float32 too.
pub(super) const BELOW_ONE: f64 = 1.0 - f32::EPSILON as f64 / 2.0;

impl Rule for Sgd {
    fn lr(&self) -> f64 {
        self.lr
    }

    fn moments(&self) -> Vec<&'static str> {
        match self.momentum == 0.0 {
            true => vec![],
            false => vec!["momentum"],
        }
    }

    fn scalars(&self, lr: f64, _: u64) -> Vec<(&'static str, f64)> {
        vec![("lr", lr)]
    }

    fn update(
        &self,
        p: &Tensor,
        g: &Tensor,
        moments: &[Tensor],
        scalars: &[Tensor],
        _: &Layers,
    ) -> Updated {
        let g = penalised(g, p, self.weight_decay);
        let (direction, moments) = match moments {
            [buffer] => {
                let momentum = self.momentum as f32;
                let buffer = buffer.mul_scalar(momentum).add(&g);
                let direction = match self.nesterov {
                    true => g.add(&buffer.mul_scalar(momentum)),
                    false => buffer.clone(),
                };
                (direction, vec![buffer])
            }
            _ => (g, vec![]),
        };
        Updated {
            param: p.sub(&direction.mul(&scalars[0])),
            moments,
        }
    }

    fn check(&self) -> Result<()> {
        check(
            "Sgd",
            &[
                ("lr", self.lr, 0.0, LARGE),
                ("momentum", self.momentum, 0.0, LARGE),
                ("weight_decay", self.weight_decay, 0.0, LARGE),
            ],
        )?;
        match self.nesterov && self.momentum == 0.0 {
            true => Err(Error::argument("Sgd", "nesterov needs a momentum above 0")),
            false => Ok(()),
        }
    }
}

impl Rule for RmsProp {
    fn lr(&self) -> f64 {
        self.lr
    }

    fn moments(&self) -> Vec<&'static str> {
        let mut moments = vec!["square"];
        if self.centered {
            moments.push("mean");
        }
        if self.momentum != 0.0 {
            moments.push("momentum");
        }
        moments
    }

    fn scalars(&self, lr: f64, _: u64) -> Vec<(&'static str, f64)> {
        vec![("lr", lr)]
    }

    fn update(
        &self,
        p: &Tensor,
        g: &Tensor,
        moments: &[Tensor],
        scalars: &[Tensor],
        _: &Layers,
    ) -> Updated {
        let g = penalised(g, p, self.weight_decay);
        let square = average(self.alpha, &moments[0], &g.square());
        let mut new = vec![square.clone()];
        let mut spread = square;
        if self.centered {
            let mean = average(self.alpha, &moments[1], &g);
            // The variance may come out slightly negative where the gradient is constant.
            spread = spread.sub(&mean.square()).maximum(&mean.zeros_like());
            new.push(mean);
        }
        let mut direction = g.div(&spread.sqrt().add_scalar(self.eps as f32));
        if self.momentum != 0.0 {
            let buffer = moments[moments.len() - 1].mul_scalar(self.momentum as f32);
            direction = buffer.add(&direction);
            new.push(direction.clone());
        }
        Updated {
            param: p.sub(&direction.mul(&scalars[0])),
            moments: new,
        }
    }

    fn check(&self) -> Result<()> {
        check(
            "RmsProp",
            &[
                ("lr", self.lr, 0.0, LARGE),
                ("alpha", self.alpha, 0.0, BELOW_ONE),
                ("eps", self.eps, f32::MIN_POSITIVE as f64, LARGE),
                ("weight_decay", self.weight_decay, 0.0, LARGE),
                ("momentum", self.momentum, 0.0, LARGE),
            ],
        )
    }
}
