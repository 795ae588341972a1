//! Losses, as compositions of other ops: they have no kernels of their own. The
//! element-by-element parts fuse into one dispatch, the rest are reductions.

use crate::graph::Tensor;
use crate::{DType, Error, Result, Shape};

/// How the losses of all elements or samples become one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LossReduction {
    /// They stay as they are.
    None,
    /// Their sum.
    Sum,
    /// Their mean.
    #[default]
    Mean,
}

impl LossReduction {
    /// Applies it to all elements.
    #[track_caller]
    pub fn apply(self, losses: &Tensor) -> Tensor {
        match self {
            LossReduction::None => losses.clone(),
            LossReduction::Sum => losses.sum(&[], false),
            LossReduction::Mean => losses.mean(&[], false),
        }
    }
}

/// Options of [`Tensor::cross_entropy`].
#[derive(Debug, Clone, Default)]
pub struct CrossEntropy {
    /// The share of the target that is spread evenly over all classes, 0 to 1.
    pub label_smoothing: f32,
    /// Positions with this label give 0 and do not count.
    pub ignore_index: Option<u32>,
    /// Weights of the classes, `[C]`.
    pub weight: Option<Tensor>,
    /// How positions are combined. The mean divides by the sum of the weights of
    /// the labels that count.
    pub reduction: LossReduction,
}

impl CrossEntropy {
    fn check(&self, logits: &Tensor, target: &Tensor) -> Result<()> {
        const OP: &str = "cross_entropy";
        let dims = logits.shape().dims();
        if target.dtype() != DType::U32 {
            return Err(Error::dtype(
                OP,
                format!("the labels must be u32, they are {}", target.dtype()),
            ));
        }
        let [n, classes, rest @ ..] = dims else {
            return Err(Error::shape(
                OP,
                format!("the logits must be [N, C, ...], they are {dims:?}"),
            ));
        };
        let expected = [&[*n], rest].concat();
        if target.shape().dims() != expected {
            return Err(Error::shape(
                OP,
                format!(
                    "logits {dims:?} need labels {expected:?}, they are {:?}",
                    target.shape()
                ),
            ));
        }
        if let Some(weight) = &self.weight
            && weight.shape().dims() != [*classes]
        {
            return Err(Error::shape(
                OP,
                format!(
                    "the class weights must be [{classes}], they are {:?}",
                    weight.shape()
                ),
            ));
        }
        if !(0.0..=1.0).contains(&self.label_smoothing) {
            return Err(Error::argument(
                OP,
                format!("label_smoothing {} is not in 0..=1", self.label_smoothing),
            ));
        }
        Ok(())
    }
}

impl Tensor {
    /// Cross-entropy of logits `[N, C, ...]` with labels `[N, ...]` (u32), in nats.
    ///
    /// Per position with label `t`, smoothing `s` and weights `w`:
    /// `-(1-s) w[t] logp[t] - s/C sum_c w[c] logp[c]`. Labels that are no class
    /// count like `ignore_index`; where no label counts, the mean is 0.
    #[track_caller]
    pub fn cross_entropy(&self, target: &Tensor, options: &CrossEntropy) -> Tensor {
        if let Err(e) = self.check().and_then(|()| target.check()) {
            return self.graph().poisoned(e);
        }
        if let Err(e) = options.check(self, target) {
            return self.graph().poisoned(e);
        }
        let classes = self.dim(1);
        // Axes of extent 1 stand for the class axis of labels and for all other
        // axes of per-class values, so that everything broadcasts.
        let mut per_label = self.shape().dims().to_vec();
        per_label[1] = 1;
        let mut per_class = vec![1; self.shape().rank()];
        per_class[1] = classes;
        let numbers: Vec<u32> = (0..classes as u32).collect();
        let numbers = self.graph().constant_u32(&per_class, &numbers);
        let labels = target.reshape(&per_label);
        // 1 at the label's class, all 0 where the label does not count.
        let mut hot = labels.equal(&numbers);
        if let Some(ignore) = options.ignore_index
            && (ignore as usize) < classes
        {
            let ignored = self
                .graph()
                .constant_u32(vec![1; self.shape().rank()], &[ignore]);
            let ignored = labels.equal(&ignored);
            hot = ignored.select(&hot.zeros_like(), &hot);
        }
        let logp = self.log_softmax(1);
        let weighted = match &options.weight {
            Some(weight) => logp.mul(&weight.reshape(&per_class)),
            None => logp,
        };
        // Selecting instead of multiplying: a class with logit -inf must not turn
        // the losses of the other classes into NaN.
        let picked = hot.select(&weighted, &weighted.zeros_like());
        let s = options.label_smoothing;
        let mut loss = picked.sum(&[1], false).mul_scalar(s - 1.0);
        if s > 0.0 {
            let spread = weighted.sum(&[1], false).mul_scalar(-s / classes as f32);
            let counts = hot.sum(&[1], false);
            loss = counts.select(&loss.add(&spread), &loss);
        }
        match options.reduction {
            LossReduction::Mean => {
                let counts = match &options.weight {
                    Some(weight) => hot.mul(&weight.reshape(&per_class)),
                    None => hot,
                };
                let total = counts.sum(&[], false);
                loss.sum(&[], false)
                    .div(&total.select(&total, &total.ones_like()))
            }
            other => other.apply(&loss),
        }
    }

    /// Binary cross-entropy of logits with targets in 0..=1 of the same shape:
    /// `w target softplus(-x) + (1 - target) softplus(x)`; the weight `w` of
    /// positives is 1 or acts along the last axis.
    #[track_caller]
    pub fn bce_with_logits(
        &self,
        target: &Tensor,
        pos_weight: Option<&Tensor>,
        reduction: LossReduction,
    ) -> Tensor {
        if let Some(poison) = self.unless_same_shape("bce_with_logits", target) {
            return poison;
        }
        let positive = match pos_weight {
            Some(w) => target.mul(w),
            None => target.clone(),
        };
        let missed = positive.mul(&self.neg().softplus());
        let wrong = target.neg().add_scalar(1.0).mul(&self.softplus());
        reduction.apply(&missed.add(&wrong))
    }

    /// `(x - target)^2` for a target of the same shape.
    #[track_caller]
    pub fn mse_loss(&self, target: &Tensor, reduction: LossReduction) -> Tensor {
        if let Some(poison) = self.unless_same_shape("mse_loss", target) {
            return poison;
        }
        reduction.apply(&self.sub(target).square())
    }

    /// `|x - target|` for a target of the same shape.
    #[track_caller]
    pub fn l1_loss(&self, target: &Tensor, reduction: LossReduction) -> Tensor {
        if let Some(poison) = self.unless_same_shape("l1_loss", target) {
            return poison;
        }
        reduction.apply(&self.sub(target).abs())
    }

    /// The negative log-density of this tensor under independent normal
    /// distributions: `0.5 (logvar + (x - mu)^2 exp(-logvar) + log(2 pi))`.
    #[track_caller]
    pub fn gaussian_nll(&self, mu: &Tensor, logvar: &Tensor, reduction: LossReduction) -> Tensor {
        let distance = self.sub(mu).square().mul(&logvar.neg().exp());
        let log_two_pi = std::f32::consts::TAU.ln();
        let losses = logvar.add(&distance).add_scalar(log_two_pi).mul_scalar(0.5);
        reduction.apply(&losses)
    }

    /// The divergence `KL(N(mu, exp(logvar)) || N(0, 1))` of every sample, with
    /// this tensor as `mu`: `0.5 sum(mu^2 + exp(logvar) - logvar - 1)` over all axes
    /// but the first, `[N]`.
    #[track_caller]
    pub fn kl_to_standard_normal(&self, logvar: &Tensor) -> Tensor {
        let excess = logvar.exp().sub(logvar).add_scalar(-1.0);
        self.square().add(&excess).mul_scalar(0.5).sum_samples()
    }

    /// Sums over all axes but the first: `[N, ...]` to `[N]`.
    #[track_caller]
    pub fn sum_samples(&self) -> Tensor {
        let n = self.dim(0);
        let rest = self.numel() / n.max(1);
        self.reshape([n, rest]).sum(&[1], false)
    }

    /// `max(0, margin - label x)` for labels +1 and -1 of the same shape.
    #[track_caller]
    pub fn hinge_loss(&self, label: &Tensor, margin: f32, reduction: LossReduction) -> Tensor {
        if let Some(poison) = self.unless_same_shape("hinge_loss", label) {
            return poison;
        }
        reduction.apply(&self.mul(label).neg().add_scalar(margin).relu())
    }

    /// A poisoned tensor where `other` has another shape: a loss that silently
    /// broadcast its target would be a wrong number, not an error.
    #[track_caller]
    fn unless_same_shape(&self, op: &str, other: &Tensor) -> Option<Tensor> {
        let (a, b): (&Shape, &Shape) = (self.shape(), other.shape());
        if let Err(e) = self.check().and_then(|()| other.check()) {
            return Some(self.graph().poisoned(e));
        }
        let error = Error::shape(op, format!("{a:?} and its target {b:?} differ"));
        (a != b).then(|| self.graph().poisoned(error))
    }
}
