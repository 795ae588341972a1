//! Programs for weights that do not change any more: what depends on them alone is
//! computed once, when the program is compiled.

use std::collections::HashMap;

use super::Program;
use crate::gpu::Gpu;
use crate::graph::rewrite::{reachable, rewrite};
use crate::graph::{Graph, Kind, NodeId, Source, Tensor, ValueId};
use crate::params::{Init, Params};
use crate::plan::PlanOptions;
use crate::{DType, Result};

/// What a value depends on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Depends {
    /// Nothing that is given.
    Nothing,
    /// A parameter as it is stored, perhaps under another shape.
    Stored,
    /// Parameters, and computation.
    Computed,
    /// Inputs or random numbers.
    Runs,
}

impl Graph {
    /// Compiles a program that computes `outputs`, assigns nothing, and takes the
    /// parameters as they are now: folded weights (see [`crate::ops::fold_batch_norms`]),
    /// inverses of matrices, masks and the like are computed once, here, and not at every
    /// run. Parameters that are used as they are stored are shared as ever; change none
    /// of them afterwards. Errors: as [`Graph::compile`], and `NonFinite` where what is
    /// computed beforehand is not finite.
    pub fn compile_frozen(
        &self,
        gpu: &Gpu,
        params: &Params,
        outputs: &[&Tensor],
    ) -> Result<Program> {
        let options = PlanOptions {
            updates: false,
            ..Default::default()
        };
        let values = computed_once(outputs)?;
        if values.is_empty() {
            return self.compile_with(gpu, &[params], outputs, &options);
        }
        let wanted: Vec<&Tensor> = values.iter().collect();
        let mut before = self.compile_with(gpu, &[params], &wanted, &options)?;
        let results = before.run(&[])?;
        let frozen = Params::new(params.seed());
        let mut places: HashMap<ValueId, Tensor> = HashMap::new();
        for (i, value) in values.iter().enumerate() {
            let param = frozen.add_state(&format!("frozen.{i}"), value.shape(), Init::Zeros)?;
            param.set(&results.f32(i)?)?;
            places.insert(value.id(), param.on(self));
        }
        let outputs = rewrite(outputs, |visit| {
            let place = |t: &Tensor| places.get(&t.id()).cloned();
            let known = visit.outputs.iter().any(|t| place(t).is_some());
            let all = visit.outputs.iter();
            known.then(|| all.map(|t| place(t).unwrap_or(t.clone())).collect())
        })?;
        let outputs: Vec<&Tensor> = outputs.iter().collect();
        self.compile_with(gpu, &[params, &frozen], &outputs, &options)
    }
}

/// The values that are computed from parameters alone and read by what changes with
/// every run, or wanted themselves.
fn computed_once(outputs: &[&Tensor]) -> Result<Vec<Tensor>> {
    let Some(first) = outputs.first() else {
        return Ok(Vec::new());
    };
    let graph = first.graph();
    let nodes = reachable(outputs)?;
    let mut depends: HashMap<NodeId, Depends> = HashMap::new();
    for (id, node) in &nodes {
        let inputs = node.inputs.iter().filter_map(|v| depends.get(&v.node));
        let most = inputs.max().copied().unwrap_or(Depends::Nothing);
        let own = match node.op.kind() {
            Kind::Source(Source::Param { .. } | Source::Arena { .. }) => Depends::Stored,
            Kind::Source(Source::Constant { .. }) => Depends::Nothing,
            Kind::Source(_) => Depends::Runs,
            Kind::Alias => most,
            _ if most == Depends::Stored => Depends::Computed,
            _ => most,
        };
        depends.insert(*id, own);
    }
    let of = |v: &ValueId| depends.get(&v.node).copied();
    let users = nodes.iter().filter(|(id, _)| depends[id] == Depends::Runs);
    let read = users.flat_map(|(_, node)| node.inputs.iter().copied());
    let mut values: Vec<ValueId> = read.chain(outputs.iter().map(|t| t.id())).collect();
    values.retain(|v| of(v) == Some(Depends::Computed));
    values.sort();
    values.dedup();
    let values = values.into_iter().map(|v| graph.tensor(v));
    Ok(values.filter(|t| t.dtype() == DType::F32).collect())
}
