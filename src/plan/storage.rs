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

/// Buffers of which every storage asks whether they are free.
const ASKED: usize = 256;

/// When each buffer is used for the last time: a tree of minima over the buffers.
struct Ends {
    leaves: usize,
    /// The last position; none (the largest number) for buffers that do not exist.
    tree: Vec<usize>,
}

impl Ends {
    fn new(buffers: usize) -> Self {
        let leaves = buffers.max(1).next_power_of_two();
        Ends {
            leaves,
            tree: vec![usize::MAX; 2 * leaves],
        }
    }

    /// A buffer is used until `last` at least.
    fn extend(&mut self, buffer: usize, last: usize) {
        let mut node = buffer + self.leaves;
        let old = self.tree[node];
        self.tree[node] = match old {
            usize::MAX => last,
            old => old.max(last),
        };
        while node > 1 {
            node /= 2;
            self.tree[node] = self.tree[2 * node].min(self.tree[2 * node + 1]);
        }
    }

    /// The last of the first `below` buffers whose last use is before `position`.
    fn free_from(&self, position: usize, below: usize) -> Option<usize> {
        // From the right: a subtree all of whose buffers lie below, and one is free.
        let mut open = vec![(1, 0, self.leaves)];
        while let Some((node, start, width)) = open.pop() {
            if start >= below || self.tree[node] >= position {
                continue;
            }
            if width == 1 {
                return Some(start);
            }
            let half = width / 2;
            open.push((2 * node, start, half));
            open.push((2 * node + 1, start + half, half));
        }
        None
    }
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
    let mut ends = Ends::new(storages.len());
    let mut assigned = vec![0; storages.len()];
    // Storages that were given up have no bytes left.
    for i in by_size.into_iter().filter(|i| storages[*i].bytes > 0) {
        let s = &storages[i];
        let free = |busy: &BTreeMap<usize, usize>| {
            let before = busy.range(..=s.last).next_back();
            before.is_none_or(|(_, last)| *last < s.first)
        };
        // Later buffers are smaller, so the last free one is the tightest. Of very many
        // only the last are asked, and one that is free from here on to the end.
        let found = reuse.then(|| {
            let asked = buffers.len().saturating_sub(ASKED);
            let near = buffers[asked..].iter().rposition(|(_, busy)| free(busy));
            let near = near.map(|i| asked + i);
            near.or_else(|| ends.free_from(s.first, asked))
        });
        let found = found.flatten();
        let buffer = found.unwrap_or_else(|| {
            buffers.push((s.bytes, BTreeMap::new()));
            buffers.len() - 1
        });
        buffers[buffer].1.insert(s.first, s.last);
        ends.extend(buffer, s.last);
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
