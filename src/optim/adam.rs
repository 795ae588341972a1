//! Adam and its relatives, as PyTorch computes them.

use super::layers::Layers;
use super::rules::{BELOW_ONE, LARGE, Rule, Updated, average, check, penalised};
use crate::{Result, Tensor};

/// Adam (Kingma, Ba 2015): `g += weight_decay p`, `m = beta1 m + (1 - beta1) g`,
/// `v = beta2 v + (1 - beta2) g^2`,
/// `p -= lr / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + eps)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adam {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first and of the second moment.
    pub betas: (f64, f64),
    /// Added to the denominator.
    pub eps: f64,
    /// L2 penalty, added to the gradient.
    pub weight_decay: f64,
}

impl Default for Adam {
    fn default() -> Self {
        Adam {
            lr: 1e-3,
            betas: (0.9, 0.999),
            eps: 1e-8,
            weight_decay: 0.0,
        }
    }
}

/// Adam with decoupled weight decay (Loshchilov, Hutter 2019): first
/// `p *= 1 - lr weight_decay`, then Adam without a penalty.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first and of the second moment.
    pub betas: (f64, f64),
    /// Added to the denominator.
    pub eps: f64,
    /// Decay of the parameters themselves.
    pub weight_decay: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        AdamW {
            lr: 1e-3,
            betas: (0.9, 0.999),
            eps: 1e-8,
            weight_decay: 1e-2,
        }
    }
}

/// Adamax (Kingma, Ba 2015): `m` as in Adam, `u = max(beta2 u, |g| + eps)`,
/// `p -= lr / (1 - beta1^t) * m / u`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adamax {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first moment and of the infinity norm.
    pub betas: (f64, f64),
    /// Added to the gradient's magnitude.
    pub eps: f64,
    /// L2 penalty, added to the gradient.
    pub weight_decay: f64,
}

impl Default for Adamax {
    fn default() -> Self {
        Adamax {
            lr: 2e-3,
            betas: (0.9, 0.999),
            eps: 1e-8,
            weight_decay: 0.0,
        }
    }
}

/// Scalars shared by Adam and AdamW: `lr / (1 - beta1^t)` and `1 / sqrt(1 - beta2^t)`.
fn adam_scalars(betas: (f64, f64), lr: f64, t: u64) -> Vec<(&'static str, f64)> {
    let t = t as f64;
    vec![
        ("lr", lr / (1.0 - betas.0.powf(t))),
        ("bias2", 1.0 / (1.0 - betas.1.powf(t)).sqrt()),
    ]
}

fn adam_update(
    (betas, eps): ((f64, f64), f64),
    p: &Tensor,
    g: &Tensor,
    moments: &[Tensor],
    scalars: &[Tensor],
) -> Updated {
    let m = average(betas.0, &moments[0], g);
    let v = average(betas.1, &moments[1], &g.square());
    let denominator = v.sqrt().mul(&scalars[1]).add_scalar(eps as f32);
    Updated {
        param: p.sub(&m.mul(&scalars[0]).div(&denominator)),
        moments: vec![m, v],
    }
}

fn check_betas(rule: &str, lr: f64, betas: (f64, f64), eps: f64, weight_decay: f64) -> Result<()> {
    check(
        rule,
        &[
            ("lr", lr, 0.0, LARGE),
            ("beta1", betas.0, 0.0, BELOW_ONE),
            ("beta2", betas.1, 0.0, BELOW_ONE),
            // 0 / 0 in padding and in parameters without gradient must not occur.
            ("eps", eps, f32::MIN_POSITIVE as f64, LARGE),
            ("weight_decay", weight_decay, 0.0, LARGE),
        ],
    )
}

impl Rule for Adam {
    fn lr(&self) -> f64 {
        self.lr
    }

    fn moments(&self) -> Vec<&'static str> {
        vec!["m", "v"]
    }

    fn scalars(&self, lr: f64, t: u64) -> Vec<(&'static str, f64)> {
        adam_scalars(self.betas, lr, t)
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
        adam_update((self.betas, self.eps), p, &g, moments, scalars)
    }

    fn check(&self) -> Result<()> {
        check_betas("Adam", self.lr, self.betas, self.eps, self.weight_decay)
    }
}

impl Rule for AdamW {
    fn lr(&self) -> f64 {
        self.lr
    }

    fn moments(&self) -> Vec<&'static str> {
        vec!["m", "v"]
    }

    fn scalars(&self, lr: f64, t: u64) -> Vec<(&'static str, f64)> {
        let mut scalars = adam_scalars(self.betas, lr, t);
        scalars.push(("decay", 1.0 - lr * self.weight_decay));
        scalars
    }

    fn update(
        &self,
        p: &Tensor,
        g: &Tensor,
        moments: &[Tensor],
        scalars: &[Tensor],
        _: &Layers,
    ) -> Updated {
        let p = p.mul(&scalars[2]);
        adam_update((self.betas, self.eps), &p, g, moments, scalars)
    }

    fn check(&self) -> Result<()> {
        check_betas("AdamW", self.lr, self.betas, self.eps, self.weight_decay)
    }
}

impl Rule for Adamax {
    fn lr(&self) -> f64 {
        self.lr
    }

    fn moments(&self) -> Vec<&'static str> {
        vec!["m", "u"]
    }

    fn scalars(&self, lr: f64, t: u64) -> Vec<(&'static str, f64)> {
        vec![("lr", lr / (1.0 - self.betas.0.powf(t as f64)))]
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
        let m = average(self.betas.0, &moments[0], &g);
        let u = moments[1]
            .mul_scalar(self.betas.1 as f32)
            .maximum(&g.abs().add_scalar(self.eps as f32));
        Updated {
            param: p.sub(&m.mul(&scalars[0]).div(&u)),
            moments: vec![m, u],
        }
    }

    fn check(&self) -> Result<()> {
        check_betas("Adamax", self.lr, self.betas, self.eps, self.weight_decay)
    }
}
