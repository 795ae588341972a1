//! Networks that encode images and decode what is left of them. They know layers and
//! quantisers, no data set and no training loop.

mod dvae;
mod pixel_sampler;
mod pixelcnn;
mod plain;
mod tiles;
mod vae;
mod vqgan;
mod vqgan_blocks;
mod vqvae;
mod vqvae_residual;

pub use dvae::{Dvae, DvaeConfig, DvaeLoss};
pub use pixel_sampler::PixelSampler;
pub use pixelcnn::{PixelBlock, PixelCnn, PixelCnnConfig};
pub use plain::{Autoencoder, AutoencoderConfig};
pub use tiles::{Tile, Tiling};
pub use vae::{Likelihood, Posterior, Vae, VaeConfig, VaeOutput};
pub use vqgan::{VqGan, VqGanConfig, VqGanOutput};
pub use vqvae::{VqVae, VqVaeOutput};
pub use vqvae_residual::VqVaeConfig;
