//! From units to dispatches whose bindings are not resolved to buffers yet.

use super::fused::{self, Reach, Target, Walk};
use super::places::{Builder, Place};
use super::units::UnitId;
use super::{Role, Slice};
use crate::graph::{Access, Dispatch, Kind, Lower, NodeId, Slot, Spec, ValueId};
use crate::{Error, Result};

/// A dispatch whose bindings are not resolved to buffers yet.
pub(super) struct Draft {
    pub(super) op: String,
    pub(super) dispatch: Dispatch,
    pub(super) bindings: Vec<(Place, Access)>,
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
            let overwriting = (0..outputs.len()).filter(|o| {
                let value = ValueId {
                    node: NodeId(node as u32),
                    output: *o as u32,
                };
                self.in_place.contains_key(&value)
            });
            let overwriting = overwriting.collect();
            let mut cx = Lower::new(op.name(), specs(&inputs, raw), outputs, self.profile)
                .overwriting(overwriting);
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
                if dispatch.dealt {
                    bindings.push((Place::Fixed(self.tickets()), Access::ReadWrite));
                }
                drafts.push(Draft {
                    op: op.name().into(),
                    dispatch,
                    bindings,
                    walk: None,
                });
            }
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
