//! Programs inside somebody else's frame: the caller's encoder and buffers.

use super::Program;
use crate::{Error, Result};

impl Program {
    /// Records the program into the caller's encoder, to be submitted to the program's
    /// queue. Every recorded run has the inputs and random numbers of its own call,
    /// however many share an encoder or wait to be submitted: their inputs lie in a ring
    /// of buffers, which grows to as many as were ever encoded and not done at once. With
    /// [`Program::bind_input`] the caller's buffer is read as it is when a run executes.
    pub fn encode(&mut self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        self.gpu.check()?;
        self.encode_inputs(encoder)?;
        self.record(encoder);
        self.finish_runs(1);
        Ok(())
    }

    /// Reads input `name` from the caller's buffer (usage `STORAGE`) from now on.
    /// Errors: no such input, a scalar input, a misaligned offset, a buffer that is
    /// too small, or a buffer that may not be used so.
    pub fn bind_input(&mut self, name: &str, buffer: &wgpu::Buffer, offset: u64) -> Result<()> {
        self.gpu.check()?;
        let fail = |detail: String| {
            Err(Error::Data {
                file: name.into(),
                detail,
            })
        };
        let Some(i) = self.plan.inputs.iter().position(|p| p.name == name) else {
            return fail("the program has no such input".into());
        };
        let planned = &self.plan.inputs[i];
        let bytes = planned.spec.bytes();
        if planned.spec.shape.numel() == 1 {
            return fail("single numbers are uploaded; use `set_inputs`".into());
        }
        let alignment = self.gpu.profile().offset_alignment;
        if !offset.is_multiple_of(alignment) {
            return fail(format!("the offset {offset} is no multiple of {alignment}"));
        }
        if !buffer.usage().contains(wgpu::BufferUsages::STORAGE) {
            return fail("the buffer lacks the usage STORAGE".into());
        }
        if buffer.size() < offset.saturating_add(bytes) {
            return fail(format!(
                "the buffer has {} bytes, {bytes} are needed from {offset} on",
                buffer.size()
            ));
        }
        let copied = self
            .plan
            .copies
            .iter()
            .chain(&self.plan.copies_before)
            .map(|c| &c.from);
        let read = self
            .plan
            .outputs
            .iter()
            .map(|(slice, _)| slice)
            .chain(copied);
        let at = planned.offset;
        if read
            .into_iter()
            .any(|s| Some(s.buffer) == self.input_buffer && s.offset == at)
        {
            return fail("the input is also an output; it cannot be bound".into());
        }
        self.external_inputs.retain(|(k, _, _)| *k != i);
        self.external_inputs.push((i, buffer.clone(), offset));
        self.given[i] = true;
        for step in 0..self.plan.steps.len() {
            let touches = self.plan.steps[step]
                .bindings
                .iter()
                .any(|(s, _)| Some(s.buffer) == self.input_buffer && s.offset == at);
            if touches {
                self.rebind(step)?;
            }
        }
        Ok(())
    }

    /// Copies output `i` into the caller's buffer (usage `COPY_DST`) at the end of
    /// every run from now on.
    pub fn bind_output(&mut self, i: usize, buffer: &wgpu::Buffer, offset: u64) -> Result<()> {
        self.gpu.check()?;
        let Some((slice, _)) = self.plan.outputs.get(i) else {
            return Err(Error::argument(
                "bind_output",
                format!("there is no output {i}"),
            ));
        };
        if !offset.is_multiple_of(4)
            || !buffer.usage().contains(wgpu::BufferUsages::COPY_DST)
            || buffer.size() < offset.saturating_add(slice.bytes)
        {
            return Err(Error::argument(
                "bind_output",
                format!(
                    "output {i} needs {} bytes from a multiple of 4 on, in a buffer with usage COPY_DST",
                    slice.bytes
                ),
            ));
        }
        self.external_outputs.retain(|(k, _, _)| *k != i);
        self.external_outputs.push((i, buffer.clone(), offset));
        Ok(())
    }

    /// The program's own buffer of output `i`, with offset and length in bytes; it
    /// holds the result until the next run.
    pub fn output_buffer(&self, i: usize) -> Option<(&wgpu::Buffer, u64, u64)> {
        let (slice, _) = self.plan.outputs.get(i)?;
        Some((&self.buffers[slice.buffer], slice.offset, slice.bytes))
    }
}
