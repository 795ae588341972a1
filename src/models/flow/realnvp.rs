//! RealNVP: affine couplings of images at several scales (Dinh, Sohl-Dickstein, Bengio
//! 2017, arXiv 1605.08803).

use std::ops::Deref;

use super::image_flow::{ImageFlow, image_size};
use crate::flow::{
    ActNorm, Affine, Chain, Context, Coupling, Flow, Logit, Memory, MultiScale, Network, Split,
    Squeeze, StandardNormal,
};
use crate::nn::Conv2d;
use crate::ops::{Activation, ConvParams, CouplingMask, CouplingParams, CouplingScale};
use crate::{Error, Init, Params, Result, Tensor};

/// The size of a [`RealNvp`].
#[derive(Debug, Clone, PartialEq)]
pub struct RealNvpConfig {
    /// Channels, height and width; height and width divisible by `2^(scales - 1)`.
    pub image: [usize; 3],
    /// Levels of a pixel.
    pub bins: usize,
    /// Scales.
    pub scales: usize,
    /// Residual blocks of a coupling's network.
    pub blocks: usize,
    /// Channels inside the networks, the same at all scales.
    pub hidden: usize,
    /// What is kept for the gradient.
    pub memory: Memory,
}

impl RealNvpConfig {
    /// For digits of 8x8 pixels and 17 levels: 2 scales, 1 block, 32 channels.
    pub fn digits() -> Self {
        RealNvpConfig {
            image: [1, 8, 8],
            bins: 17,
            scales: 2,
            blocks: 1,
            hidden: 32,
            memory: Memory::Store,
        }
    }

    /// For MNIST, padded to 32x32: otherwise as [`RealNvpConfig::digits`].
    pub fn mnist() -> Self {
        RealNvpConfig {
            image: [1, 32, 32],
            bins: 256,
            ..RealNvpConfig::digits()
        }
    }

    /// The published size for CIFAR-10: 8 residual blocks of 64 channels, 2 scales; 3.49
    /// bits per dimension.
    pub fn cifar10() -> Self {
        RealNvpConfig {
            image: [3, 32, 32],
            blocks: 8,
            hidden: 64,
            ..RealNvpConfig::mnist()
        }
    }
}

/// Couplings with checkerboard masks and, behind a squeeze, with masks by channels, at
/// every scale. It dereferences to its [`ImageFlow`].
///
/// The floats of the image go through the logit of `0.05 + 0.95 x` (with `x` in 0..1).
/// Then at every scale but the last: three couplings whose checkerboard keeps positions
/// with `(h + w) mod 2` = 0, 1, 0; squeeze; three couplings that keep the first half of the
/// channels, the second, the first; the second half is factored out as it is. The last
/// scale is four checkerboard couplings (0, 1, 0, 1). In front of every coupling stands an
/// actnorm, where the paper has batch normalisation behind it. Names:
/// `scales.{s}.{k}.{actnorm,net}` with `k` counting the couplings of a scale.
///
/// A coupling is `z = x * exp(l) + t`, `l = 2 tanh(s / 2)`, raw scales before shifts. Its
/// network: 3x3 convolution `first`; blocks `x + conv(relu(conv(relu(x))))` of 3x3
/// convolutions `blocks.{i}.{0,1}`; ReLU; 3x3 convolution `last`, zero at first. The others
/// have PyTorch's first values; none has the paper's weight normalisation.
pub struct RealNvp {
    model: ImageFlow,
    config: RealNvpConfig,
}

impl Deref for RealNvp {
    type Target = ImageFlow;

    fn deref(&self) -> &ImageFlow {
        &self.model
    }
}

impl RealNvp {
    /// Errors: sizes that do not fit together; see [`Params::add`].
    pub fn new(params: &Params, config: RealNvpConfig) -> Result<Self> {
        let [mut channels, mut height, mut width] = config.image;
        let wrong = |detail: String| Err(Error::argument("RealNvp", detail));
        if !(1..=16).contains(&config.scales) || config.hidden == 0 {
            return wrong(format!(
                "{} scales with {} hidden channels: 1 to 16 scales, at least one channel",
                config.scales, config.hidden
            ));
        }
        let factor = 1 << (config.scales - 1);
        if height % factor != 0 || width % factor != 0 || image_size(config.image)? < 2 {
            return wrong(format!(
                "images of {channels}x{height}x{width}: {} scales need height and width divisible by {factor}; pad the images or take fewer scales",
                config.scales
            ));
        }
        let mut levels = Vec::new();
        for s in 0..config.scales {
            let scope = params.scope(format!("scales.{s}"));
            let mut count = 0;
            let mut couple = |chain: &mut Chain, mask, channels| {
                let scope = scope.scope(count);
                count += 1;
                couple(chain, &scope, mask, channels, &config)
            };
            let mut chain = Chain::new(format!("scale {s}")).memory(config.memory);
            if s == 0 {
                chain.push(Affine::new(1.0, 0.5)?);
                chain.push(Logit::between(0.05, 1.0)?);
            }
            let last = s + 1 == config.scales;
            for k in 0..if last { 4 } else { 3 } {
                let mask = CouplingMask::Checkerboard { parity: k % 2 };
                couple(&mut chain, mask, channels)?;
            }
            if last {
                let mut scales = MultiScale::new(chain, [channels, height, width]);
                for (chain, kept, factored) in levels {
                    scales = scales.level(chain, Split::plain(kept), factored);
                }
                let base = StandardNormal::new([scales.dims()]);
                let flow = Flow::new(Chain::new("realnvp").with(scales), base);
                return Ok(RealNvp {
                    model: ImageFlow::new(flow, config.image, config.bins)?,
                    config,
                });
            }
            (channels, height, width) = (4 * channels, height / 2, width / 2);
            chain.push(Squeeze);
            let half = channels / 2;
            for k in 0..3 {
                let mask = match k {
                    1 => CouplingMask::Before(half),
                    _ => CouplingMask::After(half),
                };
                couple(&mut chain, mask, channels)?;
            }
            levels.push((chain, half, [channels - half, height, width]));
            channels = half;
        }
        wrong("no scale".into())
    }

    /// The size.
    pub fn config(&self) -> &RealNvpConfig {
        &self.config
    }
}

/// An actnorm and a coupling at the end of `chain`.
fn couple(
    chain: &mut Chain,
    params: &Params,
    mask: CouplingMask,
    channels: usize,
    config: &RealNvpConfig,
) -> Result<()> {
    let convention = CouplingParams {
        scale: CouplingScale::Tanh { clamp: 2.0 },
        ..CouplingParams::new(mask)
    };
    let sizes = [
        Coupling::seen_channels(mask, channels),
        config.hidden,
        convention.raw_channels(channels),
    ];
    let net = Residual::new(&params.scope("net"), sizes, config.blocks)?;
    chain.push(ActNorm::new(&params.scope("actnorm"), channels)?);
    chain.push(Coupling::new(convention, net));
    Ok(())
}

/// A residual network that keeps height and width and gives zeros at first.
struct Residual {
    first: Conv2d,
    blocks: Vec<[Conv2d; 2]>,
    last: Conv2d,
}

impl Residual {
    fn new(params: &Params, [inputs, hidden, outputs]: [usize; 3], blocks: usize) -> Result<Self> {
        let plain = ConvParams {
            padding: [1; 4],
            ..Default::default()
        };
        let relu = ConvParams {
            activation: Activation::Relu,
            ..plain
        };
        let mut layers = Vec::new();
        for i in 0..blocks {
            let scope = params.scope(format!("blocks.{i}"));
            layers.push([
                Conv2d::new(&scope.scope(0), [hidden, hidden], [3, 3], relu)?,
                Conv2d::new(&scope.scope(1), [hidden, hidden], [3, 3], plain)?,
            ]);
        }
        let zeros = [Init::Zeros, Init::Zeros];
        let last = params.scope("last");
        Ok(Residual {
            first: Conv2d::new(&params.scope("first"), [inputs, hidden], [3, 3], plain)?,
            blocks: layers,
            last: Conv2d::with_init(&last, [hidden, outputs], [3, 3], plain, zeros)?,
        })
    }
}

impl Network for Residual {
    fn apply(&self, x: &Tensor, cx: &Context<'_>) -> Tensor {
        let mut y = Network::apply(&self.first, x, cx);
        for [inner, outer] in &self.blocks {
            let inside = Network::apply(inner, &y.relu(), cx);
            y = y.add(&Network::apply(outer, &inside, cx));
        }
        Network::apply(&self.last, &y.relu(), cx)
    }
}
