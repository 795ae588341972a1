//! From units to dispatches whose bindings are not resolved to buffers yet.

use super::fused::{self, Reach, Target, Walk};
use super::places::{Builder, Place};
use super::samples::{self, Parts, Window};
use super::units::UnitId;
use super::{Role, Slice};
use crate::graph::{Access, Dispatch, Kind, Lower, NodeId, Slot, Spec, ValueId};
use crate::ops::sum_chunks_apart;
use crate::{Error, Result};

/// A dispatch whose bindings are not resolved to buffers yet.
pub(super) struct Draft {
    pub(super) op: String,
    pub(super) dispatch: Dispatch,
    pub(super) bindings: Vec<(Place, Access)>,
    /// What is bound of each place, where that is not all of it.
    pub(super) windows: Vec<Option<Window>>,
    /// For dispatches over elements.
    pub(super) walk: Option<Walk>,
}

impl Builder<'_> {
    pub(super) fn lower(
        &mut self,
        position: usize,
        unit: UnitId,
        drafts: &mut Vec<Draft>,
    ) -> Result<()> {
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
            self.lower_kernel(position, node, &inputs, drafts)?;
        }
        Ok(())
    }

    /// An op with kernels of its own, at once or for some samples at a time.
    fn lower_kernel(
        &mut self,
        position: usize,
        node: usize,
        inputs: &[ValueId],
        drafts: &mut Vec<Draft>,
    ) -> Result<()> {
        let op = self.view.nodes[node].op.clone();
        // Shapes as the op sees them, after aliases.
        let raw = self.view.nodes[node].inputs.iter();
        let specs: Vec<Spec> = raw
            .map(|v| self.view.node(*v).outputs[v.output as usize].clone())
            .collect();
        let outputs = self.view.nodes[node].outputs.clone();
        let output = |o: usize| ValueId {
            node: NodeId(node as u32),
            output: o as u32,
        };
        let overwriting = (0..outputs.len()).filter(|o| self.in_place.contains_key(&output(*o)));
        let overwriting: Vec<usize> = overwriting.collect();
        let parts = samples::parts(op.as_ref(), &specs, &outputs, self.profile)?;
        let sums = parts
            .sums()
            .map(|bytes| self.open_storage(bytes, position, position));
        // Parts come one after another and share what they need on the way.
        let mut scratch: Vec<usize> = Vec::new();
        for part in &parts.parts {
            let mut cx = Lower::new(
                op.name(),
                part.inputs.clone(),
                part.outputs.clone(),
                self.profile,
            )
            .overwriting(overwriting.clone());
            op.lower(&mut cx)?;
            let (mut dispatches, sizes) = cx.finish();
            let mut sources = Vec::new();
            for (i, value) in inputs.iter().enumerate() {
                let whole = part.reads.get(i).copied().flatten().is_none();
                sources.push(self.place(*value).ok().filter(|_| whole));
            }
            let prepared = self.prepare(op.name(), &sources, &sizes, &mut dispatches);
            for (k, bytes) in sizes.into_iter().enumerate() {
                if prepared.contains_key(&k) {
                    // Keeps the numbers of the others.
                    if scratch.len() == k {
                        scratch.push(self.open_storage(4, position, position));
                    }
                    continue;
                }
                match scratch.get(k) {
                    Some(s) if self.storages[*s].bytes >= bytes => {}
                    Some(_) => scratch[k] = self.open_storage(bytes, position, position),
                    None => scratch.push(self.open_storage(bytes, position, position)),
                }
            }
            for dispatch in dispatches {
                let mut bindings = Vec::new();
                let mut windows = Vec::new();
                for bind in &dispatch.bindings {
                    let bad = || bad_slot(op.name());
                    let (place, window) = match (bind.slot, sums) {
                        (Slot::In(i), _) => {
                            let value = inputs.get(i).ok_or_else(bad)?;
                            (self.place(*value)?, part.reads.get(i))
                        }
                        (Slot::Out(o), None) => (self.place(output(o))?, part.writes.get(o)),
                        (Slot::Out(o), Some(sums)) => (Place::Temp(sums), part.writes.get(o)),
                        (Slot::Scratch(s), _) => match prepared.get(&s) {
                            Some(place) => (*place, None),
                            None => (Place::Temp(*scratch.get(s).ok_or_else(bad)?), None),
                        },
                    };
                    bindings.push((place, bind.access));
                    windows.push(window.copied().flatten());
                }
                if dispatch.dealt {
                    bindings.push((Place::Fixed(self.tickets()), Access::ReadWrite));
                }
                drafts.push(Draft {
                    op: op.name().into(),
                    dispatch,
                    bindings,
                    windows,
                    walk: None,
                });
            }
        }
        match sums {
            Some(sums) => self.lower_sum(op.name(), sums, &parts, output(0), drafts),
            None => Ok(()),
        }
    }

    /// Adds up what the parts of an op have written, in their order.
    fn lower_sum(
        &self,
        op: &'static str,
        sums: usize,
        parts: &Parts,
        value: ValueId,
        drafts: &mut Vec<Draft>,
    ) -> Result<()> {
        let spec = self.view.node(value).outputs[value.output as usize].clone();
        let mut cx = Lower::new(op, vec![spec.clone()], vec![spec.clone()], self.profile);
        let (count, stride) = (parts.parts.len(), parts.stride() as usize / 4);
        sum_chunks_apart(&mut cx, Slot::In(0), spec.shape.numel(), count, stride)?;
        for dispatch in cx.finish().0 {
            drafts.push(Draft {
                op: op.into(),
                dispatch,
                bindings: vec![
                    (Place::Temp(sums), Access::Read),
                    (self.place(value)?, Access::Write),
                ],
                windows: Vec::new(),
                walk: None,
            });
        }
        Ok(())
    }

    /// Copies a member that could not be computed in its slot.
    pub(super) fn lower_pack_copy(
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
        let each = self.profile.elements_each(spec.shape.numel());
        cx.kernel("copy", include_str!("../../shaders/view/copy.wgsl"))
            .define("EACH", each)
            .arg("n", spec.shape.numel())
            .read(Slot::In(0))
            .write(Slot::Out(0))
            .threads(spec.shape.numel().div_ceil(each), 64)?;
        for dispatch in cx.finish().0 {
            let bindings = vec![(from, Access::Read), (Place::Fixed(slot), Access::Write)];
            drafts.push(Draft {
                op: "pack".into(),
                dispatch,
                bindings,
                windows: Vec::new(),
                walk: Some(Walk {
                    reach: vec![Reach::Along; 2],
                    each,
                }),
            });
        }
        Ok(())
    }

    pub(super) fn lower_fused(&mut self, unit: UnitId, drafts: &mut Vec<Draft>) -> Result<()> {
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
            self.profile,
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
            windows: Vec::new(),
            walk: Some(fused.walk),
        });
        Ok(())
    }
}

fn bad_slot(op: &str) -> Error {
    Error::Graph(format!(
        "{op}: a dispatch binds a value that the op does not have"
    ))
}
