//! What depends on parameters that never change, and on nothing else, among the dispatches of
//! an op: copies of weights in the orders that kernels read. They write memory of their own,
//! once, and every other op that would make the same copy reads that one.

use std::collections::HashMap;

use super::places::{Builder, Once, Place};
use super::{Role, Slice};
use crate::graph::{Access, Dispatch, Slot};

/// The scratch memory that a dispatch writes; none where it touches anything else but to
/// read it.
fn scratch_written(dispatch: &Dispatch) -> Option<Vec<usize>> {
    let mut written = Vec::new();
    for bind in &dispatch.bindings {
        match (bind.access, bind.slot) {
            (Access::Read, _) => {}
            (Access::Write, Slot::Scratch(k)) => written.push(k),
            _ => return None,
        }
    }
    (!written.is_empty() && !dispatch.dealt).then_some(written)
}

impl Builder<'_> {
    /// Takes the dispatches of an op (or of a part of it) that read only parameters,
    /// constants and what such dispatches have written, out of `dispatches`. Gives the
    /// scratch memory that they filled, by its number. `inputs` are the places of the op's
    /// inputs, none where a part binds a piece of one; `sizes` the bytes of its scratch memory.
    pub(super) fn prepare(
        &mut self,
        op: &str,
        inputs: &[Option<Place>],
        sizes: &[u64],
        dispatches: &mut Vec<Dispatch>,
    ) -> HashMap<usize, Place> {
        if !self.options.prepare || self.options.updates {
            return HashMap::new();
        }
        let fixed = |place: Place| match place {
            Place::Fixed(slice) => matches!(
                self.buffers[slice.buffer].role,
                Role::Arena { .. } | Role::Constants
            ),
            Place::Temp(_) => false,
        };
        // Which dispatches, as long as all that writes a piece of scratch memory is among them.
        let mut once = vec![false; dispatches.len()];
        let mut full: Vec<usize> = Vec::new();
        for (i, dispatch) in dispatches.iter().enumerate() {
            let Some(written) = scratch_written(dispatch) else {
                continue;
            };
            once[i] = dispatch.bindings.iter().all(|bind| match bind.slot {
                Slot::In(input) => inputs.get(input).copied().flatten().is_some_and(fixed),
                Slot::Scratch(k) => written.contains(&k) || full.contains(&k),
                Slot::Out(_) => false,
            });
            if once[i] {
                // Written twice it would not hold what is read in between.
                if written.iter().any(|k| full.contains(k)) {
                    return HashMap::new();
                }
                full.extend(written);
            }
        }
        let writes = |dispatch: &Dispatch, k: usize| {
            let mut bindings = dispatch.bindings.iter();
            bindings.any(|b| b.access != Access::Read && b.slot == Slot::Scratch(k))
        };
        let others = || dispatches.iter().zip(&once).filter(|(_, once)| !**once);
        if full.iter().any(|k| others().any(|(d, _)| writes(d, *k))) {
            return HashMap::new();
        }
        let mut places: HashMap<usize, Place> = HashMap::new();
        let mut left = Vec::new();
        for (dispatch, once) in std::mem::take(dispatches).into_iter().zip(once) {
            if once {
                self.prepare_one(op, inputs, sizes, dispatch, &mut places);
            } else {
                left.push(dispatch);
            }
        }
        *dispatches = left;
        places
    }

    fn prepare_one(
        &mut self,
        op: &str,
        inputs: &[Option<Place>],
        sizes: &[u64],
        dispatch: Dispatch,
        places: &mut HashMap<usize, Place>,
    ) {
        let reads: Vec<Option<Place>> = (dispatch.bindings.iter())
            .map(|bind| match (bind.access, bind.slot) {
                (Access::Read, Slot::In(i)) => inputs.get(i).copied().flatten(),
                (Access::Read, Slot::Scratch(k)) => places.get(&k).copied(),
                _ => None,
            })
            .collect();
        let written = scratch_written(&dispatch).unwrap_or_default();
        let bytes: Vec<u64> = written.iter().map(|k| sizes[*k]).collect();
        let key = format!(
            "{} {} {:?} {:?} {:?} {reads:?} {bytes:?}",
            dispatch.kernel, dispatch.source, dispatch.defines, dispatch.args, dispatch.grid,
        );
        if let Some(slices) = self.prepared.found.get(&key) {
            let slices = slices.iter().map(|slice| Place::Fixed(*slice));
            places.extend(written.into_iter().zip(slices));
            return;
        }
        let mut slices = Vec::new();
        for (k, bytes) in written.into_iter().zip(bytes) {
            let slice = Slice {
                buffer: self.add_buffer(bytes, Role::Prepared),
                offset: 0,
                bytes,
            };
            slices.push(slice);
            places.insert(k, Place::Fixed(slice));
        }
        self.prepared.found.insert(key, slices);
        let binding = |(bind, read): (&crate::graph::Bind, &Option<Place>)| {
            let own = match bind.slot {
                Slot::Scratch(k) => places.get(&k).copied(),
                _ => None,
            };
            Some((read.or(own)?, bind.access))
        };
        let bindings = dispatch.bindings.iter().zip(&reads).filter_map(binding);
        let bindings: Vec<(Place, Access)> = bindings.collect();
        self.prepared.once.push(Once {
            op: op.into(),
            dispatch,
            bindings,
        });
    }
}
