//! Which buffer a value lives in: lifetimes over units, coloured greedily.
//!
//! Two values share a buffer only if their lifetimes, both ends included, do not
//! touch. A unit's inputs and outputs are all alive at that unit, so no dispatch can
//! find one buffer among both, except where an output takes over its input's
//! storage on purpose.

use std::collections::BTreeMap;

/// Memory that lives from one unit to another, both included.
#[derive(Debug, Clone)]
pub(super) struct Storage {
    pub bytes: u64,
    pub first: usize,
    pub last: usize,
}

/// Assigns a buffer to every storage; returns the buffer of each and their sizes.
/// Largest first, each into the buffer that fits best: buffers never grow.
pub(super) fn colour(storages: &[Storage], reuse: bool) -> (Vec<usize>, Vec<u64>) {
    let mut by_size: Vec<usize> = (0..storages.len()).collect();
    by_size.sort_by_key(|i| {
        (
            std::cmp::Reverse(storages[*i].bytes),
            storages[*i].first,
            *i,
        )
    });
    let mut buffers: Vec<(u64, BTreeMap<usize, usize>)> = Vec::new();
    let mut assigned = vec![0; storages.len()];
    // Storages that were given up have no bytes left.
    for i in by_size.into_iter().filter(|i| storages[*i].bytes > 0) {
        let s = &storages[i];
        let free = |busy: &BTreeMap<usize, usize>| {
            let before = busy.range(..=s.last).next_back();
            before.is_none_or(|(_, last)| *last < s.first)
        };
        // Later buffers are smaller, so the last free one is the tightest.
        let found = match reuse {
            true => buffers.iter().rposition(|(_, busy)| free(busy)),
            false => None,
        };
        let buffer = found.unwrap_or_else(|| {
            buffers.push((s.bytes, BTreeMap::new()));
            buffers.len() - 1
        });
        buffers[buffer].1.insert(s.first, s.last);
        assigned[i] = buffer;
    }
    (
        assigned,
        buffers.into_iter().map(|(bytes, _)| bytes).collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storages_that_touch_do_not_share() {
        let s = |bytes, first, last| Storage { bytes, first, last };
        let storages = [s(8, 0, 1), s(8, 1, 2), s(4, 2, 3), s(16, 4, 5)];
        let (assigned, sizes) = colour(&storages, true);
        for (i, a) in storages.iter().enumerate() {
            for (j, b) in storages.iter().enumerate().skip(i + 1) {
                let overlap = a.first <= b.last && b.first <= a.last;
                assert!(!(overlap && assigned[i] == assigned[j]), "{i} {j}");
            }
            assert!(sizes[assigned[i]] >= a.bytes);
        }
        assert_eq!(sizes.len(), 2);
    }
}
