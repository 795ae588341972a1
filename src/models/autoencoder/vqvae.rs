//! VQ-VAE: an encoder, a vector quantiser and a decoder (van den Oord et al. 2017,
//! arXiv 1711.00937).

use crate::nn::{Conv2d, ConvTranspose2d, Layer, Mode, Sequential};
use crate::ops::{Activation, ConvParams, ConvTransposeParams};
use crate::quantize::{Quantized, VectorQuantizer, VqConfig};
use crate::{Init, Params, Result, Tensor};

/// A vector-quantised auto-encoder of images `[N, C, H, W]`, for digits `C` is 1.
///
/// Names, in the order of the layers ([`VqVae::residual`] has others): `encoder.{0,1,..}.{weight,bias}`,
/// `quantizer.embedding.weight` `[K, D]` (and the averages `quantizer.ema_*`),
/// `decoder.{0,1,..}.{weight,bias}`. Kernels are `[out, in, kh, kw]`, those of
/// transposed convolutions `[in, out, kh, kw]`; their initial values are PyTorch's,
/// those of the codebook uniform in `+-1 / K` unless said otherwise.
pub struct VqVae {
    encoder: Sequential,
    /// The quantiser between them.
    pub quantizer: VectorQuantizer,
    decoder: Sequential,
    codes_shape: [usize; 2],
    scale: f32,
    image: [usize; 2],
}

/// What a forward pass of [`VqVae`] gives.
pub struct VqVaeOutput {
    /// The encoder's output `[N, D, h, w]`.
    pub latent: Tensor,
    /// The quantiser's results; `indices` are `[N, h, w]`.
    pub quantized: Quantized,
    /// The decoder's output `[N, C, H, W]`.
    pub reconstruction: Tensor,
    /// Mean squared error of the reconstruction.
    pub mse: Tensor,
    /// `mse / variance + quantized.loss`: what is trained.
    pub loss: Tensor,
}

/// What a [`VqVae`] is made of.
pub(super) struct Parts {
    pub encoder: Sequential,
    pub quantizer: VectorQuantizer,
    pub decoder: Sequential,
    pub codes_shape: [usize; 2],
    pub scale: f32,
    pub image: [usize; 2],
}

pub(super) fn conv(
    kernel: usize,
    stride: usize,
    padding: [usize; 4],
    relu: bool,
) -> ([usize; 2], ConvParams) {
    let options = ConvParams {
        stride: [stride; 2],
        padding,
        activation: if relu {
            Activation::Relu
        } else {
            Activation::None
        },
        ..Default::default()
    };
    ([kernel; 2], options)
}

pub(super) fn conv_transpose(
    kernel: usize,
    stride: usize,
    padding: [usize; 4],
    relu: bool,
) -> ([usize; 2], ConvTransposeParams) {
    let options = ConvTransposeParams {
        stride: [stride; 2],
        padding,
        activation: if relu {
            Activation::Relu
        } else {
            Activation::None
        },
        ..Default::default()
    };
    ([kernel; 2], options)
}

impl VqVae {
    pub(super) fn of(parts: Parts) -> Self {
        VqVae {
            encoder: parts.encoder,
            quantizer: parts.quantizer,
            decoder: parts.decoder,
            codes_shape: parts.codes_shape,
            scale: parts.scale,
            image: parts.image,
        }
    }

    /// For digits of 8x8 pixels: 64 codes of width 16 on a 4x4 grid.
    ///
    /// | layer | | output |
    /// |---|---|---|
    /// | `encoder.0` | conv 3x3, padding 1, ReLU | 32x8x8 |
    /// | `encoder.1` | conv 4x4, stride 2, padding 1, ReLU | 64x4x4 |
    /// | `encoder.2` | conv 3x3, padding 1, ReLU | 64x4x4 |
    /// | `encoder.3` | conv 1x1 | 16x4x4 |
    /// | `quantizer` | moving averages, decay 0.99, eps 1e-5, reset below 1 | 16x4x4 |
    /// | `decoder.0` | conv 3x3, padding 1, ReLU | 64x4x4 |
    /// | `decoder.1` | transposed conv 4x4, stride 2, padding 1, ReLU | 32x8x8 |
    /// | `decoder.2` | conv 3x3, padding 1 | 1x8x8 |
    ///
    /// Loss: `mse / 0.14 + 0.25 commitment` (0.14 is the pixels' variance at the
    /// scale -0.5..0.5). Errors: see [`Params::add`].
    pub fn digits(params: &Params) -> Result<Self> {
        let (encoder, decoder) = (params.scope("encoder"), params.scope("decoder"));
        let down = |i: usize, io: [usize; 2], (kernel, options): ([usize; 2], ConvParams)| {
            Conv2d::new(&encoder.scope(i), io, kernel, options)
        };
        let up = |i: usize, io: [usize; 2], (kernel, options): ([usize; 2], ConvParams)| {
            Conv2d::new(&decoder.scope(i), io, kernel, options)
        };
        let (kernel, options) = conv_transpose(4, 2, [1; 4], true);
        let mut config = VqConfig::new(64, 16).moving_average();
        config.reset_below = Some(1.0);
        Ok(VqVae {
            encoder: Sequential::new()
                .with(down(0, [1, 32], conv(3, 1, [1; 4], true))?)
                .with(down(1, [32, 64], conv(4, 2, [1; 4], true))?)
                .with(down(2, [64, 64], conv(3, 1, [1; 4], true))?)
                .with(down(3, [64, 16], conv(1, 1, [0; 4], false))?),
            quantizer: VectorQuantizer::new(&params.scope("quantizer"), config)?,
            decoder: Sequential::new()
                .with(up(0, [16, 64], conv(3, 1, [1; 4], true))?)
                .with(ConvTranspose2d::new(
                    &decoder.scope(1),
                    [64, 32],
                    kernel,
                    options,
                )?)
                .with(up(2, [32, 1], conv(3, 1, [1; 4], false))?),
            codes_shape: [4, 4],
            scale: 0.14,
            image: [8, 8],
        })
    }

    /// For MNIST, 28x28: the keras.io example `vq_vae.py` (64 codes of width 16 on a
    /// 7x7 grid, `beta` 0.25, codebook trained by gradient).
    ///
    /// | layer | | output |
    /// |---|---|---|
    /// | `encoder.0` | conv 3x3, stride 2, padding 0 above and left, 1 below and right, ReLU | 32x14x14 |
    /// | `encoder.1` | the same | 64x7x7 |
    /// | `encoder.2` | conv 1x1 | 16x7x7 |
    /// | `quantizer` | uniform in +-0.05 at first | 16x7x7 |
    /// | `decoder.0` | transposed conv 3x3, stride 2, last row and column dropped, ReLU | 64x14x14 |
    /// | `decoder.1` | the same | 32x28x28 |
    /// | `decoder.2` | transposed conv 3x3, padding 1 | 1x28x28 |
    ///
    /// Parameters 19,856 + 1,024 + 28,033. Pixels are scaled to -0.5..0.5; the loss is
    /// `mse / variance + codebook + 0.25 commitment`, `variance` that of the pixels
    /// (0.0949 for MNIST). Errors: see [`Params::add`].
    pub fn mnist(params: &Params, variance: f32) -> Result<Self> {
        VqVae::mnist_with(params, variance, VqVae::mnist_quantizer())
    }

    /// The quantiser of [`VqVae::mnist`].
    pub fn mnist_quantizer() -> VqConfig {
        let mut config = VqConfig::new(64, 16);
        config.init = Some(Init::Uniform {
            lo: -0.05,
            hi: 0.05,
        });
        config
    }

    /// [`VqVae::mnist`] with another quantiser: as many channels as it is wide between
    /// encoder and decoder.
    pub fn mnist_with(params: &Params, variance: f32, config: VqConfig) -> Result<Self> {
        let (encoder, decoder) = (params.scope("encoder"), params.scope("decoder"));
        let down = |i: usize, io: [usize; 2], (kernel, options): ([usize; 2], ConvParams)| {
            Conv2d::new(&encoder.scope(i), io, kernel, options)
        };
        let up =
            |i: usize, io: [usize; 2], (kernel, options): ([usize; 2], ConvTransposeParams)| {
                ConvTranspose2d::new(&decoder.scope(i), io, kernel, options)
            };
        let dim = config.dim;
        // Keras drops the last row and column of what a stride of 2 gives.
        let crop = [0, 1, 0, 1];
        Ok(VqVae {
            encoder: Sequential::new()
                .with(down(0, [1, 32], conv(3, 2, [0, 1, 0, 1], true))?)
                .with(down(1, [32, 64], conv(3, 2, [0, 1, 0, 1], true))?)
                .with(down(2, [64, dim], conv(1, 1, [0; 4], false))?),
            quantizer: VectorQuantizer::new(&params.scope("quantizer"), config)?,
            decoder: Sequential::new()
                .with(up(0, [dim, 64], conv_transpose(3, 2, crop, true))?)
                .with(up(1, [64, 32], conv_transpose(3, 2, crop, true))?)
                .with(up(2, [32, 1], conv_transpose(3, 1, [1; 4], false))?),
            codes_shape: [7, 7],
            scale: variance,
            image: [28, 28],
        })
    }

    /// Rows and columns of the grid of codes.
    pub fn codes_shape(&self) -> [usize; 2] {
        self.codes_shape
    }

    /// Rows and columns of the images.
    pub fn image_shape(&self) -> [usize; 2] {
        self.image
    }

    /// The encoder's output `[N, D, h, w]` for images `[N, C, H, W]`.
    #[track_caller]
    pub fn encode(&self, x: &Tensor, mode: Mode) -> Tensor {
        self.encoder.forward(x, mode)
    }

    /// Images `[N, C, H, W]` from quantised vectors `[N, D, h, w]`.
    #[track_caller]
    pub fn decode(&self, quantized: &Tensor, mode: Mode) -> Tensor {
        self.decoder.forward(quantized, mode)
    }

    /// Everything at once. In training the quantiser's averages are updated when the
    /// program has run.
    #[track_caller]
    pub fn forward(&self, x: &Tensor, mode: Mode) -> VqVaeOutput {
        let latent = self.encode(x, mode);
        let quantized = self.quantizer.forward(&latent, mode);
        let reconstruction = self.decode(&quantized.quantized, mode);
        let mse = reconstruction.sub(x).square().mean(&[], false);
        let loss = mse.mul_scalar(1.0 / self.scale).add(&quantized.loss);
        VqVaeOutput {
            latent,
            quantized,
            reconstruction,
            mse,
            loss,
        }
    }
}
