//! The rows: each names a piece of work and says how either side does it.

mod block;
mod codes;
mod conv;
mod coupling;
mod gemm;
mod glow;
mod resnet;
mod slogdet;
mod vqvae;

use crate::row::Row;

/// All rows in the order they are measured.
pub fn all() -> Vec<Row> {
    let mut rows = gemm::rows();
    rows.extend(conv::rows());
    rows.extend(block::rows());
    rows.extend(coupling::rows());
    rows.extend(codes::rows());
    rows.extend(slogdet::rows());
    rows.extend(glow::rows());
    rows.extend(vqvae::rows());
    rows.extend(resnet::rows());
    rows
}
