//! The trait every op implements, and what the planner may ask it.

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

use super::{Array, Lower, Tensor};
use crate::{DType, Error, Result, Shape};

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

/// One operation: its shape rule, float64 reference, gradient and kernels.
///
/// Everything an op's result depends on, apart from its inputs, must show in its
/// `Debug` output: two nodes with equal inputs and equal `Debug` text are merged.
pub trait Op: Debug + Send + Sync + Any {
    /// The name that plans, profiles and errors show.
    fn name(&self) -> &'static str;

    /// Shapes and types of the outputs, or what is wrong with the inputs.
    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>>;

    /// The outputs in plain float64 loops: the oracle of all tests.
    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>>;

    /// Appends the gradient to the graph: for every input with
    /// [`Vjp::needs`], call [`Vjp::set`].
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        let _ = cx;
        Err(Error::NotDifferentiable {
            op: self.name().into(),
            detail: "its output is piecewise constant or no gradient is defined".into(),
        })
    }

    /// Whether gradients end here without an error (`stop_gradient`).
    fn stops_gradient(&self) -> bool {
        false
    }

    /// Pairs of an output and an input of its size that it may overwrite: every element
    /// is read by the invocation that writes it, before it does. Where the planner does
    /// so, [`Lower::in_place`] says it, and [`Op::lower`] binds the output alone, as
    /// [`Access::ReadWrite`](super::Access::ReadWrite).
    fn in_place(&self) -> &'static [(usize, usize)] {
        &[]
    }

    /// Whether input `i` may be stored as 16-bit floats ([`DType::F16`]): the op accepts
    /// them there, and computes in 32 bits.
    fn reads_f16(&self, i: usize) -> bool {
        let _ = i;
        false
    }

    /// Emits the dispatches that compute the outputs.
    fn lower(&self, cx: &mut Lower<'_>) -> Result<()>;

    /// How the planner treats the op. Ordinary ops are [`Kind::Kernel`].
    fn kind(&self) -> Kind<'_> {
        Kind::Kernel
    }
}

/// What an op is to the planner.
pub enum Kind<'a> {
    /// Dispatches of its own, by [`Op::lower`].
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

/// What an op's gradient rule sees: inputs, outputs, upstream gradients.
pub struct Vjp<'a> {
    pub(crate) inputs: &'a [Tensor],
    pub(crate) outputs: &'a [Tensor],
    pub(crate) upstream: &'a [Option<Tensor>],
    pub(crate) needs: &'a [bool],
    pub(crate) result: Vec<Option<Tensor>>,
}

impl Vjp<'_> {
    /// Input `i` of the op.
    pub fn input(&self, i: usize) -> &Tensor {
        &self.inputs[i]
    }

    /// Output `i` of the op.
    pub fn output(&self, i: usize) -> &Tensor {
        &self.outputs[i]
    }

    /// The gradient by output `i`, if the loss depends on it.
    pub fn grad_if_any(&self, i: usize) -> Option<Tensor> {
        self.upstream[i].clone()
    }

    /// Whether anybody wants the gradient by input `i`.
    pub fn needs(&self, i: usize) -> bool {
        self.needs.get(i).copied().unwrap_or(false)
    }

    /// The number of inputs.
    pub fn inputs(&self) -> usize {
        self.inputs.len()
    }

    /// Gives the gradient by input `i`; it must have that input's shape.
    pub fn set(&mut self, i: usize, grad: Tensor) {
        self.result[i] = Some(grad);
    }
}
