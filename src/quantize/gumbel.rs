//! Gumbel-softmax: codes drawn from logits, with a gradient to all of them.

use super::output::{Quantized, Quantizer};
use super::quantizer::look_up;
use super::rows::Rows;
use crate::nn::{Layer, Linear, Mode};
use crate::{Error, Init, Param, Params, Result, Tensor};

/// How a temperature falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decay {
    /// By equal amounts.
    Linear,
    /// By equal factors.
    Exponential,
    /// Along half a cosine, flat at both ends, as DALL-E's dVAE does.
    Cosine,
}

/// A temperature that goes from `start` to `end` in `steps` steps and stays.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Temperature {
    /// At step 0.
    pub start: f64,
    /// From step `steps` on.
    pub end: f64,
    /// How many steps it takes.
    pub steps: u64,
    /// The way between.
    pub decay: Decay,
}

impl Temperature {
    /// The same at every step: 1 is VQGAN's.
    pub fn constant(temperature: f64) -> Self {
        Temperature {
            start: temperature,
            end: temperature,
            steps: 0,
            decay: Decay::Linear,
        }
    }

    /// DALL-E's dVAE: 1 to 1/16 along a cosine, there in 150,000 steps.
    pub fn dalle(steps: u64) -> Self {
        Temperature {
            start: 1.0,
            end: 1.0 / 16.0,
            steps,
            decay: Decay::Cosine,
        }
    }

    /// The temperature of `step` (from 0).
    pub fn at(&self, step: u64) -> f64 {
        if step >= self.steps {
            return self.end;
        }
        let way = step as f64 / self.steps as f64;
        match self.decay {
            Decay::Linear => self.start + (self.end - self.start) * way,
            Decay::Exponential => self.start * (self.end / self.start).powf(way),
            Decay::Cosine => {
                let left = 0.5 + 0.5 * (std::f64::consts::PI * way).cos();
                self.end + (self.start - self.end) * left
            }
        }
    }

    fn check(&self) -> Result<()> {
        let fine = |t: f64| t > 0.0 && t.is_finite();
        match fine(self.start) && fine(self.end) {
            true => Ok(()),
            false => Err(Error::argument(
                "Temperature",
                format!(
                    "it goes from {} to {}; both must be finite and above 0 (evaluation takes the likeliest code, as temperature 0 would)",
                    self.start, self.end
                ),
            )),
        }
    }
}

/// Shares `[.., K]` drawn from `logits` `[.., K]` (Jang et al. 2017, Maddison et al. 2017):
/// `softmax((logits + g) / temperature)` with `g = -ln(-ln u)` drawn on the device.
/// `temperature` is a tensor of one element. Seeded as all random numbers of a program.
#[track_caller]
pub fn gumbel_softmax(logits: &Tensor, temperature: &Tensor) -> Tensor {
    // A draw of 0 or one that rounds to 1 would be infinite noise.
    let (least, most) = (f32::EPSILON / 4.0, 1.0 - f32::EPSILON / 2.0);
    let uniform = logits.graph().uniform(logits.shape()).clamp(least, most);
    let noise = uniform.log().neg().log().neg();
    let one = temperature.reshape([1]);
    logits.add(&noise).div(&one).softmax(-1)
}

/// A Gumbel quantiser's description.
#[derive(Debug, Clone, PartialEq)]
pub struct GumbelConfig {
    /// Channels of the input.
    pub width: usize,
    /// The number of codes.
    pub codes: usize,
    /// The width of a code: the channels of what comes out.
    pub dim: usize,
    /// Weight of the divergence from equal shares; 5e-4 in VQGAN.
    pub kl_weight: f32,
    /// Whether the value is one code, and the gradient that of the mixture; else the
    /// value is the mixture itself, in training.
    pub straight_through: bool,
    /// The temperature in training.
    pub temperature: Temperature,
}

impl GumbelConfig {
    /// Straight through, temperature 1, weight 5e-4: VQGAN's.
    pub fn new(width: usize, codes: usize, dim: usize) -> Self {
        GumbelConfig {
            width,
            codes,
            dim,
            kl_weight: 5e-4,
            straight_through: true,
            temperature: Temperature::constant(1.0),
        }
    }
}

/// A linear map gives each vector logits over the codes, and a draw from them is the code
/// (DALL-E's dVAE, VQGAN's `GumbelQuantize`). Logits for all codes are the method itself:
/// this quantiser alone keeps a number for every vector and code.
///
/// Parameters `proj.weight` `[K, width]` and `proj.bias` `[K]` (in VQGAN's files a
/// convolution `[K, width, 1, 1]`; rules for extents of 1 read them) and `embed.weight`
/// `[K, D]`, normal at first. In training the program has the input
/// `{scope}.temperature`: give it [`GumbelQuantizer::inputs`] of the step. In evaluation the
/// code is the likeliest, without noise.
///
/// `entropy_loss` is `mean sum_k q_k ln(q_k K)` with `q = softmax(logits)`, in nats;
/// `loss` is that times `kl_weight`.
pub struct GumbelQuantizer {
    config: GumbelConfig,
    projection: Linear,
    embedding: Param,
    input: String,
}

impl GumbelQuantizer {
    /// Errors: see [`Params::add`]; a temperature that is not above 0, a weight that is
    /// negative or not finite.
    pub fn new(params: &Params, config: GumbelConfig) -> Result<Self> {
        config.temperature.check()?;
        if !(config.kl_weight >= 0.0 && config.kl_weight.is_finite()) {
            return Err(Error::argument(
                "GumbelConfig",
                format!(
                    "kl_weight is {}; it must be finite and not negative",
                    config.kl_weight
                ),
            ));
        }
        let normal = Init::Normal {
            mean: 0.0,
            std: 1.0,
        };
        let shape = [config.codes, config.dim];
        Ok(GumbelQuantizer {
            projection: Linear::new(&params.scope("proj"), config.width, config.codes)?,
            embedding: params.scope("embed").add("weight", shape, normal)?,
            input: params.full_name("temperature"),
            config,
        })
    }

    /// The description it was made from.
    pub fn config(&self) -> &GumbelConfig {
        &self.config
    }

    /// Name and value of the scalar input of `step` (from 0) of a training program, for
    /// [`crate::Program::set_scalars`].
    pub fn inputs(&self, step: u64) -> Vec<(String, f32)> {
        let temperature = self.config.temperature.at(step);
        vec![(self.input.clone(), temperature as f32)]
    }
}

impl Quantizer for GumbelQuantizer {
    fn width(&self) -> usize {
        self.config.width
    }

    fn codes(&self) -> usize {
        self.config.codes
    }

    #[track_caller]
    fn forward_masked(&self, x: &Tensor, valid: Option<&Tensor>, mode: Mode) -> Quantized {
        let graph = x.graph();
        let rows = match Rows::new("GumbelQuantizer", x, self.config.width, valid) {
            Ok(rows) => rows,
            Err(e) => return Quantized::poisoned(graph, e),
        };
        let logits = self.projection.forward(&rows.rows, mode);
        let table = self.embedding.on(graph);
        let shares = mode.is_train().then(|| {
            let temperature = graph.input(&self.input, [1]);
            gumbel_softmax(&logits, &temperature)
        });
        let indices = shares.as_ref().unwrap_or(&logits).argmax(Some(-1));
        let indices = rows.mask_indices(&indices, self.config.codes);
        let codes = table.gather_rows(&indices);
        let codes = match shares {
            None => codes,
            Some(shares) if !self.config.straight_through => shares.matmul(&table),
            // The code's own gradient, and through a zero that of the mixture.
            Some(shares) => {
                let mixture = shares.matmul(&table.stop_gradient());
                codes.add(&mixture.straight_through(&mixture.zeros_like()))
            }
        };
        let log_q = logits.log_softmax(-1);
        let k = self.config.codes as f32;
        let divergence = log_q.exp().mul(&log_q.add_scalar(k.ln())).sum(&[-1], false);
        let entropy_loss = rows.mean(&divergence);
        Quantized {
            loss: entropy_loss.mul_scalar(self.config.kl_weight),
            entropy_loss,
            ..Quantized::plain(&rows, &codes, &indices, self.config.codes)
        }
    }

    #[track_caller]
    fn decode(&self, indices: &Tensor) -> Tensor {
        look_up(&self.embedding.on(indices.graph()), indices)
    }
}
