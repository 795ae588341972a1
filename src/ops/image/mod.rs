//! Pictures moved sample by sample, by amounts that lie on the GPU: whole pixels (roll,
//! crop, flip), bilinear sampling at any places (affine warps), and pictures in bytes.

pub(in crate::ops) mod affine;
pub(in crate::ops) mod bilinear;
pub(in crate::ops) mod grid_sample;
pub(in crate::ops) mod move_each;
mod pixels;

pub use bilinear::GridPadding;
pub use pixels::PixelFormat;
