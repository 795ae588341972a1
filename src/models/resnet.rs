//! Residual networks of basic blocks (He et al. 2016, arXiv 1512.03385).

use crate::nn::{BatchNorm2d, Conv2d, Layer, Linear, Mode};
use crate::ops::{ConvParams, PoolParams};
use crate::{Error, Params, Result, Tensor};

/// How a residual network begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResNetStem {
    /// 7x7 with stride 2 and a 3x3 maximum pool with stride 2, for ImageNet.
    ImageNet,
    /// 3x3 with stride 1, for images of 32x32.
    Cifar,
}

/// The shape of a residual network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResNetConfig {
    /// How it begins.
    pub stem: ResNetStem,
    /// Channels of the images.
    pub channels: usize,
    /// Channels of the first stage; each further one has twice as many.
    pub width: usize,
    /// Blocks of the four stages.
    pub blocks: [usize; 4],
    /// Outputs of the last layer.
    pub classes: usize,
}

impl ResNetConfig {
    /// ResNet-18 as torchvision has it: 1,000 classes, 11,689,512 parameters.
    pub fn resnet18() -> Self {
        ResNetConfig {
            stem: ResNetStem::ImageNet,
            channels: 3,
            width: 64,
            blocks: [2; 4],
            classes: 1000,
        }
    }

    /// ResNet-18 for CIFAR-10 (3x3 stem, no pool): 11,173,962 parameters.
    pub fn resnet18_cifar() -> Self {
        ResNetConfig {
            stem: ResNetStem::Cifar,
            classes: 10,
            ..ResNetConfig::resnet18()
        }
    }
}

/// A residual network of basic blocks, from images `[N, C, H, W]` to logits
/// `[N, classes]`.
///
/// Names are torchvision's: `conv1.weight`, `bn1.*`, `layer{1..4}.{b}.conv{1,2}.weight`,
/// `layer{1..4}.{b}.bn{1,2}.*`, `layer{2..4}.0.downsample.{0,1}.*`, `fc.{weight,bias}`.
/// Batch norm has eps 1e-5 and momentum 0.1; initial values are those of the layers.
///
/// For inference see [`crate::ops::fold_batch_norms`] and
/// [`crate::Graph::compile_frozen`]: together they leave one kernel per convolution.
pub struct ResNet {
    config: ResNetConfig,
    stem: Unit,
    blocks: Vec<Block>,
    head: Linear,
}

/// A convolution without bias and its batch norm.
struct Unit {
    conv: Conv2d,
    norm: BatchNorm2d,
}

/// `relu(x' + unit2(relu(unit1(x))))`, where `x'` is `x` or what the shortcut makes of it.
struct Block {
    first: Unit,
    second: Unit,
    shortcut: Option<Unit>,
}

impl Unit {
    /// Padded so that a stride of 1 keeps the extent of the images.
    fn new(
        [conv, norm]: [&Params; 2],
        channels: [usize; 2],
        kernel: usize,
        stride: usize,
    ) -> Result<Self> {
        let options = ConvParams {
            stride: [stride; 2],
            padding: [kernel / 2; 4],
            ..ConvParams::default()
        };
        Ok(Unit {
            conv: Conv2d::without_bias(conv, channels, [kernel; 2], options)?,
            norm: BatchNorm2d::new(norm, channels[1])?,
        })
    }

    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        self.norm.forward(&self.conv.forward(x, mode), mode)
    }
}

impl ResNet {
    /// A network of this shape. Errors: a width, a channel or class count or a stage of
    /// zero, and see [`Params::add`].
    pub fn new(params: &Params, config: ResNetConfig) -> Result<Self> {
        let counts = [config.channels, config.width, config.classes];
        if counts.iter().chain(&config.blocks).any(|n| *n == 0) {
            return Err(Error::argument(
                "ResNet",
                format!("every count of {config:?} must be at least 1"),
            ));
        }
        let (kernel, stride) = match config.stem {
            ResNetStem::ImageNet => (7, 2),
            ResNetStem::Cifar => (3, 1),
        };
        let scopes = [&params.scope("conv1"), &params.scope("bn1")];
        let stem = Unit::new(scopes, [config.channels, config.width], kernel, stride)?;
        let mut blocks = Vec::new();
        let mut channels = config.width;
        for (stage, count) in config.blocks.into_iter().enumerate() {
            for i in 0..count {
                let out = config.width << stage;
                let stride = if stage > 0 && i == 0 { 2 } else { 1 };
                let scope = params.scope(format!("layer{}.{i}", stage + 1));
                blocks.push(Block::new(&scope, [channels, out], stride)?);
                channels = out;
            }
        }
        let head = Linear::new(&params.scope("fc"), channels, config.classes)?;
        Ok(ResNet {
            config,
            stem,
            blocks,
            head,
        })
    }

    /// The features `[N, 8 * width]` before the last layer.
    #[track_caller]
    pub fn features(&self, x: &Tensor, mode: Mode) -> Tensor {
        let mut y = self.stem.forward(x, mode).relu();
        if self.config.stem == ResNetStem::ImageNet {
            y = y.max_pool2d(&PoolParams::new([3, 3], [2, 2]).padding([1, 1]));
        }
        for block in &self.blocks {
            y = block.forward(&y, mode);
        }
        y.mean(&[2, 3], false)
    }
}

impl Layer for ResNet {
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        self.head.forward(&self.features(x, mode), mode)
    }
}

impl Block {
    fn new(params: &Params, io: [usize; 2], stride: usize) -> Result<Self> {
        let unit = |i: usize, io: [usize; 2], stride: usize| {
            let [conv, norm] = ["conv", "bn"].map(|n| params.scope(format!("{n}{i}")));
            Unit::new([&conv, &norm], io, 3, stride)
        };
        let shortcut = match stride > 1 || io[0] != io[1] {
            false => None,
            true => {
                let scope = params.scope("downsample");
                Some(Unit::new(
                    [&scope.scope(0), &scope.scope(1)],
                    io,
                    1,
                    stride,
                )?)
            }
        };
        Ok(Block {
            first: unit(1, io, stride)?,
            second: unit(2, [io[1]; 2], 1)?,
            shortcut,
        })
    }

    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let y = self.first.forward(x, mode).relu();
        let y = self.second.forward(&y, mode);
        let past = match &self.shortcut {
            Some(shortcut) => shortcut.forward(x, mode),
            None => x.clone(),
        };
        y.add(&past).relu()
    }
}
