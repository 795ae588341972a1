//! Where every value lives: inputs and constants side by side, parameters in their
//! arenas, everything else in storages that are coloured later.

use std::collections::{HashMap, HashSet};

use super::fused;
use super::storage::Storage;
use super::units::{UnitId, Units, View, is_scalar_input};
use super::{ArenaMap, BufferPlan, InputPlan, PlanOptions, Role, Slice};
use crate::device::DeviceProfile;
use crate::graph::{Access, Dispatch, Kind, NodeId, Source, ValueId};
use crate::{DType, Error, Result};

/// Slots in shared buffers start at multiples of this: the largest offset
/// alignment that WebGPU allows an adapter to ask for.
pub(super) const ALIGN: u64 = 256;

/// Bytes of a program's tickets: one counter for each power of two.
const TICKETS: u64 = 4 * 32;

/// Where a root value lives.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Place {
    /// A storage that the colouring assigns a buffer to.
    Temp(usize),
    Fixed(Slice),
}

/// A dispatch that is carried out once, when the program is compiled.
pub(super) struct Once {
    pub(super) op: String,
    pub(super) dispatch: Dispatch,
    pub(super) bindings: Vec<(Place, Access)>,
}

/// All of these, and where the results of equal ones lie.
#[derive(Default)]
pub(super) struct Prepared {
    pub(super) once: Vec<Once>,
    pub(super) found: HashMap<String, Vec<Slice>>,
}

pub(super) struct Builder<'a> {
    pub(super) view: View<'a>,
    pub(super) units: Units,
    pub(super) arenas: &'a [ArenaMap],
    pub(super) profile: &'a DeviceProfile,
    pub(super) options: &'a PlanOptions,
    /// Roots that must outlive the last unit.
    pub(super) keep: HashSet<ValueId>,
    pub(super) buffers: Vec<BufferPlan>,
    pub(super) places: HashMap<ValueId, Place>,
    pub(super) storages: Vec<Storage>,
    pub(super) constants: Vec<u32>,
    pub(super) inputs: Vec<InputPlan>,
    pub(super) random: Option<u64>,
    pub(super) scalars: HashMap<ValueId, u64>,
    pub(super) scalar_bytes: u64,
    /// Outputs that overwrite one of their unit's inputs.
    pub(super) in_place: HashMap<ValueId, ValueId>,
    /// Per unit, the arena buffers that it writes into.
    pub(super) arena_writes: HashMap<UnitId, Vec<usize>>,
    pub(super) prepared: Prepared,
}

impl Builder<'_> {
    /// Constant fills that every user writes into its own text need no unit.
    pub(super) fn drop_inlined_fills(&mut self) {
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

    pub(super) fn add_buffer(&mut self, bytes: u64, role: Role) -> usize {
        self.buffers.push(BufferPlan { bytes, role });
        self.buffers.len() - 1
    }

    /// The tickets of all dispatches.
    pub(super) fn tickets(&mut self) -> Slice {
        let made = self.buffers.iter().position(|b| b.role == Role::Tickets);
        let buffer = made.unwrap_or_else(|| self.add_buffer(TICKETS, Role::Tickets));
        Slice {
            buffer,
            offset: 0,
            bytes: TICKETS,
        }
    }

    pub(super) fn open_storage(&mut self, bytes: u64, first: usize, last: usize) -> usize {
        self.storages.push(Storage { bytes, first, last });
        self.storages.len() - 1
    }

    pub(super) fn place(&self, value: ValueId) -> Result<Place> {
        self.places.get(&value).copied().ok_or_else(|| {
            Error::Graph(format!(
                "{} has no place; this is a bug in the planner",
                self.view.node(value).op.name()
            ))
        })
    }

    /// Inputs and constants side by side in one buffer each; parameters in arenas.
    pub(super) fn place_sources(&mut self) -> Result<()> {
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
    pub(super) fn source_slice(&mut self, value: ValueId) -> Result<Slice> {
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

    /// Storages and packed slots for everything that units compute.
    pub(super) fn place_values(&mut self, order: &[UnitId]) -> Result<()> {
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
    pub(super) fn unit_values(&self, unit: UnitId) -> Vec<ValueId> {
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

    /// Outputs take over the storage of an input that dies with them: those of pointwise
    /// units, and those that a kernel says it can compute in place.
    pub(super) fn overwrite_dying_inputs(&mut self, order: &[UnitId]) {
        if !self.options.reuse {
            return;
        }
        for (p, unit) in order.iter().enumerate() {
            if !self.units.units[*unit].pointwise {
                for node in self.units.units[*unit].nodes.clone() {
                    self.overwrite_inputs_of(node, p);
                }
                continue;
            }
            let mut taken: Vec<ValueId> = Vec::new();
            for output in self.units.outputs(&self.keep, *unit) {
                for input in self.units.inputs(&self.view, *unit) {
                    let allowed = !taken.contains(&input)
                        && self.element_type(input) == self.element_type(output)
                        && fused::reads_flat(&self.view, &self.units, *unit, input);
                    if allowed && self.take_over(output, input, p) {
                        taken.push(input);
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

    /// What the op of `node`, at position `p`, may compute in place.
    fn overwrite_inputs_of(&mut self, node: usize, p: usize) {
        let inputs = self.view.inputs(node);
        for (output, input) in self.view.nodes[node].op.clone().in_place() {
            let Some(value) = inputs.get(*input).copied() else {
                continue;
            };
            let output = ValueId {
                node: NodeId(node as u32),
                output: *output as u32,
            };
            // A value that is read in two places would be bound twice.
            let once = inputs.iter().filter(|v| **v == value).count() == 1;
            if once && self.element_type(value) == self.element_type(output) {
                self.take_over(output, value, p);
            }
        }
    }

    /// Lets `output` live where `input` does, if that is of its size and is read for the
    /// last time at position `p`.
    fn take_over(&mut self, output: ValueId, input: ValueId, p: usize) -> bool {
        let place = |v: ValueId| match self.places.get(&v) {
            Some(Place::Temp(storage)) => Some(*storage),
            _ => None,
        };
        let (Some(own), Some(theirs)) = (place(output), place(input)) else {
            return false;
        };
        let fits = self.storages[theirs].bytes == self.storages[own].bytes
            && self.storages[theirs].last == p
            && theirs != own;
        if fits {
            self.storages[theirs].last = self.storages[own].last;
            // The own storage is given up; it takes no memory any more.
            self.storages[own].bytes = 0;
            self.places.insert(output, Place::Temp(theirs));
            self.in_place.insert(output, input);
        }
        fits
    }

    pub(super) fn element_type(&self, value: ValueId) -> DType {
        self.view.node(value).outputs[value.output as usize].dtype
    }
}
