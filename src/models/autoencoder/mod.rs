//! Networks that encode images and decode what is left of them. They know layers and
//! quantisers, no data set and no training loop.

mod plain;
mod vae;
mod vqvae;

pub use plain::{Autoencoder, AutoencoderConfig};
pub use vae::{Likelihood, Posterior, Vae, VaeConfig, VaeOutput};
pub use vqvae::{VqVae, VqVaeOutput};
