//! The same elements in another order: strided views, slices, padding, rolls,
//! concatenation, and packing side by side. They compute nothing.

pub(in crate::ops) mod concat;
pub(in crate::ops) mod pack;
pub(in crate::ops) mod rearrange;
#[allow(clippy::module_inception, reason = "named like its shader")]
pub(in crate::ops) mod view;

pub use pack::Pack;
