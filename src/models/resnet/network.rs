//! Residual networks with batch norm.

use super::blocks::{Block, PreActBlock, expansion, window};
use super::config::{ResNetBlock, ResNetConfig, ResNetStem};
use crate::nn::{BatchNorm2d, Conv2d, Layer, Linear, Mode};
use crate::ops::PoolParams;
use crate::{Params, Result, Tensor};

/// A residual network, from images `[N, C, H, W]` to logits `[N, classes]`.
///
/// | names | |
/// |---|---|
/// | stem | `conv1.weight`, `bn1.*` (not before pre-activation blocks) |
/// | blocks | `layer{1..}.{b}.conv{1..}.weight`, `layer{1..}.{b}.bn{1..}.*` |
/// | shortcuts that project | `layer{s}.0.downsample.{0,1}.*` or `.shortcut.{0,1}.*`; `.shortcut.0.weight` alone past pre-activation blocks |
/// | last layer | `fc.{weight,bias}` or `linear.{weight,bias}` |
///
/// [`ResNetConfig`] has the published shapes with their counts, and says which names.
/// Batch norm has eps 1e-5 and momentum 0.1; initial values are those of the layers.
///
/// For inference see [`crate::ops::fold_batch_norms`] and
/// [`crate::Graph::compile_frozen`]: together they leave one kernel per convolution.
pub struct ResNet {
    config: ResNetConfig,
    stem: Conv2d,
    /// None before pre-activation blocks.
    norm: Option<BatchNorm2d>,
    body: Body,
    head: Linear,
}

enum Body {
    Plain(Vec<Block>),
    PreActivation(Vec<PreActBlock>),
}

impl ResNet {
    /// A network of this shape. Errors: a width, a channel or class count or a stage of
    /// zero, padded shortcuts past other blocks than basic ones, and see [`Params::add`].
    pub fn new(params: &Params, config: ResNetConfig) -> Result<Self> {
        config.check()?;
        let (kernel, stride) = match config.stem {
            ResNetStem::ImageNet => (7, 2),
            ResNetStem::Cifar => (3, 1),
        };
        let io = [config.channels, config.width];
        let options = window(kernel, stride);
        let stem = Conv2d::without_bias(&params.scope("conv1"), io, [kernel; 2], options)?;
        let norm = match config.block {
            ResNetBlock::PreActivation => None,
            _ => Some(BatchNorm2d::new(&params.scope("bn1"), config.width)?),
        };
        let (mut plain, mut pre) = (Vec::new(), Vec::new());
        let mut channels = config.width;
        for (stage, count) in config.blocks.iter().enumerate() {
            for i in 0..*count {
                let io = [channels, config.width << stage];
                let stride = if stage > 0 && i == 0 { 2 } else { 1 };
                let scope = params.scope(format!("layer{}.{i}", stage + 1));
                match config.block {
                    ResNetBlock::PreActivation => {
                        pre.push(PreActBlock::new(&scope, &config, io, stride)?);
                    }
                    _ => plain.push(Block::new(&scope, &config, io, stride)?),
                }
                channels = io[1] * expansion(config.block);
            }
        }
        let body = match config.block {
            ResNetBlock::PreActivation => Body::PreActivation(pre),
            _ => Body::Plain(plain),
        };
        let head = Linear::new(&params.scope(config.names.head()), channels, config.classes)?;
        Ok(ResNet {
            config,
            stem,
            norm,
            body,
            head,
        })
    }

    /// The network's shape.
    pub fn config(&self) -> &ResNetConfig {
        &self.config
    }

    /// What the last block gives, `[N, C, H', W']`.
    #[track_caller]
    pub fn maps(&self, x: &Tensor, mode: Mode) -> Tensor {
        let mut y = self.stem.forward(x, mode);
        if let Some(norm) = &self.norm {
            y = norm.forward(&y, mode).relu();
        }
        if self.config.stem == ResNetStem::ImageNet {
            y = y.max_pool2d(&PoolParams::new([3, 3], [2, 2]).padding([1, 1]));
        }
        match &self.body {
            Body::Plain(blocks) => {
                for (i, block) in blocks.iter().enumerate() {
                    y = block.forward(&y, mode);
                    if i + 1 < blocks.len() || self.config.last_relu {
                        y = y.relu();
                    }
                }
            }
            Body::PreActivation(blocks) => {
                for block in blocks {
                    y = block.forward(&y, mode);
                }
            }
        }
        y
    }

    /// The features before the last layer: the means of [`ResNet::maps`], `[N, 8 width]` with
    /// four stages, four times as many with bottlenecks.
    #[track_caller]
    pub fn features(&self, x: &Tensor, mode: Mode) -> Tensor {
        self.maps(x, mode).mean(&[2, 3], false)
    }
}

impl Layer for ResNet {
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        self.head.forward(&self.features(x, mode), mode)
    }
}
