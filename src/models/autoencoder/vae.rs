//! The variational autoencoder (Kingma and Welling 2013, arXiv 1312.6114) with a bound by
//! importance weights (Burda et al. 2015, arXiv 1509.00519).

use std::f64::consts::{LN_2, TAU};

use super::plain::{AutoencoderConfig, Decoder, Encoder};
use crate::nn::Mode;
use crate::ops::LossReduction;
use crate::{Error, Graph, Params, Result, Tensor};

/// What a decoder says of pixels: their distribution given the latents.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Likelihood {
    /// `-log p = BCE(logits, x)`, summed over pixels: exact for pixels 0 and 1. Of grey
    /// pixels it is what is usually trained and reported, not a density.
    Bernoulli,
    /// Normal with the sigmoid of the logits as mean:
    /// `-log p = (x - mean)^2 / (2 variance) + log(2 pi variance) / 2`, summed over pixels.
    Gaussian {
        /// Of a pixel at the scale 0..1.
        variance: f32,
    },
}

impl Likelihood {
    /// The squared error summed over pixels (and a constant): a variance of 1/2.
    pub fn summed_squares() -> Self {
        Likelihood::Gaussian { variance: 0.5 }
    }

    /// The squared error averaged over `pixels` (and a constant): a variance of
    /// `pixels / 2`. Beside it the divergence weighs so much that the posterior collapses
    /// onto the prior and the decoder sees nothing of the image.
    pub fn mean_squares(pixels: usize) -> Self {
        Likelihood::Gaussian {
            variance: pixels as f32 / 2.0,
        }
    }
}

/// The description of a [`Vae`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VaeConfig {
    /// Its networks.
    pub network: AutoencoderConfig,
    /// What the decoder says of pixels.
    pub likelihood: Likelihood,
    /// Weight of the divergence in the loss; 1 trains the bound itself (Higgins et al.
    /// 2017 for others).
    pub beta: f32,
}

impl VaeConfig {
    /// The keras.io model for these images: dense, Bernoulli, 2 latents, `beta` 1.
    pub fn new(image: [usize; 3]) -> Self {
        VaeConfig {
            network: AutoencoderConfig::new(image),
            likelihood: Likelihood::Bernoulli,
            beta: 1.0,
        }
    }
}

/// Independent normal distributions of the latents of each image.
#[derive(Debug, Clone)]
pub struct Posterior {
    /// `[N, latent]`
    pub mean: Tensor,
    /// Logarithms of the variances, `[N, latent]`.
    pub log_var: Tensor,
}

impl Posterior {
    /// `mean + exp(log_var / 2) noise` for standard normal noise `[N, latent]`.
    #[track_caller]
    pub fn at(&self, noise: &Tensor) -> Tensor {
        let deviation = self.log_var.mul_scalar(0.5).exp();
        self.mean.add(&deviation.mul(noise))
    }

    /// The divergence from the standard normal prior in nats, `[N]`.
    #[track_caller]
    pub fn kl(&self) -> Tensor {
        self.mean.kl_to_standard_normal(&self.log_var)
    }
}

/// What a forward pass of [`Vae`] gives; nats throughout.
#[derive(Debug, Clone)]
pub struct VaeOutput {
    /// The encoder's distribution.
    pub posterior: Posterior,
    /// The latents that were drawn, `[N, latent]`.
    pub latent: Tensor,
    /// Means of the pixels given these latents, `[N, C, H, W]` in 0..1.
    pub reconstruction: Tensor,
    /// `-log p(x | z)`, `[N]`.
    pub nll: Tensor,
    /// `KL(q(z | x) || p(z))`, `[N]`.
    pub kl: Tensor,
    /// `log q(z | x) - log p(z)` of the latents that were drawn, `[N]`: `kl` is its mean.
    pub log_ratio: Tensor,
    /// `mean(nll + beta kl)`: what is trained.
    pub loss: Tensor,
}

impl VaeOutput {
    /// The evidence lower bound `-nll - kl` of each image, `[N]`.
    #[track_caller]
    pub fn elbo(&self) -> Tensor {
        self.nll.add(&self.kl).neg()
    }
}

/// A variational autoencoder of small images `[N, C, H, W]` with pixels in 0..1.
///
/// Its networks and names are those of [`Autoencoder`](super::Autoencoder) with
/// `encoder.z_log_var` beside `encoder.z_mean`; a plain autoencoder's weights are loaded
/// by [`LoadRules::may_miss`](crate::params::LoadRules::may_miss) of `encoder.z_log_var`.
/// With [`VaeConfig::new`] on MNIST it is the keras.io example `vae.py`: 69,076 parameters
/// in the encoder, 65,089 in the decoder.
pub struct Vae {
    config: VaeConfig,
    encoder: Encoder,
    decoder: Decoder,
}

impl Vae {
    /// The networks over `params`. Errors: as of
    /// [`Autoencoder::new`](super::Autoencoder::new); a variance that is not positive, a
    /// `beta` that is negative.
    pub fn new(params: &Params, config: VaeConfig) -> Result<Self> {
        let wrong = |detail: String| Err(Error::argument("VaeConfig", detail));
        let beta = config.beta;
        if !(beta >= 0.0 && beta.is_finite()) {
            return wrong(format!(
                "beta is {beta}; it must be finite and not negative"
            ));
        }
        if let Likelihood::Gaussian { variance } = config.likelihood
            && !(variance > 0.0 && variance.is_finite())
        {
            return wrong(format!(
                "the variance is {variance}; it must be finite and positive"
            ));
        }
        let heads = ["z_mean", "z_log_var"];
        Ok(Vae {
            config,
            encoder: Encoder::new(&params.scope("encoder"), config.network, &heads)?,
            decoder: Decoder::new(&params.scope("decoder"), config.network)?,
        })
    }

    /// The description it was made from.
    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// The distribution of the latents of images `[N, C, H, W]`.
    #[track_caller]
    pub fn encode(&self, x: &Tensor, mode: Mode) -> Posterior {
        let mut heads = self.encoder.forward(x, mode);
        let log_var = heads.swap_remove(1);
        let mean = heads.swap_remove(0);
        Posterior { mean, log_var }
    }

    /// Logits of pixels `[N, C, H, W]` from latents `[N, latent]`.
    #[track_caller]
    pub fn decode_logits(&self, z: &Tensor, mode: Mode) -> Tensor {
        self.decoder.forward(z, mode)
    }

    /// Means of pixels `[N, C, H, W]` from latents `[N, latent]`.
    #[track_caller]
    pub fn decode(&self, z: &Tensor, mode: Mode) -> Tensor {
        self.decode_logits(z, mode).sigmoid()
    }

    /// `-log p(x | z)` in nats, `[N]`, from the decoder's logits.
    #[track_caller]
    fn nll(&self, logits: &Tensor, x: &Tensor) -> Tensor {
        match self.config.likelihood {
            Likelihood::Bernoulli => logits
                .bce_with_logits(x, None, LossReduction::None)
                .sum_samples(),
            Likelihood::Gaussian { variance } => {
                let squares = logits.sigmoid().mse_loss(x, LossReduction::None);
                let pixels = self.config.network.image.iter().product::<usize>() as f64;
                let constant = 0.5 * pixels * (TAU * f64::from(variance)).ln();
                squares
                    .sum_samples()
                    .mul_scalar(0.5 / variance)
                    .add_scalar(constant as f32)
            }
        }
    }

    /// Everything at once, with latents drawn anew in every run.
    #[track_caller]
    pub fn forward(&self, x: &Tensor, mode: Mode) -> VaeOutput {
        let noise = x.graph().normal([x.dim(0), self.config.network.latent]);
        self.forward_with(x, &noise, mode)
    }

    /// Everything at once, with the standard normal noise `[N, latent]` by which latents
    /// are drawn; zeros take the posterior's means.
    #[track_caller]
    pub fn forward_with(&self, x: &Tensor, noise: &Tensor, mode: Mode) -> VaeOutput {
        let posterior = self.encode(x, mode);
        let latent = posterior.at(noise);
        let logits = self.decode_logits(&latent, mode);
        let nll = self.nll(&logits, x);
        let kl = posterior.kl();
        let log_ratio = log_ratio(&posterior.log_var, &latent, noise).sum_samples();
        let loss = nll.add(&kl.mul_scalar(self.config.beta)).mean(&[], false);
        VaeOutput {
            posterior,
            latent,
            reconstruction: logits.sigmoid(),
            nll,
            kl,
            log_ratio,
            loss,
        }
    }

    /// The importance-weighted bound of `log p(x)` from `samples` draws for each image, in
    /// nats, `[N]`: `log mean exp(log p(x | z) + log p(z) - log q(z | x))`. At least the
    /// evidence lower bound on average, and closer to `log p(x)` with more samples.
    ///
    /// All `N * samples` decodings are in memory at once; for many samples average the
    /// exponentials of several runs.
    #[track_caller]
    pub fn importance_bound(&self, x: &Tensor, samples: usize, mode: Mode) -> Tensor {
        if samples == 0 {
            let error = Error::argument("importance_bound", "samples is 0; it must be 1 or more");
            return x.graph().poisoned(x.check().err().unwrap_or(error));
        }
        let shape = [x.dim(0), samples, self.config.network.latent];
        self.importance_bound_with(x, &x.graph().normal(shape), mode)
    }

    /// The same with the noise `[N, samples, latent]` by which latents are drawn. With one
    /// sample it is `-nll - log_ratio` of [`Vae::forward_with`].
    #[track_caller]
    pub fn importance_bound_with(&self, x: &Tensor, noise: &Tensor, mode: Mode) -> Tensor {
        let posterior = self.encode(x, mode);
        let (rows, latent) = (x.dim(0), self.config.network.latent);
        let samples = noise.dim(1);
        if noise.shape().dims() != [rows, samples, latent] {
            let found = noise.shape();
            let detail = format!("expected noise [{rows}, samples, {latent}], got {found:?}");
            let error = Error::shape("importance_bound", detail);
            let first = x.check().err().or(noise.check().err());
            return x.graph().poisoned(first.unwrap_or(error));
        }
        let each = Posterior {
            mean: posterior.mean.reshape([rows, 1, latent]),
            log_var: posterior.log_var.reshape([rows, 1, latent]),
        };
        let z = each.at(noise);
        let ratio = log_ratio(&each.log_var, &z, noise).sum(&[2], false);
        let logits = self.decode_logits(&z.reshape([rows * samples, latent]), mode);
        let [channels, height, width] = self.config.network.image;
        let again = x
            .reshape([rows, 1, channels, height, width])
            .broadcast_to([rows, samples, channels, height, width])
            .reshape([rows * samples, channels, height, width]);
        let nll = self.nll(&logits, &again).reshape([rows, samples]);
        nll.add(&ratio)
            .neg()
            .logsumexp(&[1], false)
            .add_scalar(-(samples as f32).ln())
    }

    /// Bits per dimension of bounds in nats, `[N]` to `[N]`. Of a Bernoulli decoder these
    /// are bits of a pixel; of a Gaussian one those of a density at the scale 0..1, and
    /// pixels of `levels` levels take `log2(levels - 1)` bits more.
    #[track_caller]
    pub fn bits_per_dim(&self, bound: &Tensor) -> Tensor {
        let dims = self.config.network.image.iter().product::<usize>() as f64;
        bound.mul_scalar((-1.0 / (dims * LN_2)) as f32)
    }

    /// The pixels' means for the means of the latents of `x`, `[N, C, H, W]`.
    #[track_caller]
    pub fn reconstruct(&self, x: &Tensor, mode: Mode) -> Tensor {
        self.decode(&self.encode(x, mode).mean, mode)
    }

    /// Means of `count` new images `[count, C, H, W]` for latents of the prior, others in
    /// every run.
    #[track_caller]
    pub fn sample(&self, graph: &Graph, count: usize, mode: Mode) -> Tensor {
        let z = graph.normal([count, self.config.network.latent]);
        self.decode(&z, mode)
    }

    /// Means of images `[N * steps, C, H, W]` on straight lines of latents from `from` to
    /// `to`, both `[N, latent]`: the `steps` images of each line one after the other,
    /// beginning and end among them. Error: fewer than 2 steps.
    #[track_caller]
    pub fn interpolate(&self, from: &Tensor, to: &Tensor, steps: usize, mode: Mode) -> Tensor {
        let graph = from.graph();
        if steps < 2 {
            let error = Error::argument(
                "interpolate",
                format!("steps is {steps}; there must be 2 or more, for both ends"),
            );
            return graph.poisoned(from.check().err().unwrap_or(error));
        }
        let (lines, latent) = (from.dim(0), self.config.network.latent);
        for end in [from, to] {
            if end.shape().dims() != [lines, latent] {
                let found = end.shape();
                let detail = format!("expected latents [N, {latent}] twice, got {found:?}");
                let error = Error::shape("interpolate", detail);
                return graph.poisoned(end.check().err().unwrap_or(error));
            }
        }
        let parts: Vec<f32> = (0..steps).map(|i| i as f32 / (steps - 1) as f32).collect();
        let parts = graph.constant([1, steps, 1], &parts);
        let [from, to] = [from, to].map(|z| z.reshape([lines, 1, latent]));
        // Not `from + t (to - from)`: that may miss the end by rounding.
        let z = from.mul(&parts.neg().add_scalar(1.0)).add(&to.mul(&parts));
        self.decode(&z.reshape([lines * steps, latent]), mode)
    }
}

/// `log q(z | x) - log p(z)` of each latent: the normalisers cancel.
#[track_caller]
fn log_ratio(log_var: &Tensor, z: &Tensor, noise: &Tensor) -> Tensor {
    z.square().sub(&noise.square()).sub(log_var).mul_scalar(0.5)
}
