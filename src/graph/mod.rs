//! The graph: nodes are ops over shapes. It holds no data and knows no GPU type.
//!
//! Built by [`Tensor`] methods, extended by the tape, read by the planner.
//! It must not know any particular op.

mod array;
mod assign;
mod interpret;
mod lower;
mod observe;
mod op;
pub(crate) mod rewrite;
mod spec;
mod tensor;

pub use array::Array;
pub use interpret::{Feed, evaluate};
pub use lower::{Access, Bind, Dispatch, KernelBuilder, Lower, Slot};
pub use observe::Observed;
pub use op::{Graph, NodeId, Op, Tensor, Vjp};
pub use spec::{Kind, Pointwise, Samples, Source, Spec};

pub(crate) use op::{Backward, Node, Update, ValueId};
