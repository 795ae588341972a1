//! The discriminator of DCGAN (Radford et al. 2016, arXiv 1511.06434).

use crate::nn::{BatchNorm2d, Conv2d, Layer, Mode};
use crate::ops::{Activation, ConvParams};
use crate::{Error, Init, Params, Result, Tensor};

/// The shape of a DCGAN discriminator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DcganConfig {
    /// Channels of the images.
    pub channels: usize,
    /// Channels behind the 4x4 convolutions of stride 2.
    pub widths: Vec<usize>,
}

impl DcganConfig {
    /// For colour images of 32x32: 167,808 parameters.
    pub fn small() -> Self {
        DcganConfig {
            channels: 3,
            widths: vec![32, 64, 128],
        }
    }

    /// The one of pytorch/examples for colour images of 64x64: 2,765,568 parameters.
    pub fn reference() -> Self {
        DcganConfig {
            channels: 3,
            widths: vec![64, 128, 256, 512],
        }
    }

    /// Pixels of a side that give one logit an image.
    pub fn side(&self) -> usize {
        4 << self.widths.len().min(16)
    }
}

/// From images `[N, C, H, W]` to logits of being real: `[N, 1]` for images of
/// [`DcganConfig::side`] pixels, of larger ones the mean over all places.
///
/// 4x4 convolutions of stride 2 and padding 1, batch norm behind all but the first, leaky
/// ReLUs of slope 0.2; a 4x4 convolution to one channel. No biases. The sigmoid that comes
/// last in pytorch/examples is left to the loss. Names are those there: `main.0.weight`,
/// `main.2.weight`, `main.3.{weight,bias,running_mean,running_var}`, `main.5.weight`, ..
/// Weights of convolutions are first normal with deviation 0.02, those of batch norms with
/// mean 1 too.
pub struct DcganDiscriminator {
    first: Conv2d,
    units: Vec<(Conv2d, BatchNorm2d)>,
    last: Conv2d,
}

const SLOPE: Activation = Activation::LeakyRelu(0.2);

impl DcganDiscriminator {
    /// A network of this shape. Errors: no widths, counts of zero, and see [`Params::add`].
    pub fn new(params: &Params, config: DcganConfig) -> Result<Self> {
        let counts = std::iter::once(&config.channels).chain(&config.widths);
        let none = counts.into_iter().any(|n| *n == 0);
        let (Some(first), false, ..=16) = (config.widths.first(), none, config.widths.len()) else {
            let detail = format!("1 to 16 widths and counts of at least 1 are needed: {config:?}");
            return Err(Error::argument("DcganDiscriminator", detail));
        };
        let main = params.scope("main");
        let normal = |mean: f32| Init::Normal { mean, std: 0.02 };
        let conv = |at: usize, [from, to]: [usize; 2], options: ConvParams| {
            let scope = main.scope(at);
            Conv2d::without_bias_from(&scope, [from, to], [4; 2], options, normal(0.0))
        };
        let halving = ConvParams {
            stride: [2; 2],
            padding: [1; 4],
            ..ConvParams::default()
        };
        let mut units = Vec::new();
        let mut at = 2;
        for pair in config.widths.windows(2) {
            let weight = conv(at, [pair[0], pair[1]], halving)?;
            let norm = BatchNorm2d::with_weight(&main.scope(at + 1), pair[1], normal(1.0))?;
            units.push((weight, norm));
            at += 3;
        }
        let widest = config.widths.last().unwrap_or(first);
        Ok(DcganDiscriminator {
            first: conv(0, [config.channels, *first], halving)?,
            units,
            last: conv(at, [*widest, 1], ConvParams::default())?,
        })
    }
}

impl Layer for DcganDiscriminator {
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let mut y = SLOPE.apply(&self.first.forward(x, mode));
        for (conv, norm) in &self.units {
            y = SLOPE.apply(&norm.forward(&conv.forward(&y, mode), mode));
        }
        self.last.forward(&y, mode).mean(&[2, 3], false)
    }
}
