//! Training: checkpoints.

mod checkpoint;

pub use checkpoint::Checkpoint;
