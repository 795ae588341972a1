//! Lookup-free quantisation: the signs of the channels are the code.

use super::output::{Quantized, Quantizer, check_u32};
use super::rows::{Rows, from_rows};
use crate::nn::Mode;
use crate::{Error, Result, Tensor};

/// The most bits whose codes are exact in float32.
const MOST_BITS: usize = 24;

/// Each of `d` channels becomes `+scale` or `-scale` (0 becomes `-scale`): 2^d codes without a
/// codebook (Yu et al. 2023, "Language model beats diffusion", arXiv 2310.05737; weights
/// and signs as in lucidrains' vector-quantize-pytorch). The first channel is the
/// highest bit of the index, 1 where it is positive.
///
/// Loss: `entropy_weight * entropy_loss + commitment * commitment_loss`, where
/// `entropy_loss = mean H(p_n) - diversity * H(mean p_n)` over the distribution
/// `p_n = softmax(2 inv_temperature x_n . c)` of vector `n` over all codes `c`, in nats:
/// each vector is to be sure of its code, all together are to use all codes.
///
/// Neither term makes a matrix of vectors and codes. `p_n` is a product over bits, so
/// `H(p_n)` is the sum of the entropies of `d` single bits, exactly. `mean p_n` is no such
/// product; it is computed as the matrix product of the distributions of the two halves
/// of the bits, `2^(d/2)` numbers for each vector. Beyond [`Lfq::joint_bits`] the bits are
/// split in groups of about equal size, whose entropies are added: an upper bound, as
/// groups that depend on each other have less entropy together.
#[derive(Debug, Clone, PartialEq)]
pub struct Lfq {
    bits: usize,
    joint: usize,
    scale: f32,
    inv_temperature: f32,
    entropy_weight: f32,
    diversity: f32,
    commitment: f32,
}

impl Lfq {
    /// `scale` 1, `inv_temperature` 100, `entropy_weight` 0.1, `diversity` 1, `commitment`
    /// 0.25, 12 joint bits. Error: no bits or more than 24.
    pub fn new(bits: usize) -> Result<Self> {
        if !(1..=MOST_BITS).contains(&bits) {
            return Err(Error::argument(
                "Lfq",
                format!("{bits} bits; give 1 to {MOST_BITS}, or several `Heads`"),
            ));
        }
        Ok(Lfq {
            bits,
            joint: 12,
            scale: 1.0,
            inv_temperature: 100.0,
            entropy_weight: 0.1,
            diversity: 1.0,
            commitment: 0.25,
        })
    }

    /// The same with other magnitudes of the codes. Error: not a positive number.
    pub fn scale(self, scale: f32) -> Result<Self> {
        let scale = positive("scale", scale)?;
        Ok(Lfq { scale, ..self })
    }

    /// The same with another inverse temperature. Error: not a positive number.
    pub fn inv_temperature(self, inv_temperature: f32) -> Result<Self> {
        let inv_temperature = positive("inv_temperature", inv_temperature)?;
        Ok(Lfq {
            inv_temperature,
            ..self
        })
    }

    /// The same with other weights of the entropy term, of the batch's entropy in it, and of
    /// the commitment loss. Error: a weight that is negative or not finite.
    pub fn weights(self, entropy: f32, diversity: f32, commitment: f32) -> Result<Self> {
        let weights = [entropy, diversity, commitment];
        if weights.iter().any(|w| !(*w >= 0.0 && w.is_finite())) {
            return Err(Error::argument(
                "Lfq",
                format!("the weights are {weights:?}; they must be finite and not negative"),
            ));
        }
        Ok(Lfq {
            entropy_weight: entropy,
            diversity,
            commitment,
            ..self
        })
    }

    /// The same with the batch's entropy over at most this many bits together: time grows
    /// with `2^joint` for each vector, memory with its root. Error: none, or more than 24.
    pub fn joint_bits(self, joint: usize) -> Result<Self> {
        match (1..=MOST_BITS).contains(&joint) {
            true => Ok(Lfq { joint, ..self }),
            false => Err(Error::argument(
                "Lfq",
                format!("{joint} joint bits; give 1 to {MOST_BITS}"),
            )),
        }
    }

    /// The entropy of the mean of `p_n`, from the logits `[M, d]` of single bits.
    fn batch_entropy(&self, rows: &Rows, logits: &Tensor) -> Tensor {
        let groups = self.bits.div_ceil(self.joint);
        let mut total: Option<Tensor> = None;
        let mut from = 0;
        for g in 0..groups {
            let bits = (self.bits - from).div_ceil(groups - g);
            let part = logits.slice(1, from, bits);
            from += bits;
            let (high, low) = part_sizes(bits);
            let mut left = joint(&part.slice(1, 0, high));
            // A padded row has probabilities, too, and they must not count.
            let count = match &rows.valid {
                Some(valid) => {
                    left = left.mul(&valid.reshape([rows.count(), 1]));
                    valid.sum(&[], false).clamp(1.0, f32::MAX)
                }
                None => logits.graph().full([], rows.count() as f32),
            };
            let right = match low {
                0 => logits.graph().full([rows.count(), 1], 1.0),
                _ => joint(&part.slice(1, high, low)),
            };
            let mean = left.matmul_with(&right, true, false).div(&count);
            // Where no vector goes, p log p is 0.
            let log = mean.clamp(1e-30, f32::MAX).log();
            let entropy = mean.mul(&log).sum(&[], false).neg();
            total = Some(total.map_or(entropy.clone(), |t| t.add(&entropy)));
        }
        total.unwrap_or_else(|| logits.graph().full([], 0.0))
    }
}

fn positive(name: &str, value: f32) -> Result<f32> {
    match value > 0.0 && value.is_finite() {
        true => Ok(value),
        false => Err(Error::argument(
            "Lfq",
            format!("{name} is {value}; it must be finite and positive"),
        )),
    }
}

fn part_sizes(bits: usize) -> (usize, usize) {
    (bits.div_ceil(2), bits / 2)
}

/// The probabilities `[M, 2^b]` of all values of `b` independent bits with logits
/// `[M, b]`.
fn joint(logits: &Tensor) -> Tensor {
    let (rows, bits) = (logits.dim(0), logits.dim(1));
    if bits == 1 {
        return Tensor::concat(&[&logits.neg().sigmoid(), &logits.sigmoid()], 1);
    }
    let (high, low) = part_sizes(bits);
    let left = joint(&logits.slice(1, 0, high)).reshape([rows, 1 << high, 1]);
    let right = joint(&logits.slice(1, high, low)).reshape([rows, 1, 1 << low]);
    left.mul(&right).reshape([rows, 1 << bits])
}

/// The entropies of bits with these logits. With `a = |z|` both terms of
/// `softplus(-a) + a sigmoid(-a)` are positive: sure bits lose no digits.
fn bit_entropy(logits: &Tensor) -> Tensor {
    let a = logits.abs();
    let unsure = a.neg();
    unsure.softplus().add(&a.mul(&unsure.sigmoid()))
}

impl Quantizer for Lfq {
    fn width(&self) -> usize {
        self.bits
    }

    fn codes(&self) -> usize {
        1 << self.bits
    }

    #[track_caller]
    fn forward_masked(&self, x: &Tensor, valid: Option<&Tensor>, _: Mode) -> Quantized {
        let graph = x.graph();
        let rows = match Rows::new("Lfq", x, self.bits, valid) {
            Ok(rows) => rows,
            Err(e) => return Quantized::poisoned(graph, e),
        };
        let values = &rows.rows;
        let bits = values.zeros_like().less(values);
        // x * 0 is NaN where x is, which `less` would turn into a code.
        let codes = bits
            .mul_scalar(2.0 * self.scale)
            .add_scalar(-self.scale)
            .add(&values.stop_gradient().mul_scalar(0.0));
        let weights: Vec<f32> = (0..self.bits)
            .map(|i| (1u32 << (self.bits - 1 - i)) as f32)
            .collect();
        let weights = graph.constant([self.bits], &weights);
        let indices = bits.mul(&weights).sum(&[-1], false).to_u32();
        let indices = rows.mask_indices(&indices, self.codes());

        let logits = values.mul_scalar(4.0 * self.inv_temperature * self.scale);
        let own = rows
            .mean(&bit_entropy(&logits))
            .mul_scalar(self.bits as f32);
        let all = self.batch_entropy(&rows, &logits);
        let entropy_loss = own.sub(&all.mul_scalar(self.diversity));
        let commitment_loss = rows.mean(&values.sub(&codes.stop_gradient()).square());
        // Padded rows are zeros and their codes are not.
        Quantized {
            loss: entropy_loss
                .mul_scalar(self.entropy_weight)
                .add(&commitment_loss.mul_scalar(self.commitment)),
            entropy_loss,
            commitment_loss,
            ..Quantized::plain(
                &rows,
                &values.straight_through(&codes),
                &indices,
                self.codes(),
            )
        }
    }

    #[track_caller]
    fn decode(&self, indices: &Tensor) -> Tensor {
        let checked = indices.check();
        if let Err(e) = checked.and_then(|()| check_u32("Lfq::decode", indices)) {
            return indices.graph().poisoned(e);
        }
        let digits = digits(indices, &vec![2; self.bits], true);
        let codes = digits.mul_scalar(2.0 * self.scale).add_scalar(-self.scale);
        let there = in_range(indices, self.codes());
        from_rows(
            &there.select(&codes, &codes.zeros_like()),
            indices.shape().dims(),
        )
    }
}

/// `[M, 1]`: 1 where an index is one of `codes`.
pub(super) fn in_range(indices: &Tensor, codes: usize) -> Tensor {
    let column = indices.reshape([indices.numel(), 1]);
    let codes = indices.graph().constant_u32([1, 1], &[codes as u32]);
    column.less(&codes)
}

/// The digits `[M, levels.len()]` of the indices, the first counting fastest, or slowest where
/// `high_first`. The number of all codes must not exceed 2^24.
pub(super) fn digits(indices: &Tensor, levels: &[usize], high_first: bool) -> Tensor {
    let count = levels.len();
    let mut basis = vec![1.0f32; count];
    for i in 1..count {
        let (at, before) = match high_first {
            true => (count - 1 - i, count - i),
            false => (i, i - 1),
        };
        basis[at] = basis[before] * levels[before] as f32;
    }
    let graph = indices.graph();
    let constant = |v: &[f32]| graph.constant([1, count], v);
    let levels: Vec<f32> = levels.iter().map(|l| *l as f32).collect();
    let number = indices.reshape([indices.numel(), 1]).to_f32();
    let whole = quotient(&number, &constant(&basis));
    let levels = constant(&levels);
    whole.sub(&quotient(&whole, &levels).mul(&levels))
}

/// `floor(a / b)` of whole numbers below 2^24, which are exact in float32: a quotient that
/// was rounded across a whole number is brought back.
fn quotient(a: &Tensor, b: &Tensor) -> Tensor {
    let q = a.div(b).floor();
    let rest = a.sub(&q.mul(b));
    let below = rest.less(&rest.zeros_like());
    let above = b.less_equal(&rest);
    q.sub(&below).add(&above)
}
