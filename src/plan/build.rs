//! Puts the passes together.

use std::collections::{HashMap, HashSet};

use super::fused::Walk;
use super::limits::{check_limits, chunk};
use super::lowering::Draft;
use super::places::{Builder, Place, Prepared};
use super::storage;
use super::units::{Units, View, canonical_updates};
use super::{ArenaMap, BufferPlan, CopyPlan, Plan, PlanOptions, Role, Slice, Step};
use crate::device::DeviceProfile;
use crate::graph::{Access, Graph, Source, Tensor, ValueId};
use crate::{Error, Result};

/// Plans in the hope that parameters are updated in place, which saves bindings;
/// where a unit could not do so after all and has too many, plans again without.
pub(super) fn build(
    graph: &Graph,
    outputs: &[&Tensor],
    arenas: &[ArenaMap],
    profile: &DeviceProfile,
    options: &PlanOptions,
) -> Result<Plan> {
    match build_once(graph, outputs, arenas, profile, options, true) {
        Err(Error::LimitExceeded { .. }) => {
            build_once(graph, outputs, arenas, profile, options, false)
        }
        result => result,
    }
}

fn build_once(
    graph: &Graph,
    outputs: &[&Tensor],
    arenas: &[ArenaMap],
    profile: &DeviceProfile,
    options: &PlanOptions,
    hopeful: bool,
) -> Result<Plan> {
    let guard = graph.lock();
    let updates = match options.updates {
        true => guard.updates.clone(),
        false => Vec::new(),
    };
    let wanted = outputs
        .iter()
        .map(|t| t.id())
        .chain(updates.iter().flat_map(|u| [u.target, u.value]));
    let view = View::new(&guard.nodes, wanted);
    let recorded = updates;
    let updates = canonical_updates(&view, &recorded);
    let keep: HashSet<ValueId> = outputs
        .iter()
        .map(|t| view.root(t.id()))
        .chain(updates.iter().map(|u| u.1))
        .collect();
    let assigned = match hopeful {
        true => updates
            .iter()
            .map(|(target, value)| (*value, *target))
            .collect(),
        false => HashMap::new(),
    };
    let units = Units::new(&view, &keep, assigned, profile.max_bindings, options);
    let mut b = Builder {
        view,
        units,
        arenas,
        profile,
        options,
        keep,
        buffers: Vec::new(),
        places: HashMap::new(),
        storages: Vec::new(),
        constants: Vec::new(),
        inputs: Vec::new(),
        random: None,
        scalars: HashMap::new(),
        scalar_bytes: 0,
        in_place: HashMap::new(),
        arena_writes: HashMap::new(),
        prepared: Prepared::default(),
    };
    b.drop_inlined_fills();
    b.place_sources()?;
    b.check_updates(&recorded)?;
    let copied = b.place_updates(&updates)?;
    let order = b.units.order(&b.view);
    let live = b.units.units.iter().filter(|u| !u.nodes.is_empty()).count();
    if order.len() != live {
        return Err(Error::Graph(
            "the units form a cycle; this is a bug in the planner".into(),
        ));
    }
    b.place_values(&order)?;
    b.overwrite_dying_inputs(&order);

    let mut drafts = Vec::new();
    for (position, unit) in order.iter().enumerate() {
        b.lower(position, *unit, &mut drafts)?;
    }
    let unshared_bytes = b.storages.iter().map(|s| s.bytes).sum();

    // Copies around the pass, while the storages are still open.
    let end = order.len();
    let mut before = Vec::new();
    let mut after = Vec::new();
    for (target, value) in copied {
        let to = b.source_slice(target)?;
        let from = match b.view.source(value) {
            Some(Source::Param { .. } | Source::Arena { .. }) => {
                let storage = b.open_storage(to.bytes, 0, end);
                before.push((Place::Fixed(b.source_slice(value)?), Place::Temp(storage)));
                Place::Temp(storage)
            }
            _ => b.place(value)?,
        };
        after.push((from, to));
    }
    let mut results = Vec::new();
    for output in outputs {
        let root = b.view.root(output.id());
        let mut place = b.place(root)?;
        let assigned = matches!(
            b.view.source(root),
            Some(Source::Param { .. } | Source::Arena { .. })
        );
        if assigned && !updates.is_empty() {
            let slice = b.source_slice(root)?;
            let storage = b.open_storage(slice.bytes, 0, end);
            before.push((Place::Fixed(slice), Place::Temp(storage)));
            place = Place::Temp(storage);
        }
        results.push((place, output.spec().clone()));
    }

    let (colours, sizes) = storage::colour(&b.storages, options.reuse);
    let first = b.buffers.len();
    b.buffers.extend(sizes.into_iter().map(|bytes| BufferPlan {
        bytes,
        role: Role::Temporary,
    }));
    let storages = std::mem::take(&mut b.storages);
    let resolve = |place: Place| match place {
        Place::Fixed(slice) => slice,
        Place::Temp(s) => Slice {
            buffer: first + colours[s],
            offset: 0,
            bytes: storages[s].bytes,
        },
    };
    let step = |draft: Draft| -> (Step, Option<Walk>) {
        let bindings: Vec<(Slice, Access)> = draft
            .bindings
            .iter()
            .enumerate()
            .map(|(i, (place, access))| {
                let mut slice = resolve(*place);
                if let Some(window) = draft.windows.get(i).copied().flatten() {
                    slice.offset += window.offset;
                    slice.bytes = window.bytes;
                }
                (slice, *access)
            })
            .collect();
        let step = Step {
            op: draft.op,
            kernel: draft.dispatch.kernel,
            variant: draft.dispatch.variant,
            source: draft.dispatch.source,
            defines: draft.dispatch.defines,
            bindings,
            args: draft.dispatch.args,
            arg_names: draft.dispatch.arg_names,
            grid: draft.dispatch.grid,
            flops: draft.dispatch.flops,
            bytes: draft.dispatch.bytes,
            trips: draft.dispatch.trips,
        };
        (step, draft.walk)
    };
    let once = std::mem::take(&mut b.prepared.once).into_iter();
    let once = once.map(|once| Draft {
        op: once.op,
        dispatch: once.dispatch,
        bindings: once.bindings,
        windows: Vec::new(),
        walk: None,
    });
    let prepared: Vec<Step> = once.map(|draft| step(draft).0).collect();
    let mut steps = Vec::new();
    for draft in drafts {
        match step(draft) {
            (step, Some(walk)) => chunk(step, &walk, profile, &mut steps)?,
            (step, None) => steps.push(step),
        }
    }
    check_limits(&prepared, &b.buffers, profile)?;
    check_limits(&steps, &b.buffers, profile)?;
    let copy = |(from, to): (Place, Place)| CopyPlan {
        from: resolve(from),
        to: resolve(to),
    };
    Ok(Plan {
        steps,
        prepared,
        buffers: b.buffers,
        inputs: b.inputs,
        random: b.random,
        outputs: results.into_iter().map(|(p, s)| (resolve(p), s)).collect(),
        copies_before: before.into_iter().map(copy).collect(),
        copies: after
            .into_iter()
            .map(|(f, t)| copy((f, Place::Fixed(t))))
            .collect(),
        constants: b.constants,
        unshared_bytes,
    })
}
