//! Pictures of any size by programs of one size: windows that overlap, of each of which
//! only the inner part is kept.

use std::ops::Range;

use crate::{Error, Result};

/// How a grid of codes is cut into windows: squares of `side` codes that overlap by twice
/// the `margin`, which is thrown away except at the picture's edges.
///
/// What a tile gives is what the whole picture would give where every place sees less than
/// the margin around it, as in [`Dvae`](super::Dvae). Group norms and attention see all of
/// what they get, here the tile: the pictures of [`VqGan`](super::VqGan) differ a little.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiling {
    side: usize,
    margin: usize,
}

/// One window of a [`Tiling`], in codes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tile {
    /// The rows and the columns that it sees.
    pub sees: [Range<usize>; 2],
    /// Those that it is kept for; over all tiles every place is kept once.
    pub keeps: [Range<usize>; 2],
}

impl Tiling {
    /// Error: a side of which the margins leave nothing.
    pub fn new(side: usize, margin: usize) -> Result<Self> {
        if side == 0 || margin.checked_mul(2).is_none_or(|both| both >= side) {
            return Err(Error::argument(
                "Tiling",
                format!("of a side of {side} codes, margins of {margin} on both sides leave none"),
            ));
        }
        Ok(Tiling { side, margin })
    }

    /// Rows and columns of every tile of a grid `[rows, columns]`: the side, or less where
    /// the grid has less.
    pub fn extents(&self, grid: [usize; 2]) -> [usize; 2] {
        grid.map(|extent| extent.min(self.side))
    }

    /// The tiles of a grid `[rows, columns]`, all of the same extents, row by row.
    pub fn tiles(&self, grid: [usize; 2]) -> Vec<Tile> {
        let [rows, columns] = grid.map(|extent| self.along(extent));
        let pairs = rows
            .iter()
            .flat_map(|row| columns.iter().map(move |c| (row, c)));
        pairs
            .map(|((sees_h, keeps_h), (sees_w, keeps_w))| Tile {
                sees: [sees_h.clone(), sees_w.clone()],
                keeps: [keeps_h.clone(), keeps_w.clone()],
            })
            .collect()
    }

    /// What is seen and kept along one axis.
    fn along(&self, extent: usize) -> Vec<(Range<usize>, Range<usize>)> {
        let side = self.side.min(extent);
        let mut all = Vec::new();
        let (mut start, mut kept) = (0, 0);
        while kept < extent {
            start = start.min(extent - side);
            let end = start + side;
            let keeps = kept..if end == extent {
                extent
            } else {
                end - self.margin
            };
            kept = keeps.end;
            all.push((start..end, keeps));
            start += self.side - 2 * self.margin;
        }
        all
    }
}

/// Rows of `all`, `[channels, height, width]`, that lie in a window, as places in it.
fn rows(
    [channels, height, width]: [usize; 3],
    [h, w]: [Range<usize>; 2],
) -> impl Iterator<Item = Range<usize>> {
    (0..channels).flat_map(move |c| {
        let w = w.clone();
        h.clone().map(move |y| {
            let line = (c * height + y) * width;
            line + w.start..line + w.end
        })
    })
}

impl Tile {
    /// What the tile sees of `all`, `[channels, cell * rows, cell * columns]`, where every
    /// code stands for `cell` times `cell` numbers of a channel (1 for codes themselves).
    /// Error: `all` is not of that shape, or has no such place.
    pub fn cut<T: Copy>(&self, all: &[T], shape: [usize; 3], cell: usize) -> Result<Vec<T>> {
        self.check(all.len(), shape, cell)?;
        let window = self.sees.clone().map(|r| r.start * cell..r.end * cell);
        Ok(rows(shape, window)
            .flat_map(|row| all[row].iter().copied())
            .collect())
    }

    /// Puts what the tile is kept for, of `part` `[channels, cell * seen rows, ..]`, where
    /// it belongs in `all`. Errors: as [`Tile::cut`]; a part of another size.
    pub fn put<T: Copy>(
        &self,
        part: &[T],
        all: &mut [T],
        shape: [usize; 3],
        cell: usize,
    ) -> Result<()> {
        self.check(all.len(), shape, cell)?;
        let seen = self.sees.clone().map(|r| r.len() * cell);
        let own = [shape[0], seen[0], seen[1]];
        if part.len() != own.iter().product::<usize>() {
            return Err(Error::argument(
                "Tile::put",
                format!("{} numbers given, a tile is {own:?}", part.len()),
            ));
        }
        let inner = [0, 1].map(|i| {
            let (sees, keeps) = (&self.sees[i], &self.keeps[i]);
            (keeps.start - sees.start) * cell..(keeps.end - sees.start) * cell
        });
        let outer = self.keeps.clone().map(|r| r.start * cell..r.end * cell);
        for (from, to) in rows(own, inner).zip(rows(shape, outer)) {
            all[to].copy_from_slice(&part[from]);
        }
        Ok(())
    }

    fn check(&self, len: usize, shape: [usize; 3], cell: usize) -> Result<()> {
        let [_, height, width] = shape;
        let [h, w] = &self.sees;
        if len != shape.iter().product::<usize>() || h.end * cell > height || w.end * cell > width {
            return Err(Error::argument(
                "Tile",
                format!(
                    "{len} numbers of shape {shape:?} have no rows {h:?} and columns {w:?} of cells of {cell}"
                ),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_kept_once_and_seen_with_its_margin() -> Result<()> {
        for (side, margin) in [(1, 0), (5, 1), (8, 3), (32, 4)] {
            let tiling = Tiling::new(side, margin)?;
            for grid in [[1, 1], [4, 9], [8, 8], [33, 70]] {
                let extents = tiling.extents(grid);
                let mut count = vec![0; grid[0] * grid[1]];
                for tile in tiling.tiles(grid) {
                    assert_eq!(tile.sees.clone().map(|r| r.len()), extents);
                    for (axis, extent) in grid.iter().enumerate() {
                        let (sees, keeps) = (&tile.sees[axis], &tile.keeps[axis]);
                        assert!(sees.start == 0 || keeps.start >= sees.start + margin);
                        assert!(sees.end == *extent || keeps.end + margin <= sees.end);
                    }
                    for y in tile.keeps[0].clone() {
                        tile.keeps[1]
                            .clone()
                            .for_each(|x| count[y * grid[1] + x] += 1);
                    }
                }
                assert!(count.iter().all(|n| *n == 1), "{side} {margin} {grid:?}");
            }
        }
        Ok(())
    }

    #[test]
    fn what_is_cut_is_put_back() -> Result<()> {
        let (grid, cell) = ([7, 11], 2);
        let shape = [3, 14, 22];
        let all: Vec<u32> = (0..3 * 14 * 22).collect();
        let mut again = vec![u32::MAX; all.len()];
        for tile in Tiling::new(4, 1)?.tiles(grid) {
            let part = tile.cut(&all, shape, cell)?;
            tile.put(&part, &mut again, shape, cell)?;
        }
        assert_eq!(all, again);
        Ok(())
    }

    #[test]
    fn what_does_not_fit_is_told() -> Result<()> {
        assert!(Tiling::new(4, 2).is_err());
        assert!(Tiling::new(0, 0).is_err());
        assert!(Tiling::new(4, usize::MAX).is_err());
        let tile = Tiling::new(4, 1)?.tiles([4, 4]).remove(0);
        assert!(tile.cut(&[0; 15], [1, 4, 4], 1).is_err());
        assert!(tile.cut(&[0; 12], [1, 3, 4], 1).is_err());
        assert!(tile.put(&[0; 15], &mut [0; 16], [1, 4, 4], 1).is_err());
        Ok(())
    }
}
