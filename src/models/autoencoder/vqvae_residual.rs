//! The VQ-VAE with residual blocks, of colour images.

use super::vqvae::{Parts, VqVae, conv, conv_transpose};
use crate::nn::{Conv2d, ConvTranspose2d, Layer, Mode, Sequential};
use crate::quantize::{VectorQuantizer, VqConfig, VqNames};
use crate::{Error, Params, Result, Tensor};

/// Description of the VQ-VAE of van den Oord et al. 2017 as DeepMind's Sonnet and zalando's
/// `pytorch-vq-vae` have it.
#[derive(Debug, Clone, PartialEq)]
pub struct VqVaeConfig {
    /// Colours of the images.
    pub channels: usize,
    /// Rows and columns of the images, multiples of 4; a code stands for 4x4 pixels.
    pub image: [usize; 2],
    /// Channels of the convolutions, an even number.
    pub hidden: usize,
    /// Channels inside a residual block.
    pub residual_hidden: usize,
    /// Residual blocks that a stack applies.
    pub residual_layers: usize,
    /// Whether a stack applies one block again and again, under the name of its first, as
    /// zalando's does by building its list as `[block] * layers`. Its checkpoints hold that
    /// block under the names of all layers: pass over those of the others
    /// ([`crate::params::LoadRules::skip_beginning`]).
    pub shared_blocks: bool,
    /// Whether a block adds to `relu(x)`, as zalando's does because its first ReLU works in
    /// place, and not to `x`, as the paper and Sonnet do. No weight shows which it was.
    pub rectified_shortcut: bool,
    /// The quantiser.
    pub quantizer: VqConfig,
    /// The variance of the pixels, by which the squared error is divided.
    pub variance: f32,
}

impl VqVaeConfig {
    /// For 32x32 colour images: 128 channels, 2 residual layers of 32 in one shared block,
    /// 512 codes of width 64 by moving averages on a grid of 8x8, `beta` 0.25: 612,931
    /// numbers with the codebook. `variance` is 0.0633 for CIFAR-10 at the scale 0..1.
    pub fn cifar(variance: f32) -> Self {
        VqVaeConfig {
            channels: 3,
            image: [32, 32],
            hidden: 128,
            residual_hidden: 32,
            residual_layers: 2,
            shared_blocks: true,
            rectified_shortcut: true,
            quantizer: VqConfig::new(512, 64).moving_average(),
            variance,
        }
    }

    fn check(&self) -> Result<()> {
        let wrong = |detail: String| Err(Error::argument("VqVaeConfig", detail));
        let [rows, columns] = self.image;
        if rows == 0 || columns == 0 || !rows.is_multiple_of(4) || !columns.is_multiple_of(4) {
            return wrong(format!(
                "the images are {rows}x{columns}; sides must be multiples of 4"
            ));
        }
        if self.hidden == 0 || !self.hidden.is_multiple_of(2) {
            return wrong(format!("hidden is {}; it must be even", self.hidden));
        }
        match self.variance > 0.0 && self.variance.is_finite() {
            true => Ok(()),
            false => wrong(format!(
                "variance is {}; it must be finite and positive",
                self.variance
            )),
        }
    }
}

impl VqVae {
    /// The VQ-VAE with residual blocks under the names of zalando's `pytorch-vq-vae`.
    ///
    /// | layer | | output |
    /// |---|---|---|
    /// | `_encoder._conv_1` | conv 4x4, stride 2, padding 1, ReLU | hidden/2 x H/2 x W/2 |
    /// | `_encoder._conv_2` | the same | hidden x H/4 x W/4 |
    /// | `_encoder._conv_3` | conv 3x3, padding 1 | the same |
    /// | `_encoder._residual_stack` | residual layers, ReLU | the same |
    /// | `_pre_vq_conv` | conv 1x1 | D x H/4 x W/4 |
    /// | `_vq_vae` | quantiser: `_embedding.weight`, `_ema_cluster_size`, `_ema_w` | the same |
    /// | `_decoder._conv_1` | conv 3x3, padding 1 | hidden x H/4 x W/4 |
    /// | `_decoder._residual_stack` | residual layers, ReLU | the same |
    /// | `_decoder._conv_trans_1` | transposed conv 4x4, stride 2, padding 1, ReLU | hidden/2 x H/2 x W/2 |
    /// | `_decoder._conv_trans_2` | transposed conv 4x4, stride 2, padding 1 | channels x H x W |
    ///
    /// A residual layer is ReLU, `_layers.{i}._block.1` (conv 3x3), ReLU,
    /// `_layers.{i}._block.3` (conv 1x1), both without bias, added to its input. Loss:
    /// `mse / variance + quantized.loss`. Errors: see [`Params::add`]; sides that are no
    /// multiples of 4, an odd number of channels, a variance that is not positive.
    pub fn residual(params: &Params, config: &VqVaeConfig) -> Result<Self> {
        config.check()?;
        let (encoder, decoder) = (params.scope("_encoder"), params.scope("_decoder"));
        let (hidden, dim) = (config.hidden, config.quantizer.dim);
        let layer = |set: &Params, name: &str, io, kernel, stride, padding, relu| {
            let (kernel, options) = conv(kernel, stride, [padding; 4], relu);
            Conv2d::new(&set.scope(name), io, kernel, options)
        };
        let up = |name: &str, io, relu| {
            let (kernel, options) = conv_transpose(4, 2, [1; 4], relu);
            ConvTranspose2d::new(&decoder.scope(name), io, kernel, options)
        };
        let first = [config.channels, hidden / 2];
        let names = VqNames {
            codebook: "_embedding",
            cluster_size: "_ema_cluster_size",
            embed_sum: "_ema_w",
        };
        Ok(VqVae::of(Parts {
            encoder: Sequential::new()
                .with(layer(&encoder, "_conv_1", first, 4, 2, 1, true)?)
                .with(layer(
                    &encoder,
                    "_conv_2",
                    [hidden / 2, hidden],
                    4,
                    2,
                    1,
                    true,
                )?)
                .with(layer(&encoder, "_conv_3", [hidden; 2], 3, 1, 1, false)?)
                .with(Stack::new(&encoder, config)?)
                .with(layer(
                    params,
                    "_pre_vq_conv",
                    [hidden, dim],
                    1,
                    1,
                    0,
                    false,
                )?),
            quantizer: VectorQuantizer::named(
                &params.scope("_vq_vae"),
                config.quantizer.clone(),
                names,
            )?,
            decoder: Sequential::new()
                .with(layer(&decoder, "_conv_1", [dim, hidden], 3, 1, 1, false)?)
                .with(Stack::new(&decoder, config)?)
                .with(up("_conv_trans_1", [hidden, hidden / 2], true)?)
                .with(up("_conv_trans_2", [hidden / 2, config.channels], false)?),
            codes_shape: config.image.map(|side| side / 4),
            scale: config.variance,
            image: config.image,
        }))
    }
}

/// Residual layers and a ReLU.
struct Stack {
    /// One for each layer, or one for all.
    blocks: Vec<[Conv2d; 2]>,
    layers: usize,
    rectified_shortcut: bool,
}

impl Stack {
    fn new(params: &Params, config: &VqVaeConfig) -> Result<Self> {
        let layers = params.scope("_residual_stack").scope("_layers");
        let (outer, inner) = (config.hidden, config.residual_hidden);
        let block = |i: usize| {
            let block = layers.scope(i).scope("_block");
            let (kernel, options) = conv(3, 1, [1; 4], true);
            let first = Conv2d::without_bias(&block.scope(1), [outer, inner], kernel, options)?;
            let (kernel, options) = conv(1, 1, [0; 4], false);
            let second = Conv2d::without_bias(&block.scope(3), [inner, outer], kernel, options)?;
            Ok([first, second])
        };
        let own = match config.shared_blocks {
            true => config.residual_layers.min(1),
            false => config.residual_layers,
        };
        Ok(Stack {
            blocks: (0..own).map(block).collect::<Result<_>>()?,
            layers: config.residual_layers,
            rectified_shortcut: config.rectified_shortcut,
        })
    }
}

impl Layer for Stack {
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let blocks = self.blocks.iter().cycle().take(self.layers);
        let sum = blocks.fold(x.clone(), |x, [first, second]| {
            let rectified = x.relu();
            let h = second.forward(&first.forward(&rectified, mode), mode);
            match self.rectified_shortcut {
                true => rectified.add(&h),
                false => x.add(&h),
            }
        });
        sum.relu()
    }
}
