//! Networks that encode images and decode what is left of them. They know layers and
//! quantisers, no data set and no training loop.

mod vqvae;

pub use vqvae::{VqVae, VqVaeOutput};
