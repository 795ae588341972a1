//! Programs: compiled plans that are replayed.
//!
//! Pipelines, bind groups and buffers are made once, when a graph is compiled.
//! A run writes the inputs, encodes one compute pass and submits it; it makes no
//! GPU object, hashes nothing and formats nothing. This room must not know ops.

mod compile;
mod external;
mod freeze;
mod profile;
mod repeat;
mod run;
mod watch;

pub use compile::{ParamSets, arena_map, kernel_texts};
pub use freeze::{FreezeOptions, Storage};
pub use profile::{Profile, ProfileRow};
pub use run::{Outputs, Ticket};

use crate::gpu::Gpu;
use crate::plan::Plan;

/// Runs that may be under way at once.
const IN_FLIGHT: usize = 3;

/// A value for an input.
#[derive(Debug, Clone, Copy)]
pub enum Value<'a> {
    /// Floats, row-major.
    F32(&'a [f32]),
    /// Integers, row-major.
    U32(&'a [u32]),
}

impl<'a> From<&'a [f32]> for Value<'a> {
    fn from(v: &'a [f32]) -> Self {
        Value::F32(v)
    }
}

impl<'a> From<&'a Vec<f32>> for Value<'a> {
    fn from(v: &'a Vec<f32>) -> Self {
        Value::F32(v)
    }
}

impl<'a> From<&'a [u32]> for Value<'a> {
    fn from(v: &'a [u32]) -> Self {
        Value::U32(v)
    }
}

impl<'a> From<&'a Vec<u32>> for Value<'a> {
    fn from(v: &'a Vec<u32>) -> Self {
        Value::U32(v)
    }
}

/// A dispatch with everything it needs.
struct Ready {
    pipeline: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
    bind_group: wgpu::BindGroup,
    uniform: Option<wgpu::Buffer>,
    immediates: Vec<u8>,
    grid: [u32; 3],
}

/// A compiled graph. It holds its buffers until it is dropped.
pub struct Program {
    /// Unlike that of any other program of this process.
    id: u64,
    gpu: Gpu,
    plan: Plan,
    steps: Vec<Ready>,
    buffers: Vec<wgpu::Buffer>,
    /// The bytes of the input buffer, written whole at every run.
    host_inputs: Vec<u8>,
    input_buffer: Option<usize>,
    given: Vec<bool>,
    seed: u64,
    random_step: u32,
    /// Caller's buffers that take the place of inputs.
    external_inputs: Vec<(usize, wgpu::Buffer, u64)>,
    external_outputs: Vec<(usize, wgpu::Buffer, u64)>,
    readback: Vec<run::Readback>,
    /// Inputs of encoded runs that share submissions, see `repeat`.
    ring: Vec<repeat::Slot>,
    /// Random steps of repeated runs.
    steps_list: Option<wgpu::Buffer>,
    runs: u64,
    /// Submissions of its own, which `readback` goes by.
    launches: u64,
    /// What is looked at for numbers that are not finite.
    watch: Option<watch::Watch>,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Program({} dispatches on {})",
            self.steps.len(),
            self.gpu.name()
        )
    }
}

impl Program {
    /// The plan it was compiled from.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The device it was compiled for.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// How often it was run.
    pub fn runs(&self) -> u64 {
        self.runs
    }

    /// Seed and step of its random numbers. The step goes up by one at every run. The
    /// first program of a parameter set that draws any has the set's seed, each later one
    /// a seed of its own that depends on the set's and on how many came before, so two
    /// programs draw different numbers and every process draws the same.
    pub fn random_state(&self) -> (u64, u32) {
        (self.seed, self.random_step)
    }

    /// Sets seed and step of its random numbers, as when resuming, or to draw the
    /// numbers that another program draws.
    pub fn set_random_state(&mut self, seed: u64, step: u32) {
        self.seed = seed;
        self.random_step = step;
    }
}
