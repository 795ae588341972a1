//! From a plan to a program.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{IN_FLIGHT, Program, Ready, run::Readback};
use crate::gpu::{Gpu, Kernel, KernelKey};
use crate::graph::{Access, Graph, Tensor};
use crate::params::Params;
use crate::plan::{ArenaMap, Plan, PlanOptions, Role, Slice, Step};
use crate::{Error, Result};

/// One parameter set, or several: `&params`, `&[&encoder, &decoder]`.
pub trait ParamSets {
    /// The sets in the order given.
    fn sets(&self) -> Vec<&Params>;
}

impl ParamSets for Params {
    fn sets(&self) -> Vec<&Params> {
        vec![self]
    }
}

impl ParamSets for [&Params] {
    fn sets(&self) -> Vec<&Params> {
        self.to_vec()
    }
}

impl<const N: usize> ParamSets for [&Params; N] {
    fn sets(&self) -> Vec<&Params> {
        self.to_vec()
    }
}

impl Graph {
    /// Compiles a program that computes `outputs` and carries out the graph's
    /// assignments. Errors: the first wrong shape on the way to the outputs, a limit
    /// of the device, a shader that does not compile, memory.
    pub fn compile(
        &self,
        gpu: &Gpu,
        params: &(impl ParamSets + ?Sized),
        outputs: &[&Tensor],
    ) -> Result<Program> {
        self.compile_with(gpu, &params.sets(), outputs, &PlanOptions::default())
    }

    /// Compiles a program that computes `outputs` and assigns nothing.
    pub fn compile_pure(
        &self,
        gpu: &Gpu,
        params: &(impl ParamSets + ?Sized),
        outputs: &[&Tensor],
    ) -> Result<Program> {
        let options = PlanOptions {
            updates: false,
            ..Default::default()
        };
        self.compile_with(gpu, &params.sets(), outputs, &options)
    }

    /// The same for the library's own preparations, which draw by the set's seed, all the
    /// same numbers, and leave those of the caller's programs as they are.
    pub(crate) fn compile_aside(
        &self,
        gpu: &Gpu,
        params: &Params,
        outputs: &[&Tensor],
    ) -> Result<Program> {
        let options = PlanOptions {
            updates: false,
            ..Default::default()
        };
        let plan = Plan::new(self, outputs, &[arena_map(params)], gpu.profile(), &options)?;
        Program::assemble(gpu, plan, &[params])
    }

    /// Compiles with parameters of several sets and with planning options.
    pub fn compile_with(
        &self,
        gpu: &Gpu,
        params: &[&Params],
        outputs: &[&Tensor],
        options: &PlanOptions,
    ) -> Result<Program> {
        let maps: Vec<ArenaMap> = params.iter().map(|p| arena_map(p)).collect();
        let plan = Plan::new(self, outputs, &maps, gpu.profile(), options)?;
        Program::new(gpu, plan, params)
    }
}

/// Where the parameters of a set live, for [`Plan::new`].
pub fn arena_map(params: &Params) -> ArenaMap {
    let layout = params.layout();
    ArenaMap {
        set: layout.set,
        params: layout.params.iter().map(|p| (p.arena, p.offset)).collect(),
        names: params.names(),
        arenas: layout.arenas.iter().map(|a| a.len).collect(),
    }
}

impl Program {
    /// Makes the GPU objects for a plan.
    pub fn new(gpu: &Gpu, plan: Plan, params: &[&Params]) -> Result<Program> {
        let draws = plan.random.is_some();
        let mut program = Program::assemble(gpu, plan, params)?;
        if let Some(first) = params.first().filter(|_| draws) {
            program.seed = first.seed_of_next_program();
        }
        Ok(program)
    }

    fn assemble(gpu: &Gpu, plan: Plan, params: &[&Params]) -> Result<Program> {
        let mut buffers = Vec::with_capacity(plan.buffers.len());
        let mut input_buffer = None;
        for (i, planned) in plan.buffers.iter().enumerate() {
            let buffer = match &planned.role {
                Role::Arena { set, index } => {
                    let owner = params.iter().find(|p| p.id() == *set).ok_or_else(|| {
                        Error::Graph("the plan uses parameters of a set that was not given".into())
                    })?;
                    let arenas = owner.buffers(gpu)?;
                    arenas.get(*index).cloned().ok_or_else(|| {
                        Error::Graph("the plan uses an arena that does not exist".into())
                    })?
                }
                role => {
                    let label = match role {
                        Role::Inputs => "inputs",
                        Role::Constants => "constants",
                        Role::Packed => "packed gradients",
                        Role::Tickets => "tickets",
                        Role::Prepared => "prepared",
                        _ => "temporary",
                    };
                    gpu.buffer(label, planned.bytes)?
                }
            };
            match planned.role {
                Role::Inputs => input_buffer = Some(i),
                Role::Constants => gpu.write(&buffer, 0, bytemuck::cast_slice(&plan.constants))?,
                _ => {}
            }
            buffers.push(buffer);
        }
        let keys = kernel_keys(&plan, gpu.profile().immediates)?;
        let kernels = gpu.kernels(&keys)?;
        let all = plan.prepared.iter().chain(&plan.steps);
        let mut once = Vec::with_capacity(keys.len());
        for ((step, kernel), key) in all.zip(kernels).zip(&keys) {
            once.push(ready(gpu, step, kernel, key, &buffers)?);
        }
        let steps = once.split_off(plan.prepared.len());
        if !once.is_empty() {
            gpu.scoped(0, || {
                let mut encoder = gpu.device().create_command_encoder(&Default::default());
                super::run::record_steps(&once, &mut encoder);
                gpu.queue().submit([encoder.finish()])
            })?;
        }
        let bytes = plan.outputs.iter().map(|(s, _)| s.bytes).sum();
        let readback = (0..IN_FLIGHT)
            .map(|_| Readback::new(gpu, bytes))
            .collect::<Result<_>>()?;
        let input_bytes = input_buffer.map_or(0, |b| plan.buffers[b].bytes as usize);
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Ok(Program {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            gpu: gpu.clone(),
            steps,
            buffers,
            host_inputs: vec![0; input_bytes],
            input_buffer,
            given: vec![false; plan.inputs.len()],
            seed: params.first().map_or(0, |p| p.seed()),
            random_step: 0,
            external_inputs: Vec::new(),
            external_outputs: Vec::new(),
            readback,
            ring: Vec::new(),
            steps_list: None,
            runs: 0,
            launches: 0,
            watch: None,
            plan,
        })
    }

    /// Makes the bind group of step `i` anew, after a buffer was replaced.
    pub(super) fn rebind(&mut self, i: usize) -> Result<()> {
        let entries: Vec<(wgpu::Buffer, u64, u64)> = self.plan.steps[i]
            .bindings
            .iter()
            .map(|(slice, _)| self.locate(slice))
            .collect();
        let step = &self.steps[i];
        let group = bind(&self.gpu, &step.layout, &entries, step.uniform.as_ref())?;
        self.steps[i].bind_group = group;
        Ok(())
    }

    /// The buffer behind a slice: the program's own, or the caller's for inputs
    /// that were bound.
    fn locate(&self, slice: &Slice) -> (wgpu::Buffer, u64, u64) {
        for (input, buffer, offset) in &self.external_inputs {
            let planned = self.plan.inputs[*input].offset;
            if Some(slice.buffer) == self.input_buffer && slice.offset == planned {
                return (buffer.clone(), *offset, slice.bytes);
            }
        }
        (
            self.buffers[slice.buffer].clone(),
            slice.offset,
            slice.bytes,
        )
    }
}

/// The preprocessed kernels of a plan's steps, those that run once first. Equal kernels share
/// one key.
pub fn kernel_texts(plan: &Plan, immediate_bytes: u32) -> Result<Vec<String>> {
    Ok(kernel_keys(plan, immediate_bytes)?
        .iter()
        .map(|k| k.text.clone())
        .collect())
}

fn kernel_keys(plan: &Plan, immediate_bytes: u32) -> Result<Vec<Arc<KernelKey>>> {
    let all = plan.prepared.iter().chain(&plan.steps);
    all.map(|step| {
        let read_only = step
            .bindings
            .iter()
            .map(|(_, a)| *a == Access::Read)
            .collect();
        KernelKey::new(
            &step.kernel,
            &step.source,
            &step.defines,
            read_only,
            step.args.len(),
            immediate_bytes,
        )
        .map(Arc::new)
    })
    .collect()
}

fn ready(
    gpu: &Gpu,
    step: &Step,
    kernel: Kernel,
    key: &KernelKey,
    buffers: &[wgpu::Buffer],
) -> Result<Ready> {
    let words: Vec<u8> = bytemuck::cast_slice(&step.args).to_vec();
    let uniform = match key.uses_uniform() {
        true => {
            // Uniform structs are padded to 16 bytes.
            let mut padded = words.clone();
            padded.resize(words.len().next_multiple_of(16), 0);
            let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
            let buffer = gpu.buffer_with("args", padded.len() as u64, usage)?;
            gpu.write(&buffer, 0, &padded)?;
            Some(buffer)
        }
        false => None,
    };
    let entries: Vec<(wgpu::Buffer, u64, u64)> = step
        .bindings
        .iter()
        .map(|(s, _)| (buffers[s.buffer].clone(), s.offset, s.bytes))
        .collect();
    let bind_group = bind(gpu, &kernel.layout, &entries, uniform.as_ref())?;
    Ok(Ready {
        pipeline: kernel.pipeline,
        layout: kernel.layout,
        bind_group,
        uniform,
        immediates: if key.immediates { words } else { Vec::new() },
        grid: step.grid,
    })
}

fn bind(
    gpu: &Gpu,
    layout: &wgpu::BindGroupLayout,
    slices: &[(wgpu::Buffer, u64, u64)],
    uniform: Option<&wgpu::Buffer>,
) -> Result<wgpu::BindGroup> {
    let mut entries: Vec<wgpu::BindGroupEntry<'_>> = slices
        .iter()
        .enumerate()
        .map(|(i, (buffer, offset, bytes))| wgpu::BindGroupEntry {
            binding: i as u32,
            resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer,
                offset: *offset,
                size: std::num::NonZeroU64::new(bytes.next_multiple_of(4)),
            }),
        })
        .collect();
    if let Some(uniform) = uniform {
        entries.push(wgpu::BindGroupEntry {
            binding: slices.len() as u32,
            resource: uniform.as_entire_binding(),
        });
    }
    gpu.count_object();
    gpu.scoped(0, || {
        gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout,
            entries: &entries,
        })
    })
}
