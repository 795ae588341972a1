//! Assignments: fused units write straight into arenas where nobody reads the old
//! value afterwards; everything else is copied after the pass.

use super::Slice;
use super::fused;
use super::places::{Builder, Place};
use super::units::UnitId;
use crate::graph::ValueId;
use crate::{Error, Result};

impl Builder<'_> {
    /// Lets fused units write straight into arenas where nobody reads the old value
    /// afterwards; returns the updates that must be copied after the pass.
    pub(super) fn place_updates(
        &mut self,
        updates: &[(ValueId, ValueId)],
    ) -> Result<Vec<(ValueId, ValueId)>> {
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

    pub(super) fn try_in_place(&mut self, target: ValueId, value: ValueId, slice: Slice) -> bool {
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
}

pub(super) fn overlap(a: &Slice, b: &Slice) -> bool {
    a.buffer == b.buffer && a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes
}
