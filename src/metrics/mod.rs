//! Measures of what a model does: detection of outliers by scores, distances of sets of
//! features, likeness of images. Scores and features are counted on the host in float64;
//! images are measured by tensors, with gradients. They must not know models.
//!
//! Bits per dimension belong to flows ([`crate::flow`]), the perplexity of codes to
//! quantisers ([`crate::quantize`]).

mod detection;
mod eigen;
mod frechet;
mod images;

pub use detection::Detection;
pub use frechet::Gaussian;
pub use images::{mean_squared_error, psnr, ssim};
