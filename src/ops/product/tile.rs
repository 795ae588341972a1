//! Products whose blocks go through workgroup memory, for GPUs.

use super::problem::{Bias, Product};
use crate::Result;
use crate::device::{DeviceClass, DeviceProfile, LOOP_BUDGET};
use crate::graph::{Lower, Slot};
use crate::ops::variant::Variant;

const SHADER: &str = include_str!("../../../shaders/product/tile.wgsl");
const MERGE: &str = include_str!("../../../shaders/product/merge.wgsl");

/// A workgroup's tile: rows and columns of invocations, of outputs per invocation,
/// and the depth of a block.
#[derive(Clone, Copy)]
pub(crate) struct Tile {
    pub name: &'static str,
    pub threads: [usize; 2],
    pub each: [usize; 2],
    pub depth: usize,
}

pub(in crate::ops) const TILE_32: Tile = Tile::new("tile 32", [8, 8], [4, 4]);
pub(in crate::ops) const TILE_64: Tile = Tile::new("tile 64", [16, 16], [4, 4]);
pub(in crate::ops) const TILE_128: Tile = Tile::new("tile 128", [16, 16], [8, 4]);

impl Tile {
    const fn new(name: &'static str, threads: [usize; 2], each: [usize; 2]) -> Tile {
        Tile {
            name,
            threads,
            each,
            depth: 16,
        }
    }

    /// Rows and columns of outputs.
    pub fn extent(&self) -> [usize; 2] {
        [0, 1].map(|axis| self.threads[axis] * self.each[axis])
    }

    /// Whether an adapter can hold it.
    pub fn fits(&self, device: &DeviceProfile) -> bool {
        let [rows, columns] = self.extent();
        let bytes = 4 * self.depth * (rows + columns + 2);
        self.threads.iter().product::<usize>() <= device.max_invocations as usize
            && bytes <= device.workgroup_memory as usize
    }

    /// Workgroups that a product needs.
    fn count(&self, p: &Product) -> usize {
        let [rows, columns] = self.extent();
        p.m.div_ceil(rows) * p.n.div_ceil(columns) * p.batch
    }
}

impl Variant<Product> for Tile {
    fn name(&self) -> &'static str {
        self.name
    }

    fn possible(&self, _: &Product, device: &DeviceProfile) -> bool {
        self.fits(device)
    }

    /// Enough full tiles to keep a GPU busy.
    fn pays(&self, p: &Product, _: &DeviceProfile) -> bool {
        let [rows, columns] = self.extent();
        2 * p.m > rows && 2 * p.n > columns && (self.count(p) >= 64 || rows <= 32)
    }

    fn lower(&self, p: &Product, cx: &mut Lower<'_>) -> Result<()> {
        let [rows, columns] = self.extent();
        let tiles = self.count(p);
        let blocks = p.k.div_ceil(self.depth);
        // Few tiles leave most of a GPU idle: then several share an output. Every loop
        // iteration over a block is `depth` and one more.
        let wanted = match cx.device().class {
            DeviceClass::Discrete => 256,
            _ => 64,
        };
        let longest = (LOOP_BUDGET as usize / (self.depth + 2)).max(1);
        let parts = (wanted / tiles.max(1))
            .min(blocks / 8)
            .max(blocks.div_ceil(longest))
            .max(1);
        let part = blocks.div_ceil(parts);
        let parts = blocks.div_ceil(part);
        let len = p.batch * p.m * p.n;
        let target = match parts {
            1 => Slot::Out(0),
            _ => cx.scratch(4 * (parts * len) as u64),
        };
        let split = match parts {
            1 => String::new(),
            _ => format!(", {parts} parts"),
        };
        let kernel = cx
            .kernel("matmul_tiled", SHADER)
            .variant(format!("{} ({rows}x{columns}){split}", self.name))
            .define("ROWS", self.threads[0])
            .define("COLUMNS", self.threads[1])
            .define("TM", self.each[0])
            .define("TN", self.each[1])
            .define("BK", self.depth);
        p.common(kernel, parts == 1)
            .arg("tiles_m", p.m.div_ceil(rows))
            .arg("tiles_n", p.n.div_ceil(columns))
            .arg("part", part * self.depth)
            .arg("total", tiles * parts)
            .write(target)
            .trips((part + 1) * (self.depth + 1))
            .flat_groups(tiles * parts)?;
        if parts == 1 {
            return Ok(());
        }
        let (bias, slot) = match p.bias {
            Bias::None => (0, None),
            Bias::Columns(slot) => (1, Some(slot)),
            Bias::Rows(slot) => (2, Some(slot)),
        };
        let mut kernel = cx
            .kernel("matmul_merge", MERGE)
            .define("BIAS", bias)
            .define("HAS_BIAS", slot.is_some() as u32)
            .define("RESIDUAL", p.residual.is_some() as u32)
            .arg("len", len)
            .arg("parts", parts)
            .arg("m", p.m)
            .arg("n", p.n)
            .read(target)
            .flops(len * parts);
        kernel = p.activation.define(kernel);
        for slot in [slot, p.residual].into_iter().flatten() {
            kernel = kernel.read(slot);
        }
        kernel.write(Slot::Out(0)).trips(parts).threads(len, 64)
    }
}
