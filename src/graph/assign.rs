//! Assignments: what parameters, states and arenas hold when a program has run.

use std::ops::Range;
use std::panic::Location;

use super::op::{Graph, Node, Tensor, Update};
use super::{Kind, Source};
use crate::Error;

impl Graph {
    /// When a program of this graph has run, `target` (a parameter, a state or a
    /// whole arena) holds `value`. All reads of `target` in the graph see the old value.
    /// One assignment for each target: a second is an error of [`Graph::compile`] that
    /// names both; see [`Graph::update`] for one that follows another.
    #[track_caller]
    pub fn assign(&self, target: &Tensor, value: &Tensor) {
        let all = 0..target.numel();
        self.record(target, value, &[all], Earlier::Stays);
    }

    /// When a program of this graph has run, `target` holds `next` of the value that it
    /// would hold without this call: updates of one state follow one another in the
    /// order in which they are recorded (a batch norm on two batches). All reads of
    /// `target` in the graph see the old value.
    #[track_caller]
    pub fn update(&self, target: &Tensor, next: impl FnOnce(&Tensor) -> Tensor) {
        let value = next(&self.newest(target));
        let all = 0..target.numel();
        self.record(target, &value, &[all], Earlier::Follows);
    }

    /// What `target` will hold when a program of this graph has run, as far as it is
    /// recorded: the value last assigned to it, or its old one.
    pub fn newest(&self, target: &Tensor) -> Tensor {
        let nodes = self.lock();
        let last = nodes.updates.iter().rfind(|u| u.target == target.id());
        let value = last.map(|u| u.value);
        drop(nodes);
        match value {
            Some(value) if target.graph().same(self) => self.tensor(value),
            _ => target.clone(),
        }
    }

    /// [`Graph::assign`], where only the elements `written` differ from
    /// [`Graph::newest`]: others may assign the rest.
    #[track_caller]
    pub(crate) fn assign_part(&self, target: &Tensor, value: &Tensor, written: &[Range<usize>]) {
        self.record(target, value, written, Earlier::Disjoint);
    }

    /// Whether the inputs that start with `prefix` are `owner`'s: nobody else has asked
    /// for them before.
    pub(crate) fn claim(&self, prefix: &str, owner: u64) -> bool {
        let mut nodes = self.lock();
        match nodes.claimed.iter().find(|(p, _)| p == prefix) {
            Some((_, found)) => *found == owner,
            None => {
                nodes.claimed.push((prefix.into(), owner));
                true
            }
        }
    }

    #[track_caller]
    fn record(&self, target: &Tensor, value: &Tensor, written: &[Range<usize>], earlier: Earlier) {
        let place = Location::caller();
        let mut nodes = self.lock();
        if let Some(error) = wrong(self, target, value, &nodes.nodes) {
            let error = error.located(place);
            nodes.error.get_or_insert_with(|| error.clone());
            nodes.update_error.get_or_insert(error);
            return;
        }
        let mut update = Update {
            target: target.id(),
            value: value.id(),
            written: written.iter().map(|r| (r.clone(), place)).collect(),
        };
        let before = nodes.updates.iter().rposition(|u| u.target == target.id());
        let apart = |old: &Update| {
            let mut old = old.written.iter();
            !old.any(|(o, _)| written.iter().any(|r| o.start < r.end && r.start < o.end))
        };
        match (before, earlier) {
            (Some(at), Earlier::Follows) => nodes.updates[at] = update,
            (Some(at), Earlier::Disjoint) if apart(&nodes.updates[at]) => {
                update.written.extend(nodes.updates[at].written.clone());
                nodes.updates[at] = update;
            }
            _ => nodes.updates.push(update),
        }
    }
}

/// What becomes of an earlier assignment to the same target.
#[derive(Clone, Copy)]
enum Earlier {
    Stays,
    /// The new value contains it.
    Follows,
    /// The new value contains it, if it wrote other elements.
    Disjoint,
}

/// Why `value` cannot be assigned to `target`, if it cannot.
fn wrong(graph: &Graph, target: &Tensor, value: &Tensor, nodes: &[Node]) -> Option<Error> {
    // Node numbers of other graphs mean nothing here.
    if !target.graph().same(graph) || !value.graph().same(graph) {
        return Some(Error::Graph("assign: a tensor of another graph".into()));
    }
    let of = |t: &Tensor| &nodes[t.id().node.0 as usize];
    if let Some(error) = of(target).error.clone().or_else(|| of(value).error.clone()) {
        return Some(error);
    }
    let assignable = matches!(
        of(target).op.kind(),
        Kind::Source(Source::Param { .. } | Source::Arena { .. })
    );
    if !assignable {
        return Some(Error::Graph(
            "assign: the target must be a parameter, a state or an arena".into(),
        ));
    }
    let detail = || {
        let (target, value) = (target.spec(), value.spec());
        format!("the target is {target:?}, the value {value:?}")
    };
    (target.spec() != value.spec()).then(|| Error::shape("assign", detail()))
}
