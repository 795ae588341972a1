//! Copies of a product's operands in whole vec4s.

use super::problem::Product;
use crate::Result;
use crate::graph::{Lower, Slot};

const PACK: &str = include_str!("../../../shaders/product/pack.wgsl");

impl Product {
    /// Copies an operand for `packed`; the slot of the copy and the tiles between two of
    /// its matrices.
    fn pack(&self, cx: &mut Lower<'_>, columns: bool, span: usize) -> Result<(Slot, usize)> {
        let ((slot, stride, swapped), extent) = match columns {
            true => (self.b, self.n),
            false => (self.a, self.m),
        };
        let matrices = if stride == 0 { 1 } else { self.batch };
        let tiles = extent.div_ceil(span);
        let steps = match columns {
            true => self.k.next_multiple_of(4),
            false => self.k.div_ceil(4),
        };
        let width = if columns { span / 4 } else { span };
        let total = matrices * tiles * steps * width;
        let packed = cx.scratch_like(slot, 4 * total as u64);
        cx.kernel("matmul_pack", PACK)
            .variant(if columns { "columns" } else { "rows" })
            .define("COLUMNS", columns as u32)
            .define("SPAN", span)
            // Rows are stored along k, columns across it.
            .define("SWAPPED", (swapped != columns) as u32)
            .stored("SRC", slot)
            .stored("PACKED", packed)
            .arg("total", total)
            .arg("tiles", tiles)
            .arg("steps", steps)
            .arg("extent", extent)
            .arg("k", self.k)
            .read(slot)
            .write(packed)
            .threads(total, 64)?;
        Ok((packed, if stride == 0 { 0 } else { tiles }))
    }

    /// The same product of packed copies: rows in tiles of `tm`, columns of `tn`.
    pub(super) fn pack_both(mut self, cx: &mut Lower<'_>, tm: usize, tn: usize) -> Result<Product> {
        let (a, tiles_a) = self.pack(cx, false, tm)?;
        let (b, tiles_b) = self.pack(cx, true, tn)?;
        self.k = self.k.next_multiple_of(4);
        (self.a, self.b) = (
            (a, tiles_a * tm * self.k, false),
            (b, tiles_b * tn * self.k, false),
        );
        Ok(self)
    }
}
