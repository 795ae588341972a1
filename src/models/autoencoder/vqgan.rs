//! The autoencoder of VQGAN (Esser et al. 2021, arXiv 2012.09841), with the names of
//! CompVis/taming-transformers.

use super::vqgan_blocks::{AttentionBlock, Downsample, ResidualBlock, Upsample, conv, norm};
use crate::nn::{Conv2d, GroupNorm, Layer, Mode, Sequential};
use crate::params::LoadRules;
use crate::quantize::{Quantized, VectorQuantizer, VqConfig};
use crate::{Error, Params, Result, Tensor};

/// The description of a [`VqGan`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VqGanConfig {
    /// Channels of an image.
    pub channels: usize,
    /// Channels of the finest level.
    pub width: usize,
    /// Of every level, finest first, how many times as many; each level but the last
    /// halves the image.
    pub multipliers: Vec<usize>,
    /// Residual blocks of a level of the encoder; the decoder has one more.
    pub blocks: usize,
    /// Levels, counted from the finest, whose blocks are followed by attention.
    pub attention: Vec<usize>,
    /// Channels between the networks.
    pub latent: usize,
    /// The number of codes and their width.
    pub codes: [usize; 2],
}

impl VqGanConfig {
    /// `f = 16` with this many codes, 1,024 or 16,384 in the published weights: encoder
    /// 29,298,176 parameters, decoder 42,449,795, codes of width 256 on a grid of a
    /// sixteenth of the image's sides.
    pub fn f16(codes: usize) -> Self {
        VqGanConfig {
            channels: 3,
            width: 128,
            multipliers: vec![1, 1, 2, 2, 4],
            blocks: 2,
            attention: vec![4],
            latent: 256,
            codes: [codes, 256],
        }
    }

    /// How many times smaller the grid of codes is.
    pub fn factor(&self) -> usize {
        1 << (self.multipliers.len().max(1) - 1)
    }

    fn check(&self) -> Result<()> {
        let wrong = |detail: String| Err(Error::argument("VqGanConfig", detail));
        let numbers = [self.channels, self.width, self.blocks, self.latent];
        if numbers.contains(&0) || self.multipliers.contains(&0) || self.multipliers.is_empty() {
            return wrong(format!(
                "no extent may be 0, no list of levels empty: {self:?}"
            ));
        }
        match self
            .attention
            .iter()
            .find(|l| **l >= self.multipliers.len())
        {
            Some(l) => wrong(format!(
                "attention at level {l}, there are {}",
                self.multipliers.len()
            )),
            None => Ok(()),
        }
    }

    /// Channels of a level.
    fn level(&self, l: usize) -> usize {
        self.width * self.multipliers[l]
    }

    /// The middle of both networks.
    fn middle(&self, params: &Params) -> Result<Sequential> {
        let c = self.level(self.multipliers.len() - 1);
        Ok(Sequential::new()
            .with(ResidualBlock::new(&params.scope("block_1"), [c, c])?)
            .with(AttentionBlock::new(&params.scope("attn_1"), c)?)
            .with(ResidualBlock::new(&params.scope("block_2"), [c, c])?))
    }

    /// The blocks of one level.
    fn blocks(
        &self,
        params: &Params,
        [l, count]: [usize; 2],
        channels: &mut usize,
    ) -> Result<Sequential> {
        let mut net = Sequential::new();
        for b in 0..count {
            let io = [*channels, self.level(l)];
            net = net.with(ResidualBlock::new(&params.scope("block").scope(b), io)?);
            *channels = self.level(l);
            if self.attention.contains(&l) {
                let scope = params.scope("attn").scope(b);
                net = net.with(AttentionBlock::new(&scope, *channels)?);
            }
        }
        Ok(net)
    }
}

/// One of the two networks: levels with the middle before or behind them.
struct Network {
    conv_in: Conv2d,
    body: Sequential,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Network {
    fn encoder(params: &Params, config: &VqGanConfig) -> Result<Self> {
        let mut channels = config.width;
        let mut body = Sequential::new();
        for l in 0..config.multipliers.len() {
            let scope = params.scope("down").scope(l);
            body = body.with(config.blocks(&scope, [l, config.blocks], &mut channels)?);
            if l + 1 < config.multipliers.len() {
                body = body.with(Downsample::new(&scope.scope("downsample"), channels)?);
            }
        }
        let io = [config.channels, config.width];
        Ok(Network {
            conv_in: conv(&params.scope("conv_in"), io, 3)?,
            body: body.with(config.middle(&params.scope("mid"))?),
            norm_out: norm(&params.scope("norm_out"), channels)?,
            conv_out: conv(&params.scope("conv_out"), [channels, config.latent], 3)?,
        })
    }

    fn decoder(params: &Params, config: &VqGanConfig) -> Result<Self> {
        let mut channels = config.level(config.multipliers.len() - 1);
        let conv_in = conv(&params.scope("conv_in"), [config.latent, channels], 3)?;
        let mut body = Sequential::new().with(config.middle(&params.scope("mid"))?);
        for l in (0..config.multipliers.len()).rev() {
            let scope = params.scope("up").scope(l);
            body = body.with(config.blocks(&scope, [l, config.blocks + 1], &mut channels)?);
            if l > 0 {
                body = body.with(Upsample::new(&scope.scope("upsample"), channels)?);
            }
        }
        Ok(Network {
            conv_in,
            body,
            norm_out: norm(&params.scope("norm_out"), channels)?,
            conv_out: conv(&params.scope("conv_out"), [channels, config.channels], 3)?,
        })
    }
}

impl Layer for Network {
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let x = self.body.forward(&self.conv_in.forward(x, mode), mode);
        self.conv_out
            .forward(&self.norm_out.forward(&x, mode).silu(), mode)
    }
}

/// The autoencoder of VQGAN, of images `[N, C, H, W]` with pixels in -1..1 whose sides are
/// multiples of [`VqGanConfig::factor`].
///
/// Names as in taming-transformers: `encoder.conv_in`,
/// `encoder.down.{l}.block.{b}.{norm1,conv1,norm2,conv2,nin_shortcut}`,
/// `encoder.down.{l}.attn.{b}.{norm,q,k,v,proj_out}`, `encoder.down.{l}.downsample.conv`,
/// `encoder.mid.{block_1,attn_1,block_2}`, `encoder.{norm_out,conv_out}`, `decoder.*` with
/// `up.{l}` counted from the finest level, `quant_conv`, `post_quant_conv`, and
/// `quantize.embedding.weight` `[K, D]`. [`VqGan::load_rules`] reads a checkpoint of theirs.
pub struct VqGan {
    config: VqGanConfig,
    encoder: Network,
    quant_conv: Conv2d,
    /// The quantiser between the networks.
    pub quantizer: VectorQuantizer,
    post_quant_conv: Conv2d,
    decoder: Network,
}

/// What a forward pass of [`VqGan`] gives.
pub struct VqGanOutput {
    /// The quantiser's results; `indices` are `[N, h, w]`.
    pub quantized: Quantized,
    /// `[N, C, H, W]`, about -1..1.
    pub reconstruction: Tensor,
    /// Mean absolute error of the reconstruction.
    pub l1: Tensor,
    /// `l1 + quantized.loss`: what the published model trains besides its perceptual and
    /// adversarial terms.
    pub loss: Tensor,
}

impl VqGan {
    /// Errors: see [`Params::add`]; extents of 0; channels that do not fall into 32 groups.
    pub fn new(params: &Params, config: VqGanConfig) -> Result<Self> {
        config.check()?;
        let [codes, dim] = config.codes;
        Ok(VqGan {
            encoder: Network::encoder(&params.scope("encoder"), &config)?,
            quant_conv: conv(&params.scope("quant_conv"), [config.latent, dim], 1)?,
            quantizer: VectorQuantizer::new(&params.scope("quantize"), VqConfig::new(codes, dim))?,
            post_quant_conv: conv(&params.scope("post_quant_conv"), [dim, config.latent], 1)?,
            decoder: Network::decoder(&params.scope("decoder"), &config)?,
            config,
        })
    }

    /// Its description.
    pub fn config(&self) -> &VqGanConfig {
        &self.config
    }

    /// How the published checkpoints' names become ours: without `state_dict.`, and without
    /// the losses' networks.
    pub fn load_rules() -> LoadRules {
        LoadRules::default()
            .strip("state_dict.")
            .skip_beginning(&["loss."])
    }

    /// The vectors before quantisation, `[N, D, h, w]`. Error: images of another size.
    #[track_caller]
    pub fn encode(&self, images: &Tensor, mode: Mode) -> Tensor {
        let factor = self.config.factor();
        let fits = matches!(images.shape().dims(), [_, c, h, w]
            if *c == self.config.channels && h * w > 0
                && h.is_multiple_of(factor) && w.is_multiple_of(factor));
        if images.check().is_ok() && !fits {
            return images.graph().poisoned(Error::shape(
                "VqGan::encode",
                format!(
                    "images must be [N, {}, H, W] with sides that are multiples of {factor}, they are {:?}; crop or pad them",
                    self.config.channels,
                    images.shape()
                ),
            ));
        }
        let latent = self.encoder.forward(images, mode);
        self.quant_conv.forward(&latent, mode)
    }

    /// The nearest codes, `[N, h, w]` of u32.
    #[track_caller]
    pub fn codes(&self, images: &Tensor, mode: Mode) -> Tensor {
        let latent = self.encode(images, mode);
        self.quantizer.forward(&latent, Mode::Eval).indices
    }

    /// Images from quantised vectors `[N, D, h, w]`.
    #[track_caller]
    pub fn decode(&self, quantized: &Tensor, mode: Mode) -> Tensor {
        let latent = self.post_quant_conv.forward(quantized, mode);
        self.decoder.forward(&latent, mode)
    }

    /// Images from codes `[N, h, w]` of u32.
    #[track_caller]
    pub fn decode_codes(&self, codes: &Tensor, mode: Mode) -> Tensor {
        self.decode(&self.quantizer.lookup(codes), mode)
    }

    /// Everything at once.
    #[track_caller]
    pub fn forward(&self, images: &Tensor, mode: Mode) -> VqGanOutput {
        let quantized = self.quantizer.forward(&self.encode(images, mode), mode);
        let reconstruction = self.decode(&quantized.quantized, mode);
        let l1 = reconstruction.sub(images).abs().mean(&[], false);
        let loss = l1.add(&quantized.loss);
        VqGanOutput {
            quantized,
            reconstruction,
            l1,
            loss,
        }
    }
}
