//! Evaluates a graph with the float64 references of its ops: the oracle that
//! programs are compared with.

use std::collections::HashMap;

use super::{Array, Kind, Source, Tensor, ValueId};
use crate::dtype::half_at;
use crate::{DType, Error, Result};

/// Values for the sources of a graph.
#[derive(Default)]
pub struct Feed<'a> {
    /// By input name.
    pub inputs: HashMap<String, Array>,
    /// By parameter set and position; arenas by `arena`.
    pub param: Option<&'a dyn Fn(u64, usize) -> Option<Array>>,
    /// By parameter set and arena position.
    pub arena: Option<&'a dyn Fn(u64, usize) -> Option<Array>>,
    /// Seed and step of the random state.
    pub random: (u64, u32),
}

/// The values of `outputs` in float64.
pub fn evaluate(outputs: &[&Tensor], feed: &Feed<'_>) -> Result<Vec<Array>> {
    let Some(first) = outputs.first() else {
        return Ok(Vec::new());
    };
    for output in outputs {
        output.check()?;
    }
    let nodes = first.graph().lock();
    let mut wanted = vec![false; nodes.nodes.len()];
    for output in outputs {
        wanted[output.id().node.0 as usize] = true;
    }
    for i in (0..nodes.nodes.len()).rev() {
        if wanted[i] {
            for input in &nodes.nodes[i].inputs {
                wanted[input.node.0 as usize] = true;
            }
        }
    }
    let mut values: HashMap<ValueId, Array> = HashMap::new();
    for (i, node) in nodes.nodes.iter().enumerate() {
        if !wanted[i] {
            continue;
        }
        let results = if let Kind::Source(source) = node.op.kind() {
            let spec = &node.outputs[0];
            let missing = |name: &str| Error::Data {
                file: name.into(),
                detail: "no value was given".into(),
            };
            let value = match source {
                Source::Input { name } => feed
                    .inputs
                    .get(name)
                    .cloned()
                    .ok_or_else(|| missing(name))?,
                Source::Param { set, index } => feed
                    .param
                    .and_then(|f| f(*set, *index))
                    .ok_or_else(|| missing("parameter"))?,
                Source::Arena { set, index } => feed
                    .arena
                    .and_then(|f| f(*set, *index))
                    .ok_or_else(|| missing("arena"))?,
                Source::Constant { words } => {
                    let element = |i: usize| match spec.dtype {
                        DType::F32 => f32::from_bits(words[i]) as f64,
                        DType::F16 => half_at(words, i) as f64,
                        DType::U32 => words[i] as f64,
                    };
                    Array::new(&spec.shape, (0..spec.shape.numel()).map(element).collect())?
                }
                Source::RandomState => Array::new(
                    [4],
                    vec![
                        (feed.random.0 as u32) as f64,
                        (feed.random.0 >> 32) as f64,
                        feed.random.1 as f64,
                        0.0,
                    ],
                )?,
            };
            if value.shape != spec.shape {
                return Err(Error::shape(
                    "evaluate",
                    format!(
                        "a source needs shape {:?}, {:?} was given",
                        spec.shape, value.shape
                    ),
                ));
            }
            vec![value]
        } else {
            let inputs: Vec<&Array> = node.inputs.iter().map(|v| &values[v]).collect();
            node.op.reference(&inputs)?
        };
        for (output, value) in results.into_iter().enumerate() {
            let id = ValueId {
                node: super::NodeId(i as u32),
                output: output as u32,
            };
            values.insert(id, value);
        }
    }
    Ok(outputs.iter().map(|t| values[&t.id()].clone()).collect())
}
