//! All tests that need graphs and kernels: one binary, because every binary
//! pays for its own device and its own linking. One module per op family.

mod conv;
mod matmul;
mod pointwise;
mod pool;
mod codebook;
mod matmul;
mod pointwise;
mod random;
mod support;
mod tape;
mod vectors;
mod views;
