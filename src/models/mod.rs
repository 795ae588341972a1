//! Whole networks by name, with published configurations as presets, one room per family.
//! They are compositions of layers; they must not know data sets or training loops.

mod autoencoder;
mod dcgan;
mod flow;
mod inference;
mod resnet;

pub use autoencoder::{
    Autoencoder, AutoencoderConfig, Dvae, DvaeConfig, DvaeLoss, Likelihood, PixelBlock, PixelCnn,
    PixelCnnConfig, PixelSampler, Posterior, Tile, Tiling, Vae, VaeConfig, VaeOutput, VqGan,
    VqGanConfig, VqGanOutput, VqVae, VqVaeConfig, VqVaeOutput,
};
pub use dcgan::{DcganConfig, DcganDiscriminator};
pub use flow::{
    Glow, GlowConfig, GlowConvention, ImageFlow, Mixing, Nice, NiceConfig, NicePrior, RealNvp,
    RealNvpConfig, VectorCoupling, VectorFlowConfig, vector_flow,
};
pub use inference::Inference;
pub use resnet::{
    ResNet, ResNetBlock, ResNetConfig, ResNetNames, ResNetShortcut, ResNetStem, WideResNet,
    WideResNetConfig,
};
