//! Normalisation layers.

use super::{Layer, Mode};
use crate::graph::Observed;
use crate::{Error, Init, Param, Params, Result, Tensor};

/// Batch normalisation over all axes but the second: `[N, C, H, W]` or `[N, C]`.
///
/// Parameters `weight` and `bias` `[C]` (1 and 0 at first), states `running_mean`
/// and `running_var` `[C]` (0 and 1). In training the batch's mean and biased
/// variance normalise, and the states move toward them by `momentum` (the variance
/// unbiased, as in PyTorch). Of a layer used several times in one graph, the updates
/// follow one another in the order of the calls. With [`Mode::Frozen`] the stored
/// statistics normalise and stay; `weight` and `bias` still get gradients.
pub struct BatchNorm2d {
    weight: Param,
    bias: Param,
    running_mean: Param,
    running_var: Param,
    eps: f32,
    momentum: f32,
}

impl BatchNorm2d {
    /// `eps` 1e-5 and momentum 0.1. Errors: see [`Params::add`].
    pub fn new(params: &Params, channels: usize) -> Result<Self> {
        BatchNorm2d::with_weight(params, channels, Init::Ones)
    }

    /// The same with another first value of `weight`.
    pub fn with_weight(params: &Params, channels: usize, weight: Init) -> Result<Self> {
        Ok(BatchNorm2d {
            weight: params.add("weight", [channels], weight)?,
            bias: params.add("bias", [channels], Init::Zeros)?,
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

    /// `running_mean` `[C]`.
    pub fn running_mean(&self) -> &Param {
        &self.running_mean
    }

    /// `running_var` `[C]`.
    pub fn running_var(&self) -> &Param {
        &self.running_var
    }
}

impl Layer for BatchNorm2d {
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let graph = x.graph();
        let (weight, bias) = (self.weight.on(graph), self.bias.on(graph));
        let (old_mean, old_var) = (self.running_mean.on(graph), self.running_var.on(graph));
        if !mode.uses_batch_statistics() {
            let (weight, bias) = (Some(&weight), Some(&bias));
            let y = x.batch_norm_eval(&old_mean, &old_var, weight, bias, self.eps);
            graph.observe(self.weight.scope_name(), "batch norm", x, &y);
            return y;
        }
        let (y, mean, var) = x.batch_norm_train(Some(&weight), Some(&bias), self.eps);
        graph.observe(self.weight.scope_name(), "batch norm", x, &y);
        if y.check().is_ok() {
            let n = (x.numel() / x.dim(1).max(1)) as f32;
            let unbiased = var.mul_scalar(n / (n - 1.0).max(1.0));
            for (state, new) in [(old_mean, mean), (old_var, unbiased)] {
                let new = new.mul_scalar(self.momentum);
                let keep = 1.0 - self.momentum;
                graph.update(&state, |old| old.mul_scalar(keep).add(&new));
            }
        }
        y
    }
}

/// Group normalisation of `[N, C, ..]`: the channels of every sample in groups of
/// neighbours, by their own mean and biased variance. Parameters `weight` and `bias` `[C]`
/// (1 and 0 at first). Wu and He 2018, arXiv 1803.08494.
pub struct GroupNorm {
    weight: Param,
    bias: Param,
    groups: usize,
    eps: f32,
}

impl GroupNorm {
    /// `eps` 1e-5. Errors: see [`Params::add`]; channels that do not fall into the groups.
    pub fn new(params: &Params, groups: usize, channels: usize) -> Result<Self> {
        if groups == 0 || !channels.is_multiple_of(groups) {
            let detail = format!("{channels} channels do not fall into {groups} groups");
            return Err(Error::argument("GroupNorm", detail));
        }
        Ok(GroupNorm {
            weight: params.add("weight", [channels], Init::Ones)?,
            bias: params.add("bias", [channels], Init::Zeros)?,
            groups,
            eps: 1e-5,
        })
    }

    /// The same layer with another `eps`.
    pub fn eps(mut self, eps: f32) -> Self {
        self.eps = eps;
        self
    }
}

impl Layer for GroupNorm {
    fn forward(&self, x: &Tensor, _: Mode) -> Tensor {
        let graph = x.graph();
        let (weight, bias) = (self.weight.on(graph), self.bias.on(graph));
        let y = x.group_norm(self.groups, Some(&weight), Some(&bias), self.eps);
        graph.observe(self.weight.scope_name(), "group norm", x, &y);
        y
    }
}

impl Observed {
    /// Mean and biased variance `[C]` of the input `[N, C, ..]` over all axes but the
    /// second: the statistics of this batch, also where stored ones normalise
    /// (DeepInversion compares the two).
    #[track_caller]
    pub fn batch_statistics(&self) -> (Tensor, Tensor) {
        let (_, mean, var) = self.input.batch_norm_train(None, None, 0.0);
        (mean, var)
    }
}
