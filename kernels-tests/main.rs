//! All tests that need graphs and kernels: one binary, because every binary
//! pays for its own device and its own linking. One module per op family.

mod codebook;
mod conv;
mod matmul;
mod nn;
mod pointwise;
mod pool;
mod quantize;
mod random;
mod support;
mod tape;
mod vectors;
mod views;
