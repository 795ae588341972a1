//! Hand-written WGSL kernels, a graph executor and reverse-mode autodiff for
//! normalizing flows and vector-quantised models, on any Vulkan, Metal or DX12 GPU.

#![warn(missing_docs)]

pub mod data;
pub mod device;
mod dtype;
mod error;
pub mod exec;
pub mod flow;
pub mod gpu;
pub mod graph;
pub mod metrics;
pub mod models;
pub mod nn;
pub mod ops;
pub mod optim;
pub mod params;
pub mod plan;
pub mod quantize;
mod rng;
mod shape;
pub mod tape;
pub mod train;
pub mod tune;

pub use dtype::DType;
pub use error::{Error, Result};
pub use exec::{FreezeOptions, Outputs, Program, Storage, Value};
pub use gpu::{Gpu, GpuOptions};
pub use graph::{Graph, Tensor};
pub use params::{Init, Param, Params};
pub use shape::Shape;

/// The programs in the README are tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
