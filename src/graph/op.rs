//! The types that need each other: an op, the nodes that hold ops, the tensors that name
//! nodes, and the gradient rule that an op writes in tensors.

use std::any::Any;
use std::fmt::Debug;
use std::ops::Range;
use std::panic::Location;
use std::sync::{Arc, Mutex};

use super::{Array, Kind, Lower, Samples, Spec};
use crate::{Error, Result};

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

    /// Whether input `i` may be stored as 16-bit floats
    /// ([`DType::F16`](crate::DType::F16)): the op accepts them there, and computes in 32
    /// bits.
    fn reads_f16(&self, i: usize) -> bool {
        let _ = i;
        false
    }

    /// Whether, and how, it may be computed for some samples at a time: `lower` on inputs
    /// that have fewer elements along their first axis is the same op for these. None where
    /// samples depend on one another.
    fn samples(&self, inputs: &[Spec]) -> Option<Samples> {
        let _ = inputs;
        None
    }

    /// Emits the dispatches that compute the outputs.
    fn lower(&self, cx: &mut Lower<'_>) -> Result<()>;

    /// How the planner treats the op. Ordinary ops are [`Kind::Kernel`].
    fn kind(&self) -> Kind<'_> {
        Kind::Kernel
    }
}

/// The position of a node in its graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub(crate) u32);

/// One output of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ValueId {
    pub node: NodeId,
    pub output: u32,
}

#[derive(Clone)]
pub(crate) struct Node {
    pub op: Arc<dyn Op>,
    pub inputs: Vec<ValueId>,
    pub outputs: Vec<Spec>,
    /// The first error on the way to this node, if any.
    pub error: Option<Error>,
    pub origin: &'static Location<'static>,
}

/// `target` takes the value of `value` when a program has run.
#[derive(Debug, Clone)]
pub(crate) struct Update {
    pub target: ValueId,
    pub value: ValueId,
    /// The elements of the target that change, and where that was asked for.
    pub written: Vec<(Range<usize>, &'static Location<'static>)>,
}

/// A call of a layer; see [`Graph::observed`].
#[derive(Clone)]
pub(crate) struct Seen {
    pub name: String,
    /// Whether the layers around it complete its name.
    pub placed: bool,
    pub kind: String,
    pub input: ValueId,
    pub output: ValueId,
    pub log_det: Option<ValueId>,
}

#[derive(Default)]
pub(crate) struct Nodes {
    pub nodes: Vec<Node>,
    pub updates: Vec<Update>,
    /// The first error of all.
    pub error: Option<Error>,
    /// The first error of an assignment.
    pub update_error: Option<Error>,
    pub random_streams: u32,
    /// Prefixes of inputs that belong to somebody, with that one's number.
    pub claimed: Vec<(String, u64)>,
    /// Calls of layers.
    pub seen: Vec<Seen>,
    /// How many gradients are being recorded, one inside the other.
    pub unobserved: u32,
    /// Gradients that lie like an arena of a set: what watched programs look at.
    pub packed_gradients: Vec<(u64, usize, ValueId)>,
}

/// A growing list of ops over shapes. Clones share it.
#[derive(Clone, Default)]
pub struct Graph(pub(super) Arc<Mutex<Nodes>>);

/// A handle to a value of a graph: a shape, a type, and where it comes from.
///
/// Methods never fail: a wrong shape gives a poisoned tensor that remembers the
/// first error with the caller's file and line; [`crate::tape::backward`] and
/// [`Graph::compile`] return it, and so does [`Tensor::check`].
#[derive(Clone)]
pub struct Tensor {
    pub(super) graph: Graph,
    pub(super) id: ValueId,
    pub(super) spec: Spec,
}

/// Reverse mode itself, which lives on a floor above the ops: from outputs with their
/// upstream gradients, the gradients by the given tensors; nothing where no output
/// depends on one.
pub(crate) type Backward = fn(&[(Tensor, Tensor)], &[&Tensor]) -> Result<Vec<Option<Tensor>>>;

/// What an op's gradient rule sees: inputs, outputs, upstream gradients.
pub struct Vjp<'a> {
    pub(crate) inputs: &'a [Tensor],
    pub(crate) outputs: &'a [Tensor],
    pub(crate) upstream: &'a [Option<Tensor>],
    pub(crate) needs: &'a [bool],
    pub(crate) result: Vec<Option<Tensor>>,
    pub(crate) backward: Backward,
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
