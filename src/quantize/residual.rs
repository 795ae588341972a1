//! Residual quantisation: each stage quantises what the ones before it left over.

use super::nearest::Metric;
use super::output::{Quantized, Quantizer, books_of, check_books};
use super::quantizer::{VectorQuantizer, VqConfig};
use super::rows::Rows;
use crate::nn::Mode;
use crate::{Error, Params, Result, Tensor};

/// Which stages a training step leaves out (SoundStream, Zeghidour et al. 2021): all after
/// a stage drawn anew for every run, so that the first stages alone are a code, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuantizeDropout {
    /// Stages that are never left out, at least 1.
    pub keep: usize,
    /// The number of stages that stay is brought up to a multiple of this (EnCodec), as
    /// far as there are stages.
    pub multiple_of: usize,
}

impl Default for QuantizeDropout {
    fn default() -> Self {
        QuantizeDropout {
            keep: 1,
            multiple_of: 1,
        }
    }
}

/// A chain of vector quantisers; the result is the sum of their codes.
///
/// Stages are the scopes `layers.0`, `layers.1` and so on. Losses are sums over stages.
/// `indices` are `[.., stages]`, `counts` `[stages, K]`; a stage that was left out has
/// the code `K` everywhere, no counts, no loss, and its averages stay. Fewer stages than
/// there are may be decoded: the first ones.
///
/// The gradient goes from the sum to the input once, by the estimator of the stages'
/// description. (lucidrains' library adds up the stages' own gradients, which
/// multiplies the gradient by their number; EnCodec's authors call that a bug.)
pub struct Residual {
    stages: Vec<VectorQuantizer>,
    dropout: Option<QuantizeDropout>,
}

impl Residual {
    /// `stages` quantisers after one description. Errors: no stages, cosine distance (codes
    /// of length 1 leave nothing for a next stage to come closer with), or those of
    /// [`VectorQuantizer::new`].
    pub fn new(params: &Params, stages: usize, config: &VqConfig) -> Result<Self> {
        if stages == 0 || config.metric == Metric::Cosine {
            return Err(Error::argument(
                "Residual",
                format!(
                    "{stages} stages by {:?} distance; give one or more, by Euclidean distance",
                    config.metric
                ),
            ));
        }
        let layers = params.scope("layers");
        let stage = |i| VectorQuantizer::new(&layers.scope(i), config.clone());
        Ok(Residual {
            stages: (0..stages).map(stage).collect::<Result<_>>()?,
            dropout: None,
        })
    }

    /// The same, training with stages left out. Error: `keep` is not one of the stages, or
    /// `multiple_of` is 0.
    pub fn dropout(mut self, dropout: QuantizeDropout) -> Result<Self> {
        let stages = self.stages.len();
        if !(1..=stages).contains(&dropout.keep) || dropout.multiple_of == 0 {
            return Err(Error::argument(
                "Residual",
                format!("{dropout:?}: `keep` must lie in 1..={stages}, `multiple_of` be positive"),
            ));
        }
        self.dropout = Some(dropout);
        Ok(self)
    }

    /// The stages, coarsest first.
    pub fn stages(&self) -> &[VectorQuantizer] {
        &self.stages
    }

    /// For each stage whether this run has it, a tensor `[1]` of 1 or 0.
    fn drawn(&self, x: &Tensor, mode: Mode) -> Option<Vec<Tensor>> {
        let dropout = self.dropout.filter(|_| mode.is_train())?;
        let (stages, graph) = (self.stages.len(), x.graph());
        let table: Vec<f32> = (dropout.keep..=stages)
            .flat_map(|keep| {
                let kept = keep.next_multiple_of(dropout.multiple_of);
                (0..stages).map(move |i| f32::from(u8::from(i < kept)))
            })
            .collect();
        let choices = stages + 1 - dropout.keep;
        let table = graph.constant([choices, stages], &table);
        let drawn = table.gather_rows(&graph.random_below([1], choices));
        let stage = |i| drawn.slice(1, i, 1).reshape([1]);
        Some((0..stages).map(stage).collect())
    }
}

impl Quantizer for Residual {
    fn width(&self) -> usize {
        self.stages[0].config().dim
    }

    fn codes(&self) -> usize {
        self.stages[0].config().codes
    }

    fn books(&self) -> usize {
        self.stages.len()
    }

    #[track_caller]
    fn forward_masked(&self, x: &Tensor, valid: Option<&Tensor>, mode: Mode) -> Quantized {
        let rows = match Rows::new("Residual", x, self.width(), valid) {
            Ok(rows) => rows,
            Err(e) => return Quantized::poisoned(x.graph(), e),
        };
        let drawn = self.drawn(x, mode);
        let mut left = rows.rows.clone();
        let mut sum: Option<Tensor> = None;
        let mut parts = Vec::new();
        for (i, stage) in self.stages.iter().enumerate() {
            let mut valid = rows.valid.clone();
            if let Some(here) = drawn.as_ref().map(|d| &d[i]) {
                let here = here.broadcast_to([rows.count()]);
                valid = Some(valid.map_or(here.clone(), |v| v.mul(&here)));
            }
            let mut part = stage.forward_masked(&left, valid.as_ref(), mode);
            let codes = part.quantized.stop_gradient();
            left = left.sub(&codes);
            sum = Some(sum.map_or(codes.clone(), |s| s.add(&codes)));
            part.indices = rows.place(&part.indices);
            parts.push(part);
        }
        let Some(sum) = sum.filter(|s| s.check().is_ok()) else {
            return parts.swap_remove(0);
        };
        let codes = self.stages[0].config().estimator.apply(&rows.rows, &sum);
        let quantized = rows.restore(&codes);
        match parts.len() {
            1 => Quantized {
                quantized,
                ..parts.swap_remove(0)
            },
            _ => Quantized::joined(&parts, quantized, 1.0),
        }
    }

    /// Of `[.., stages]`, or of fewer stages, the first ones.
    #[track_caller]
    fn decode(&self, indices: &Tensor) -> Tensor {
        if self.stages.len() == 1 {
            return self.stages[0].lookup(indices);
        }
        let given = indices.dim(-1).clamp(1, self.stages.len());
        if let Err(e) = check_books("Residual::decode", indices, given) {
            return indices.graph().poisoned(e);
        }
        let codes = |i: usize| self.stages[i].lookup(&books_of(indices, i, 1));
        (1..given).fold(codes(0), |sum, i| sum.add(&codes(i)))
    }

    /// Each stage from what the stages before leave of `rows`.
    fn start_from(&self, rows: &[f32], seed: u64) -> Result<()> {
        let width = self.width();
        let mut left = rows.to_vec();
        for (i, stage) in self.stages.iter().enumerate() {
            stage.start_from(&left, seed.wrapping_add(i as u64))?;
            let codes = stage.codebook().get()?;
            for row in left.chunks_mut(width) {
                let distance = |code: &[f32]| -> f64 {
                    let pairs = row.iter().zip(code);
                    pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum()
                };
                let nearest = codes
                    .chunks(width)
                    .min_by(|a, b| distance(a).total_cmp(&distance(b)));
                if let Some(code) = nearest.map(<[f32]>::to_vec) {
                    row.iter_mut().zip(code).for_each(|(v, c)| *v -= c);
                }
            }
        }
        Ok(())
    }
}
