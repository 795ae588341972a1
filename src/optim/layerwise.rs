//! Rules whose steps depend on the norms of whole layers, for large batches. A layer
//! is one parameter of the set.

use super::layers::Layers;
use super::rules::{BELOW_ONE, LARGE, Rule, Updated, average, check, penalised};
use crate::{Result, Tensor};

/// LARS (You, Gitman, Ginsburg 2017, arXiv 1708.03888, algorithm 1): with
/// `q = trust |p| / (|g| + weight_decay |p|)` for each layer, `b = momentum b +
/// lr q (g + weight_decay p)`, `p -= b`. `q` is 1 where `|p|` or the denominator is 0.
///
/// Biases and parameters of norms are commonly left out of it: give them a group with
/// [`super::Sgd`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lars {
    /// Learning rate.
    pub lr: f64,
    /// Momentum, 0 for none.
    pub momentum: f64,
    /// L2 penalty, added to the gradient.
    pub weight_decay: f64,
    /// How far a layer may move at most, by its own norm.
    pub trust: f64,
}

impl Default for Lars {
    fn default() -> Self {
        Lars {
            lr: 1.0,
            momentum: 0.9,
            weight_decay: 0.0,
            trust: 1e-3,
        }
    }
}

/// LAMB (You et al. 2020, arXiv 1904.00962, algorithm 2): `m` and `v` as in Adam,
/// `r = m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay p`,
/// `p -= lr |p| / |r| r` with norms of each layer; the ratio is 1 where `|p|` or `|r|`
/// is 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lamb {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first and of the second moment.
    pub betas: (f64, f64),
    /// Added to the denominator.
    pub eps: f64,
    /// Decay of the parameters, within the ratio.
    pub weight_decay: f64,
}

impl Default for Lamb {
    fn default() -> Self {
        Lamb {
            lr: 1e-3,
            betas: (0.9, 0.999),
            eps: 1e-6,
            weight_decay: 1e-2,
        }
    }
}

/// `factor a / b`, and 1 where `a` or `b` is 0.
fn ratio(a: &Tensor, factor: f64, b: &Tensor) -> Tensor {
    let zero = a.zeros_like();
    let both = zero.less(a).mul(&zero.less(b));
    // What is not chosen stays finite, too.
    let divisor = both.select(b, &a.ones_like());
    let ratio = a.mul_scalar(factor as f32).div(&divisor);
    both.select(&ratio, &a.ones_like())
}

impl Rule for Lars {
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
        layers: &Layers,
    ) -> Updated {
        let length = layers.norms(p);
        let divisor = penalised(&layers.norms(g), &length, self.weight_decay);
        let rate = ratio(&length, self.trust, &divisor).mul(&scalars[0]);
        let mut step = layers.scale(&penalised(g, p, self.weight_decay), &rate);
        if let [buffer] = moments {
            step = buffer.mul_scalar(self.momentum as f32).add(&step);
        }
        Updated {
            param: p.sub(&step),
            moments: moments.iter().map(|_| step.clone()).collect(),
        }
    }

    fn check(&self) -> Result<()> {
        check(
            "Lars",
            &[
                ("lr", self.lr, 0.0, LARGE),
                ("momentum", self.momentum, 0.0, LARGE),
                ("weight_decay", self.weight_decay, 0.0, LARGE),
                ("trust", self.trust, 0.0, LARGE),
            ],
        )
    }
}

impl Rule for Lamb {
    fn lr(&self) -> f64 {
        self.lr
    }

    fn moments(&self) -> Vec<&'static str> {
        vec!["m", "v"]
    }

    fn scalars(&self, lr: f64, t: u64) -> Vec<(&'static str, f64)> {
        let t = t as f64;
        vec![
            ("lr", lr),
            ("bias1", 1.0 / (1.0 - self.betas.0.powf(t))),
            ("bias2", 1.0 / (1.0 - self.betas.1.powf(t)).sqrt()),
        ]
    }

    fn update(
        &self,
        p: &Tensor,
        g: &Tensor,
        moments: &[Tensor],
        scalars: &[Tensor],
        layers: &Layers,
    ) -> Updated {
        let m = average(self.betas.0, &moments[0], g);
        let v = average(self.betas.1, &moments[1], &g.square());
        let denominator = v.sqrt().mul(&scalars[2]).add_scalar(self.eps as f32);
        let direction = m.mul(&scalars[1]).div(&denominator);
        let direction = penalised(&direction, p, self.weight_decay);
        let rate = ratio(&layers.norms(p), 1.0, &layers.norms(&direction));
        let step = layers.scale(&direction, &rate.mul(&scalars[0]));
        Updated {
            param: p.sub(&step),
            moments: vec![m, v],
        }
    }

    fn check(&self) -> Result<()> {
        check(
            "Lamb",
            &[
                ("lr", self.lr, 0.0, LARGE),
                ("beta1", self.betas.0, 0.0, BELOW_ONE),
                ("beta2", self.betas.1, 0.0, BELOW_ONE),
                ("eps", self.eps, f32::MIN_POSITIVE as f64, LARGE),
                ("weight_decay", self.weight_decay, 0.0, LARGE),
            ],
        )
    }
}
