//! Whole networks by name, with published configurations as presets. They are
//! compositions of layers; they must not know data sets or training loops.

mod glow;
mod glow_nets;
mod image_flow;
mod nice;
mod realnvp;
mod resnet;
mod vector_flow;
mod vqvae;

pub use glow::{Glow, GlowConfig, GlowConvention, Mixing};
pub use image_flow::ImageFlow;
pub use nice::{Nice, NiceConfig, NicePrior};
pub use realnvp::{RealNvp, RealNvpConfig};
pub use resnet::{ResNet, ResNetConfig, ResNetStem};
pub use vector_flow::{VectorCoupling, VectorFlowConfig, vector_flow};
pub use vqvae::{VqVae, VqVaeOutput};
