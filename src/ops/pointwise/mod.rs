//! Functions of one element: the table of them, the op that applies one, and the
//! [`crate::Tensor`] methods. Chains of them become one generated dispatch; none has a
//! kernel of its own.

mod activation;
pub(in crate::ops) mod elementwise;
pub(in crate::ops) mod func;
pub(in crate::ops) mod map;

pub use activation::Activation;
pub use func::Func;
pub use map::Map;
