//! Many elements to one along axes: sums, extrema, moments, softmax and running sums.
//! Every order of summation is fixed.

pub(in crate::ops) mod axes;
pub(in crate::ops) mod cumsum;
pub(in crate::ops) mod fold;
#[allow(clippy::module_inception, reason = "named like its shader")]
pub(in crate::ops) mod reduce;
pub(in crate::ops) mod softmax;
pub(in crate::ops) mod sum_chunks;

pub use reduce::{Reduce, Reduction};
pub(crate) use sum_chunks::sum_chunks_apart;
