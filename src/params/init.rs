//! Initial values: a pure function of seed, name, shape and rule.

use crate::rng::Stream;
use crate::{Error, Result, Shape};

/// How a parameter starts.
///
/// PyTorch's defaults for `Linear` and `Conv` are [`Init::weight`] and
/// [`Init::bias`].
#[derive(Debug, Clone, PartialEq)]
pub enum Init {
    /// All 0.
    Zeros,
    /// All 1.
    Ones,
    /// All equal.
    Constant(f32),
    /// Uniform in `[lo, hi)`.
    Uniform {
        /// Lower bound.
        lo: f32,
        /// Upper bound.
        hi: f32,
    },
    /// Normal.
    Normal {
        /// Mean.
        mean: f32,
        /// Standard deviation.
        std: f32,
    },
    /// Uniform in `+-sqrt(6 / ((1 + a^2) fan_in))` (He et al. 2015), with `a` the
    /// negative slope of the leaky ReLU behind it.
    KaimingUniform {
        /// Negative slope; `sqrt(5)` in PyTorch's layers.
        a: f32,
        /// Inputs that enter one output; see [`Init::fan_in`].
        fan_in: usize,
    },
    /// Uniform in `+-sqrt(6 / (fan_in + fan_out))` (Glorot, Bengio 2010), with the
    /// fans of the shape `[out, in, kernel...]`.
    XavierUniform,
    /// The rows (or columns, where there are fewer) of the matrix
    /// `[shape[0], rest]` are orthonormal; at most 2048 of them.
    Orthogonal,
    /// These values, row-major.
    Values(Vec<f32>),
}

impl Init {
    /// Inputs that enter one output of a weight `[out, in / groups, kernel...]`, as
    /// PyTorch counts them (also for transposed convolutions, `[in, out, ...]`).
    pub fn fan_in(shape: &[usize]) -> usize {
        shape.iter().skip(1).product::<usize>().max(1)
    }

    /// PyTorch's default for the weights of `Linear` and `Conv`:
    /// `KaimingUniform` with `a = sqrt(5)`, that is uniform in `+-1 / sqrt(fan_in)`.
    pub fn weight(shape: &[usize]) -> Init {
        Init::KaimingUniform {
            a: 5f32.sqrt(),
            fan_in: Init::fan_in(shape),
        }
    }

    /// PyTorch's default for the biases of `Linear` and `Conv`: uniform in
    /// `+-1 / sqrt(fan_in)`, with the fan of the *weight* they stand beside.
    pub fn bias(fan_in: usize) -> Init {
        let bound = 1.0 / (fan_in.max(1) as f32).sqrt();
        Init::Uniform {
            lo: -bound,
            hi: bound,
        }
    }

    /// Whether the rule fits the shape.
    pub(crate) fn check(&self, name: &str, shape: &Shape) -> Result<()> {
        let wrong = |detail: String| {
            Err(Error::Argument {
                what: format!("initial value of `{name}`"),
                detail,
            })
        };
        match self {
            Init::Values(v) if v.len() != shape.numel() => wrong(format!(
                "{} values given for shape {shape:?} with {} elements",
                v.len(),
                shape.numel()
            )),
            Init::Values(v) => match v.iter().position(|x| !x.is_finite()) {
                Some(at) => wrong(format!("value {at} is {}", v[at])),
                None => Ok(()),
            },
            Init::Constant(c) if !c.is_finite() => wrong(format!("{c} is not finite")),
            Init::Uniform { lo, hi } if !(lo.is_finite() && hi.is_finite() && lo <= hi) => {
                wrong(format!("uniform in {lo}..{hi}: give finite lo <= hi"))
            }
            Init::Normal { mean, std } if !(mean.is_finite() && std.is_finite() && *std >= 0.0) => {
                wrong(format!(
                    "normal with mean {mean}, std {std}: give finite numbers, std >= 0"
                ))
            }
            Init::KaimingUniform { a, fan_in } if !a.is_finite() || *fan_in == 0 => wrong(format!(
                "kaiming uniform with a = {a}, fan_in = {fan_in}: give a finite slope and a fan of at least 1"
            )),
            Init::Orthogonal => {
                let (rows, columns) = matrix(shape);
                match rows.min(columns) > 2048 {
                    true => wrong(format!(
                        "orthogonal {rows} x {columns}: the smaller side may be 2048 at most"
                    )),
                    false => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// The values of parameter `name`.
    pub(crate) fn values(&self, seed: u64, name: &str, shape: &Shape) -> Vec<f32> {
        let n = shape.numel();
        let stream = Stream::named(seed, name);
        let uniform = |lo: f64, hi: f64| -> Vec<f32> {
            (0..n as u64)
                .map(|i| (lo + (hi - lo) * stream.uniform(i)) as f32)
                .collect()
        };
        match self {
            Init::Zeros => vec![0.0; n],
            Init::Ones => vec![1.0; n],
            Init::Constant(c) => vec![*c; n],
            Init::Uniform { lo, hi } => uniform(*lo as f64, *hi as f64),
            Init::Normal { mean, std } => (0..n as u64)
                .map(|i| (*mean as f64 + *std as f64 * stream.normal(i)) as f32)
                .collect(),
            Init::KaimingUniform { a, fan_in } => {
                let a = *a as f64;
                let bound = (6.0 / ((1.0 + a * a) * *fan_in as f64)).sqrt();
                uniform(-bound, bound)
            }
            Init::XavierUniform => {
                let dims = shape.dims();
                let kernel: usize = dims.iter().skip(2).product();
                let side = |i: usize| dims.get(i).copied().unwrap_or(1) * kernel;
                let bound = (6.0 / (side(0) + side(1)) as f64).sqrt();
                uniform(-bound, bound)
            }
            Init::Orthogonal => orthogonal(stream, shape),
            Init::Values(v) => v.clone(),
        }
    }
}

/// The shape as a matrix: first axis against the rest.
fn matrix(shape: &Shape) -> (usize, usize) {
    let rows = shape.dims().first().copied().unwrap_or(1);
    (rows, shape.numel() / rows.max(1))
}

/// Gram-Schmidt on a normal matrix, each vector projected twice ("twice is
/// enough", Kahan): orthonormal to float64 rounding.
fn orthogonal(stream: Stream, shape: &Shape) -> Vec<f32> {
    let (rows, columns) = matrix(shape);
    let (count, length) = (rows.min(columns), rows.max(columns));
    let mut vectors: Vec<Vec<f64>> = Vec::with_capacity(count);
    let mut position = 0;
    while vectors.len() < count {
        let mut v: Vec<f64> = (0..length)
            .map(|_| {
                position += 1;
                stream.normal(position)
            })
            .collect();
        for _ in 0..2 {
            for earlier in &vectors {
                let along: f64 = v.iter().zip(earlier).map(|(a, b)| a * b).sum();
                v.iter_mut().zip(earlier).for_each(|(a, b)| *a -= along * b);
            }
        }
        let norm = v.iter().map(|a| a * a).sum::<f64>().sqrt();
        // A vector that (almost) vanished is drawn anew; this has probability zero.
        if norm > 1e-9 {
            v.iter_mut().for_each(|a| *a /= norm);
            vectors.push(v);
        }
    }
    let at = |r: usize, c: usize| match rows <= columns {
        true => vectors[r][c],
        false => vectors[c][r],
    };
    (0..rows * columns)
        .map(|i| at(i / columns, i % columns) as f32)
        .collect()
}
