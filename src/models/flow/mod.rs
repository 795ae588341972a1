//! Normalizing flows of vectors and images. They know layers, bijectors and base
//! densities, no data set and no training loop.

mod glow;
mod glow_convention;
mod glow_nets;
mod image_flow;
mod nice;
mod realnvp;
mod vector_flow;

pub use glow::{Glow, GlowConfig, Mixing};
pub use glow_convention::GlowConvention;
pub use image_flow::ImageFlow;
pub use nice::{Nice, NiceConfig, NicePrior};
pub use realnvp::{RealNvp, RealNvpConfig};
pub use vector_flow::{VectorCoupling, VectorFlowConfig, vector_flow};
