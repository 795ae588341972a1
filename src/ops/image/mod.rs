//! Pictures moved sample by sample, by amounts that lie on the GPU: whole pixels (roll,
//! crop, flip), and bilinear sampling at any places (affine warps).

pub(in crate::ops) mod affine;
pub(in crate::ops) mod bilinear;
pub(in crate::ops) mod grid_sample;
pub(in crate::ops) mod move_each;

pub use bilinear::GridPadding;
