//! Units of execution: single kernels and fused pointwise chains, in an order in
//! which every value is there before it is used.
//!
//! Two pointwise units of one shape may become one when no path between them runs
//! through a third unit: executing them together then keeps the unit graph acyclic.

use std::collections::{BTreeSet, BinaryHeap, HashMap, HashSet};

use super::PlanOptions;
use super::spans::Spans;
use crate::Shape;
use crate::graph::{Kind, Node, Pointwise, Source, Update, ValueId};

/// Ops of one dispatch at most; longer texts take the driver's compiler too long.
const MAX_FUSED_OPS: usize = 96;

pub(super) type UnitId = usize;

/// Nodes that are executed together.
#[derive(Debug, Default, Clone)]
pub(super) struct Unit {
    /// Node positions, ascending. Empty where the unit was merged into another.
    pub nodes: Vec<usize>,
    pub pointwise: bool,
}

/// The graph as the planner sees it: canonical values without aliases.
pub(super) struct View<'a> {
    pub nodes: &'a [Node],
    pub wanted: Vec<bool>,
    /// Canonical node for every node (common subexpressions).
    canonical: Vec<usize>,
}

impl<'a> View<'a> {
    pub fn new(nodes: &'a [Node], roots: impl Iterator<Item = ValueId>) -> Self {
        let mut wanted = vec![false; nodes.len()];
        for root in roots {
            wanted[root.node.0 as usize] = true;
        }
        for i in (0..nodes.len()).rev() {
            if wanted[i] {
                for input in &nodes[i].inputs {
                    wanted[input.node.0 as usize] = true;
                }
            }
        }
        let mut view = View {
            nodes,
            wanted,
            canonical: (0..nodes.len()).collect(),
        };
        let mut seen: HashMap<(String, Vec<ValueId>), usize> = HashMap::new();
        for (i, node) in nodes.iter().enumerate() {
            if !view.wanted[i] || matches!(node.op.kind(), Kind::Source(_)) {
                continue;
            }
            let inputs = node.inputs.iter().map(|v| view.merge(*v)).collect();
            let key = (format!("{} {:?}", node.op.name(), node.op), inputs);
            view.canonical[i] = *seen.entry(key).or_insert(i);
            view.wanted[i] = view.canonical[i] == i;
        }
        view
    }

    /// The value that stands for equal ones.
    pub fn merge(&self, value: ValueId) -> ValueId {
        ValueId {
            node: crate::graph::NodeId(self.canonical[value.node.0 as usize] as u32),
            output: value.output,
        }
    }

    /// The value whose memory this one is: through aliases to the producer.
    pub fn root(&self, value: ValueId) -> ValueId {
        let mut value = self.merge(value);
        while matches!(self.node(value).op.kind(), Kind::Alias) {
            value = self.merge(self.node(value).inputs[value.output as usize]);
        }
        value
    }

    pub fn node(&self, value: ValueId) -> &'a Node {
        &self.nodes[value.node.0 as usize]
    }

    pub fn source(&self, value: ValueId) -> Option<&'a Source> {
        match self.node(value).op.kind() {
            Kind::Source(source) => Some(source),
            _ => None,
        }
    }

    /// The op of a constant fill, which costs no memory.
    pub fn fill(&self, value: ValueId) -> Option<&'a dyn Pointwise> {
        let node = self.node(value);
        match node.op.kind() {
            Kind::Pointwise(p) if node.inputs.is_empty() => Some(p),
            _ => None,
        }
    }

    pub fn shape(&self, value: ValueId) -> &'a Shape {
        &self.node(value).outputs[value.output as usize].shape
    }

    /// Roots of the inputs of node `i`, in order.
    pub fn inputs(&self, i: usize) -> Vec<ValueId> {
        self.nodes[i].inputs.iter().map(|v| self.root(*v)).collect()
    }
}

/// Units and who uses what.
pub(super) struct Units {
    pub units: Vec<Unit>,
    /// Unit of every node; `usize::MAX` for sources, aliases and unwanted nodes.
    pub of: Vec<UnitId>,
    /// Units that use a root value, in node order.
    pub users: HashMap<ValueId, Vec<usize>>,
    /// Further orderings: what must run before a unit.
    before: HashMap<UnitId, Vec<UnitId>>,
    /// Values that are hoped to overwrite a parameter in place, by that parameter:
    /// where the unit also reads it, both are one binding.
    assigned: HashMap<ValueId, ValueId>,
    /// Of every node position, the first position of a unit that spans it.
    spans: Spans,
}

impl Units {
    /// One unit per node, pointwise chains merged.
    pub fn new(
        view: &View<'_>,
        keep: &HashSet<ValueId>,
        assigned: HashMap<ValueId, ValueId>,
        max_bindings: usize,
        options: &PlanOptions,
    ) -> Self {
        let mut units = Units {
            units: Vec::new(),
            of: vec![usize::MAX; view.nodes.len()],
            users: HashMap::new(),
            before: HashMap::new(),
            assigned,
            spans: Spans::new(view.nodes.len()),
        };
        for i in 0..view.nodes.len() {
            if !view.wanted[i] || matches!(view.nodes[i].op.kind(), Kind::Source(_) | Kind::Alias) {
                continue;
            }
            for input in view.inputs(i) {
                units.users.entry(input).or_default().push(i);
            }
        }
        for i in 0..view.nodes.len() {
            let kind = view.nodes[i].op.kind();
            if !view.wanted[i] || matches!(kind, Kind::Source(_) | Kind::Alias) {
                continue;
            }
            let pointwise = matches!(kind, Kind::Pointwise(_));
            let unit = units.units.len();
            units.units.push(Unit {
                nodes: vec![i],
                pointwise,
            });
            units.of[i] = unit;
            if !pointwise || !options.fuse || view.nodes[i].inputs.is_empty() {
                continue;
            }
            let mut current = unit;
            for input in view.inputs(i) {
                if view.source(input).is_some() || view.fill(input).is_some() {
                    continue;
                }
                let other = units.of[input.node.0 as usize];
                if let Some(merged) = units.try_merge(view, keep, max_bindings, other, current) {
                    current = merged;
                }
            }
        }
        units
    }

    /// Roots that the unit reads from memory: not its own values, not fills.
    pub fn inputs(&self, view: &View<'_>, unit: UnitId) -> Vec<ValueId> {
        let mut seen = Vec::new();
        for i in &self.units[unit].nodes {
            for input in view.inputs(*i) {
                let own = self.of[input.node.0 as usize] == unit;
                let inlined = self.units[unit].pointwise && view.fill(input).is_some();
                if !own && !inlined && !seen.contains(&input) {
                    seen.push(input);
                }
            }
        }
        seen
    }

    /// Values of the unit that somebody else needs.
    pub fn outputs(&self, keep: &HashSet<ValueId>, unit: UnitId) -> Vec<ValueId> {
        let mut out = Vec::new();
        for i in &self.units[unit].nodes {
            let value = ValueId {
                node: crate::graph::NodeId(*i as u32),
                output: 0,
            };
            let outside = self
                .users
                .get(&value)
                .is_some_and(|users| users.iter().any(|u| self.of[*u] != unit));
            if outside || keep.contains(&value) {
                out.push(value);
            }
        }
        out
    }

    fn dependencies(&self, view: &View<'_>, unit: UnitId) -> Vec<UnitId> {
        let mut out: Vec<UnitId> = self
            .inputs(view, unit)
            .into_iter()
            .map(|v| self.of[v.node.0 as usize])
            .filter(|u| *u != usize::MAX)
            .collect();
        out.extend(self.before.get(&unit).into_iter().flatten());
        out
    }

    /// Has all of `first` run before `unit`.
    pub fn run_before(&mut self, first: Vec<UnitId>, unit: UnitId) {
        if !first.is_empty() {
            self.before.entry(unit).or_default().extend(first);
        }
    }

    /// Whether `to` must run before `from` because of something other than a
    /// direct dependency of `from` on `to`.
    fn reaches_indirectly(&self, view: &View<'_>, from: UnitId, to: UnitId) -> bool {
        let start: Vec<UnitId> = self
            .dependencies(view, from)
            .into_iter()
            .filter(|u| *u != to)
            .collect();
        self.reaches(view, start, to)
    }

    /// Whether any of `stack` is or depends on `to`.
    pub fn reaches(&self, view: &View<'_>, mut stack: Vec<UnitId>, to: UnitId) -> bool {
        let horizon = self.horizon(to);
        let mut seen: HashSet<UnitId> = stack.iter().copied().collect();
        while let Some(unit) = stack.pop() {
            if unit == to {
                return true;
            }
            if self.units[unit]
                .nodes
                .last()
                .is_some_and(|last| *last < horizon)
            {
                continue;
            }
            for next in self.dependencies(view, unit) {
                if seen.insert(next) {
                    stack.push(next);
                }
            }
        }
        false
    }

    /// A node position that no unit spans, at or before the first node of `to`: units
    /// that end before it cannot depend on `to`, not even through a unit that has
    /// early and late members.
    fn horizon(&self, to: UnitId) -> usize {
        // Extra orderings may point anywhere.
        if !self.before.is_empty() {
            return 0;
        }
        let mut at = self.units[to].nodes.first().copied().unwrap_or(0);
        loop {
            match self.spans.first(at) {
                first if first < at => at = first,
                _ => return at,
            }
        }
    }

    fn try_merge(
        &mut self,
        view: &View<'_>,
        keep: &HashSet<ValueId>,
        max_bindings: usize,
        a: UnitId,
        b: UnitId,
    ) -> Option<UnitId> {
        let (ua, ub) = (&self.units[a], &self.units[b]);
        if a == b || !ua.pointwise || !ub.pointwise {
            return None;
        }
        let shape = |u: &Unit| &view.nodes[u.nodes[0]].outputs[0].shape;
        if shape(ua) != shape(ub) || ua.nodes.len() + ub.nodes.len() > MAX_FUSED_OPS {
            return None;
        }
        if self.reaches_indirectly(view, b, a) || self.reaches_indirectly(view, a, b) {
            return None;
        }
        let saved = (self.units[a].clone(), self.units[b].clone());
        let moved = std::mem::take(&mut self.units[b].nodes);
        for i in &moved {
            self.of[*i] = a;
        }
        let mut nodes = self.units[a].nodes.clone();
        nodes.extend(&moved);
        nodes.sort_unstable();
        self.units[a].nodes = nodes;
        let inputs = self.inputs(view, a);
        let outputs = self.outputs(keep, a);
        let scalars = inputs.iter().filter(|v| is_scalar_input(view, **v)).count();
        let shared = |o: &&ValueId| self.assigned.get(o).is_some_and(|t| inputs.contains(t));
        let bindings = inputs.len() - scalars + usize::from(scalars > 0) + outputs.len()
            - outputs.iter().filter(shared).count();
        if bindings > max_bindings {
            for i in &moved {
                self.of[*i] = b;
            }
            (self.units[a], self.units[b]) = saved;
            return None;
        }
        let nodes = &self.units[a].nodes;
        if let (Some(first), Some(last)) = (nodes.first(), nodes.last()) {
            self.spans.add(*first, *last);
        }
        Some(a)
    }

    /// An order of the non-empty units: dependencies first, otherwise by the
    /// position of their last node, so that memory is freed as the graph's author
    /// meant it.
    pub fn order(&self, view: &View<'_>) -> Vec<UnitId> {
        let live: Vec<UnitId> = (0..self.units.len())
            .filter(|u| !self.units[*u].nodes.is_empty())
            .collect();
        let mut waiting = vec![0usize; self.units.len()];
        let mut next: Vec<Vec<UnitId>> = vec![Vec::new(); self.units.len()];
        for unit in &live {
            let unique: BTreeSet<UnitId> = self.dependencies(view, *unit).into_iter().collect();
            waiting[*unit] = unique.len();
            for d in unique {
                next[d].push(*unit);
            }
        }
        let key =
            |u: UnitId| std::cmp::Reverse((self.units[u].nodes.last().copied().unwrap_or(0), u));
        let mut ready: BinaryHeap<_> = live
            .iter()
            .filter(|u| waiting[**u] == 0)
            .map(|u| key(*u))
            .collect();
        let mut order = Vec::with_capacity(live.len());
        while let Some(std::cmp::Reverse((_, unit))) = ready.pop() {
            order.push(unit);
            for n in &next[unit] {
                waiting[*n] -= 1;
                if waiting[*n] == 0 {
                    ready.push(key(*n));
                }
            }
        }
        order
    }
}

/// Single numbers given at every run: all of them share one binding.
pub(super) fn is_scalar_input(view: &View<'_>, value: ValueId) -> bool {
    matches!(view.source(value), Some(Source::Input { .. }))
        && view.shape(value).numel() == 1
        && view.node(value).outputs[0].dtype == crate::DType::F32
}

/// The updates with canonical values; targets stay as they are.
pub(super) fn canonical_updates(view: &View<'_>, updates: &[Update]) -> Vec<(ValueId, ValueId)> {
    updates
        .iter()
        .map(|u| (u.target, view.root(u.value)))
        .collect()
}
