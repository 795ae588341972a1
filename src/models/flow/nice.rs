//! NICE: additive couplings of vectors (Dinh, Krueger, Bengio 2014, arXiv 1410.8516).

use std::ops::Deref;

use super::image_flow::{ImageFlow, image_size};
use crate::flow::{
    Base, Chain, Coupling, DiagonalScaling, Flatten, Flow, Logistic, Memory, StandardNormal,
};
use crate::nn::{Linear, Sequential};
use crate::ops::{Activation, CouplingMask, CouplingParams};
use crate::{Error, Params, Result};

/// The distribution of NICE's latents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NicePrior {
    /// Independent standard logistic ones (MNIST, SVHN and CIFAR-10 in the paper).
    Logistic,
    /// Independent standard normal ones (the Toronto Face Dataset).
    Normal,
}

/// The size of a [`Nice`].
#[derive(Debug, Clone, PartialEq)]
pub struct NiceConfig {
    /// Channels, height and width.
    pub image: [usize; 3],
    /// Levels of a pixel.
    pub bins: usize,
    /// Couplings; at least three, so that every dimension can reach every other.
    pub couplings: usize,
    /// Hidden layers of a coupling's network.
    pub layers: usize,
    /// Units of a hidden layer.
    pub hidden: usize,
    /// The latents' distribution.
    pub prior: NicePrior,
    /// What is kept for the gradient.
    pub memory: Memory,
}

impl NiceConfig {
    /// For digits of 8x8 pixels and 17 levels: 4 couplings of 2 hidden layers with 200
    /// units.
    pub fn digits() -> Self {
        NiceConfig {
            image: [1, 8, 8],
            bins: 17,
            couplings: 4,
            layers: 2,
            hidden: 200,
            prior: NicePrior::Logistic,
            memory: Memory::Store,
        }
    }

    /// The published model for MNIST: 4 couplings of 5 hidden layers with 1000 units,
    /// logistic prior; log-likelihood 1980.50 nats.
    pub fn mnist() -> Self {
        NiceConfig {
            image: [1, 28, 28],
            bins: 256,
            layers: 5,
            hidden: 1000,
            ..NiceConfig::digits()
        }
    }

    /// The published model for the Toronto Face Dataset, 48x48: 4 layers of 5000 units,
    /// Gaussian prior.
    pub fn tfd() -> Self {
        NiceConfig {
            image: [1, 48, 48],
            layers: 4,
            hidden: 5000,
            prior: NicePrior::Normal,
            ..NiceConfig::mnist()
        }
    }

    /// The published model for SVHN and CIFAR-10: 4 layers of 2000 units. (The paper
    /// whitens CIFAR-10 beforehand; that is not part of the model.)
    pub fn cifar10() -> Self {
        NiceConfig {
            image: [3, 32, 32],
            layers: 4,
            hidden: 2000,
            ..NiceConfig::mnist()
        }
    }
}

/// Additive couplings with multilayer perceptrons, and a scale per dimension behind them.
/// It dereferences to its [`ImageFlow`].
///
/// The image becomes a vector, row by row, channel by channel. Coupling `k` (from 0)
/// transforms the odd positions where `k` is even, the even ones where it is odd:
/// `z = x + m(x of the other positions)`, where `m` is linear layers with ReLU between
/// them, `couplings.{k}.{layer}.{weight,bias}`: PyTorch's first values, zeros in the last
/// layer. `scaling` multiplies every dimension with `exp(log_scale)`, zero at first.
pub struct Nice {
    model: ImageFlow,
    config: NiceConfig,
}

impl Deref for Nice {
    type Target = ImageFlow;

    fn deref(&self) -> &ImageFlow {
        &self.model
    }
}

impl Nice {
    /// Errors: fewer than one hidden layer or three couplings, an image of one number;
    /// see [`Params::add`].
    pub fn new(params: &Params, config: NiceConfig) -> Result<Self> {
        let dims = image_size(config.image)?;
        if config.couplings < 3 || config.layers == 0 || config.hidden == 0 || dims < 2 {
            return Err(Error::argument(
                "Nice",
                format!(
                    "{} couplings with {} hidden layers of {} units for {dims} dimensions: at least 3 couplings, 1 layer, 1 unit, 2 dimensions",
                    config.couplings, config.layers, config.hidden
                ),
            ));
        }
        let mut chain = Chain::new("nice")
            .with(Flatten::new(config.image))
            .memory(config.memory);
        for k in 0..config.couplings {
            let mask = match k % 2 {
                0 => CouplingMask::Odd,
                _ => CouplingMask::Even,
            };
            let coupling = CouplingParams::additive(mask);
            let scope = params.scope(format!("couplings.{k}"));
            let mut width = Coupling::seen_channels(mask, dims);
            let mut net = Sequential::new();
            for layer in 0..config.layers {
                let linear = Linear::new(&scope.scope(layer), width, config.hidden)?;
                net = net.with(linear.activation(Activation::Relu));
                width = config.hidden;
            }
            let last = scope.scope(config.layers);
            net = net.with(Linear::zeros(&last, width, coupling.raw_channels(dims))?);
            chain.push(Coupling::new(coupling, net));
        }
        chain.push(DiagonalScaling::new(&params.scope("scaling"), [dims])?);
        let base: Box<dyn Base> = match config.prior {
            NicePrior::Logistic => Box::new(Logistic::new([dims])),
            NicePrior::Normal => Box::new(StandardNormal::new([dims])),
        };
        Ok(Nice {
            model: ImageFlow::new(Flow { chain, base }, config.image, config.bins)?,
            config,
        })
    }

    /// The size.
    pub fn config(&self) -> &NiceConfig {
        &self.config
    }
}
