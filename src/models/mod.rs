//! Whole networks by name, with published configurations as presets. They are
//! compositions of layers; they must not know data sets or training loops.

mod vqvae;

pub use vqvae::{VqVae, VqVaeOutput};
