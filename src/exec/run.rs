//! Running programs: upload, one pass, submit, read.

use super::{IN_FLIGHT, Program, Ready, Value};
use crate::gpu::{Gpu, Mapped};
use crate::graph::Spec;
use crate::{DType, Error, Result};

/// One of the ring of buffers that results are copied into.
pub(super) struct Readback {
    buffer: Option<wgpu::Buffer>,
    bytes: u64,
    submission: Option<wgpu::SubmissionIndex>,
    /// The submission whose results it holds.
    run: u64,
}

impl Readback {
    pub fn new(gpu: &Gpu, bytes: u64) -> Result<Self> {
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let buffer = match bytes {
            0 => None,
            _ => Some(gpu.buffer_with("readback", bytes, usage)?),
        };
        Ok(Readback {
            buffer,
            bytes,
            submission: None,
            run: u64::MAX,
        })
    }
}

/// Records dispatches as one compute pass.
pub(super) fn record_steps(steps: &[Ready], encoder: &mut wgpu::CommandEncoder) {
    let mut pass = encoder.begin_compute_pass(&Default::default());
    for step in steps {
        pass.set_pipeline(&step.pipeline);
        pass.set_bind_group(0, &step.bind_group, &[]);
        if !step.immediates.is_empty() {
            pass.set_immediates(0, &step.immediates);
        }
        pass.dispatch_workgroups(step.grid[0], step.grid[1], step.grid[2]);
    }
}

/// A run under way, to be handed to [`Program::wait`].
#[derive(Debug)]
#[must_use = "results are only there after `Program::wait`"]
pub struct Ticket {
    program: u64,
    slot: usize,
    run: u64,
}

/// The outputs of one run, in the order they were compiled.
#[derive(Debug, Clone)]
pub struct Outputs {
    specs: Vec<Spec>,
    words: Vec<Vec<u32>>,
}

impl Outputs {
    fn get(&self, i: usize, dtype: DType) -> Result<&[u32]> {
        match self.specs.get(i) {
            Some(spec) if spec.dtype == dtype => Ok(&self.words[i]),
            Some(spec) => Err(Error::argument(
                "Outputs",
                format!("output {i} is {}, not {dtype}", spec.dtype),
            )),
            None => Err(Error::argument(
                "Outputs",
                format!("there is no output {i}, only {}", self.specs.len()),
            )),
        }
    }

    /// Output `i` as floats, row-major. Errors: no such output, or it holds integers.
    pub fn f32(&self, i: usize) -> Result<Vec<f32>> {
        Ok(self
            .get(i, DType::F32)?
            .iter()
            .map(|w| f32::from_bits(*w))
            .collect())
    }

    /// Output `i` as integers, row-major. Errors: no such output, or it holds floats.
    pub fn u32(&self, i: usize) -> Result<Vec<u32>> {
        Ok(self.get(i, DType::U32)?.to_vec())
    }

    /// The first element of the float output `i`: a loss.
    pub fn scalar(&self, i: usize) -> Result<f32> {
        Ok(self
            .get(i, DType::F32)?
            .first()
            .map_or(0.0, |w| f32::from_bits(*w)))
    }

    /// The raw words of output `i`, for bit-exact comparison.
    pub fn bits(&self, i: usize) -> &[u32] {
        self.words.get(i).map_or(&[], |w| w)
    }

    /// Shape and type of every output.
    pub fn specs(&self) -> &[Spec] {
        &self.specs
    }

    /// An error that names the first float output with a NaN or an infinity.
    pub fn check_finite(&self, names: &[&str]) -> Result<()> {
        for (i, spec) in self.specs.iter().enumerate() {
            if spec.dtype != DType::F32 {
                continue;
            }
            let bad = self.words[i]
                .iter()
                .position(|w| !f32::from_bits(*w).is_finite());
            if let Some(at) = bad {
                return Err(Error::NonFinite {
                    place: names
                        .get(i)
                        .map_or(format!("output {i}"), |n| n.to_string()),
                    detail: format!(
                        "element {at} of shape {:?} is {}",
                        spec.shape,
                        f32::from_bits(self.words[i][at])
                    ),
                });
            }
        }
        Ok(())
    }
}

impl Program {
    /// Runs once and waits for the outputs. An input that is not named keeps its
    /// value of the last run. Errors: an unknown name, a wrong length or type, an
    /// input that was never given, and whatever the device reports.
    pub fn run(&mut self, inputs: &[(&str, Value<'_>)]) -> Result<Outputs> {
        let ticket = self.submit(inputs)?;
        self.wait(ticket)
    }

    /// Runs once without reading anything back; waits only when too many runs are
    /// under way. For training steps whose loss nobody looks at.
    pub fn step(&mut self, inputs: &[(&str, Value<'_>)]) -> Result<()> {
        self.launch(inputs, false, 1).map(drop)
    }

    /// Starts a run; its outputs are there after [`Program::wait`]. The next batch
    /// can be prepared and even submitted meanwhile. Of the last three submitted
    /// runs the outputs can still be had.
    pub fn submit(&mut self, inputs: &[(&str, Value<'_>)]) -> Result<Ticket> {
        self.launch(inputs, true, 1)
    }

    /// Like [`Program::run`], as a future for any executor.
    pub async fn run_async(&mut self, inputs: &[(&str, Value<'_>)]) -> Result<Outputs> {
        let ticket = self.submit(inputs)?;
        let slot = ticket.slot;
        let bytes = self.readback[slot].bytes;
        let Some(buffer) = self.readback[slot].buffer.clone() else {
            return self.wait(ticket);
        };
        let gpu = self.gpu.clone();
        let mapped = gpu.mapped(&buffer, bytes).await?;
        self.collect(ticket, Some(mapped))
    }

    /// Waits for a run and returns its outputs. Errors: the ticket is another program's,
    /// or three later runs were submitted meanwhile.
    pub fn wait(&mut self, ticket: Ticket) -> Result<Outputs> {
        self.collect(ticket, None)
    }

    pub(super) fn launch(
        &mut self,
        inputs: &[(&str, Value<'_>)],
        read: bool,
        times: u32,
    ) -> Result<Ticket> {
        self.set_inputs(inputs)?;
        self.list_steps(times)?;
        self.upload()?;
        let slot = (self.launches % IN_FLIGHT as u64) as usize;
        if let Some(submission) = self.readback[slot].submission.take() {
            self.gpu.wait_for(Some(submission))?;
        }
        let gpu = self.gpu.clone();
        let submission = gpu.scoped(0, || {
            let mut encoder = gpu.device().create_command_encoder(&Default::default());
            self.record_times(&mut encoder, times);
            if read && let Some(buffer) = &self.readback[slot].buffer {
                let mut at = 0;
                for (slice, _) in &self.plan.outputs {
                    encoder.copy_buffer_to_buffer(
                        &self.buffers[slice.buffer],
                        slice.offset,
                        buffer,
                        at,
                        slice.bytes,
                    );
                    at += slice.bytes;
                }
            }
            gpu.queue().submit([encoder.finish()])
        })?;
        self.readback[slot].submission = Some(submission);
        self.readback[slot].run = if read { self.launches } else { u64::MAX };
        let ticket = Ticket {
            program: self.id,
            slot,
            run: self.launches,
        };
        self.launches += 1;
        self.finish_runs(times);
        Ok(ticket)
    }

    pub(super) fn finish_runs(&mut self, times: u32) {
        self.runs += u64::from(times);
        self.random_step = self.random_step.wrapping_add(times);
    }

    fn collect(&mut self, ticket: Ticket, mapped: Option<Mapped<'_>>) -> Result<Outputs> {
        if ticket.program != self.id {
            return Err(Error::argument(
                "Program::wait",
                "the ticket is that of a run of another program",
            ));
        }
        let slot = &mut self.readback[ticket.slot];
        if slot.run != ticket.run {
            return Err(Error::argument(
                "Program::wait",
                format!(
                    "the outputs of submission {} were overwritten by later ones",
                    ticket.run
                ),
            ));
        }
        slot.run = u64::MAX;
        let submission = slot.submission.take();
        let specs: Vec<Spec> = self.plan.outputs.iter().map(|(_, s)| s.clone()).collect();
        let Some(buffer) = &slot.buffer else {
            self.gpu.wait_for(submission)?;
            return Ok(Outputs {
                specs,
                words: Vec::new(),
            });
        };
        let split = |data: &[u8]| {
            let mut at = 0;
            let mut words = Vec::with_capacity(self.plan.outputs.len());
            for (slice, _) in &self.plan.outputs {
                let end = at + slice.bytes as usize;
                let chunk = data[at..end].chunks_exact(4);
                words.push(
                    chunk
                        .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                        .collect(),
                );
                at = end;
            }
            words
        };
        let mut words = match mapped {
            Some(mapped) => mapped.read(split)?,
            None => self.gpu.map(buffer, slot.bytes, submission, split)?,
        };
        let mut specs = specs;
        if let Some(watch) = &self.watch {
            watch.judge(&words)?;
            specs.truncate(watch.outputs);
            words.truncate(watch.outputs);
        }
        Ok(Outputs { specs, words })
    }

    /// Takes values for inputs; they are uploaded with the next run.
    pub fn set_inputs(&mut self, inputs: &[(&str, Value<'_>)]) -> Result<()> {
        for (name, value) in inputs {
            let Some(i) = self.plan.inputs.iter().position(|p| p.name == *name) else {
                let known: Vec<&str> = self.plan.inputs.iter().map(|p| p.name.as_str()).collect();
                return Err(Error::Data {
                    file: (*name).into(),
                    detail: format!("the program has no such input; it has {}", known.join(", ")),
                });
            };
            let planned = &self.plan.inputs[i];
            let (bytes, dtype): (&[u8], DType) = match value {
                Value::F32(v) => (bytemuck::cast_slice(v), DType::F32),
                Value::U32(v) => (bytemuck::cast_slice(v), DType::U32),
            };
            if dtype != planned.spec.dtype || bytes.len() as u64 != planned.spec.bytes() {
                return Err(Error::Data {
                    file: (*name).into(),
                    detail: format!(
                        "{} elements of {dtype} were given, the input is {} {:?} ({} elements)",
                        bytes.len() / 4,
                        planned.spec.dtype,
                        planned.spec.shape,
                        planned.spec.shape.numel()
                    ),
                });
            }
            let start = planned.offset as usize;
            self.host_inputs[start..start + bytes.len()].copy_from_slice(bytes);
            self.given[i] = true;
        }
        Ok(())
    }

    /// Takes single numbers for inputs, as [`crate::optim::Optimizer::inputs`] gives
    /// them for every step.
    pub fn set_scalars(&mut self, values: &[(String, f32)]) -> Result<()> {
        values.iter().try_for_each(|(name, v)| {
            self.set_inputs(&[(name, Value::F32(std::slice::from_ref(v)))])
        })
    }

    /// Whether the program has an input of this name.
    pub fn has_input(&self, name: &str) -> bool {
        self.plan.inputs.iter().any(|p| p.name == name)
    }

    /// Puts the random state beside the inputs. Error: an input was never given.
    pub(super) fn prepare_inputs(&mut self) -> Result<()> {
        if let Some(missing) = self.given.iter().position(|g| !g) {
            return Err(Error::Data {
                file: self.plan.inputs[missing].name.clone(),
                detail: "this input was never given".into(),
            });
        }
        if let Some(at) = self.plan.random {
            let words = [
                self.seed as u32,
                (self.seed >> 32) as u32,
                self.random_step,
                0,
            ];
            let at = at as usize;
            self.host_inputs[at..at + 16].copy_from_slice(bytemuck::cast_slice(&words));
        }
        Ok(())
    }

    /// Writes all inputs and the random state at once.
    pub(super) fn upload(&mut self) -> Result<()> {
        self.prepare_inputs()?;
        if let Some(buffer) = self.input_buffer {
            self.gpu
                .write(&self.buffers[buffer], 0, &self.host_inputs)?;
        }
        Ok(())
    }

    /// Records all dispatches into `encoder`, as one compute pass.
    pub(super) fn record(&self, encoder: &mut wgpu::CommandEncoder) {
        for copy in &self.plan.copies_before {
            self.copy(encoder, copy);
        }
        record_steps(&self.steps, encoder);
        for copy in &self.plan.copies {
            self.copy(encoder, copy);
        }
        for (output, buffer, offset) in &self.external_outputs {
            let (slice, _) = &self.plan.outputs[*output];
            encoder.copy_buffer_to_buffer(
                &self.buffers[slice.buffer],
                slice.offset,
                buffer,
                *offset,
                slice.bytes,
            );
        }
    }

    pub(super) fn copy(&self, encoder: &mut wgpu::CommandEncoder, copy: &crate::plan::CopyPlan) {
        encoder.copy_buffer_to_buffer(
            &self.buffers[copy.from.buffer],
            copy.from.offset,
            &self.buffers[copy.to.buffer],
            copy.to.offset,
            copy.to.bytes,
        );
    }
}
