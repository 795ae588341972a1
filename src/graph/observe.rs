//! Observers: what layers took and gave, without a change to them.

use super::op::{Graph, Seen, Tensor};

/// One call of a layer.
#[derive(Debug, Clone)]
pub struct Observed {
    /// The layer's name: the scope of its parameters, `layer1.0.bn1`.
    pub name: String,
    /// Its kind: `batch norm`, `conv2d`.
    pub kind: &'static str,
    /// What it took.
    pub input: Tensor,
    /// What it gave.
    pub output: Tensor,
}

impl Graph {
    /// Notes a call of a layer for [`Graph::observed`]. The layers of [`crate::nn`] with
    /// parameters do it by themselves; a layer of your own may. It costs no node.
    pub fn observe(&self, name: &str, kind: &'static str, input: &Tensor, output: &Tensor) {
        let fits = [input, output].iter().all(|t| t.graph().same(self));
        if fits && input.check().is_ok() && output.check().is_ok() {
            self.lock().seen.push(Seen {
                name: name.into(),
                kind,
                input: input.id(),
                output: output.id(),
            });
        }
    }

    /// All calls of layers so far, in the order in which they were recorded: feature
    /// extraction at any layer, losses on inputs of batch norms, debugging. What a program
    /// does not use costs it nothing. Ask before differentiating: gradients of rebuilt flow
    /// layers record their networks again.
    ///
    /// ```
    /// use flowgrad::{Graph, Params, nn::{Layer, Linear, Mode}};
    /// # fn main() -> flowgrad::Result<()> {
    /// let params = Params::new(1);
    /// let layer = Linear::new(&params.scope("head.fc"), 4, 2)?;
    /// let graph = Graph::new();
    /// layer.forward(&graph.input("x", [3, 4]), Mode::Eval);
    /// let seen = graph.observed();
    /// assert_eq!((seen[0].name.as_str(), seen[0].kind), ("head.fc", "linear"));
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
        });
        each.collect()
    }
}
