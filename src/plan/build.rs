//! Puts the passes together.

use std::collections::{HashMap, HashSet};

use super::fused::{self, Target};
use super::storage::{self, Storage};
use super::units::{UnitId, Units, View, canonical_updates, is_scalar_input};
use super::{ArenaMap, BufferPlan, CopyPlan, InputPlan, Plan, PlanOptions, Role, Slice, Step};
use crate::device::DeviceProfile;
use crate::graph::{
    Access, Dispatch, Graph, Kind, Lower, NodeId, Slot, Source, Spec, Tensor, ValueId,
};
use crate::{DType, Error, Result};

/// Slots in shared buffers start at multiples of this: the largest offset
/// alignment that WebGPU allows an adapter to ask for.
const ALIGN: u64 = 256;

/// Where a root value lives.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    /// A storage that the colouring assigns a buffer to.
    Temp(usize),
    Fixed(Slice),
}

struct Builder<'a> {
    view: View<'a>,
    units: Units,
    arenas: &'a [ArenaMap],
    profile: &'a DeviceProfile,
    options: &'a PlanOptions,
    /// Roots that must outlive the last unit.
    keep: HashSet<ValueId>,
    buffers: Vec<BufferPlan>,
    places: HashMap<ValueId, Place>,
    storages: Vec<Storage>,
    constants: Vec<u32>,
    inputs: Vec<InputPlan>,
    random: Option<u64>,
    scalars: HashMap<ValueId, u64>,
    scalar_bytes: u64,
    /// Outputs that overwrite one of their unit's inputs.
    in_place: HashMap<ValueId, ValueId>,
    /// Per unit, the arena buffers that it writes into.
    arena_writes: HashMap<UnitId, Vec<usize>>,
}

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
    let updates = canonical_updates(&view, &updates);
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
    };
    b.drop_inlined_fills();
    b.place_sources()?;
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
    let mut steps = Vec::new();
    for draft in drafts {
        let bindings: Vec<(Slice, Access)> = draft
            .bindings
            .iter()
            .map(|(p, a)| (resolve(*p), *a))
            .collect();
        let step = Step {
            op: draft.op,
            kernel: draft.dispatch.kernel,
            variant: draft.dispatch.variant,
            source: draft.dispatch.source,
            defines: draft.dispatch.defines,
            bindings,
            args: draft.dispatch.args,
            grid: draft.dispatch.grid,
            flops: draft.dispatch.flops,
            bytes: draft.dispatch.bytes,
            trips: draft.dispatch.trips,
        };
        match draft.flat {
            Some(flat) => chunk(step, &flat, profile, &mut steps)?,
            None => steps.push(step),
        }
    }
    check_limits(&steps, &b.buffers, profile)?;
    let copy = |(from, to): (Place, Place)| CopyPlan {
        from: resolve(from),
        to: resolve(to),
    };
    Ok(Plan {
        steps,
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

/// A dispatch whose bindings are not resolved to buffers yet.
struct Draft {
    op: String,
    dispatch: Dispatch,
    bindings: Vec<(Place, Access)>,
    /// For fused dispatches: which bindings are walked element by element.
    flat: Option<Vec<bool>>,
}

impl Builder<'_> {
    /// Constant fills that every user writes into its own text need no unit.
    fn drop_inlined_fills(&mut self) {
        for unit in 0..self.units.units.len() {
            let [node] = self.units.units[unit].nodes[..] else {
                continue;
            };
            let value = ValueId {
                node: NodeId(node as u32),
                output: 0,
            };
            if self.view.fill(value).is_none() || self.keep.contains(&value) {
                continue;
            }
            let users = self.units.users.get(&value).cloned().unwrap_or_default();
            let inlined = users.iter().all(|u| {
                let user = self.units.of[*u];
                user != usize::MAX && self.units.units[user].pointwise
            });
            if inlined {
                self.units.units[unit].nodes.clear();
                self.units.of[node] = usize::MAX;
            }
        }
    }

    fn add_buffer(&mut self, bytes: u64, role: Role) -> usize {
        self.buffers.push(BufferPlan { bytes, role });
        self.buffers.len() - 1
    }

    fn open_storage(&mut self, bytes: u64, first: usize, last: usize) -> usize {
        self.storages.push(Storage { bytes, first, last });
        self.storages.len() - 1
    }

    fn place(&self, value: ValueId) -> Result<Place> {
        self.places.get(&value).copied().ok_or_else(|| {
            Error::Graph(format!(
                "{} has no place; this is a bug in the planner",
                self.view.node(value).op.name()
            ))
        })
    }

    /// Inputs and constants side by side in one buffer each; parameters in arenas.
    fn place_sources(&mut self) -> Result<()> {
        let sources: Vec<ValueId> = (0..self.view.nodes.len())
            .filter(|i| self.view.wanted[*i])
            .map(|i| ValueId {
                node: NodeId(i as u32),
                output: 0,
            })
            .filter(|v| self.view.source(*v).is_some())
            .collect();
        let mut input_bytes = 0;
        let mut slots = Vec::new();
        // Scalars first: fused dispatches bind them all at once.
        let (scalars, others): (Vec<_>, Vec<_>) = sources
            .iter()
            .partition(|v| is_scalar_input(&self.view, **v));
        for value in scalars.iter().chain(&others) {
            let spec = self.view.node(*value).outputs[0].clone();
            match self.view.source(*value) {
                Some(Source::Input { name }) => {
                    self.inputs.push(InputPlan {
                        name: name.clone(),
                        spec: spec.clone(),
                        offset: input_bytes,
                    });
                }
                Some(Source::RandomState) => self.random = Some(input_bytes),
                _ => continue,
            }
            if scalars.contains(value) {
                self.scalars.insert(*value, input_bytes);
            }
            slots.push((*value, input_bytes, spec.bytes()));
            input_bytes += spec.bytes().next_multiple_of(ALIGN);
            if scalars.contains(value) {
                self.scalar_bytes = input_bytes;
            }
        }
        if input_bytes > 0 {
            let buffer = self.add_buffer(input_bytes, Role::Inputs);
            for (value, offset, bytes) in slots {
                self.places.insert(
                    value,
                    Place::Fixed(Slice {
                        buffer,
                        offset,
                        bytes,
                    }),
                );
            }
        }
        let mut constant_slots = Vec::new();
        for value in &sources {
            if let Some(Source::Constant { words }) = self.view.source(*value) {
                let offset = 4 * self.constants.len() as u64;
                self.constants.extend_from_slice(words);
                let aligned = self.constants.len().next_multiple_of(ALIGN as usize / 4);
                self.constants.resize(aligned, 0);
                constant_slots.push((*value, offset, 4 * words.len() as u64));
            }
        }
        if !constant_slots.is_empty() {
            let buffer = self.add_buffer(4 * self.constants.len() as u64, Role::Constants);
            for (value, offset, bytes) in constant_slots {
                self.places.insert(
                    value,
                    Place::Fixed(Slice {
                        buffer,
                        offset,
                        bytes,
                    }),
                );
            }
        }
        for value in &sources {
            if matches!(
                self.view.source(*value),
                Some(Source::Param { .. } | Source::Arena { .. })
            ) {
                let slice = self.source_slice(*value)?;
                self.places.insert(*value, Place::Fixed(slice));
            }
        }
        Ok(())
    }

    /// The slice of an arena that a parameter, state or arena source means.
    fn source_slice(&mut self, value: ValueId) -> Result<Slice> {
        let spec = &self.view.node(value).outputs[0];
        let bytes = spec.bytes();
        let unknown = || {
            Error::Graph(
                "the graph uses a parameter of a set that was not given to `compile`, or that was added later".into(),
            )
        };
        let (set, arena, offset) = match self.view.source(value) {
            Some(Source::Param { set, index }) => {
                let map = self
                    .arenas
                    .iter()
                    .find(|m| m.set == *set)
                    .ok_or_else(unknown)?;
                let (arena, offset) = *map.params.get(*index).ok_or_else(unknown)?;
                (*set, arena, 4 * offset as u64)
            }
            Some(Source::Arena { set, index }) => (*set, *index, 0),
            _ => return Err(Error::Graph("not a parameter".into())),
        };
        let map = self
            .arenas
            .iter()
            .find(|m| m.set == set)
            .ok_or_else(unknown)?;
        let len = 4 * *map.arenas.get(arena).ok_or_else(unknown)? as u64;
        if offset + bytes > len {
            return Err(unknown());
        }
        let role = Role::Arena { set, index: arena };
        let buffer = match self.buffers.iter().position(|b| b.role == role) {
            Some(buffer) => buffer,
            None => self.add_buffer(len, role),
        };
        Ok(Slice {
            buffer,
            offset,
            bytes,
        })
    }

    /// Lets fused units write straight into arenas where nobody reads the old value
    /// afterwards; returns the updates that must be copied after the pass.
    fn place_updates(&mut self, updates: &[(ValueId, ValueId)]) -> Result<Vec<(ValueId, ValueId)>> {
        let mut targets: Vec<Slice> = Vec::new();
        for (target, _) in updates {
            let slice = self.source_slice(*target)?;
            if targets.iter().any(|t| overlap(t, &slice)) {
                return Err(Error::Graph(
                    "two assignments write the same parameter".into(),
                ));
            }
            targets.push(slice);
        }
        let mut copied = Vec::new();
        for ((target, value), slice) in updates.iter().zip(targets) {
            let single = updates.iter().filter(|u| u.1 == *value).count() == 1;
            if !(single && self.try_in_place(*target, *value, slice)) {
                copied.push((*target, *value));
            }
        }
        Ok(copied)
    }

    fn try_in_place(&mut self, target: ValueId, value: ValueId, slice: Slice) -> bool {
        let unit = self.units.of[value.node.0 as usize];
        if unit == usize::MAX
            || !self.units.units[unit].pointwise
            || self.view.fill(value).is_some()
        {
            return false;
        }
        // In the unit itself, the arena may only be read through the very same slice.
        let inputs = self.units.inputs(&self.view, unit);
        let clash = |v: &ValueId| match self.places.get(v) {
            Some(Place::Fixed(s)) => s.buffer == slice.buffer && *v != target,
            _ => false,
        };
        if inputs.iter().any(clash) {
            return false;
        }
        let reads_target = inputs.contains(&target);
        if reads_target && !fused::reads_flat(&self.view, &self.units, unit, target) {
            return false;
        }
        // Users of the new value must not write into the same arena while they read it.
        let users = self.units.users.get(&value).cloned().unwrap_or_default();
        let writes_arena = |u: &UnitId| {
            self.arena_writes
                .get(u)
                .is_some_and(|w| w.contains(&slice.buffer))
        };
        if users
            .iter()
            .map(|u| self.units.of[*u])
            .any(|u| u != unit && writes_arena(&u))
        {
            return false;
        }
        // Everybody who reads the old value goes first.
        let mut readers = Vec::new();
        for (source, users) in &self.units.users {
            let Some(Place::Fixed(s)) = self.places.get(source) else {
                continue;
            };
            if self.view.source(*source).is_some() && overlap(s, &slice) {
                readers.extend(
                    users
                        .iter()
                        .map(|u| self.units.of[*u])
                        .filter(|u| *u != unit && *u != usize::MAX),
                );
            }
        }
        readers.sort_unstable();
        readers.dedup();
        if readers
            .iter()
            .any(|r| self.units.reaches(&self.view, vec![*r], unit))
        {
            return false;
        }
        self.units
            .before
            .extend(readers.into_iter().map(|r| (r, unit)));
        if reads_target {
            self.in_place.insert(value, target);
        }
        self.places.insert(value, Place::Fixed(slice));
        self.arena_writes
            .entry(unit)
            .or_default()
            .push(slice.buffer);
        true
    }

    /// Storages and packed slots for everything that units compute.
    fn place_values(&mut self, order: &[UnitId]) -> Result<()> {
        let mut position = vec![usize::MAX; self.units.units.len()];
        for (p, unit) in order.iter().enumerate() {
            position[*unit] = p;
        }
        // Packs first: their members take slots instead of storages.
        for unit in order {
            let [node] = self.units.units[*unit].nodes[..] else {
                continue;
            };
            let Kind::Pack(offsets) = self.view.nodes[node].op.kind() else {
                continue;
            };
            let value = ValueId {
                node: NodeId(node as u32),
                output: 0,
            };
            let bytes = self.view.nodes[node].outputs[0].bytes();
            let buffer = self.add_buffer(bytes, Role::Packed);
            self.places.insert(
                value,
                Place::Fixed(Slice {
                    buffer,
                    offset: 0,
                    bytes,
                }),
            );
            for (member, offset) in self.view.inputs(node).into_iter().zip(offsets) {
                let users = self.units.users.get(&member).map_or(0, Vec::len);
                let computed = self.units.of[member.node.0 as usize] != usize::MAX;
                let aligned = (4 * *offset as u64).is_multiple_of(ALIGN);
                if users == 1
                    && computed
                    && aligned
                    && !self.keep.contains(&member)
                    && !self.places.contains_key(&member)
                {
                    let spec = &self.view.node(member).outputs[member.output as usize];
                    let slice = Slice {
                        buffer,
                        offset: 4 * *offset as u64,
                        bytes: spec.bytes(),
                    };
                    self.places.insert(member, Place::Fixed(slice));
                }
            }
        }
        for (p, unit) in order.iter().enumerate() {
            for value in self.unit_values(*unit) {
                if self.places.contains_key(&value) {
                    continue;
                }
                let users = self.units.users.get(&value).cloned().unwrap_or_default();
                let last = users
                    .iter()
                    .map(|u| self.units.of[*u])
                    .filter(|u| *u != usize::MAX)
                    .map(|u| position[u])
                    .max()
                    .unwrap_or(p)
                    .max(p);
                let last = if self.keep.contains(&value) {
                    order.len()
                } else {
                    last
                };
                let bytes = self.view.node(value).outputs[value.output as usize].bytes();
                let storage = self.open_storage(bytes, p, last);
                self.places.insert(value, Place::Temp(storage));
            }
        }
        Ok(())
    }

    /// The values that a unit leaves in memory.
    fn unit_values(&self, unit: UnitId) -> Vec<ValueId> {
        if self.units.units[unit].pointwise {
            return self.units.outputs(&self.keep, unit);
        }
        let nodes = &self.units.units[unit].nodes;
        nodes
            .iter()
            .flat_map(|i| {
                (0..self.view.nodes[*i].outputs.len()).map(|o| ValueId {
                    node: NodeId(*i as u32),
                    output: o as u32,
                })
            })
            .collect()
    }

    /// Pointwise outputs take over the storage of an input that dies with them.
    fn overwrite_dying_inputs(&mut self, order: &[UnitId]) {
        if !self.options.reuse {
            return;
        }
        for (p, unit) in order.iter().enumerate() {
            if !self.units.units[*unit].pointwise {
                continue;
            }
            let mut taken: Vec<usize> = Vec::new();
            for output in self.units.outputs(&self.keep, *unit) {
                let Some(Place::Temp(own)) = self.places.get(&output).copied() else {
                    continue;
                };
                for input in self.units.inputs(&self.view, *unit) {
                    let Some(Place::Temp(theirs)) = self.places.get(&input).copied() else {
                        continue;
                    };
                    let fits = self.storages[theirs].bytes == self.storages[own].bytes
                        && self.storages[theirs].last == p
                        && theirs != own
                        && !taken.contains(&theirs)
                        && self.element_type(input) == self.element_type(output)
                        && fused::reads_flat(&self.view, &self.units, *unit, input);
                    if fits {
                        self.storages[theirs].last = self.storages[own].last;
                        // The own storage is given up; it takes no memory any more.
                        self.storages[own].bytes = 0;
                        self.places.insert(output, Place::Temp(theirs));
                        self.in_place.insert(output, input);
                        taken.push(theirs);
                        break;
                    }
                }
            }
        }
        // Given-up storages must not claim a buffer: they become one empty interval each.
        for storage in self.storages.iter_mut().filter(|s| s.bytes == 0) {
            (storage.first, storage.last) = (0, 0);
        }
    }

    fn element_type(&self, value: ValueId) -> DType {
        self.view.node(value).outputs[value.output as usize].dtype
    }

    fn lower(&mut self, position: usize, unit: UnitId, drafts: &mut Vec<Draft>) -> Result<()> {
        if self.units.units[unit].pointwise {
            return self.lower_fused(unit, drafts);
        }
        for node in self.units.units[unit].nodes.clone() {
            let op = self.view.nodes[node].op.clone();
            let inputs = self.view.inputs(node);
            if let Kind::Pack(offsets) = op.kind() {
                let whole = ValueId {
                    node: NodeId(node as u32),
                    output: 0,
                };
                let Place::Fixed(packed) = self.place(whole)? else {
                    return Err(Error::Graph("a pack has no buffer".into()));
                };
                for (member, offset) in inputs.iter().zip(offsets) {
                    self.lower_pack_copy(*member, packed, *offset, drafts)?;
                }
                continue;
            }
            let specs = |values: &[ValueId], raw: &[ValueId]| -> Vec<Spec> {
                // Shapes as the op sees them, after aliases.
                values
                    .iter()
                    .zip(raw)
                    .map(|(_, v)| self.view.node(*v).outputs[v.output as usize].clone())
                    .collect()
            };
            let raw = &self.view.nodes[node].inputs;
            let outputs = self.view.nodes[node].outputs.clone();
            let mut cx = Lower::new(op.name(), specs(&inputs, raw), outputs, self.profile);
            op.lower(&mut cx)?;
            let (dispatches, scratch) = cx.finish();
            let scratch: Vec<usize> = scratch
                .into_iter()
                .map(|bytes| self.open_storage(bytes, position, position))
                .collect();
            for dispatch in dispatches {
                let mut bindings = Vec::new();
                for bind in &dispatch.bindings {
                    let place = match bind.slot {
                        Slot::In(i) => {
                            self.place(*inputs.get(i).ok_or_else(|| bad_slot(op.name()))?)?
                        }
                        Slot::Out(o) => self.place(ValueId {
                            node: NodeId(node as u32),
                            output: o as u32,
                        })?,
                        Slot::Scratch(s) => {
                            Place::Temp(*scratch.get(s).ok_or_else(|| bad_slot(op.name()))?)
                        }
                    };
                    bindings.push((place, bind.access));
                }
                drafts.push(Draft {
                    op: op.name().into(),
                    dispatch,
                    bindings,
                    flat: None,
                });
            }
        }
        Ok(())
    }

    /// Copies a member that could not be computed in its slot.
    fn lower_pack_copy(
        &mut self,
        member: ValueId,
        packed: Slice,
        offset: usize,
        drafts: &mut Vec<Draft>,
    ) -> Result<()> {
        let spec = self.view.node(member).outputs[member.output as usize].clone();
        let slot = Slice {
            buffer: packed.buffer,
            offset: 4 * offset as u64,
            bytes: spec.bytes(),
        };
        let from = self.place(member)?;
        if from == Place::Fixed(slot) {
            return Ok(());
        }
        let mut cx = Lower::new("pack", vec![spec.clone()], vec![spec.clone()], self.profile);
        cx.kernel("copy", include_str!("../../shaders/copy.wgsl"))
            .arg(spec.shape.numel())
            .read(Slot::In(0))
            .write(Slot::Out(0))
            .threads(spec.shape.numel(), 64)?;
        for dispatch in cx.finish().0 {
            let bindings = vec![(from, Access::Read), (Place::Fixed(slot), Access::Write)];
            drafts.push(Draft {
                op: "pack".into(),
                dispatch,
                bindings,
                flat: Some(vec![true, true]),
            });
        }
        Ok(())
    }

    fn lower_fused(&mut self, unit: UnitId, drafts: &mut Vec<Draft>) -> Result<()> {
        let outputs = self.units.outputs(&self.keep, unit);
        if outputs.is_empty() {
            return Ok(());
        }
        let fused = fused::generate(
            &self.view,
            &self.units,
            unit,
            &outputs,
            &self.in_place,
            &self.scalars,
        )?;
        let mut bindings = Vec::new();
        for (target, access) in &fused.targets {
            let place = match target {
                Target::Value(v) => self.place(*v)?,
                Target::Scalars => {
                    let buffer = self.buffers.iter().position(|b| b.role == Role::Inputs);
                    let buffer = buffer.ok_or_else(|| bad_slot("fused"))?;
                    Place::Fixed(Slice {
                        buffer,
                        offset: 0,
                        bytes: self.scalar_bytes,
                    })
                }
            };
            bindings.push((place, *access));
        }
        drafts.push(Draft {
            op: fused.label,
            dispatch: fused.dispatch,
            bindings,
            flat: Some(fused.flat),
        });
        Ok(())
    }
}

fn bad_slot(op: &str) -> Error {
    Error::Graph(format!(
        "{op}: a dispatch binds a value that the op does not have"
    ))
}

fn overlap(a: &Slice, b: &Slice) -> bool {
    a.buffer == b.buffer && a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes
}

/// Splits a pointwise dispatch whose operands exceed a binding, and sets its grid.
fn chunk(
    mut step: Step,
    flat: &[bool],
    profile: &DeviceProfile,
    out: &mut Vec<Step>,
) -> Result<()> {
    let n = u64::from(step.args[0]);
    step.bytes = step
        .bindings
        .iter()
        .map(|(s, a)| s.bytes * if *a == Access::ReadWrite { 2 } else { 1 })
        .sum();
    let all_flat = flat
        .iter()
        .zip(&step.bindings)
        .all(|(f, (s, _))| *f || s.bytes <= 4 * ALIGN);
    let per_binding = profile.max_binding / ALIGN * ALIGN / 4;
    let size = if 4 * n > profile.max_binding && all_flat {
        per_binding
    } else {
        n
    };
    let mut done = 0;
    while done < n {
        let count = size.min(n - done);
        let mut part = step.clone();
        part.args[0] = count as u32;
        part.flops = step.flops * count / n;
        part.bytes = step.bytes * count / n;
        for ((slice, _), flat) in part.bindings.iter_mut().zip(flat) {
            if *flat && size < n {
                slice.offset += 4 * done;
                slice.bytes = 4 * count;
            }
        }
        let groups = count.div_ceil(64);
        let y = groups.div_ceil(u64::from(profile.max_groups)).max(1);
        if y > u64::from(profile.max_groups) {
            return Err(Error::LimitExceeded {
                what: format!("{} (workgroups)", part.op),
                needed: groups,
                available: u64::from(profile.max_groups).pow(2),
            });
        }
        part.grid = [groups.div_ceil(y) as u32, y as u32, 1];
        out.push(part);
        done += count;
    }
    Ok(())
}

fn check_limits(steps: &[Step], buffers: &[BufferPlan], profile: &DeviceProfile) -> Result<()> {
    for step in steps {
        if let Some((slice, _)) = step
            .bindings
            .iter()
            .find(|(s, _)| s.bytes > profile.max_binding)
        {
            return Err(Error::LimitExceeded {
                what: format!("a tensor of `{}` (bytes of one binding)", step.op),
                needed: slice.bytes,
                available: profile.max_binding,
            });
        }
        if step.bindings.len() > profile.max_bindings {
            return Err(Error::LimitExceeded {
                what: format!("`{}` (storage bindings)", step.op),
                needed: step.bindings.len() as u64,
                available: profile.max_bindings as u64,
            });
        }
        for (i, (a, access_a)) in step.bindings.iter().enumerate() {
            for (b, access_b) in &step.bindings[i + 1..] {
                let reads = [access_a, access_b]
                    .iter()
                    .filter(|x| ***x == Access::Read)
                    .count();
                if a.buffer == b.buffer && (reads == 1 || reads == 0 && overlap(a, b)) {
                    return Err(Error::Graph(format!(
                        "`{}` would bind one buffer for reading and writing; this is a bug in the planner",
                        step.op
                    )));
                }
            }
        }
    }
    if let Some(large) = buffers.iter().find(|b| b.bytes > profile.max_buffer) {
        return Err(Error::LimitExceeded {
            what: format!("a buffer ({:?}, bytes)", large.role),
            needed: large.bytes,
            available: profile.max_buffer,
        });
    }
    Ok(())
}
