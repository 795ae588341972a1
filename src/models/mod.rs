//! Whole networks by name, with published configurations as presets, one room per family.
//! They are compositions of layers; they must not know data sets or training loops.

mod autoencoder;
mod flow;
mod resnet;

pub use autoencoder::{
    Autoencoder, AutoencoderConfig, Likelihood, PixelBlock, PixelCnn, PixelCnnConfig, PixelSampler,
    Posterior, Vae, VaeConfig, VaeOutput, VqVae, VqVaeOutput,
};
pub use flow::{
    Glow, GlowConfig, GlowConvention, ImageFlow, Mixing, Nice, NiceConfig, NicePrior, RealNvp,
    RealNvpConfig, VectorCoupling, VectorFlowConfig, vector_flow,
};
pub use resnet::{ResNet, ResNetConfig, ResNetStem};
