//! Rewriting: the same outputs from a graph in which some nodes are replaced.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Node, NodeId, Op, Tensor, ValueId};
use crate::Result;

/// A node as it is met, inputs before users.
pub(crate) struct Visit<'a> {
    pub op: &'a dyn Op,
    /// What it read before the rewriting, and what it would read now.
    pub old_inputs: &'a [ValueId],
    pub inputs: &'a [Tensor],
    /// What it gave before the rewriting.
    pub outputs: &'a [Tensor],
    uses: &'a HashMap<ValueId, usize>,
}

impl Visit<'_> {
    /// How often a value was read before the rewriting, wanted outputs included.
    pub fn uses(&self, value: ValueId) -> usize {
        self.uses.get(&value).copied().unwrap_or(0)
    }
}

/// The nodes that `outputs` depend on, inputs before users.
pub(crate) fn reachable(outputs: &[&Tensor]) -> Result<Vec<(NodeId, Node)>> {
    let Some(first) = outputs.first() else {
        return Ok(Vec::new());
    };
    for output in outputs {
        output.check()?;
    }
    let nodes = first.graph().lock();
    let mut seen = vec![false; nodes.nodes.len()];
    let mut open: Vec<NodeId> = outputs.iter().map(|t| t.id().node).collect();
    while let Some(id) = open.pop() {
        let at = id.0 as usize;
        if !std::mem::replace(&mut seen[at], true) {
            open.extend(nodes.nodes[at].inputs.iter().map(|v| v.node));
        }
    }
    // Nodes are appended after what they read.
    let all = nodes.nodes.iter().enumerate().filter(|(i, _)| seen[*i]);
    Ok(all
        .map(|(i, node)| (NodeId(i as u32), node.clone()))
        .collect())
}

/// `outputs`, computed by the nodes that `replace` gives instead of those it is shown;
/// the others stay, or are repeated with their new inputs. Nothing is taken out of the
/// graph: what is replaced is no longer reached.
pub(crate) fn rewrite(
    outputs: &[&Tensor],
    mut replace: impl FnMut(&Visit<'_>) -> Option<Vec<Tensor>>,
) -> Result<Vec<Tensor>> {
    let Some(first) = outputs.first() else {
        return Ok(Vec::new());
    };
    let graph = first.graph().clone();
    let nodes = reachable(outputs)?;
    let mut uses: HashMap<ValueId, usize> = HashMap::new();
    let read = nodes
        .iter()
        .flat_map(|(_, node)| node.inputs.iter().copied());
    for value in read.chain(outputs.iter().map(|t| t.id())) {
        *uses.entry(value).or_default() += 1;
    }
    let mut new: HashMap<ValueId, Tensor> = HashMap::new();
    let now = |new: &HashMap<ValueId, Tensor>, value: ValueId| match new.get(&value) {
        Some(tensor) => tensor.clone(),
        None => graph.tensor(value),
    };
    for (id, node) in &nodes {
        let inputs: Vec<Tensor> = node.inputs.iter().map(|v| now(&new, *v)).collect();
        let values = (0..node.outputs.len() as u32).map(|output| ValueId { node: *id, output });
        let old: Vec<Tensor> = values.map(|v| graph.tensor(v)).collect();
        let replaced = replace(&Visit {
            op: &*node.op,
            old_inputs: &node.inputs,
            inputs: &inputs,
            outputs: &old,
            uses: &uses,
        });
        let moved = inputs.iter().zip(&node.inputs).any(|(t, v)| t.id() != *v);
        let given = match replaced {
            Some(given) => given,
            None if moved => {
                let inputs: Vec<&Tensor> = inputs.iter().collect();
                graph.push_shared(Arc::clone(&node.op), &inputs)
            }
            None => continue,
        };
        for (old, given) in old.iter().zip(given) {
            given.check()?;
            new.insert(old.id(), given);
        }
    }
    Ok(outputs.iter().map(|t| now(&new, t.id())).collect())
}
