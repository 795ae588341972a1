//! All tests that need graphs and kernels: one binary, because every binary
//! pays for its own device and its own linking. One module per op family.

mod gather;
mod matmul;
mod norm;
mod pointwise;
mod reduce;
mod support;
mod tape;
