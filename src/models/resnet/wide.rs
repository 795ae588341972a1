//! Wide residual networks (Zagoruyko, Komodakis 2016, arXiv 1605.07146).

use super::blocks::window;
use crate::nn::{BatchNorm2d, Conv2d, Dropout, Layer, Linear, Mode};
use crate::ops::Activation;
use crate::{Error, Init, Params, Result, Tensor};

/// The shape of a wide residual network.
#[derive(Debug, Clone, PartialEq)]
pub struct WideResNetConfig {
    /// Channels of the images.
    pub channels: usize,
    /// Layers: 6 n + 4, for n blocks in each of three stages.
    pub depth: usize,
    /// The stages have 16, 32 and 64 times as many channels.
    pub widen: usize,
    /// Whether batch norms stand before the activations.
    pub norm: bool,
    /// Slope of the leaky ReLU below 0; 0 for a plain one.
    pub slope: f32,
    /// Probability of dropout between the convolutions of a block.
    pub dropout: f32,
    /// Outputs of the last layer.
    pub classes: usize,
}

impl WideResNetConfig {
    /// WRN-28-10 for CIFAR-10 with batch norm, ReLU and no dropout: 36,489,290 parameters.
    pub fn wrn28_10() -> Self {
        WideResNetConfig {
            channels: 3,
            depth: 28,
            widen: 10,
            norm: true,
            slope: 0.0,
            dropout: 0.0,
            classes: 10,
        }
    }

    /// The energy model of JEM (Grathwohl et al. 2020, arXiv 1912.03263): WRN-28-10 without
    /// any normalisation, leaky ReLUs of slope 0.2; 36,471,338 parameters.
    pub fn jem() -> Self {
        WideResNetConfig {
            norm: false,
            slope: 0.2,
            ..WideResNetConfig::wrn28_10()
        }
    }
}

/// A wide residual network, from images `[N, C, H, W]` to logits `[N, classes]`.
///
/// Pre-activation blocks; shortcuts that change shapes are 1x1 convolutions of the block's
/// own input. A block's second convolution has the stride. All convolutions have biases,
/// batch norms a momentum of 0.9. Names are those of wgrathwohl/JEM and
/// meliketoy/wide-resnet.pytorch: `conv1.*`,
/// `layer{1..3}.{b}.{bn1,conv1,bn2,conv2,shortcut.0}.*`, `bn1.*`, `linear.*`. JEM's
/// checkpoints prefix them with `f.`, never used `f.linear`, and call the last layer
/// `class_output`.
///
/// Weights of convolutions are first uniform in `+-sqrt(12 / (fan_in + fan_out))`, as there.
pub struct WideResNet {
    stem: Conv2d,
    blocks: Vec<WideBlock>,
    norm: Option<BatchNorm2d>,
    activation: Activation,
    head: Linear,
}

struct WideBlock {
    norms: [Option<BatchNorm2d>; 2],
    convs: [Conv2d; 2],
    dropout: Dropout,
    shortcut: Option<Conv2d>,
}

/// With a bias, and the first values of the published networks.
fn conv(params: &Params, [from, to]: [usize; 2], kernel: usize, stride: usize) -> Result<Conv2d> {
    let bound = (12.0 / ((from + to) * kernel * kernel) as f32).sqrt();
    let weight = Init::Uniform {
        lo: -bound,
        hi: bound,
    };
    let first = [weight, Init::Zeros];
    Conv2d::with_init(
        params,
        [from, to],
        [kernel; 2],
        window(kernel, stride),
        first,
    )
}

fn norm(
    params: &Params,
    config: &WideResNetConfig,
    channels: usize,
) -> Result<Option<BatchNorm2d>> {
    let made = config.norm.then(|| BatchNorm2d::new(params, channels));
    Ok(made.transpose()?.map(|norm| norm.momentum(0.9)))
}

impl WideResNet {
    /// A network of this shape. Errors: another depth than 6 n + 4, counts of zero, a
    /// negative slope, a dropout outside 0..1, and see [`Params::add`].
    pub fn new(params: &Params, config: WideResNetConfig) -> Result<Self> {
        let wrong = |detail: String| Err(Error::argument("WideResNet", detail));
        let count = config.depth.saturating_sub(4) / 6;
        if count == 0 || 6 * count + 4 != config.depth {
            return wrong(format!(
                "{} layers given, 6 n + 4 are possible: 16, 28, 40",
                config.depth
            ));
        }
        let counts = [config.channels, config.widen, config.classes];
        if counts.contains(&0) || config.widen > 1 << 16 {
            return wrong(format!(
                "{config:?}: counts must be at least 1, the width below 65,537"
            ));
        }
        if !(0.0..=1.0).contains(&config.slope) {
            return wrong(format!("a slope of {}; it must lie in 0..=1", config.slope));
        }
        let stem = conv(&params.scope("conv1"), [config.channels, 16], 3, 1)?;
        let mut blocks = Vec::new();
        let mut from = 16;
        for stage in 0..3 {
            let out = (16 << stage) * config.widen;
            for i in 0..count {
                let stride = if stage > 0 && i == 0 { 2 } else { 1 };
                let scope = params.scope(format!("layer{}.{i}", stage + 1));
                blocks.push(WideBlock::new(&scope, &config, [from, out], stride)?);
                from = out;
            }
        }
        let activation = match config.slope {
            0.0 => Activation::Relu,
            slope => Activation::LeakyRelu(slope),
        };
        Ok(WideResNet {
            stem,
            blocks,
            norm: norm(&params.scope("bn1"), &config, from)?,
            activation,
            head: Linear::new(&params.scope("linear"), from, config.classes)?,
        })
    }

    /// The features `[N, 64 widen]` before the last layer.
    #[track_caller]
    pub fn features(&self, x: &Tensor, mode: Mode) -> Tensor {
        let mut y = self.stem.forward(x, mode);
        for block in &self.blocks {
            y = block.forward(&y, self.activation, mode);
        }
        let y = self.activation.apply(&normalized(&self.norm, &y, mode));
        y.mean(&[2, 3], false)
    }
}

impl Layer for WideResNet {
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        self.head.forward(&self.features(x, mode), mode)
    }
}

fn normalized(norm: &Option<BatchNorm2d>, x: &Tensor, mode: Mode) -> Tensor {
    norm.as_ref()
        .map_or_else(|| x.clone(), |norm| norm.forward(x, mode))
}

impl WideBlock {
    fn new(
        params: &Params,
        config: &WideResNetConfig,
        [from, out]: [usize; 2],
        stride: usize,
    ) -> Result<Self> {
        let shortcut = match stride > 1 || from != out {
            false => None,
            true => {
                let scope = params.scope("shortcut").scope(0);
                Some(conv(&scope, [from, out], 1, stride)?)
            }
        };
        Ok(WideBlock {
            norms: [
                norm(&params.scope("bn1"), config, from)?,
                norm(&params.scope("bn2"), config, out)?,
            ],
            convs: [
                conv(&params.scope("conv1"), [from, out], 3, 1)?,
                conv(&params.scope("conv2"), [out; 2], 3, stride)?,
            ],
            dropout: Dropout::new(config.dropout)?,
            shortcut,
        })
    }

    fn forward(&self, x: &Tensor, activation: Activation, mode: Mode) -> Tensor {
        let y = activation.apply(&normalized(&self.norms[0], x, mode));
        let y = self.dropout.forward(&self.convs[0].forward(&y, mode), mode);
        let y = activation.apply(&normalized(&self.norms[1], &y, mode));
        let y = self.convs[1].forward(&y, mode);
        match &self.shortcut {
            Some(shortcut) => y.add(&shortcut.forward(x, mode)),
            None => y.add(x),
        }
    }
}
