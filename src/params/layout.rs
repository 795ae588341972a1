//! Where parameters live: arenas, as plain data.

/// Parameters start at multiples of this many floats (256 bytes: the largest
/// binding alignment a WebGPU device may ask for).
pub const ALIGN: usize = 64;

/// Floats in an arena at most (64 MiB, so that a whole arena fits a binding
/// everywhere), unless a single parameter is larger.
pub const ARENA_FLOATS: usize = 16 << 20;

/// What an arena holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArenaKind {
    /// Trainable parameters.
    Trainable,
    /// State: running statistics, codebooks kept by moving averages.
    State,
    /// Anything flat: optimiser moments, accumulators, averaged parameters.
    Standalone,
}

/// One arena: one GPU buffer.
#[derive(Debug, Clone, PartialEq)]
pub struct Arena {
    /// Its name, unique in the set.
    pub name: String,
    /// What it holds.
    pub kind: ArenaKind,
    /// Its length in floats.
    pub len: usize,
    /// For a standalone arena: the arena whose elements it accompanies one by one.
    pub mirrors: Option<usize>,
}

/// Where a parameter lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The arena's position.
    pub arena: usize,
    /// The first element, in floats; a multiple of [`ALIGN`].
    pub offset: usize,
    /// The number of elements.
    pub len: usize,
}

/// Places of all parameters of a set; indices are those of
/// [`crate::graph::Source`].
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    /// The set's identity.
    pub set: u64,
    /// By parameter index.
    pub params: Vec<Place>,
    /// By arena index.
    pub arenas: Vec<Arena>,
}

/// Fills arenas in order: places for parameters of the given lengths, and the
/// lengths of the arenas made for them (numbered from `first`).
pub(super) fn place(lens: &[usize], first: usize) -> (Vec<Place>, Vec<usize>) {
    let mut places = Vec::with_capacity(lens.len());
    let mut arenas: Vec<usize> = Vec::new();
    for &len in lens {
        let room = len.next_multiple_of(ALIGN);
        match arenas.last() {
            Some(used) if used + room <= ARENA_FLOATS => {}
            _ => arenas.push(0),
        }
        let last = arenas.len() - 1;
        places.push(Place {
            arena: first + last,
            offset: arenas[last],
            len,
        });
        arenas[last] += room;
    }
    (places, arenas)
}
