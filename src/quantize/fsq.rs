//! Finite scalar quantisation: every channel is rounded to one of a few levels.

use super::lfq::{digits, in_range};
use super::output::{Quantized, Quantizer, check_u32};
use super::rows::{Rows, from_rows};
use crate::nn::Mode;
use crate::{Error, Result, Tensor};

/// Where the bounding `tanh` is shifted so that an even number of levels is used
/// evenly. Both are in circulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FsqShift {
    /// `tan(offset / half)`, as in the paper's code.
    #[default]
    Tan,
    /// `atanh(offset / half)`: 0 is mapped to 0 exactly.
    Atanh,
}

/// What [`Fsq::forward`] gives.
#[derive(Debug, Clone)]
pub struct FsqOutput {
    /// `x` squashed between the lowest and the highest level, before rounding.
    pub bounded: Tensor,
    /// The levels, scaled to about -1..1, in the input's shape; gradients pass straight
    /// through the rounding.
    pub quantized: Tensor,
    /// The level of each channel, from 0 (u32), in the input's shape.
    pub levels: Tensor,
    /// All levels of a vector as one number (u32), the first channel counting fastest:
    /// the input's shape without the last axis.
    pub indices: Tensor,
}

/// Rounds channel `i` of the last axis to one of `levels[i]` values (Mentzer et al.,
/// "Finite scalar quantization: VQ-VAE made simple", 2023). No parameters.
///
/// `half = (levels - 1) (1 - eps) / 2`, `offset` 0.5 for even levels, else 0;
/// `bounded = tanh(x + shift) half - offset`, rounded, then divided by
/// `floor(levels / 2)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Fsq {
    levels: Vec<usize>,
    eps: f32,
    shift: FsqShift,
}

impl Fsq {
    /// `eps` 1e-3 and [`FsqShift::Tan`]. Error: fewer than two levels in a channel, or
    /// more than 2^24 combinations.
    pub fn new(levels: &[usize]) -> Result<Self> {
        let codes = levels
            .iter()
            .try_fold(1usize, |n, l| n.checked_mul(*l))
            .filter(|n| *n <= 1 << 24);
        if levels.is_empty() || codes.is_none() || levels.iter().any(|l| *l < 2) {
            return Err(Error::argument(
                "Fsq",
                format!("levels {levels:?}: give two or more each, 2^24 combinations at most"),
            ));
        }
        Ok(Fsq {
            levels: levels.to_vec(),
            eps: 1e-3,
            shift: FsqShift::Tan,
        })
    }

    /// The same with another shift.
    pub fn shift(mut self, shift: FsqShift) -> Self {
        self.shift = shift;
        self
    }

    /// The same with another `eps`.
    pub fn eps(mut self, eps: f32) -> Self {
        self.eps = eps;
        self
    }

    /// The number of different vectors.
    pub fn codes(&self) -> usize {
        self.levels.iter().product()
    }

    fn channels(&self, x: &Tensor, f: impl Fn(usize) -> f64) -> Tensor {
        let values: Vec<f32> = self.levels.iter().map(|l| f(*l) as f32).collect();
        x.graph().constant([values.len()], &values)
    }

    /// Quantises `x` `[.., channels]`. Error: the last axis has another extent than
    /// there are levels.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> FsqOutput {
        if let Err(e) = x.check().and_then(|()| self.check(x)) {
            let poison = x.graph().poisoned(e);
            return FsqOutput {
                bounded: poison.clone(),
                quantized: poison.clone(),
                levels: poison.clone(),
                indices: poison,
            };
        }
        let half = |l: usize| (l - 1) as f64 * (1.0 - self.eps as f64) / 2.0;
        let offset = |l: usize| if l.is_multiple_of(2) { 0.5 } else { 0.0 };
        let shift = |l: usize| match self.shift {
            FsqShift::Tan => (offset(l) / half(l)).tan(),
            FsqShift::Atanh => (offset(l) / half(l)).atanh(),
        };
        let middle = |l: usize| (l / 2) as f64;
        let bounded = x
            .add(&self.channels(x, shift))
            .tanh()
            .mul(&self.channels(x, half))
            .sub(&self.channels(x, offset));
        let rounded = bounded.round();
        let levels = rounded.add(&self.channels(x, middle));
        let mut basis = 1.0;
        let weights: Vec<f32> = (self.levels.iter())
            .map(|l| {
                let weight = basis;
                basis *= *l as f32;
                weight
            })
            .collect();
        let weights = x.graph().constant([weights.len()], &weights);
        FsqOutput {
            quantized: bounded
                .straight_through(&rounded)
                .div(&self.channels(x, middle)),
            indices: levels.mul(&weights).sum(&[-1], false).to_u32(),
            levels: levels.to_u32(),
            bounded,
        }
    }

    fn check(&self, x: &Tensor) -> Result<()> {
        if x.shape().rank() == 0 || x.dim(-1) != self.levels.len() {
            return Err(Error::shape(
                "fsq",
                format!(
                    "{} channels are expected in the last axis, the input is {:?}",
                    self.levels.len(),
                    x.shape()
                ),
            ));
        }
        Ok(())
    }
}

impl Quantizer for Fsq {
    fn width(&self) -> usize {
        self.levels.len()
    }

    fn codes(&self) -> usize {
        Fsq::codes(self)
    }

    /// [`Fsq::forward`] of vectors in an image's layout; there is no loss.
    #[track_caller]
    fn forward_masked(&self, x: &Tensor, valid: Option<&Tensor>, _: Mode) -> Quantized {
        let rows = match Rows::new("Fsq", x, self.levels.len(), valid) {
            Ok(rows) => rows,
            Err(e) => return Quantized::poisoned(x.graph(), e),
        };
        let out = Fsq::forward(self, &rows.rows);
        let indices = rows.mask_indices(&out.indices, Fsq::codes(self));
        Quantized::plain(&rows, &out.quantized, &indices, Fsq::codes(self))
    }

    #[track_caller]
    fn decode(&self, indices: &Tensor) -> Tensor {
        let checked = indices.check();
        if let Err(e) = checked.and_then(|()| check_u32("Fsq::decode", indices)) {
            return indices.graph().poisoned(e);
        }
        let middle = self.channels(indices, |l| (l / 2) as f64);
        let codes = digits(indices, &self.levels, false)
            .sub(&middle)
            .div(&middle);
        let there = in_range(indices, Fsq::codes(self));
        from_rows(
            &there.select(&codes, &codes.zeros_like()),
            indices.shape().dims(),
        )
    }
}
