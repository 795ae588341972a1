//! Assignments: fused units, and kernels that work in place, write straight into arenas
//! where nobody reads the old value afterwards; everything else is copied after the pass.

use std::ops::Range;

use super::Slice;
use super::fused;
use super::places::{Builder, Place};
use super::units::UnitId;
use crate::graph::{Source, Update, ValueId};
use crate::{Error, Result};

impl Builder<'_> {
    /// Every element is assigned once, or an error that names it and both places.
    pub(super) fn check_updates(&mut self, updates: &[Update]) -> Result<()> {
        let slices = updates.iter().map(|u| self.source_slice(u.target));
        let slices = slices.collect::<Result<Vec<Slice>>>()?;
        for (j, second) in updates.iter().enumerate() {
            let hit = (0..j).find(|i| overlap(&slices[*i], &slices[j]));
            if let Some(i) = hit {
                let whole = (elements(&slices[i], None), elements(&slices[j], None));
                return Err(self.assigned_twice(
                    (&updates[i], &slices[i], &whole.0),
                    (second, &slices[j], &whole.1),
                ));
            }
        }
        Ok(())
    }

    /// The error of two assignments: where their elements meet, else where their
    /// targets do.
    fn assigned_twice(
        &self,
        (first, a, all_a): (&Update, &Slice, &Range<usize>),
        (second, b, all_b): (&Update, &Slice, &Range<usize>),
    ) -> Error {
        let pairs = first.written.iter().flat_map(|x| {
            let with = second.written.iter().map(move |y| (x, y));
            with.map(|(x, y)| (elements(a, Some(&x.0)), x.1, elements(b, Some(&y.0)), y.1))
        });
        let met = pairs.filter(|(x, _, y, _)| x.start < y.end && y.start < x.end);
        let whole = first.written.first().zip(second.written.first());
        let whole = whole.map(|(x, y)| (all_a.clone(), x.1, all_b.clone(), y.1));
        let Some((x, at, y, and)) = met.chain(whole).next() else {
            return Error::Graph("two assignments write the same parameter".into());
        };
        let both = x.start.max(y.start)..x.end.min(y.end);
        Error::Graph(format!(
            "{} is assigned twice: at {}:{} and at {}:{}; let the second follow the first with `Graph::update`, or give optimisers parameters of their own",
            self.names(first, both),
            at.file(),
            at.line(),
            and.file(),
            and.line()
        ))
    }

    /// The parameters that start within the elements `range` of the arena that an
    /// update writes to.
    fn names(&self, update: &Update, range: Range<usize>) -> String {
        let (set, arena) = match self.view.source(update.target) {
            Some(Source::Param { set, index }) => {
                let map = self.arenas.iter().find(|m| m.set == *set);
                let place = map.and_then(|m| m.params.get(*index));
                (*set, place.map_or(usize::MAX, |p| p.0))
            }
            Some(Source::Arena { set, index }) => (*set, *index),
            _ => (0, usize::MAX),
        };
        let map = self.arenas.iter().find(|m| m.set == set);
        let all = map.into_iter().flat_map(|m| m.params.iter().zip(&m.names));
        let inside = all.filter(|((a, start), _)| *a == arena && range.contains(start));
        let names: Vec<String> = inside.map(|(_, name)| format!("`{name}`")).collect();
        match names.len() {
            0 => "what an optimiser keeps".into(),
            1..=3 => names.join(", "),
            n => format!("{} and {} more", names[..2].join(", "), n - 2),
        }
    }

    /// Lets units write straight into arenas where nobody reads the old value
    /// afterwards; returns the updates that must be copied after the pass.
    pub(super) fn place_updates(
        &mut self,
        updates: &[(ValueId, ValueId)],
    ) -> Result<Vec<(ValueId, ValueId)>> {
        let targets = updates.iter().map(|u| self.source_slice(u.0));
        let targets = targets.collect::<Result<Vec<Slice>>>()?;
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
        if unit == usize::MAX || self.view.fill(value).is_some() {
            return false;
        }
        let pointwise = self.units.units[unit].pointwise;
        if !pointwise && !self.overwrites(target, value) {
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
        if pointwise && reads_target && !fused::reads_flat(&self.view, &self.units, unit, target) {
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
        if self.units.reaches(&self.view, readers.clone(), unit) {
            return false;
        }
        self.units.run_before(readers, unit);
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

impl Builder<'_> {
    /// Whether the kernel of `value` can compute it where `target` lies, its input.
    fn overwrites(&self, target: ValueId, value: ValueId) -> bool {
        let node = value.node.0 as usize;
        let inputs = self.view.inputs(node);
        let pairs = self.view.nodes[node].op.in_place();
        let pair = pairs.iter().find(|(o, _)| *o == value.output as usize);
        pair.is_some_and(|(_, i)| inputs.get(*i) == Some(&target))
            && inputs.iter().filter(|v| **v == target).count() == 1
            && self.element_type(target) == self.element_type(value)
    }
}

pub(super) fn overlap(a: &Slice, b: &Slice) -> bool {
    a.buffer == b.buffer && a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes
}

/// Elements `of` a slice, all by default, as elements of its buffer.
fn elements(slice: &Slice, of: Option<&Range<usize>>) -> Range<usize> {
    let (first, len) = (slice.offset as usize / 4, slice.bytes as usize / 4);
    match of {
        Some(of) => first + of.start..first + of.end,
        None => first..first + len,
    }
}
