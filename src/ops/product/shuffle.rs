//! Products on adapters with subgroups: their lanes read a block of one operand together
//! and shuffle it around. Operands of odd extents are copied first.

use super::problem::{Bias, Product, half_names};
use crate::Result;
use crate::device::{DeviceClass, DeviceProfile, LOOP_BUDGET};
use crate::graph::{Lower, Slot};
use crate::ops::reduce::sum_chunks::sum_chunks;
use crate::ops::variant::Variant;

const SHUFFLE: &str = include_str!("../../../shaders/product/shuffle.wgsl");

/// Operands are read where they lie.
pub(in crate::ops) struct Shuffle;

impl Shuffle {
    /// Whether operands are whole vec4s, and a subgroup's lanes can share their reads.
    pub fn reads(p: &Product, device: &DeviceProfile) -> bool {
        p.k.is_multiple_of(4)
            && p.n.is_multiple_of(4)
            && (!p.a.2 || p.m.is_multiple_of(4))
            && device
                .subgroup_size
                .is_some_and(|lanes| (4..=64).contains(&lanes))
    }
}

impl Variant<Product> for Shuffle {
    fn name(&self) -> &'static str {
        "shuffle"
    }

    fn possible(&self, p: &Product, device: &DeviceProfile) -> bool {
        Shuffle::reads(p, device)
    }

    fn pays(&self, p: &Product, device: &DeviceProfile) -> bool {
        p.m >= 4 || device.class == DeviceClass::Software && p.m == 1
    }

    fn lower(&self, p: &Product, cx: &mut Lower<'_>) -> Result<()> {
        p.shuffle_to(cx, false, None, Slot::Out(0))
    }
}

/// Samples whose products are added up, `per_part` neighbours for each result.
pub(super) struct Over {
    samples: usize,
    per_part: usize,
    /// Elements between two of them in each operand.
    a: usize,
    b: usize,
}

impl Product {
    /// Rows of a subgroup's tile.
    fn tile_rows(&self) -> usize {
        match self.m {
            ..=1 => 1,
            2..=8 => 8,
            9..=16 => 16,
            _ => 32,
        }
    }

    /// The same product with its operands exchanged: of columns and rows, one is the other.
    fn exchanged(self) -> Product {
        let turned = |(slot, stride, transposed): (Slot, usize, bool)| (slot, stride, !transposed);
        Product {
            m: self.n,
            n: self.m,
            a: turned(self.b),
            b: turned(self.a),
            bias: match self.bias {
                Bias::None => Bias::None,
                Bias::Columns(slot) => Bias::Rows(slot),
                Bias::Rows(slot) => Bias::Columns(slot),
            },
            ..self
        }
    }

    /// The sum of a batch's products, `[m, n]`, of operands as they lie: `a` not
    /// transposed, `b` transposed, `k / 4` below the loop budget. Samples are added in
    /// parts that keep all cores busy.
    pub(in crate::ops) fn shuffle_sum(self, cx: &mut Lower<'_>) -> Result<()> {
        let lanes = cx.device().subgroup_size.unwrap_or(1) as usize;
        let tiles = self.m.div_ceil(32) * self.n.div_ceil(8 * lanes);
        let longest = (LOOP_BUDGET as usize / (self.k / 4 + 1)).max(1);
        let parts = 8usize.div_ceil(tiles).min(self.batch);
        let per_part = self.batch.div_ceil(parts).min(longest);
        let parts = self.batch.div_ceil(per_part);
        let over = Over {
            samples: self.batch,
            per_part,
            a: self.a.1,
            b: self.b.1,
        };
        let len = self.m * self.n;
        let target = match parts {
            1 => Slot::Out(0),
            _ => cx.scratch(4 * (parts * len) as u64),
        };
        let product = Product {
            batch: parts,
            a: (self.a.0, per_part * self.a.1, self.a.2),
            b: (self.b.0, per_part * self.b.1, self.b.2),
            ..self
        };
        product.shuffle_to(cx, false, Some(over), target)?;
        match parts {
            1 => Ok(()),
            _ => sum_chunks(cx, target, len, parts),
        }
    }

    pub(super) fn shuffle_to(
        self,
        cx: &mut Lower<'_>,
        packed: bool,
        over: Option<Over>,
        target: Slot,
    ) -> Result<()> {
        let lanes = cx.device().subgroup_size.unwrap_or(1) as usize;
        let flops = match &over {
            Some(over) => 2 * over.samples * self.m * self.n * self.k,
            None => self.flops(),
        };
        // Where all samples meet the same rows, their columns may lie side by side.
        let shared = !packed && self.batch > 1 && self.a.1 == 0;
        // Too few columns for the lanes: many rows are as good.
        let exchange = !packed
            && !shared
            && self.n <= 2 * lanes
            && self.m >= 4 * lanes
            && self.m.is_multiple_of(4);
        let product = match exchange {
            true => self.exchanged(),
            false => self,
        };
        let columns = match shared {
            true => product.n * product.batch,
            false => product.n,
        };
        // A lane's columns, in fours: twice as many need fewer reads of `a` a product.
        let twice = product.n.is_multiple_of(8) && columns > 4 * lanes;
        let quads = if twice { 2 } else { 1 };
        let span = 4 * quads * lanes;
        let shared = shared && !product.n.is_multiple_of(span);
        // Of a transposed `a` every lane holds four rows, and no lane may be asked for more.
        let tm = match product.tile_rows() {
            rows if packed => rows.next_multiple_of(lanes),
            rows if product.a.2 => rows.min(4 * lanes),
            rows => rows,
        };
        let shuffles = match !packed && product.a.2 {
            true => tm.div_ceil(4),
            false => tm.min(lanes),
        };
        let (m, n) = (product.m, product.n);
        let tiles = match shared {
            true => columns.div_ceil(span) * m.div_ceil(tm),
            false => n.div_ceil(span) * m.div_ceil(tm) * product.batch,
        };
        let product = match packed {
            true => product.pack_both(cx, tm, span),
            false => Ok(product),
        }?;
        // Software adapters give every thread the same number of workgroups beforehand:
        // small ones even that out.
        let workgroup = if tiles <= 4 { lanes } else { lanes.max(32) };
        // Four columns of a transposed operand are four rows.
        let b = match quads == 2 && !product.b.2 {
            true => "Oct",
            false => "Quad",
        };
        let vectors = exchange || n.is_multiple_of(4);
        let along_columns = matches!(product.bias, Bias::Columns(_)) && vectors && !exchange;
        let (name, variant) = match packed {
            true => ("matmul_packed", "packed"),
            false => ("matmul_shuffle", "shuffle"),
        };
        let (across, samples) = match shared {
            true => ("args.n * args.batch", "1u"),
            false => ("args.n", "args.batch"),
        };
        let order = match (exchange, shared) {
            (true, _) => ", exchanged",
            (_, true) => ", side by side",
            _ if over.is_some() => ", over samples",
            _ => "",
        };
        let [of_a, of_b] = [product.a.0, product.b.0].map(|slot| half_names(cx, slot));
        let kernel = cx
            .kernel(name, SHUFFLE)
            .variant(format!("{variant} {tm}x{span}{order}"))
            .define("TM", tm)
            .define("QUADS", quads)
            .define("A", format!("{}Quad", of_a.0))
            .define("B", format!("{}{b}", of_b.0))
            .define("READ_A", of_a.1)
            .define("READ_B", of_b.1)
            .define("LANES", lanes)
            .shuffles(shuffles)
            .define("HELD", tm.div_ceil(lanes))
            .define("WORKGROUP", workgroup)
            .define("PACKED", packed as u32)
            .define("SIDE_BY_SIDE", shared as u32)
            .define("COLUMNS", across)
            .define("SAMPLES", samples)
            .define("EXCHANGED", exchange as u32)
            .define("STEP_A", if packed { tm } else { 1 })
            .define("OVER", over.is_some() as u32)
            .define("SKIP_A", if over.is_some() { " + skip_a" } else { "" })
            .define("SKIP_B", if over.is_some() { " + skip_b" } else { "" })
            .define("VECTORS", vectors as u32)
            .define("Y", if vectors { "vec4f" } else { "f32" })
            .define("BIAS_TYPE", if along_columns { "vec4f" } else { "f32" });
        let mut kernel = product.common(kernel, true);
        let mut trips = product.k / 4;
        if let Some(over) = over {
            kernel = kernel
                .arg("samples", over.samples)
                .arg("per_part", over.per_part)
                .arg("sample_a", over.a)
                .arg("sample_b", over.b);
            trips = over.per_part * (trips + 1);
        }
        kernel
            .flops(flops)
            .write(target)
            .trips(trips)
            .dealt(tiles * lanes, workgroup)
    }
}
