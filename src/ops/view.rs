//! Ops that move elements without computing: reshape, stop_gradient.

use crate::graph::{Array, Kind, Lower, Op, Spec, Tensor, Vjp};
use crate::{Error, Result, Shape};

/// The same elements under another shape; no memory moves.
#[derive(Debug)]
struct Reshape {
    shape: Shape,
}

impl Op for Reshape {
    fn name(&self) -> &'static str {
        "reshape"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        if inputs[0].shape.numel() != self.shape.numel() {
            return Err(Error::shape(
                self.name(),
                format!(
                    "{:?} has {} elements, {:?} has {}",
                    inputs[0].shape,
                    inputs[0].shape.numel(),
                    self.shape,
                    self.shape.numel()
                ),
            ));
        }
        Ok(vec![Spec {
            shape: self.shape.clone(),
            dtype: inputs[0].dtype,
        }])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        Ok(vec![Array::new(&self.shape, inputs[0].data.clone())?])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        let grad = cx.grad(0).reshape(cx.input(0).shape());
        cx.set(0, grad);
        Ok(())
    }

    fn lower(&self, _: &mut Lower<'_>) -> Result<()> {
        Ok(())
    }

    fn kind(&self) -> Kind<'_> {
        Kind::Alias
    }
}

/// The same value; gradients end here.
#[derive(Debug)]
struct StopGradient;

impl Op for StopGradient {
    fn name(&self) -> &'static str {
        "stop_gradient"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        Ok(vec![inputs[0].clone()])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        Ok(vec![inputs[0].clone()])
    }

    fn stops_gradient(&self) -> bool {
        true
    }

    fn lower(&self, _: &mut Lower<'_>) -> Result<()> {
        Ok(())
    }

    fn kind(&self) -> Kind<'_> {
        Kind::Alias
    }
}

impl Tensor {
    /// The same elements, row-major, under another shape.
    #[track_caller]
    pub fn reshape(&self, shape: impl Into<Shape>) -> Tensor {
        let shape = shape.into();
        if &shape == self.shape() {
            return self.clone();
        }
        self.graph().push1(Reshape { shape }, &[self])
    }

    /// The same value, through which no gradient flows.
    #[track_caller]
    pub fn stop_gradient(&self) -> Tensor {
        self.graph().push1(StopGradient, &[self])
    }
}
