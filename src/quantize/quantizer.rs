//! The vector quantiser as a layer with parameters and states.

use super::k_means;
use super::nearest::{Estimator, Metric, ema_update, quantize_rows};
use super::output::{Quantized, Quantizer, check_u32};
use super::reset::{fresh_size, samples, unused};
use super::rows::{Rows, from_rows, normalized, to_rows};
use crate::nn::Mode;
use crate::{Error, Init, Param, Params, Result, Tensor};

/// How a codebook learns.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum CodebookUpdate {
    /// By the gradient of the codebook loss and the model's optimiser.
    Gradient,
    /// By moving averages of the vectors that took each code; the codebook is a state
    /// and not trained.
    MovingAverage {
        /// How much of the old average stays; 0.99 is usual.
        decay: f64,
        /// Smooths small clusters; 1e-5 is usual.
        eps: f32,
    },
}

/// A vector quantiser's description.
#[derive(Debug, Clone, PartialEq)]
pub struct VqConfig {
    /// The number of codes.
    pub codes: usize,
    /// Their width, the channels of the input.
    pub dim: usize,
    /// Weight of the commitment loss; 0.25 in the papers.
    pub beta: f32,
    /// How vectors are compared with codes.
    pub metric: Metric,
    /// How gradients pass the quantiser.
    pub estimator: Estimator,
    /// How the codebook learns.
    pub update: CodebookUpdate,
    /// In training with moving averages, codes whose average count of vectors per batch
    /// (`ema_cluster_size`) is below this become vectors of the batch: code `k` (from 0) that at row
    /// `(floor(frac(0.6180339887 (k + 1)) M) + 37 t) mod M` of the encoder's `M` outputs
    /// (in the order N, h, w), `t` the program's runs so far, from 0
    /// ([`crate::Program::random_state`]): no random numbers are needed. With
    /// [`CodebookUpdate::Gradient`] the averages are kept too, and
    /// [`VectorQuantizer::reset_unused`] does it when you call for it.
    pub reset_below: Option<f32>,
    /// The first codes; uniform in `+-1 / codes` where not given.
    pub init: Option<Init>,
}

impl VqConfig {
    /// Euclidean distance, straight-through gradients, a codebook trained by gradient, `beta`
    /// 0.25, no reset.
    pub fn new(codes: usize, dim: usize) -> Self {
        VqConfig {
            codes,
            dim,
            beta: 0.25,
            metric: Metric::Euclidean,
            estimator: Estimator::StraightThrough,
            update: CodebookUpdate::Gradient,
            reset_below: None,
            init: None,
        }
    }

    /// The same with moving averages (decay 0.99, eps 1e-5).
    pub fn moving_average(mut self) -> Self {
        self.update = CodebookUpdate::MovingAverage {
            decay: 0.99,
            eps: 1e-5,
        };
        self
    }
}

impl VqConfig {
    fn check(&self) -> Result<()> {
        let wrong = |detail: String| Err(Error::argument("VqConfig", detail));
        let beta = self.beta;
        if !(beta >= 0.0 && beta.is_finite()) {
            return wrong(format!(
                "beta is {beta}; it must be finite and not negative"
            ));
        }
        if let CodebookUpdate::MovingAverage { decay, eps } = self.update {
            if !(0.0..1.0).contains(&decay) {
                return wrong(format!("decay is {decay}; it must lie in 0..1"));
            }
            if !(eps > 0.0 && eps.is_finite()) {
                return wrong(format!("eps is {eps}; it must be finite and positive"));
            }
        }
        match self.reset_below {
            Some(t) if !(t > 0.0 && t.is_finite()) => wrong(format!(
                "reset_below is {t}; it must be finite and positive"
            )),
            _ => Ok(()),
        }
    }
}

/// The names of a [`VectorQuantizer`]'s codebook (before `.weight`) and averages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VqNames<'a> {
    /// `embedding` unless said otherwise.
    pub codebook: &'a str,
    /// `ema_cluster_size` unless said otherwise.
    pub cluster_size: &'a str,
    /// `ema_w` unless said otherwise.
    pub embed_sum: &'a str,
}

impl Default for VqNames<'_> {
    fn default() -> Self {
        VqNames {
            codebook: "embedding",
            cluster_size: "ema_cluster_size",
            embed_sum: "ema_w",
        }
    }
}

/// Replaces each vector of its input by the nearest code of a codebook.
///
/// Parameter or state `embedding.weight` `[K, D]`, uniform in `+-1 / K` at first (not
/// PyTorch's normal distribution, which is far wider than an untrained encoder's
/// output); with moving averages the states `ema_cluster_size` `[K]` (at first
/// `s = max(1, reset_below)`) and `ema_w` `[K, D]` (at first `s` times the codes).
///
/// A training step with moving averages: the batch's codes are found with the old
/// codebook; from the same forward pass come the counts and sums that move
/// `ema_cluster_size` and `ema_w`; the codebook becomes `ema_w` divided by the smoothed
/// sizes ([`ema_update`]); then codes whose new `ema_cluster_size` is below
/// `reset_below` take a row of the encoder's output, size `s`, and `ema_w` `s` times
/// that row. All of it takes effect after the run, like the optimiser's step.
pub struct VectorQuantizer {
    config: VqConfig,
    codebook: Param,
    cluster_size: Option<Param>,
    embed_sum: Option<Param>,
}

impl VectorQuantizer {
    /// Adds the codebook to `params`. Errors: see [`Params::add`]; numbers in `config`
    /// out of their ranges.
    pub fn new(params: &Params, config: VqConfig) -> Result<Self> {
        VectorQuantizer::named(params, config, VqNames::default())
    }

    /// The same under names of a published checkpoint.
    pub fn named(params: &Params, config: VqConfig, names: VqNames<'_>) -> Result<Self> {
        config.check()?;
        let shape = [config.codes, config.dim];
        let bound = 1.0 / config.codes.max(1) as f32;
        let init = config.init.clone().unwrap_or(Init::Uniform {
            lo: -bound,
            hi: bound,
        });
        let averaged = matches!(config.update, CodebookUpdate::MovingAverage { .. });
        let embedding = params.scope(names.codebook);
        let codebook = if averaged {
            embedding.add_state("weight", shape, init)?
        } else {
            embedding.add("weight", shape, init)?
        };
        let cluster_size = if averaged || config.reset_below.is_some() {
            let size = Init::Constant(fresh_size(config.reset_below.unwrap_or(0.0)));
            Some(params.add_state(names.cluster_size, [config.codes], size)?)
        } else {
            None
        };
        let embed_sum = if averaged {
            let size = fresh_size(config.reset_below.unwrap_or(0.0));
            let sums = codebook.get()?.iter().map(|v| v * size).collect();
            Some(params.add_state(names.embed_sum, shape, Init::Values(sums))?)
        } else {
            None
        };
        Ok(VectorQuantizer {
            config,
            codebook,
            cluster_size,
            embed_sum,
        })
    }

    /// `embedding.weight` `[K, D]`.
    pub fn codebook(&self) -> &Param {
        &self.codebook
    }

    /// The description it was made from.
    pub fn config(&self) -> &VqConfig {
        &self.config
    }

    /// Quantises `x`, `[M, D]` or `[N, D, ..]`. In training, moving averages are
    /// updated when the program has run; the codes of this batch are those found with
    /// the old codebook. With moving averages the loss is the commitment loss times
    /// `beta`. Error: `x` has other channels than the codebook.
    #[track_caller]
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Quantized {
        self.forward_masked(x, None, mode)
    }

    /// Appends the updates of the moving averages.
    #[track_caller]
    fn track(&self, rows: &Rows, out: &Quantized) {
        let graph = out.counts.graph();
        let Some(size) = &self.cluster_size else {
            return;
        };
        // A batch of padding alone changes nothing.
        let any = rows.valid.as_ref().map(|v| v.max(&[], false));
        let kept = |new: Tensor, old: &Tensor| match &any {
            Some(any) => any.select(&new, old),
            None => new,
        };
        // A quantiser used twice in one graph learns from both batches, one after the other.
        let size_state = size.on(graph);
        let old_size = graph.newest(&size_state);
        let (CodebookUpdate::MovingAverage { decay, eps }, Some(sum)) =
            (self.config.update, &self.embed_sum)
        else {
            let moved = old_size.mul_scalar(1.0 - USAGE_SHARE);
            let moved = moved.add(&out.counts.mul_scalar(USAGE_SHARE));
            graph.update(&size_state, |_| kept(moved, &old_size));
            return;
        };
        let vectors = self.compared(rows);
        let (sum_state, codebook_state) = (sum.on(graph), self.codebook.on(graph));
        let (old_sum, old_codebook) = (graph.newest(&sum_state), graph.newest(&codebook_state));
        let new = ema_update(&vectors.rows, &out.indices, &old_size, &old_sum, decay, eps);
        let mut size = kept(new.cluster_size, &old_size);
        let mut sums = kept(new.embed_sum, &old_sum);
        let mut codebook = kept(new.codebook, &old_codebook);
        if let Some(threshold) = self.config.reset_below {
            let fresh = fresh_size(threshold);
            let unused = unused(rows, &size, threshold);
            let samples = samples(&vectors, self.config.codes);
            let column = unused.reshape([self.config.codes, 1]);
            sums = column.select(&samples.mul_scalar(fresh), &sums);
            codebook = column.select(&samples, &codebook);
            size = unused.select(&size.full_like(fresh), &size);
        }
        graph.update(&size_state, |_| size);
        graph.update(&sum_state, |_| sums);
        graph.update(&codebook_state, |_| codebook);
    }

    /// The vectors as they are compared with codes: of length 1 by cosine.
    fn compared(&self, rows: &Rows) -> Rows {
        match self.config.metric {
            Metric::Euclidean => rows.clone(),
            Metric::Cosine => rows.with(normalized(&rows.rows)),
        }
    }

    /// Appends to `x`'s graph: when the program has run, codes that few vectors took
    /// of late (an average per batch below `reset_below`) are vectors of `x`
    /// (`[M, D]` or `[N, D, ..]`). Gives the number of such codes. For codebooks trained
    /// by gradient: run it between steps, in a program without an optimiser. Error:
    /// `reset_below` is not set.
    #[track_caller]
    pub fn reset_unused(&self, x: &Tensor) -> Tensor {
        let graph = x.graph();
        let (Some(threshold), Some(size)) = (self.config.reset_below, &self.cluster_size) else {
            return graph.poisoned(Error::argument(
                "reset_unused",
                "set `reset_below` in the quantiser's config",
            ));
        };
        let (size, codebook) = (size.on(graph), self.codebook.on(graph));
        let rows = match Rows::new("reset_unused", x, self.config.dim, None) {
            Ok(rows) => rows,
            Err(e) => return graph.poisoned(e),
        };
        let unused = unused(&rows, &size, threshold);
        let samples = samples(&self.compared(&rows), self.config.codes);
        let fresh = fresh_size(threshold);
        let column = unused.reshape([self.config.codes, 1]);
        if let Some(sum) = &self.embed_sum {
            let sum = sum.on(graph);
            graph.assign(&sum, &column.select(&samples.mul_scalar(fresh), &sum));
        }
        graph.assign(&codebook, &column.select(&samples, &codebook));
        graph.assign(&size, &unused.select(&size.full_like(fresh), &size));
        unused.sum(&[], false)
    }

    /// The codes of `indices` (u32, `[M]` or `[N, ..]`) as `[M, D]` or `[N, D, ..]`:
    /// the decoder's input for given or sampled indices. With [`Metric::Cosine`] they
    /// have length 1, as in [`VectorQuantizer::forward`].
    #[track_caller]
    pub fn lookup(&self, indices: &Tensor) -> Tensor {
        let codebook = self.codebook.on(indices.graph());
        match self.config.metric {
            Metric::Euclidean => look_up(&codebook, indices),
            Metric::Cosine => look_up(&normalized(&codebook), indices),
        }
    }

    /// [`Quantizer::start_from`]: ten iterations of k-means, by cosine of vectors brought
    /// to length 1.
    pub fn start_from(&self, rows: &[f32], seed: u64) -> Result<()> {
        let unit;
        let mut rows = rows;
        if self.config.metric == Metric::Cosine {
            unit = rows
                .chunks(self.config.dim)
                .flat_map(unit_row)
                .collect::<Vec<f32>>();
            rows = &unit;
        }
        let centres = k_means(rows, self.config.dim, self.config.codes, 10, seed)?;
        self.codebook.set(&centres)?;
        let size = fresh_size(self.config.reset_below.unwrap_or(0.0));
        if let Some(sums) = &self.embed_sum {
            let scaled: Vec<f32> = centres.iter().map(|v| v * size).collect();
            sums.set(&scaled)?;
        }
        if let Some(sizes) = &self.cluster_size {
            sizes.set(&vec![size; self.config.codes])?;
        }
        Ok(())
    }

    /// The vectors of `x` as rows `[M, D]`, as [`VectorQuantizer::start_from`] wants them.
    #[track_caller]
    pub fn rows(&self, x: &Tensor) -> Tensor {
        to_rows(x)
    }
}

impl Quantizer for VectorQuantizer {
    fn width(&self) -> usize {
        self.config.dim
    }

    fn codes(&self) -> usize {
        self.config.codes
    }

    #[track_caller]
    fn forward_masked(&self, x: &Tensor, valid: Option<&Tensor>, mode: Mode) -> Quantized {
        let graph = x.graph();
        let rows = match Rows::new("VectorQuantizer", x, self.config.dim, valid) {
            Ok(rows) => rows,
            Err(e) => return Quantized::poisoned(graph, e),
        };
        let averaged = self.embed_sum.is_some();
        let mut codebook = self.codebook.on(graph);
        if averaged {
            codebook = codebook.stop_gradient();
        }
        let VqConfig {
            metric,
            estimator,
            beta,
            ..
        } = self.config;
        let mut out = quantize_rows(&rows, &codebook, metric, estimator, beta);
        if averaged {
            out.loss = out.commitment_loss.mul_scalar(beta);
        }
        if mode == Mode::Train && out.quantized.check().is_ok() {
            self.track(&rows, &out);
        }
        out
    }

    #[track_caller]
    fn decode(&self, indices: &Tensor) -> Tensor {
        self.lookup(indices)
    }

    fn start_from(&self, rows: &[f32], seed: u64) -> Result<()> {
        VectorQuantizer::start_from(self, rows, seed)
    }
}

/// The rows of `codebook` at `indices` `[M]` or `[N, ..]`, as `[M, D]` or `[N, D, ..]`.
#[track_caller]
pub(super) fn look_up(codebook: &Tensor, indices: &Tensor) -> Tensor {
    if let Err(e) = indices.check().and_then(|()| check_u32("decode", indices)) {
        return indices.graph().poisoned(e);
    }
    let rows = codebook.gather_rows(&indices.reshape([indices.numel()]));
    from_rows(&rows, indices.shape().dims())
}

fn unit_row(row: &[f32]) -> Vec<f32> {
    let square: f64 = row.iter().map(|v| f64::from(*v).powi(2)).sum();
    let length = square.sqrt().max(1e-12);
    row.iter()
        .map(|v| (f64::from(*v) / length) as f32)
        .collect()
}

/// A batch's share of the average usage where the codebook itself is not averaged.
const USAGE_SHARE: f32 = 0.01;
