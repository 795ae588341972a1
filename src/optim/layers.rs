//! The parameters of an arena as layers: norms of each, for rules that need them.

use std::cell::OnceCell;

use crate::params::{ALIGN, Layout};
use crate::{Graph, Tensor};

/// Which elements of an arena belong to which parameter ("layer").
///
/// Parameters start at multiples of [`ALIGN`] elements and the padding behind them is
/// zero, so that blocks of so many elements belong to one parameter each.
pub struct Layers {
    graph: Graph,
    /// For each block its layer.
    blocks: Vec<u32>,
    count: usize,
    index: OnceCell<Tensor>,
}

impl Layers {
    pub(super) fn new(graph: &Graph, layout: &Layout, arena: usize) -> Self {
        let len = layout.arenas.get(arena).map_or(0, |a| a.len);
        let mut blocks = vec![0; len / ALIGN];
        let places = layout.params.iter().filter(|p| p.arena == arena);
        let mut count = 0;
        for place in places {
            let (first, last) = (
                place.offset / ALIGN,
                (place.offset + place.len).div_ceil(ALIGN),
            );
            if let Some(blocks) = blocks.get_mut(first..last) {
                blocks.fill(count);
            }
            count += 1;
        }
        Layers {
            graph: graph.clone(),
            blocks,
            count: count as usize,
            index: OnceCell::new(),
        }
    }

    /// The number of layers.
    pub fn count(&self) -> usize {
        self.count
    }

    fn index(&self) -> &Tensor {
        let make = || self.graph.constant_u32([self.blocks.len()], &self.blocks);
        self.index.get_or_init(make)
    }

    /// The Euclidean norm of each layer's part of `x`, which lies as the arena does:
    /// `[len]` to `[count]`. Sums of blocks first, then of each layer's blocks, always
    /// in the same order.
    #[track_caller]
    pub fn norms(&self, x: &Tensor) -> Tensor {
        let blocks = x
            .square()
            .reshape([self.blocks.len(), ALIGN])
            .sum(&[1], true);
        let sums = blocks.segment_sum(self.index(), self.count);
        sums.reshape([self.count]).sqrt()
    }

    /// `x` `[len]`, each layer's part times that layer's element of `factors`
    /// `[count]`.
    #[track_caller]
    pub fn scale(&self, x: &Tensor, factors: &Tensor) -> Tensor {
        let factors = factors.reshape([self.count, 1]).gather_rows(self.index());
        let blocks = x.reshape([self.blocks.len(), ALIGN]);
        blocks.mul(&factors).reshape([x.numel()])
    }
}
