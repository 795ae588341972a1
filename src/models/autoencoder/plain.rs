//! The convolutional autoencoder of small images, without anything random: what the VAE
//! grows from.

use crate::nn::{Conv2d, ConvTranspose2d, Flatten, Layer, Linear, Mode, Sequential};
use crate::ops::{Activation, ConvParams, ConvTransposeParams};
use crate::{Error, Params, Result, Tensor};

/// The shape of an [`Autoencoder`] or of a [`Vae`](super::Vae).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AutoencoderConfig {
    /// Channels, height and width of the images; both extents divisible by 4.
    pub image: [usize; 3],
    /// Channels behind the first and the second convolution.
    pub widths: [usize; 2],
    /// Units of the dense layer between the convolutions and the latents. Without it the
    /// two dense layers at the bottleneck are convolutions over the whole map.
    pub dense: Option<usize>,
    /// The number of latents.
    pub latent: usize,
}

impl AutoencoderConfig {
    /// The keras.io example `vae.py` for other images: 32 and 64 channels, a dense layer
    /// of 16 units, 2 latents.
    pub fn new(image: [usize; 3]) -> Self {
        AutoencoderConfig {
            image,
            widths: [32, 64],
            dense: Some(16),
            latent: 2,
        }
    }

    /// The same for MNIST: an encoder of 69,076 parameters (as a [`Vae`](super::Vae)), a
    /// decoder of 65,089.
    pub fn mnist() -> Self {
        AutoencoderConfig::new([1, 28, 28])
    }

    /// The same without dense layers.
    pub fn convolutional(self) -> Self {
        AutoencoderConfig {
            dense: None,
            ..self
        }
    }

    fn check(&self) -> Result<()> {
        let wrong = |detail: String| Err(Error::argument("AutoencoderConfig", detail));
        let [channels, height, width] = self.image;
        if channels == 0 || height == 0 || width == 0 {
            return wrong(format!("images of {channels}x{height}x{width} are empty"));
        }
        if !height.is_multiple_of(4) || !width.is_multiple_of(4) {
            return wrong(format!(
                "images are {height}x{width}; both extents are halved twice and must be divisible by 4 (`ImageSet::padded` adds a border)"
            ));
        }
        for (what, n) in [
            ("latent", self.latent),
            ("dense", self.dense.unwrap_or(1)),
            ("widths[0]", self.widths[0]),
            ("widths[1]", self.widths[1]),
        ] {
            if n == 0 {
                return wrong(format!("{what} is 0; it must be 1 or more"));
            }
        }
        Ok(())
    }

    /// Rows and columns between encoder and decoder.
    fn map(&self) -> [usize; 2] {
        [self.image[1] / 4, self.image[2] / 4]
    }

    fn pixels(&self) -> usize {
        self.map().iter().product()
    }
}

/// Images to vectors of latents: one vector for each head.
pub(super) struct Encoder {
    config: AutoencoderConfig,
    body: Sequential,
    heads: Vec<Box<dyn Layer>>,
}

impl Encoder {
    pub fn new(params: &Params, config: AutoencoderConfig, heads: &[&str]) -> Result<Self> {
        config.check()?;
        let [channels, _, _] = config.image;
        let [first, second] = config.widths;
        // Keras pads only below and to the right where a stride of 2 meets an even extent.
        let options = ConvParams {
            stride: [2; 2],
            padding: [0, 1, 0, 1],
            activation: Activation::Relu,
            ..Default::default()
        };
        let conv = |i: usize, io: [usize; 2]| Conv2d::new(&params.scope(i), io, [3; 2], options);
        let mut body = Sequential::new()
            .with(conv(0, [channels, first])?)
            .with(conv(1, [first, second])?);
        if let Some(units) = config.dense {
            let dense = Linear::new(&params.scope(2), second * config.pixels(), units)?;
            body.push(Flatten);
            body.push(dense.activation(Activation::Relu));
        }
        let head = |name: &&str| -> Result<Box<dyn Layer>> {
            let scope = params.scope(name);
            Ok(match config.dense {
                Some(units) => Box::new(Linear::new(&scope, units, config.latent)?),
                None => Box::new(Conv2d::new(
                    &scope,
                    [second, config.latent],
                    config.map(),
                    ConvParams::default(),
                )?),
            })
        };
        Ok(Encoder {
            config,
            body,
            heads: heads.iter().map(head).collect::<Result<_>>()?,
        })
    }

    /// `[N, latent]` of each head.
    #[track_caller]
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Vec<Tensor> {
        let [channels, height, width] = self.config.image;
        let rows = x.dim(0);
        let poison = if x.shape().dims() == [rows, channels, height, width] {
            None
        } else {
            let found = x.shape();
            let detail =
                format!("expected images [N, {channels}, {height}, {width}], got {found:?}");
            let error = Error::shape("autoencoder", detail);
            Some(x.graph().poisoned(x.check().err().unwrap_or(error)))
        };
        let body = match poison {
            Some(poison) => poison,
            None => self.body.forward(x, mode),
        };
        let heads = self.heads.iter();
        let latents = heads.map(|h| h.forward(&body, mode));
        latents
            .map(|z| z.reshape([rows, self.config.latent]))
            .collect()
    }
}

/// Vectors of latents to images, before the sigmoid.
pub(super) struct Decoder {
    config: AutoencoderConfig,
    start: Box<dyn Layer>,
    body: Sequential,
}

impl Decoder {
    pub fn new(params: &Params, config: AutoencoderConfig) -> Result<Self> {
        config.check()?;
        let [channels, _, _] = config.image;
        let [first, second] = config.widths;
        let scope = params.scope(0);
        let start: Box<dyn Layer> = match config.dense {
            Some(_) => Box::new(
                Linear::new(&scope, config.latent, second * config.pixels())?
                    .activation(Activation::Relu),
            ),
            None => Box::new(ConvTranspose2d::new(
                &scope,
                [config.latent, second],
                config.map(),
                ConvTransposeParams {
                    activation: Activation::Relu,
                    ..Default::default()
                },
            )?),
        };
        // Keras drops the last row and column of what a stride of 2 gives.
        let up = |i: usize, io: [usize; 2]| {
            let options = ConvTransposeParams {
                stride: [2; 2],
                padding: [0, 1, 0, 1],
                activation: Activation::Relu,
                ..Default::default()
            };
            ConvTranspose2d::new(&params.scope(i), io, [3; 2], options)
        };
        let last = ConvTransposeParams {
            padding: [1; 4],
            ..Default::default()
        };
        Ok(Decoder {
            config,
            start,
            body: Sequential::new()
                .with(up(1, [second, second])?)
                .with(up(2, [second, first])?)
                .with(ConvTranspose2d::new(
                    &params.scope(3),
                    [first, channels],
                    [3; 2],
                    last,
                )?),
        })
    }

    #[track_caller]
    pub fn forward(&self, z: &Tensor, mode: Mode) -> Tensor {
        let (rows, latent) = (z.dim(0), self.config.latent);
        if z.shape().dims() != [rows, latent] {
            let detail = format!("expected latents [N, {latent}], got {:?}", z.shape());
            let error = Error::shape("autoencoder", detail);
            return z.graph().poisoned(z.check().err().unwrap_or(error));
        }
        let [height, width] = self.config.map();
        let z = match self.config.dense {
            Some(_) => z.clone(),
            None => z.reshape([rows, latent, 1, 1]),
        };
        let map = self.start.forward(&z, mode);
        let map = map.reshape([rows, self.config.widths[1], height, width]);
        self.body.forward(&map, mode)
    }
}

/// An autoencoder of small images `[N, C, H, W]` with pixels in 0..1.
///
/// | layer | dense | convolutional | output |
/// |---|---|---|---|
/// | `encoder.0` | conv 3x3, stride 2, padding 0 above and left, 1 below and right, ReLU | the same | 32, H/2, W/2 |
/// | `encoder.1` | the same | the same | 64, H/4, W/4 |
/// | `encoder.2` | linear, ReLU | - | 16 |
/// | `encoder.z_mean` | linear | conv H/4 x W/4 | latents |
/// | `decoder.0` | linear, ReLU | transposed conv H/4 x W/4, ReLU | 64, H/4, W/4 |
/// | `decoder.1` | transposed conv 3x3, stride 2, last row and column dropped, ReLU | the same | 64, H/2, W/2 |
/// | `decoder.2` | the same | the same | 32, H, W |
/// | `decoder.3` | transposed conv 3x3, padding 1; a sigmoid gives pixels | the same | C, H, W |
///
/// This is the network of the keras.io example `vae.py` with one latent vector instead of
/// a distribution. Names and layouts are PyTorch's: `{weight,bias}`, kernels `[out, in,
/// kh, kw]`, those of transposed convolutions `[in, out, kh, kw]`; `encoder.2.weight` and
/// `decoder.0.weight` count channels, rows, columns (Keras: rows, columns, channels).
/// Weights of a [`Vae`](super::Vae) are loaded by
/// [`LoadRules::skip_ending`](crate::params::LoadRules::skip_ending) of
/// `z_log_var.{weight,bias}`; Keras' names by renaming `conv2d.`, `conv2d_1.`, `dense.`,
/// `conv2d_transpose.` and so on after their kernels are transposed. Initial values are
/// PyTorch's.
pub struct Autoencoder {
    encoder: Encoder,
    decoder: Decoder,
}

impl Autoencoder {
    /// The networks over `params`. Errors: extents that are not divisible by 4, numbers
    /// that are 0; see [`Params::add`].
    pub fn new(params: &Params, config: AutoencoderConfig) -> Result<Self> {
        Ok(Autoencoder {
            encoder: Encoder::new(&params.scope("encoder"), config, &["z_mean"])?,
            decoder: Decoder::new(&params.scope("decoder"), config)?,
        })
    }

    /// The description it was made from.
    pub fn config(&self) -> AutoencoderConfig {
        self.encoder.config
    }

    /// Latents `[N, latent]` of images `[N, C, H, W]`.
    #[track_caller]
    pub fn encode(&self, x: &Tensor, mode: Mode) -> Tensor {
        self.encoder.forward(x, mode).swap_remove(0)
    }

    /// Logits of pixels `[N, C, H, W]` from latents `[N, latent]`.
    #[track_caller]
    pub fn decode_logits(&self, z: &Tensor, mode: Mode) -> Tensor {
        self.decoder.forward(z, mode)
    }

    /// Pixels in 0..1, `[N, C, H, W]`, from latents `[N, latent]`.
    #[track_caller]
    pub fn decode(&self, z: &Tensor, mode: Mode) -> Tensor {
        self.decode_logits(z, mode).sigmoid()
    }
}
