//! Hand-written WGSL kernels, a graph executor and reverse-mode autodiff for
//! normalizing flows and vector-quantised models, on any Vulkan, Metal or DX12 GPU.

#![warn(missing_docs)]

pub mod device;
mod dtype;
mod error;
pub mod gpu;
pub mod graph;
pub mod ops;
mod shape;
pub mod tape;

pub use dtype::DType;
pub use error::{Error, Result};
pub use gpu::{Gpu, GpuOptions};
pub use graph::{Graph, Tensor};
pub use shape::Shape;
