//! Matrix products as dispatches: what `matmul`, and convolutions with 1x1 kernels,
//! are lowered to. Chooses among the product kernels.

use super::Activation;
use crate::Result;
use crate::device::{DeviceClass, LOOP_BUDGET};
use crate::graph::{KernelBuilder, Lower, Slot};
use crate::variants;

const REGISTER: &str = include_str!("../../shaders/matmul.wgsl");
const ROW: &str = include_str!("../../shaders/matmul_row.wgsl");
const TILED: &str = include_str!("../../shaders/matmul_tiled.wgsl");
const MERGE: &str = include_str!("../../shaders/matmul_merge.wgsl");

/// Operations of one product of a batch from which copies of operands with odd extents
/// pay: they are then read in vectors.
const LARGE: usize = 1 << 25;

/// What is added to a product.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bias {
    None,
    /// `[n]`, to every row.
    Columns(Slot),
    /// `[m]`, to every column.
    Rows(Slot),
}

/// `out[b] = act(op(a[b]) @ op(b[b]) + bias + residual[b])` into output 0, with `out[b]` `[m, n]`.
pub(crate) struct Product {
    pub batch: usize,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    /// The operand, elements between two of its matrices (0: all share one), and
    /// whether it is stored transposed.
    pub a: (Slot, usize, bool),
    pub b: (Slot, usize, bool),
    pub bias: Bias,
    /// Like the output.
    pub residual: Option<Slot>,
    pub activation: Activation,
}

/// A workgroup's tile: rows and columns of invocations, of outputs per invocation,
/// and the depth of a block.
#[derive(Clone, Copy)]
pub(crate) struct Tile {
    pub threads: [usize; 2],
    pub each: [usize; 2],
    pub depth: usize,
}

/// How the types and the functions of lib/half.wgsl begin for what lies in a slot.
pub(super) fn half_names(cx: &Lower<'_>, slot: Slot) -> (&'static str, &'static str) {
    match cx.is_f16(slot) {
        true => ("Half", "half_"),
        false => ("", ""),
    }
}

impl Tile {
    /// The tile of a variant's name.
    pub fn of(variant: &str) -> Option<Tile> {
        let tile = |threads, each| Tile {
            threads,
            each,
            depth: 16,
        };
        match variant {
            "tile 32" => Some(tile([8, 8], [4, 4])),
            "tile 64" => Some(tile([16, 16], [4, 4])),
            "tile 128" => Some(tile([16, 16], [8, 4])),
            _ => None,
        }
    }

    /// Rows and columns of outputs.
    pub fn extent(&self) -> [usize; 2] {
        [0, 1].map(|axis| self.threads[axis] * self.each[axis])
    }

    /// Whether an adapter can hold it.
    pub fn possible(&self, device: &crate::device::DeviceProfile) -> bool {
        let [rows, columns] = self.extent();
        let bytes = 4 * self.depth * (rows + columns + 2);
        self.threads.iter().product::<usize>() <= device.max_invocations as usize
            && bytes <= device.workgroup_memory as usize
    }
}

impl Product {
    pub(super) fn flops(&self) -> usize {
        2 * self.batch * self.m * self.n * self.k
    }

    /// Workgroups that tiles of a variant need.
    fn tiles(&self, tile: &Tile) -> usize {
        let [rows, columns] = tile.extent();
        self.m.div_ceil(rows) * self.n.div_ceil(columns) * self.batch
    }

    /// The variant for this product on this adapter.
    pub fn variant(&self, cx: &Lower<'_>) -> &'static str {
        let device = cx.device();
        // Whole vec4s, and a subgroup's lanes that share their reads.
        let shuffled = self.k.is_multiple_of(4)
            && self.n.is_multiple_of(4)
            && (!self.a.2 || self.m.is_multiple_of(4))
            && device
                .subgroup_size
                .is_some_and(|lanes| (4..=64).contains(&lanes));
        let can = |variant: &str| match Tile::of(variant) {
            Some(tile) => tile.possible(device),
            None if variant == "shuffle" => shuffled,
            None if variant == "row" => {
                let along = if self.b.2 { self.k } else { self.n };
                self.m == 1 && along.is_multiple_of(4) && device.max_invocations >= 256
            }
            None if variant == "packed" => {
                let lanes = device.subgroup_size.unwrap_or(0) as usize;
                let most = device.max_binding as usize / 4;
                let packed = |extent: usize| self.batch * (extent + 128) * (self.k + 4);
                (4..=64).contains(&lanes) && packed(self.m.max(self.n)) <= most
            }
            None => true,
        };
        let software = device.class == DeviceClass::Software;
        let fits = |variant: &str| match Tile::of(variant) {
            // Enough full tiles to keep a GPU busy.
            Some(tile) => {
                let [rows, columns] = tile.extent();
                2 * self.m > rows && 2 * self.n > columns && (self.tiles(&tile) >= 64 || rows <= 32)
            }
            None if variant == "shuffle" => self.m >= 4 || software && self.m == 1,
            None if variant == "packed" => {
                // What can be read where it lies is not worth copying.
                !shuffled
                    && self.m >= 64
                    && self.n >= 64
                    && self.flops() / self.batch.max(1) >= LARGE
            }
            None => true,
        };
        let shape = variants::product_shape(self.m, self.n, self.k);
        variants::choose(device, "matmul", shape, can, fits)
    }

    pub fn lower(self, cx: &mut Lower<'_>) -> Result<()> {
        let variant = self.variant(cx);
        match Tile::of(variant) {
            Some(tile) => self.tiled(cx, variant, tile),
            None if variant == "shuffle" => self.shuffle(cx, false),
            None if variant == "row" => self.row(cx),
            None if variant == "packed" => self.shuffle(cx, true),
            None => self.register(cx),
        }
    }

    /// What all the kernels are told alike; `bias` is left out where a second pass adds it.
    pub(super) fn common<'l, 'a>(
        &self,
        kernel: KernelBuilder<'l, 'a>,
        whole: bool,
    ) -> KernelBuilder<'l, 'a> {
        let (bias, slot) = match self.bias {
            Bias::Columns(slot) if whole => (1, Some(slot)),
            Bias::Rows(slot) if whole => (2, Some(slot)),
            _ => (0, None),
        };
        let (activation, residual) = match whole {
            true => (self.activation, self.residual),
            false => (Activation::None, None),
        };
        let kernel = kernel
            .define("TRANS_A", self.a.2 as u32)
            .define("TRANS_B", self.b.2 as u32)
            .define("BIAS", bias)
            .define("HAS_BIAS", slot.is_some() as u32)
            .define("RESIDUAL", residual.is_some() as u32)
            .stored("A", self.a.0)
            .stored("B", self.b.0)
            .arg(self.m)
            .arg(self.n)
            .arg(self.k)
            .arg(self.batch)
            .arg(self.a.1)
            .arg(self.b.1)
            .read(self.a.0)
            .read(self.b.0)
            .flops(self.flops());
        let added = [slot, residual].into_iter().flatten();
        added.fold(activation.define(kernel), |kernel, slot| kernel.read(slot))
    }

    fn register(&self, cx: &mut Lower<'_>) -> Result<()> {
        let tm = self.m.next_power_of_two().min(8);
        let kernel = cx
            .kernel("matmul", REGISTER)
            .variant(format!("register {tm}x4"))
            .define("TM", tm);
        self.common(kernel, true)
            .write(Slot::Out(0))
            .trips(self.k)
            .threads(self.n.div_ceil(4) * self.m.div_ceil(tm) * self.batch, 64)
    }

    fn row(&self, cx: &mut Lower<'_>) -> Result<()> {
        let [of_a, of_b] = [self.a.0, self.b.0].map(|slot| half_names(cx, slot));
        // Invocations side by side along the columns, and along the inner axis.
        let (width, slices) = if self.b.2 { (1, 64) } else { (16, 16) };
        let a = match (self.b.2, cx.is_f16(self.a.0)) {
            (true, _) => format!("{}Quad", of_a.0),
            (false, true) => "u32".into(),
            (false, false) => "f32".into(),
        };
        let kernel = cx
            .kernel("matmul_row", ROW)
            .variant("row")
            .define("WIDTH", width)
            .define("SLICES", slices)
            .define("A", a)
            .define("B", format!("{}Quad", of_b.0))
            .define("READ_A", of_a.1)
            .define("READ_B", of_b.1);
        self.common(kernel, true)
            .write(Slot::Out(0))
            .trips(self.k.div_ceil(slices) + slices)
            .flat_groups(self.n.div_ceil(4 * width) * self.batch)
    }

    fn tiled(&self, cx: &mut Lower<'_>, variant: &str, tile: Tile) -> Result<()> {
        let [rows, columns] = tile.extent();
        let tiles = self.tiles(&tile);
        let blocks = self.k.div_ceil(tile.depth);
        // Few tiles leave most of a GPU idle: then several share an output. Every loop
        // iteration over a block is `depth` and one more.
        let wanted = match cx.device().class {
            DeviceClass::Discrete => 256,
            _ => 64,
        };
        let longest = (LOOP_BUDGET as usize / (tile.depth + 2)).max(1);
        let parts = (wanted / tiles.max(1))
            .min(blocks / 8)
            .max(blocks.div_ceil(longest))
            .max(1);
        let part = blocks.div_ceil(parts);
        let parts = blocks.div_ceil(part);
        let len = self.batch * self.m * self.n;
        let target = match parts {
            1 => Slot::Out(0),
            _ => cx.scratch(4 * (parts * len) as u64),
        };
        let split = match parts {
            1 => String::new(),
            _ => format!(", {parts} parts"),
        };
        let kernel = cx
            .kernel("matmul_tiled", TILED)
            .variant(format!("{variant} ({rows}x{columns}){split}"))
            .define("ROWS", tile.threads[0])
            .define("COLUMNS", tile.threads[1])
            .define("TM", tile.each[0])
            .define("TN", tile.each[1])
            .define("BK", tile.depth);
        self.common(kernel, parts == 1)
            .arg(self.m.div_ceil(rows))
            .arg(self.n.div_ceil(columns))
            .arg(part * tile.depth)
            .arg(tiles * parts)
            .write(target)
            .trips((part + 1) * (tile.depth + 1))
            .flat_groups(tiles * parts)?;
        if parts == 1 {
            return Ok(());
        }
        let (bias, slot) = match self.bias {
            Bias::None => (0, None),
            Bias::Columns(slot) => (1, Some(slot)),
            Bias::Rows(slot) => (2, Some(slot)),
        };
        let mut kernel = cx
            .kernel("matmul_merge", MERGE)
            .define("BIAS", bias)
            .define("HAS_BIAS", slot.is_some() as u32)
            .define("RESIDUAL", self.residual.is_some() as u32)
            .arg(len)
            .arg(parts)
            .arg(self.m)
            .arg(self.n)
            .read(target)
            .flops(len * parts);
        kernel = self.activation.define(kernel);
        for slot in [slot, self.residual].into_iter().flatten() {
            kernel = kernel.read(slot);
        }
        kernel.write(Slot::Out(0)).trips(parts).threads(len, 64)
    }
}
