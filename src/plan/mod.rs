//! From a graph to a flat list of dispatches over reused buffers.
//!
//! Passes: reachable nodes, common subexpressions, fusion of pointwise chains,
//! order, in-place updates, lowering, buffer reuse. The result is plain data that
//! prints as a table. It must not know any GPU type.

mod build;
mod fused;
mod limits;
mod lowering;
mod places;
mod prepare;
mod print;
mod samples;
mod spans;
mod storage;
mod units;
mod updates;

pub(crate) use print::shorten;

use crate::device::DeviceProfile;
use crate::graph::{Access, Graph, Spec, Tensor};
use crate::{Error, Result};

/// Where the parameters of one set live.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ArenaMap {
    /// The set's identity.
    pub set: u64,
    /// Per parameter: its arena and its first element there.
    pub params: Vec<(usize, usize)>,
    /// Per parameter: its name, for errors.
    pub names: Vec<String>,
    /// Per arena: its length in elements.
    pub arenas: Vec<usize>,
}

/// How to plan.
#[derive(Debug, Clone)]
pub struct PlanOptions {
    /// Share buffers between values that do not live at the same time.
    pub reuse: bool,
    /// Fuse pointwise chains into one dispatch each.
    pub fuse: bool,
    /// Carry out the graph's assignments; off for programs that only evaluate.
    pub updates: bool,
    /// Parameters never change: what kernels copy of them into orders of their own is copied
    /// once, when the program is compiled, and kept. Not together with `updates`.
    pub prepare: bool,
}

impl Default for PlanOptions {
    fn default() -> Self {
        PlanOptions {
            reuse: true,
            fuse: true,
            updates: true,
            prepare: false,
        }
    }
}

/// What a planned buffer is for.
#[derive(Debug, Clone, PartialEq)]
pub enum Role {
    /// Shared by values over time.
    Temporary,
    /// All inputs of a run, side by side, written at once.
    Inputs,
    /// Constants, written when the program is compiled.
    Constants,
    /// An arena of a parameter set.
    Arena {
        /// The set's identity.
        set: u64,
        /// The arena's position in the set.
        index: usize,
    },
    /// Gradients packed like an arena; zero between them.
    Packed,
    /// What is computed once, when the program is compiled.
    Prepared,
    /// Counters that subgroups take their numbers from, zero in the beginning and never
    /// set back: see `shaders/lib/grid.wgsl`.
    Tickets,
}

/// One buffer of a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct BufferPlan {
    /// Its size.
    pub bytes: u64,
    /// Its use.
    pub role: Role,
}

/// A piece of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    /// Position in [`Plan::buffers`].
    pub buffer: usize,
    /// First byte.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// One dispatch.
#[derive(Debug, Clone)]
pub struct Step {
    /// The op, or `fused` with the names of its members.
    pub op: String,
    /// The kernel's name.
    pub kernel: String,
    /// The kernel's variant.
    pub variant: String,
    /// The kernel's text before preprocessing.
    pub source: std::sync::Arc<str>,
    /// The kernel's defines.
    pub defines: Vec<(String, String)>,
    /// What is bound, in order.
    pub bindings: Vec<(Slice, Access)>,
    /// The words of `Args`.
    pub args: Vec<u32>,
    /// What each of them is called there.
    pub arg_names: Vec<std::borrow::Cow<'static, str>>,
    /// Workgroups.
    pub grid: [u32; 3],
    /// Floating-point operations.
    pub flops: u64,
    /// Bytes that must be moved.
    pub bytes: u64,
    /// Loop iterations of one invocation at most.
    pub trips: u64,
}

/// An input of a program and its place in the input buffer.
#[derive(Debug, Clone, PartialEq)]
pub struct InputPlan {
    /// The name under which it is given.
    pub name: String,
    /// Shape and type.
    pub spec: Spec,
    /// First byte in the input buffer.
    pub offset: u64,
}

/// A copy of whole slices after the last dispatch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyPlan {
    /// Read.
    pub from: Slice,
    /// Written.
    pub to: Slice,
}

/// Everything a program needs to know, as plain data.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The dispatches in order.
    pub steps: Vec<Step>,
    /// Dispatches that depend on parameters alone, carried out once, when the program is
    /// compiled: see [`PlanOptions::prepare`].
    pub prepared: Vec<Step>,
    /// The buffers.
    pub buffers: Vec<BufferPlan>,
    /// The inputs in the order of their names' first use.
    pub inputs: Vec<InputPlan>,
    /// First byte of the random state in the input buffer, if the program uses it.
    pub random: Option<u64>,
    /// The outputs in the order they were asked for.
    pub outputs: Vec<(Slice, Spec)>,
    /// Old values of parameters that are needed after they were overwritten.
    pub copies_before: Vec<CopyPlan>,
    /// Assignments that no dispatch could do in place.
    pub copies: Vec<CopyPlan>,
    /// The words of the constants' buffer.
    pub constants: Vec<u32>,
    /// Bytes of all temporaries if none were shared.
    pub unshared_bytes: u64,
}

/// Bytes by use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// Temporaries after sharing: activations and gradients on their way.
    pub temporary: u64,
    /// Packed gradients.
    pub gradients: u64,
    /// Parameters, states and optimiser moments that the program touches.
    pub arenas: u64,
    /// Inputs, constants and counters.
    pub inputs: u64,
    /// What was computed from parameters once and is kept.
    pub prepared: u64,
}

impl Memory {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.temporary + self.gradients + self.arenas + self.inputs + self.prepared
    }
}

impl Plan {
    /// Plans the computation of `outputs` (and of the graph's assignments). Errors: an
    /// output or an assignment that is poisoned, what the device has not, a graph of
    /// another.
    pub fn new(
        graph: &Graph,
        outputs: &[&Tensor],
        arenas: &[ArenaMap],
        profile: &DeviceProfile,
        options: &PlanOptions,
    ) -> Result<Plan> {
        for output in outputs {
            output.check()?;
            if !output.graph().same(graph) {
                return Err(Error::Graph("an output belongs to another graph".into()));
            }
        }
        if options.updates {
            let nodes = graph.lock();
            nodes.update_error.clone().map_or(Ok(()), Err)?;
        }
        build::build(graph, outputs, arenas, profile, options)
    }

    /// Bytes by use, known before anything is allocated.
    pub fn memory(&self) -> Memory {
        let mut memory = Memory::default();
        for buffer in &self.buffers {
            match buffer.role {
                Role::Temporary => memory.temporary += buffer.bytes,
                Role::Packed => memory.gradients += buffer.bytes,
                Role::Arena { .. } => memory.arenas += buffer.bytes,
                Role::Prepared => memory.prepared += buffer.bytes,
                Role::Inputs | Role::Constants | Role::Tickets => memory.inputs += buffer.bytes,
            }
        }
        memory
    }

    /// Floating-point operations of one run.
    pub fn flops(&self) -> u64 {
        self.steps.iter().map(|s| s.flops).sum()
    }
}

impl Graph {
    /// Plans a program without a device: see [`Plan::new`].
    pub fn plan(
        &self,
        profile: &DeviceProfile,
        arenas: &[ArenaMap],
        outputs: &[&Tensor],
        options: &PlanOptions,
    ) -> Result<Plan> {
        Plan::new(self, outputs, arenas, profile, options)
    }
}
