//! Data sets on the host: parsing files, drawing batches. Knows no graph and no GPU.

mod batches;
mod cifar;
mod idx;
mod mnist;
mod plane;

pub use batches::{Batches, Order};
pub use cifar::parse_cifar10;
pub use idx::{Idx, MAX_IDX_BYTES, parse_idx, read_idx};
pub use mnist::{ImageSet, Split};
pub use plane::Plane;
