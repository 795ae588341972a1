//! Glow: a multi-scale flow of images (Kingma, Dhariwal 2018, arXiv 1807.03039).

use std::io::{Read, Seek};
use std::ops::Deref;
use std::path::Path;

use super::glow_convention::GlowConvention;
use super::glow_nets::{CouplingNet, TopNet, ZeroConv};
use super::image_flow::{ImageFlow, image_size};
use crate::flow::{
    ActNorm, Chain, Coupling, Flow, Inv1x1, Memory, MultiScale, Permutation, PriorLayout, Split,
    Squeeze, StandardNormal, TopPrior,
};
use crate::ops::{CouplingMask, CouplingParams};
use crate::params::{LoadRules, WeightsFile};
use crate::{Error, Params, Result};

/// What mixes the channels between couplings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mixing {
    /// The channels in reverse order.
    Reverse,
    /// A fixed random order for every step.
    Shuffle,
    /// A learned invertible 1x1 convolution, held as the factors of its matrix:
    /// `W = P (L + I) (U + diag(sign * exp(log|s|)))`.
    Plu,
    /// A learned invertible 1x1 convolution, held as the matrix itself. Its
    /// log-determinant needs a factorisation at every step.
    Full,
}

/// The size and the conventions of a [`Glow`].
#[derive(Debug, Clone, PartialEq)]
pub struct GlowConfig {
    /// Channels, height and width; height and width divisible by `2^levels`.
    pub image: [usize; 3],
    /// Levels of a pixel, 256 for 8 bits.
    pub bins: usize,
    /// Scales (L).
    pub levels: usize,
    /// Steps per scale (K).
    pub depth: usize,
    /// Channels inside the couplings' networks.
    pub hidden: usize,
    /// Affine couplings, or additive ones.
    pub affine: bool,
    /// What mixes the channels.
    pub mixing: Mixing,
    /// Layout and parametrisation.
    pub convention: GlowConvention,
    /// Conditioned on one of so many classes.
    pub classes: Option<usize>,
    /// Added to the couplings' scales, so that samples cannot explode; 0 in the papers.
    pub minimum_scale: f32,
    /// What is kept for the gradient.
    pub memory: Memory,
}

impl GlowConfig {
    /// For digits of 8x8 pixels and 17 levels: L = 2, K = 4, hidden 64.
    pub fn digits() -> Self {
        GlowConfig {
            image: [1, 8, 8],
            bins: 17,
            levels: 2,
            depth: 4,
            hidden: 64,
            affine: true,
            mixing: Mixing::Plu,
            convention: GlowConvention::House,
            classes: None,
            minimum_scale: 0.0,
            memory: Memory::Store,
        }
    }

    /// For MNIST, padded to 32x32: otherwise as [`GlowConfig::digits`].
    pub fn mnist() -> Self {
        GlowConfig {
            image: [1, 32, 32],
            bins: 256,
            ..GlowConfig::digits()
        }
    }

    /// The published model for CIFAR-10: L = 3, K = 32, hidden 512, 3.35 bits per
    /// dimension, 44.60 million parameters. Activations are rebuilt.
    pub fn cifar10() -> Self {
        GlowConfig {
            image: [3, 32, 32],
            bins: 256,
            levels: 3,
            depth: 32,
            hidden: 512,
            mixing: Mixing::Full,
            convention: GlowConvention::OpenAi,
            memory: Memory::Rebuild,
            ..GlowConfig::digits()
        }
    }

    /// The published model of CIFAR-10's classes: as [`GlowConfig::cifar10`], but additive
    /// couplings, 5 bits per pixel, and a prior for each of 10 classes.
    pub fn cifar10_by_class() -> Self {
        GlowConfig {
            bins: 32,
            affine: false,
            classes: Some(10),
            ..GlowConfig::cifar10()
        }
    }

    /// The published model for ImageNet at 32x32: K = 48, 66.86 million parameters, 4.09
    /// bits per dimension.
    pub fn imagenet32() -> Self {
        GlowConfig {
            depth: 48,
            ..GlowConfig::cifar10()
        }
    }

    /// The published model for ImageNet at 64x64: L = 4, K = 48, 3.81 bits per dimension.
    pub fn imagenet64() -> Self {
        GlowConfig {
            image: [3, 64, 64],
            levels: 4,
            ..GlowConfig::imagenet32()
        }
    }

    /// The published model for CelebA-HQ at 256x256: L = 6, K = 32, additive couplings,
    /// 5 bits per pixel.
    pub fn celeba256() -> Self {
        GlowConfig {
            image: [3, 256, 256],
            bins: 32,
            levels: 6,
            affine: false,
            ..GlowConfig::cifar10()
        }
    }

    fn check(&self) -> Result<()> {
        let wrong = |detail: String| Err(Error::argument("Glow", detail));
        let [channels, height, width] = self.image;
        if self.levels == 0 || self.depth == 0 || self.hidden == 0 || self.levels > 16 {
            return wrong(format!(
                "{} levels of {} steps with {} hidden channels: 1 to 16 levels, at least one step and channel",
                self.levels, self.depth, self.hidden
            ));
        }
        image_size(self.image)?;
        let factor = 1 << self.levels;
        if height % factor != 0 || width % factor != 0 {
            return wrong(format!(
                "images of {channels}x{height}x{width}: {} levels halve height and width {0} times, so both must be divisible by {factor}; pad the images or take fewer levels",
                self.levels
            ));
        }
        if self.classes == Some(0) {
            return wrong("a conditional model needs at least one class".into());
        }
        Ok(())
    }
}

/// A multi-scale flow of steps of actnorm, a mixing of channels, and coupling. It
/// dereferences to its [`ImageFlow`].
///
/// Encoding, per level `b` with input `[C, H, W]`:
///
/// 1. squeeze to `[4 C, H/2, W/2]`, output channel `4 c + 2 dy + dx`;
/// 2. `depth` times, as `blocks.{b}.flows.{k}`:
///    `actnorm` `z = (x + loc) * scale`; mixing of the channels, `invconv`, at first a
///    random rotation;
///    coupling, in which the first half of the channels passes through and a network of it
///    gives raw scales `s` and shifts `t` for the second half, `z = (x + t) * sigmoid(s + 2)`
///    (additive: `z = x + t`);
/// 3. except on the last level: the second half of the channels is factored out, as
///    `eps = (z2 - mean) / exp(log_sd)` with mean and log-deviation by a convolution that
///    starts as zero over the first half, `blocks.{b}.prior`; the first half goes on;
/// 4. on the last level all channels are standardised by the top's mean and log-deviation,
///    which do not depend on the image, `blocks.{last}.prior`.
///
/// A coupling's network, `coupling.net`: 3x3 convolution (`0`) and ReLU, 1x1 convolution
/// (`2`) and ReLU, both with normal weights of deviation 0.05 and biases 0; 3x3 convolution
/// that starts as zero (`4`): `(conv(x) + bias) * exp(3 scale)`. All latents together are
/// standard normal. What [`GlowConvention`] says changes details; names are those of
/// rosinality/glow-pytorch throughout.
pub struct Glow {
    model: ImageFlow,
    config: GlowConfig,
}

impl Deref for Glow {
    type Target = ImageFlow;

    fn deref(&self) -> &ImageFlow {
        &self.model
    }
}

impl Glow {
    /// Errors: sizes that do not fit together; see [`Params::add`].
    pub fn new(params: &Params, config: GlowConfig) -> Result<Self> {
        config.check()?;
        let [mut channels, mut height, mut width] = config.image;
        let mut levels = Vec::new();
        for b in 0..config.levels {
            let block = params.scope(format!("blocks.{b}"));
            (channels, height, width) = (4 * channels, height / 2, width / 2);
            let last = b + 1 == config.levels;
            let name = if last {
                "steps".into()
            } else {
                format!("level {b}")
            };
            let mut chain = Chain::new(name).with(Squeeze);
            let mut steps = config.clone();
            if last
                && config.convention == GlowConvention::Rosinality
                && config.mixing == Mixing::Full
            {
                steps.mixing = Mixing::Plu;
            }
            for k in 0..config.depth {
                let seed = params.seed().wrapping_add((b * config.depth + k) as u64);
                chain.push(step(
                    &block.scope(format!("flows.{k}")),
                    channels,
                    &steps,
                    seed,
                )?);
            }
            let prior = block.scope("prior");
            if last {
                let net = TopNet::new(&prior, channels, config.convention, config.classes)?;
                // Means before log-deviations in all conventions.
                let top = Chain::new(format!("level {b}"))
                    .with(chain.memory(config.memory))
                    .with(TopPrior::new(PriorLayout::Halves, net));
                let mut scales = MultiScale::new(top, [channels, height, width]);
                for (chain, split, factored) in levels {
                    scales = scales.level(chain, split, factored);
                }
                let base = StandardNormal::new([scales.dims()]);
                let flow = Flow::new(Chain::new("glow").with(scales), base);
                let model = ImageFlow::new(flow, config.image, config.bins)?;
                return Ok(Glow {
                    model: model.with_classes(config.classes),
                    config,
                });
            }
            let kept = channels / 2;
            let convention = config.convention;
            let net = ZeroConv::new(&prior, [kept, 2 * (channels - kept)], convention.border())?;
            levels.push((
                chain.memory(config.memory),
                Split::new(kept, convention.split(), net),
                [channels - kept, height, width],
            ));
            channels = kept;
        }
        Err(Error::argument("Glow", "no level"))
    }

    /// The size and the conventions.
    pub fn config(&self) -> &GlowConfig {
        &self.config
    }

    /// Loads weights by name, as rosinality/glow-pytorch saves them (converted to
    /// safetensors): a prefix `module.` and extents of 1 in shapes do not matter, masks and
    /// flags that follow from the architecture are passed over. Nothing changes unless the
    /// whole file fits. Errors: a file of another number of levels or steps, tensors that
    /// are missing, left over, of another shape, or not finite.
    pub fn load(&self, params: &Params, path: impl AsRef<Path>) -> Result<()> {
        self.load_from(params, WeightsFile::open(path)?)
    }

    /// The same from a file that is open already, or that lies in memory.
    pub fn load_from<R: Read + Seek>(&self, params: &Params, file: WeightsFile<R>) -> Result<()> {
        let (levels, depth) = (numbers(&file, "blocks"), numbers(&file, "flows"));
        if (levels, depth) != (self.config.levels, self.config.depth) {
            return Err(Error::Weights {
                file: file.path().display().to_string(),
                tensor: String::new(),
                detail: format!(
                    "these are weights of {levels} levels of {depth} steps, this model has {} levels of {} steps",
                    self.config.levels, self.config.depth
                ),
            });
        }
        let rules = LoadRules::default()
            .strip("module.")
            .any_ones()
            .skip_ending(&[".u_mask", ".l_mask", ".l_eye", ".initialized"]);
        params.load_by(file, &rules)?;
        Ok(())
    }
}

/// How many numbers follow `part` in the names of a file, from 0 on.
fn numbers<R: Read + Seek>(file: &WeightsFile<R>, part: &str) -> usize {
    let number = |name: &String| {
        let mut parts = name.split('.').skip_while(|p| *p != part);
        parts.nth(1)?.parse::<usize>().ok()
    };
    let most = file.names().iter().filter_map(number).max();
    most.map_or(0, |n| n.saturating_add(1))
}

/// One step of flow over `channels` channels.
fn step(params: &Params, channels: usize, config: &GlowConfig, seed: u64) -> Result<Chain> {
    let norm = ActNorm::with(
        &params.scope("actnorm"),
        channels,
        config.convention.actnorm(),
    )?;
    let kept = channels / 2;
    let mask = CouplingMask::After(kept);
    let coupling = match config.affine {
        true => CouplingParams {
            layout: config.convention.raw(),
            minimum: config.minimum_scale,
            ..CouplingParams::glow(mask)
        },
        false => CouplingParams::additive(mask),
    };
    let sizes = [kept, config.hidden, coupling.raw_channels(channels)];
    let net = CouplingNet::new(&params.scope("coupling"), sizes, config.convention)?;
    let chain = Chain::new("step").with(norm);
    let invconv = params.scope("invconv");
    let chain = match config.mixing {
        Mixing::Plu => chain.with(Inv1x1::plu(&invconv, channels)?),
        Mixing::Full => chain.with(Inv1x1::full(&invconv, channels)?),
        Mixing::Reverse => chain.with(Permutation::reverse(channels)),
        Mixing::Shuffle => chain.with(Permutation::shuffle(channels, seed)),
    };
    Ok(chain.with(Coupling::new(coupling, net)))
}
