//! Couplings of normalizing flows, affine and by splines, with the log-determinant in
//! the same kernel.

pub(in crate::ops) mod coupling;
pub(in crate::ops) mod coupling_layout;
mod coupling_second;
pub(in crate::ops) mod spline;
mod spline_params;
mod spline_second;

pub use coupling::{CouplingMask, CouplingParams, CouplingScale, RawLayout};
pub use spline::SplineParams;
