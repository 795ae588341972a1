//! Square matrices: LU with pivots, triangular systems, the parametrised PLU of
//! invertible convolutions, and inverses and determinants made of these.

pub(in crate::ops) mod lu;
pub(in crate::ops) mod lu_shuffle;
pub(in crate::ops) mod plu;
mod singular;
pub(in crate::ops) mod solve;
pub(in crate::ops) mod triangular;

pub use lu::LuFactors;
pub(crate) use lu::factor;
pub use plu::Plu;
pub use triangular::Triangular;
