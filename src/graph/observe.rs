//! Observers: what layers took and gave, without a change to them.

use super::op::{Graph, Seen, Tensor};

/// One call of a layer or of a step of a flow.
#[derive(Debug, Clone)]
pub struct Observed {
    /// The layer's name: the scope of its parameters, `layer1.0.bn1`. Layers without
    /// parameters have their place in the [`crate::nn::Sequential`] around them, `3`, and
    /// steps of flows that in their chain: `flow.0 multi-scale level 1.2 actnorm`.
    pub name: String,
    /// Its kind: `batch norm`, `conv2d`, `coupling`; from latents to data
    /// `inverse coupling`.
    pub kind: String,
    /// What it took: the first of several (the queries of attention, the weight of
    /// spectral norm).
    pub input: Tensor,
    /// What it gave.
    pub output: Tensor,
    /// For steps of flows: the log-determinant of this step per sample, `[N]`, nats.
    pub log_det: Option<Tensor>,
}

impl Graph {
    /// Notes a call of a layer for [`Graph::observed`]. The layers of [`crate::nn`] and
    /// chains of [`crate::flow`] do it by themselves; a layer of your own may. An empty
    /// name becomes the place in the `Sequential` or chain around it. It costs no node.
    pub fn observe(&self, name: &str, kind: &str, input: &Tensor, output: &Tensor) {
        self.note(name, name.is_empty(), kind, [input, output], None);
    }

    /// The same for a step of a flow, whose name the chain around it completes.
    pub(crate) fn observe_step(
        &self,
        name: &str,
        kind: &str,
        input: &Tensor,
        output: &Tensor,
        log_det: &Tensor,
    ) {
        self.note(name, true, kind, [input, output], Some(log_det));
    }

    fn note(
        &self,
        name: &str,
        placed: bool,
        kind: &str,
        [input, output]: [&Tensor; 2],
        log_det: Option<&Tensor>,
    ) {
        let mut tensors = [input, output].into_iter().chain(log_det);
        if !tensors.all(|t| t.graph().same(self) && t.check().is_ok()) {
            return;
        }
        let mut nodes = self.lock();
        if nodes.unobserved == 0 {
            nodes.seen.push(Seen {
                name: name.into(),
                placed,
                kind: kind.into(),
                input: input.id(),
                output: output.id(),
                log_det: log_det.map(Tensor::id),
            });
        }
    }

    /// All calls of layers so far, in the order in which they were recorded, compound
    /// layers after their parts: feature extraction at any layer, losses on inputs of batch
    /// norms, log-determinants step by step, debugging. What a program does not use costs it
    /// nothing; layers that rebuild activations keep those that are used. What gradients
    /// record again is not among them.
    ///
    /// ```
    /// use flowgrad::{Graph, Params, nn::{Layer, Linear, Mode}};
    /// # fn main() -> flowgrad::Result<()> {
    /// let params = Params::new(1);
    /// let layer = Linear::new(&params.scope("head.fc"), 4, 2)?;
    /// let graph = Graph::new();
    /// layer.forward(&graph.input("x", [3, 4]), Mode::Eval);
    /// let seen = graph.observed();
    /// assert_eq!((seen[0].name.as_str(), seen[0].kind.as_str()), ("head.fc", "linear"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn observed(&self) -> Vec<Observed> {
        let seen = self.lock().seen.clone();
        let each = seen.into_iter().map(|s| Observed {
            name: s.name,
            kind: s.kind,
            input: self.tensor(s.input),
            output: self.tensor(s.output),
            log_det: s.log_det.map(|id| self.tensor(id)),
        });
        each.collect()
    }

    /// How many calls were noted, for [`Graph::place_observed`].
    pub(crate) fn observed_so_far(&self) -> usize {
        self.lock().seen.len()
    }

    /// Completes the names of calls noted from number `from` on that do not come from
    /// parameters: each is handed to `place`.
    pub(crate) fn place_observed(&self, from: usize, place: impl Fn(&str) -> String) {
        let mut nodes = self.lock();
        for seen in nodes.seen.iter_mut().skip(from).filter(|s| s.placed) {
            seen.name = place(&seen.name);
        }
    }

    /// While the result lives nothing is noted: gradients record layers again.
    pub(crate) fn unobserved(&self) -> Unobserved {
        self.lock().unobserved += 1;
        Unobserved(self.clone())
    }
}

/// See [`Graph::unobserved`].
pub(crate) struct Unobserved(Graph);

impl Drop for Unobserved {
    fn drop(&mut self) {
        self.0.lock().unobserved -= 1;
    }
}
