//! Ops that change gradients and leave values alone: stop_gradient,
//! straight_through, and gradients given by the caller.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::graph::{Array, Backward, Kind, Lower, Op, Spec, Tensor, Vjp};
use crate::{Error, Result};

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

/// The value of input 0 with the gradient of input 1.
#[derive(Debug)]
struct StraightThrough;

impl Op for StraightThrough {
    fn name(&self) -> &'static str {
        "straight_through"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        if inputs[0] != inputs[1] {
            return Err(Error::shape(
                self.name(),
                format!("the value is {:?}, the tensor {:?}", inputs[0], inputs[1]),
            ));
        }
        Ok(vec![inputs[0].clone()])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        Ok(vec![inputs[0].clone()])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        let dy = cx.grad(0);
        cx.set(1, dy);
        Ok(())
    }

    fn lower(&self, _: &mut Lower<'_>) -> Result<()> {
        Ok(())
    }

    fn kind(&self) -> Kind<'_> {
        Kind::Alias
    }
}

type Rule = dyn Fn(&[Tensor], &Tensor, &Tensor) -> Vec<Tensor> + Send + Sync;

/// The value of input 0; its gradient goes to the other inputs by `rule`.
struct CustomGradient {
    /// Closures cannot be compared: every one is its own op.
    id: u64,
    rule: Arc<Rule>,
}

impl std::fmt::Debug for CustomGradient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CustomGradient({})", self.id)
    }
}

impl Op for CustomGradient {
    fn name(&self) -> &'static str {
        "custom_gradient"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        Ok(vec![inputs[0].clone()])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        Ok(vec![inputs[0].clone()])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        let inputs: Vec<Tensor> = (1..cx.inputs()).map(|i| cx.input(i).clone()).collect();
        let grads = (self.rule)(&inputs, cx.output(0), &cx.grad(0));
        if grads.len() != inputs.len() {
            return Err(Error::Graph(format!(
                "custom_gradient: {} gradients were returned for {} inputs",
                grads.len(),
                inputs.len()
            )));
        }
        for (i, grad) in grads.into_iter().enumerate() {
            if cx.needs(i + 1) {
                cx.set(i + 1, grad);
            }
        }
        Ok(())
    }

    fn lower(&self, _: &mut Lower<'_>) -> Result<()> {
        Ok(())
    }

    fn kind(&self) -> Kind<'_> {
        Kind::Alias
    }
}

/// Gradients by the inputs, given the inputs, the outputs, the gradients by the
/// outputs where there are any, and which inputs' gradients are wanted.
type SegmentRule = dyn Fn(&[Tensor], &[Tensor], &[Option<Tensor>], &[bool]) -> Result<Vec<Option<Tensor>>>
    + Send
    + Sync;

/// The values of the first `outputs` inputs; gradients go to the other inputs by `rule`.
struct Segment {
    /// Closures cannot be compared: every one is its own op.
    id: u64,
    outputs: usize,
    rule: Arc<SegmentRule>,
}

impl std::fmt::Debug for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Segment({})", self.id)
    }
}

impl Op for Segment {
    fn name(&self) -> &'static str {
        "segment"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        let outputs = inputs.iter().take(self.outputs);
        Ok(outputs.map(|s| (*s).clone()).collect())
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let outputs = inputs.iter().take(self.outputs);
        Ok(outputs.map(|a| (*a).clone()).collect())
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        let inputs: Vec<Tensor> = (self.outputs..cx.inputs())
            .map(|i| cx.input(i).clone())
            .collect();
        let outputs: Vec<Tensor> = (0..self.outputs).map(|i| cx.output(i).clone()).collect();
        let upstream: Vec<Option<Tensor>> = (0..self.outputs).map(|i| cx.grad_if_any(i)).collect();
        let needs: Vec<bool> = (self.outputs..cx.inputs()).map(|i| cx.needs(i)).collect();
        let grads = (self.rule)(&inputs, &outputs, &upstream, &needs)?;
        for (i, grad) in grads.into_iter().enumerate() {
            if let (true, Some(grad)) = (needs.get(i) == Some(&true), grad) {
                cx.set(self.outputs + i, grad);
            }
        }
        Ok(())
    }

    fn lower(&self, _: &mut Lower<'_>) -> Result<()> {
        Ok(())
    }

    fn kind(&self) -> Kind<'_> {
        Kind::Alias
    }
}

/// The `outputs`, whose gradients by `inputs` are those of `rule` and not the recorded
/// ones: [`Tensor::with_gradient`] for several outputs that share one rule.
#[track_caller]
pub(crate) fn segment(
    inputs: &[&Tensor],
    outputs: &[&Tensor],
    rule: impl Fn(&[Tensor], &[Tensor], &[Option<Tensor>], &[bool]) -> Result<Vec<Option<Tensor>>>
    + Send
    + Sync
    + 'static,
) -> Vec<Tensor> {
    let Some(first) = outputs.first() else {
        return Vec::new();
    };
    let op = Segment {
        id: NEXT.fetch_add(1, Ordering::Relaxed),
        outputs: outputs.len(),
        rule: Arc::new(rule),
    };
    let all: Vec<&Tensor> = outputs.iter().chain(inputs).copied().collect();
    first.graph().push(op, &all)
}

/// The same value as a node of its own, through which gradients flow on.
#[track_caller]
pub(crate) fn stand_in(x: &Tensor) -> Tensor {
    Tensor::with_gradient(&[x], x, |_, _, dy| vec![dy.clone()])
}

impl Vjp<'_> {
    /// Gradients of an op whose kernels also exist as tensor ops: `build` records these on
    /// stand-ins for the inputs and returns the results with their upstream gradients
    /// (all of them, or parts that together have the same inner product).
    ///
    /// The stand-ins are new values, so that what an input itself was computed from,
    /// another input perhaps, is not counted here; gradients flow on through them.
    pub(crate) fn through(
        &mut self,
        build: impl FnOnce(&[Tensor], Backward) -> Result<Vec<(Tensor, Tensor)>>,
    ) -> Result<()> {
        let inputs: Vec<Tensor> = self.inputs.iter().map(stand_in).collect();
        let seeds = build(&inputs, self.backward)?;
        let wanted: Vec<usize> = (0..inputs.len()).filter(|i| self.needs(*i)).collect();
        let by: Vec<&Tensor> = wanted.iter().map(|i| &inputs[*i]).collect();
        for (i, grad) in wanted.into_iter().zip((self.backward)(&seeds, &by)?) {
            if let Some(grad) = grad {
                self.set(i, grad);
            }
        }
        Ok(())
    }
}

/// The next number of an op that equals no other.
static NEXT: AtomicU64 = AtomicU64::new(0);

impl Tensor {
    /// The same value, through which no gradient flows.
    #[track_caller]
    pub fn stop_gradient(&self) -> Tensor {
        self.graph().push1(StopGradient, &[self])
    }

    /// `value`, but gradients go to `self` as if nothing had been done to it
    /// (rounding, quantisation). Error: shape or type of the two differ.
    #[track_caller]
    pub fn straight_through(&self, value: &Tensor) -> Tensor {
        self.graph().push1(StraightThrough, &[value, self])
    }

    /// `output`, but the gradients by `inputs` are those that `rule` returns, in
    /// place of the recorded ones.
    ///
    /// `rule(inputs, output, gradient by output)` builds one gradient per input, of
    /// that input's shape, with tensor ops. Nothing flows to tensors on the way that
    /// are not among `inputs`.
    #[track_caller]
    pub fn with_gradient(
        inputs: &[&Tensor],
        output: &Tensor,
        rule: impl Fn(&[Tensor], &Tensor, &Tensor) -> Vec<Tensor> + Send + Sync + 'static,
    ) -> Tensor {
        let op = CustomGradient {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            rule: Arc::new(rule),
        };
        let mut all = vec![output];
        all.extend(inputs);
        output.graph().push1(op, &all)
    }
}
