//! How a graph grows and what a tensor tells: the methods of [`Graph`] and [`Tensor`] that
//! know no op.

use std::panic::Location;
use std::sync::{Arc, MutexGuard};

use super::op::{Graph, Node, NodeId, Nodes, Op, Tensor, ValueId};
use super::{Kind, Source, Spec};
use crate::{DType, Error, Result, Shape};

#[derive(Debug)]
struct Poison;

impl Op for Poison {
    fn name(&self) -> &'static str {
        "poisoned"
    }
    fn infer(&self, _: &[&Spec]) -> Result<Vec<Spec>> {
        Ok(vec![Spec::f32([])])
    }
    fn reference(&self, _: &[&super::Array]) -> Result<Vec<super::Array>> {
        Err(Error::Graph("a poisoned tensor has no value".into()))
    }
    fn lower(&self, _: &mut super::Lower<'_>) -> Result<()> {
        Err(Error::Graph("a poisoned tensor has no value".into()))
    }
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Nodes> {
        // A panic elsewhere cannot leave the list half written: pushes are single calls.
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Whether two handles mean the same graph.
    pub fn same(&self, other: &Graph) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The number of nodes.
    pub fn len(&self) -> usize {
        self.lock().nodes.len()
    }

    /// Whether there is no node yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The names of the ops of all nodes, in the order in which they were recorded.
    pub fn op_names(&self) -> Vec<&'static str> {
        self.lock().nodes.iter().map(|n| n.op.name()).collect()
    }

    /// Appends an op and returns its outputs.
    #[track_caller]
    pub fn push(&self, op: impl Op, inputs: &[&Tensor]) -> Vec<Tensor> {
        self.push_shared(Arc::new(op), inputs)
    }

    /// Appends an op that another node has, too.
    #[track_caller]
    pub(crate) fn push_shared(&self, op: Arc<dyn Op>, inputs: &[&Tensor]) -> Vec<Tensor> {
        let origin = Location::caller();
        let specs: Vec<&Spec> = inputs.iter().map(|t| &t.spec).collect();
        let mut nodes = self.lock();
        let poison = inputs
            .iter()
            .find_map(|t| {
                if t.graph.same(self) {
                    nodes.nodes[t.id.node.0 as usize].error.clone()
                } else {
                    Some(Error::Graph(format!(
                        "{}: an input belongs to another graph (at {}:{})",
                        op.name(),
                        origin.file(),
                        origin.line()
                    )))
                }
            })
            .map_or(Ok(()), Err);
        let inferred = poison
            .and_then(|()| op.infer(&specs))
            .and_then(|out| match out.iter().find(|s| s.shape.numel() == 0) {
                Some(empty) => Err(Error::shape(
                    op.name(),
                    format!("an output would be empty: {:?}", empty.shape),
                )),
                None => {
                    let mut shapes = out.iter().map(|s| &s.shape);
                    shapes.try_for_each(|s| s.check_countable(op.name()))?;
                    Ok(out)
                }
            })
            .map_err(|e| e.located(origin));
        let ids = inputs.iter().map(|t| t.id).collect();
        let node = match inferred {
            Ok(outputs) => Node {
                op,
                inputs: ids,
                outputs,
                error: None,
                origin,
            },
            Err(error) => {
                nodes.error.get_or_insert_with(|| error.clone());
                Node {
                    op: Arc::new(Poison),
                    inputs: Vec::new(),
                    // As many as any op has, so that callers can still take their outputs apart.
                    outputs: vec![Spec::f32([]); 8],
                    error: Some(error),
                    origin,
                }
            }
        };
        let id = NodeId(nodes.nodes.len() as u32);
        let outputs = node.outputs.clone();
        nodes.nodes.push(node);
        drop(nodes);
        outputs
            .into_iter()
            .enumerate()
            .map(|(i, spec)| Tensor {
                graph: self.clone(),
                id: ValueId {
                    node: id,
                    output: i as u32,
                },
                spec,
            })
            .collect()
    }

    /// Appends an op with one output.
    #[track_caller]
    pub fn push1(&self, op: impl Op, inputs: &[&Tensor]) -> Tensor {
        self.push(op, inputs).swap_remove(0)
    }

    /// A tensor that only carries `error`: for layers that find something wrong.
    #[track_caller]
    pub fn poisoned(&self, error: Error) -> Tensor {
        let origin = Location::caller();
        let error = error.located(origin);
        let mut nodes = self.lock();
        nodes.error.get_or_insert_with(|| error.clone());
        let id = NodeId(nodes.nodes.len() as u32);
        nodes.nodes.push(Node {
            op: Arc::new(Poison),
            inputs: Vec::new(),
            outputs: vec![Spec::f32([])],
            error: Some(error),
            origin,
        });
        drop(nodes);
        self.tensor(ValueId {
            node: id,
            output: 0,
        })
    }

    /// The first error of the whole graph, if any: also of tensors that no output
    /// depends on, which programs do without.
    pub fn check(&self) -> Result<()> {
        self.lock().error.clone().map_or(Ok(()), Err)
    }

    pub(crate) fn tensor(&self, id: ValueId) -> Tensor {
        let spec = self.lock().nodes[id.node.0 as usize].outputs[id.output as usize].clone();
        Tensor {
            graph: self.clone(),
            id,
            spec,
        }
    }

    /// Tells watched programs of a gradient that lies like an arena.
    pub(crate) fn watch_gradient(&self, set: u64, arena: usize, gradient: &Tensor) {
        let entry = (set, arena, gradient.id);
        self.lock().packed_gradients.push(entry);
    }

    /// A number that no earlier random op of this graph has.
    pub(crate) fn next_random_stream(&self) -> u32 {
        let mut nodes = self.lock();
        nodes.random_streams += 1;
        nodes.random_streams
    }
}

impl Tensor {
    /// The graph it belongs to.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Its shape.
    pub fn shape(&self) -> &Shape {
        &self.spec.shape
    }

    /// The extent of axis `axis`, counted from the end where negative; 1 where
    /// there is no such axis (poisoned tensors are scalars).
    pub fn dim(&self, axis: isize) -> usize {
        let rank = self.spec.shape.rank() as isize;
        let axis = if axis < 0 { axis + rank } else { axis };
        usize::try_from(axis)
            .ok()
            .and_then(|a| self.spec.shape.dims().get(a).copied())
            .unwrap_or(1)
    }

    /// Its element type.
    pub fn dtype(&self) -> DType {
        self.spec.dtype
    }

    /// Its shape and type.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The number of elements.
    pub fn numel(&self) -> usize {
        self.spec.shape.numel()
    }

    /// The error that poisoned it, if any.
    pub fn check(&self) -> Result<()> {
        let nodes = self.graph.lock();
        self.error_in(&nodes.nodes).map_or(Ok(()), Err)
    }

    fn error_in(&self, nodes: &[Node]) -> Option<Error> {
        nodes[self.id.node.0 as usize].error.clone()
    }

    /// Whether its memory is that of a parameter, a state or an arena.
    pub(crate) fn is_stored(&self) -> bool {
        let nodes = self.graph.lock();
        let mut id = self.id;
        loop {
            let node = &nodes.nodes[id.node.0 as usize];
            match node.op.kind() {
                Kind::Alias => id = node.inputs[id.output as usize],
                Kind::Source(Source::Param { .. } | Source::Arena { .. }) => return true,
                _ => return false,
            }
        }
    }

    pub(crate) fn id(&self) -> ValueId {
        self.id
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Tensor(#{}.{}, {} {:?})",
            self.id.node.0, self.id.output, self.spec.dtype, self.spec.shape
        )
    }
}
