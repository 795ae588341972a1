//! What a value is, and what an op is to the planner.

use std::sync::Arc;

use crate::{DType, Shape};

/// Shape and element type of a value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Spec {
    /// The extents.
    pub shape: Shape,
    /// The element type.
    pub dtype: DType,
}

impl Spec {
    /// A float32 value of the given shape.
    pub fn f32(shape: impl Into<Shape>) -> Self {
        Spec {
            shape: shape.into(),
            dtype: DType::F32,
        }
    }

    /// An integer value of the given shape.
    pub fn u32(shape: impl Into<Shape>) -> Self {
        Spec {
            shape: shape.into(),
            dtype: DType::U32,
        }
    }

    /// A value of the given shape stored as 16-bit floats.
    pub fn f16(shape: impl Into<Shape>) -> Self {
        Spec {
            shape: shape.into(),
            dtype: DType::F16,
        }
    }

    /// Bytes the value takes on the GPU.
    pub fn bytes(&self) -> u64 {
        self.dtype.bytes(self.shape.numel())
    }
}

/// How the results of an op come from its samples, the elements of the first axis of some
/// inputs. The planner takes few samples at a time where all exceed what a device binds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Samples {
    /// Samples of these inputs give those of all outputs, one each.
    Apart(Vec<usize>),
    /// The one output is the sum of what samples of these inputs give.
    Added(Vec<usize>),
}

/// What an op is to the planner.
pub enum Kind<'a> {
    /// Dispatches of its own, by [`Op::lower`](super::Op::lower).
    Kernel,
    /// A value that is there before the program starts.
    Source(&'a Source),
    /// Output `i` is input `i`'s memory under another shape.
    Alias,
    /// Element by element; chains of these become one dispatch.
    Pointwise(&'a dyn Pointwise),
    /// All inputs side by side in one flat buffer, at these element offsets, with
    /// zeros between them. Producers write straight into it where they can.
    Pack(&'a [usize]),
}

/// Where a source's value comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// Given at every run.
    Input {
        /// The name under which it is given.
        name: String,
    },
    /// A named parameter or state tensor.
    Param {
        /// The parameter set's identity.
        set: u64,
        /// The parameter's position in it.
        index: usize,
    },
    /// A whole arena of a parameter set, flat.
    Arena {
        /// The parameter set's identity.
        set: u64,
        /// The arena's position in it.
        index: usize,
    },
    /// Data baked into the program.
    Constant {
        /// Little-endian words.
        words: Arc<[u32]>,
    },
    /// `[seed low, seed high, step, 0]`, advanced by one step at every run.
    RandomState,
}

/// An op that maps elements to elements, with right-aligned broadcasting.
pub trait Pointwise {
    /// The WGSL expression of one element, from those of its inputs and, behind them,
    /// of its [`Pointwise::scalars`].
    fn wgsl(&self, inputs: &[&str]) -> String;
    /// Float32 numbers that the op has of its own. They reach the kernel as arguments:
    /// ops that differ in them only share one pipeline. Whether there are any, and how
    /// many, must not depend on their values where that can be helped.
    fn scalars(&self) -> Vec<f32> {
        Vec::new()
    }
    /// Names of snippets in `shaders/lib/` that the expression calls.
    fn imports(&self) -> &'static [&'static str] {
        &[]
    }
    /// Floating-point operations per element.
    fn flops(&self) -> u64 {
        1
    }
}
