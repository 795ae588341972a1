//! Many tensors side by side in one flat buffer: gradients laid out like the arena
//! of their parameters. No shader: the planner lets producers write straight
//! into the buffer, and copies where they cannot.

use crate::graph::{Array, Graph, Kind, Lower, Op, Spec, Tensor, Vjp};
use crate::{DType, Error, Result};

/// All inputs, flattened, at these element offsets of a flat output; zeros between.
#[derive(Debug)]
pub struct Pack {
    offsets: Vec<usize>,
    len: usize,
}

impl Op for Pack {
    fn name(&self) -> &'static str {
        "pack"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        if inputs.len() != self.offsets.len() {
            return Err(Error::shape(
                self.name(),
                format!(
                    "{} tensors, but {} offsets",
                    inputs.len(),
                    self.offsets.len()
                ),
            ));
        }
        let mut free = 0;
        for (i, (input, offset)) in inputs.iter().zip(&self.offsets).enumerate() {
            if input.dtype != DType::F32 {
                return Err(Error::dtype(
                    self.name(),
                    format!("tensor {i} must be f32, it is {}", input.dtype),
                ));
            }
            let end = offset.checked_add(input.shape.numel());
            match end {
                Some(end) if *offset >= free && end <= self.len => free = end,
                _ => {
                    return Err(Error::shape(
                        self.name(),
                        format!(
                            "tensor {i} of shape {:?} at offset {offset} overlaps the one before, which ends at {free}, or leaves the {} elements",
                            input.shape, self.len
                        ),
                    ));
                }
            }
        }
        Ok(vec![Spec::f32([self.len])])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let mut out = Array::zeros([self.len]);
        for (input, offset) in inputs.iter().zip(&self.offsets) {
            out.data[*offset..offset + input.numel()].copy_from_slice(&input.data);
        }
        Ok(vec![out])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        let grad = cx.grad(0);
        for (i, offset) in self.offsets.iter().enumerate() {
            if cx.needs(i) {
                let shape = cx.input(i).shape().clone();
                let part = grad.slice(0, *offset, shape.numel()).reshape(shape);
                cx.set(i, part);
            }
        }
        Ok(())
    }

    fn lower(&self, _: &mut Lower<'_>) -> Result<()> {
        // The planner places the producers' outputs.
        Ok(())
    }

    fn kind(&self) -> Kind<'_> {
        Kind::Pack(&self.offsets)
    }
}

impl Graph {
    /// The tensors, flattened, in one flat tensor `[len]`: each at its offset, in
    /// ascending order, zeros between. Errors: tensors that overlap, leave the
    /// `len` elements, or are not f32.
    #[track_caller]
    pub fn pack(&self, parts: &[(usize, &Tensor)], len: usize) -> Tensor {
        let (offsets, tensors): (Vec<usize>, Vec<&Tensor>) = parts.iter().copied().unzip();
        self.push1(Pack { offsets, len }, &tensors)
    }
}
