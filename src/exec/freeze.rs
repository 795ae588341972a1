//! Programs for weights that do not change any more: what depends on them alone is
//! computed once, when the program is compiled, and may be stored in half the memory.

use std::collections::{BTreeSet, HashMap};

use super::{ParamSets, Program};
use crate::dtype::halves;
use crate::gpu::Gpu;
use crate::graph::rewrite::{reachable, rewrite};
use crate::graph::{Graph, Kind, Node, NodeId, Source, Spec, Tensor, ValueId};
use crate::params::{Init, Param, Params};
use crate::plan::PlanOptions;
use crate::{DType, Error, Result};

/// How a frozen program stores its weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Storage {
    /// 32-bit floats. Parameters that are used as they are stay shared with their set.
    #[default]
    F32,
    /// 16-bit floats where every op that reads the weight can: weights of products and
    /// convolutions, and tables that rows are gathered from, rounded to the nearest.
    /// That is half the memory, and half of what these ops read; sums stay 32-bit. A
    /// weight changes by at most 2^-11 of itself (by 2^-25 below 2^-14), so a product's
    /// result by at most 2^-11 of the sum of its terms' magnitudes. Everything else
    /// (biases, statistics, codebooks that are searched) stays as it was. The program
    /// has copies of its own: the set and its buffers may be dropped. What some kernels copy
    /// of such weights into an order of their own is in 16 bits, too.
    F16,
}

/// How [`Graph::compile_frozen_with`] treats weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FreezeOptions {
    /// How they are stored.
    pub weights: Storage,
}

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
    /// parameters of one set or several as they are now: folded weights (see
    /// [`crate::ops::fold_batch_norms`]), inverses of matrices, masks, weights in the order
    /// of a kernel ([`crate::plan::Plan::prepared`]) and the like are computed once, here,
    /// and not at every run. Parameters that are used as they are stored are shared as ever;
    /// change none of them afterwards. Errors: as [`Graph::compile`], and `NonFinite` where what is
    /// computed beforehand is not finite.
    pub fn compile_frozen(
        &self,
        gpu: &Gpu,
        params: &(impl ParamSets + ?Sized),
        outputs: &[&Tensor],
    ) -> Result<Program> {
        self.compile_frozen_with(gpu, params, outputs, &FreezeOptions::default())
    }

    /// The same with a choice how weights are stored. Errors: also `NonFinite`, with the
    /// parameter's name, where a weight is beyond the 65,504 at which 16-bit floats end.
    pub fn compile_frozen_with(
        &self,
        gpu: &Gpu,
        params: &(impl ParamSets + ?Sized),
        outputs: &[&Tensor],
        options: &FreezeOptions,
    ) -> Result<Program> {
        let plan = PlanOptions {
            updates: false,
            prepare: true,
            ..Default::default()
        };
        let mut sets = params.sets();
        let weights = Weights::of(&sets, outputs)?;
        let values = weights.frozen(options.weights);
        if values.is_empty() {
            return self.compile_with(gpu, &sets, outputs, &plan);
        }
        let computed: Vec<Tensor> = (values.iter())
            .filter(|v| weights.depends(v) == Depends::Computed)
            .map(|v| self.tensor(*v))
            .collect();
        let wanted: Vec<&Tensor> = computed.iter().collect();
        let mut results = HashMap::new();
        if !wanted.is_empty() {
            let once = PlanOptions {
                prepare: false,
                ..plan.clone()
            };
            let run = (self.compile_with(gpu, &sets, &wanted, &once)?).run(&[])?;
            for (i, value) in computed.iter().enumerate() {
                results.insert(value.id(), run.f32(i)?);
            }
        }
        let frozen = Params::new(sets.first().map_or(0, |set| set.seed()));
        let mut places: HashMap<ValueId, Tensor> = HashMap::new();
        for (i, value) in values.into_iter().enumerate() {
            let shape = self.tensor(value).shape().clone();
            let data = match results.remove(&value) {
                Some(data) => data,
                None => weights.stored(value)?,
            };
            let half = options.weights == Storage::F16 && weights.read_as_f16(value);
            let (spec, words) = match half {
                true => {
                    let words = halves(&data).map_err(|detail| Error::NonFinite {
                        place: format!("{}, stored as f16", weights.name(value)),
                        detail,
                    })?;
                    // Finite halves in pairs are finite floats, whatever these mean.
                    let words = words.into_iter().map(f32::from_bits).collect();
                    (Spec::f16(shape), words)
                }
                false => (Spec::f32(shape), data),
            };
            let param = frozen.add_state(&format!("frozen.{i}"), [words.len()], Init::Zeros)?;
            param.set(&words)?;
            let place = self.param_as(frozen.id(), param.index(), spec);
            places.insert(value, place);
        }
        let outputs = rewrite(outputs, |visit| {
            let place = |t: &Tensor| places.get(&t.id()).unwrap_or(t).clone();
            // What led to a frozen value is no longer read and stays as it is.
            let done = visit.outputs.iter().all(|t| !weights.runs(&t.id()));
            done.then(|| visit.outputs.iter().map(place).collect())
        })?;
        let outputs: Vec<&Tensor> = outputs.iter().collect();
        sets.push(&frozen);
        self.compile_with(gpu, &sets, &outputs, &plan)
    }
}

/// The nodes behind a program's outputs, by what they depend on.
struct Weights {
    /// All parameters, by the identity of their set.
    params: HashMap<u64, Vec<Param>>,
    graph: Option<Graph>,
    nodes: Vec<(NodeId, Node)>,
    depends: HashMap<NodeId, Depends>,
    outputs: Vec<ValueId>,
}

impl Weights {
    fn of(sets: &[&Params], outputs: &[&Tensor]) -> Result<Weights> {
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
        Ok(Weights {
            params: (sets.iter())
                .map(|set| (set.id(), set.root().all()))
                .collect(),
            graph: outputs.first().map(|t| t.graph().clone()),
            nodes,
            depends,
            outputs: outputs.iter().map(|t| t.id()).collect(),
        })
    }

    fn depends(&self, value: &ValueId) -> Depends {
        let found = self.depends.get(&value.node);
        found.copied().unwrap_or(Depends::Nothing)
    }

    /// Whether a value changes with every run.
    fn runs(&self, value: &ValueId) -> bool {
        self.depends(value) == Depends::Runs
    }

    /// The nodes whose results change with every run.
    fn users(&self) -> impl Iterator<Item = &Node> {
        let runs = |(id, _): &&(NodeId, Node)| self.depends.get(id) == Some(&Depends::Runs);
        self.nodes.iter().filter(runs).map(|(_, node)| node)
    }

    /// The values that get storage of the program's own: what is computed from parameters
    /// alone and read by what changes with every run, or wanted itself; where weights are
    /// stored in their own way, stored parameters too.
    fn frozen(&self, storage: Storage) -> Vec<ValueId> {
        let Some(graph) = &self.graph else {
            return Vec::new();
        };
        let read = self.users().flat_map(|node| node.inputs.iter().copied());
        let mut values: BTreeSet<ValueId> = read.chain(self.outputs.iter().copied()).collect();
        values.retain(|v| match self.depends(v) {
            Depends::Computed => true,
            Depends::Stored => storage != Storage::F32 && self.param(*v).is_some(),
            _ => false,
        });
        values.retain(|v| graph.tensor(*v).dtype() == DType::F32);
        values.into_iter().collect()
    }

    /// Whether everything that reads a value can read 16-bit floats.
    fn read_as_f16(&self, value: ValueId) -> bool {
        let can = |node: &Node| {
            let inputs = node.inputs.iter().enumerate();
            let mut same = inputs.filter(|(_, v)| **v == value);
            same.all(|(i, _)| node.op.reads_f16(i))
        };
        !self.outputs.contains(&value) && self.users().all(can)
    }

    fn node(&self, value: ValueId) -> Option<&Node> {
        let at = self.nodes.binary_search_by_key(&value.node, |(id, _)| *id);
        at.ok().map(|at| &self.nodes[at].1)
    }

    /// The parameter that a node is.
    fn source(&self, node: &Node) -> Option<&Param> {
        match node.op.kind() {
            Kind::Source(Source::Param { set, index }) => self.params.get(set)?.get(*index),
            _ => None,
        }
    }

    /// The parameter that a value is, perhaps under another shape.
    fn param(&self, mut value: ValueId) -> Option<&Param> {
        loop {
            let node = self.node(value)?;
            match node.op.kind() {
                Kind::Alias => value = *node.inputs.get(value.output as usize)?,
                _ => return self.source(node),
            }
        }
    }

    /// What a parameter holds, without a way over the device where it is not there yet.
    fn stored(&self, value: ValueId) -> Result<Vec<f32>> {
        match self.param(value) {
            Some(param) => param.get(),
            None => Err(Error::Graph("a weight is no parameter".into())),
        }
    }

    /// What a value is called in errors: the parameters it comes from.
    fn name(&self, value: ValueId) -> String {
        let mut names = Vec::new();
        let mut open = vec![value];
        let mut seen = BTreeSet::new();
        while let Some(value) = open.pop().filter(|_| names.len() < 4) {
            if !seen.insert(value) {
                continue;
            }
            let Some(node) = self.node(value) else {
                continue;
            };
            if let Some(param) = self.source(node) {
                names.push(format!("`{}`", param.name()));
            }
            open.extend(node.inputs.iter().copied());
        }
        match self.depends(&value) {
            Depends::Stored => format!("parameter {}", names.join(", ")),
            _ => format!("what is computed from {}", names.join(", ")),
        }
    }
}
