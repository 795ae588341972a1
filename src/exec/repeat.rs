//! Several runs in one submission, each with inputs and random numbers of its own.
//!
//! Bind groups name one input buffer, and what the queue writes there is there when the
//! next submission starts, for all of it. So runs that share a submission get theirs by
//! copies on the GPU: encoded runs from a buffer each, repeated runs their random step
//! from a list of steps.

use std::sync::Arc;

use super::{Outputs, Program, Value};
use crate::gpu::Gpu;
use crate::{Error, Result};

/// Inputs of one encoded run.
pub(super) struct Slot {
    buffer: wgpu::Buffer,
    /// Shared with the encoder until its work is done, or it is thrown away.
    taken: Arc<()>,
}

impl Slot {
    fn new(gpu: &Gpu, bytes: u64) -> Result<Self> {
        Ok(Slot {
            buffer: gpu.buffer("inputs of an encoded run", bytes)?,
            taken: Arc::new(()),
        })
    }
}

impl Program {
    /// Runs `times` times in one submission and returns the outputs of the last run: for
    /// Langevin chains, fixed points and samplers. Inputs stay as they are; assignments
    /// are carried out and the random step goes up each time, so this gives bit for bit
    /// what as many calls of [`Program::run`] give. Watchdogs of some drivers end
    /// submissions that take longer than about two seconds. Errors: as for `run`, and no
    /// run at all.
    pub fn run_times(&mut self, inputs: &[(&str, Value<'_>)], times: u32) -> Result<Outputs> {
        let ticket = self.launch(inputs, true, times)?;
        self.wait(ticket)
    }

    /// The same without reading anything back, as [`Program::step`].
    pub fn step_times(&mut self, inputs: &[(&str, Value<'_>)], times: u32) -> Result<()> {
        self.launch(inputs, false, times).map(drop)
    }

    /// Writes the inputs of a run that is being encoded where nothing overwrites them
    /// before it is done, and records their way to where the program reads them.
    pub(super) fn encode_inputs(&mut self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        self.prepare_inputs()?;
        let Some(input) = self.input_buffer else {
            return Ok(());
        };
        let bytes = self.host_inputs.len() as u64;
        let free = |slot: &Slot| Arc::strong_count(&slot.taken) == 1;
        let at = match self.ring.iter().position(free) {
            Some(at) => at,
            None => {
                self.ring.push(Slot::new(&self.gpu, bytes)?);
                self.ring.len() - 1
            }
        };
        let slot = &self.ring[at];
        self.gpu.write(&slot.buffer, 0, &self.host_inputs)?;
        encoder.copy_buffer_to_buffer(&slot.buffer, 0, &self.buffers[input], 0, bytes);
        let taken = slot.taken.clone();
        encoder.on_submitted_work_done(move || drop(taken));
        Ok(())
    }

    /// Makes the list of the random steps of `times` runs, if they need one.
    pub(super) fn list_steps(&mut self, times: u32) -> Result<()> {
        if times == 0 {
            return Err(Error::argument(
                "run_times",
                "0 runs were asked for; there must be one at least",
            ));
        }
        if times == 1 || self.plan.random.is_none() {
            return Ok(());
        }
        let bytes = 4 * u64::from(times);
        let buffer = match self.steps_list.take().filter(|b| b.size() >= bytes) {
            Some(buffer) => buffer,
            None => self.gpu.buffer("random steps", bytes.next_power_of_two())?,
        };
        let steps: Vec<u32> = (0..times)
            .map(|i| self.random_step.wrapping_add(i))
            .collect();
        let written = self.gpu.write(&buffer, 0, bytemuck::cast_slice(&steps));
        self.steps_list = Some(buffer);
        written
    }

    /// Records `times` runs. The first has its random step already.
    pub(super) fn record_times(&self, encoder: &mut wgpu::CommandEncoder, times: u32) {
        self.record(encoder);
        for i in 1..times {
            if let (Some(at), Some(input), Some(list)) =
                (self.plan.random, self.input_buffer, &self.steps_list)
            {
                // The state is `[seed low, seed high, step, 0]`.
                let step = at + 8;
                encoder.copy_buffer_to_buffer(
                    list,
                    4 * u64::from(i),
                    &self.buffers[input],
                    step,
                    4,
                );
            }
            self.record(encoder);
        }
    }
}
