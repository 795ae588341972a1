//! Batch, layer and group norm, the statistics behind them, actnorm's start, and the
//! folding of batch norms into convolutions. Compositions and rewrites, no kernel.

pub(in crate::ops) mod actnorm;
pub(in crate::ops) mod batch_norm;
pub(in crate::ops) mod fold_norm;
mod local_response;
mod variance;

pub use actnorm::ActNormInit;
pub use fold_norm::fold_batch_norms;
pub use local_response::LocalResponse;
