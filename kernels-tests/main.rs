//! All tests that need graphs and kernels: one binary, because every binary
//! pays for its own device and its own linking. One module per op family.

mod attention;
mod bases;
mod codebook;
mod conv;
mod coupling;
mod data;
mod density;
mod exec;
mod flow;
mod flow_layers;
mod flow_support;
mod gather;
mod glow;
mod inv1x1;
mod linalg;
mod matmul;
mod nn;
mod norm;
mod optim;
mod params;
mod plans;
mod pointwise;
mod pool;
mod quantize;
mod random;
mod reduce;
mod shaders;
mod spline;
mod support;
mod tape;
mod training;
mod variants;
mod vectors;
mod views;
mod zoo;
