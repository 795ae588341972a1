//! What attention and its gradients have in common: rows that look at columns with weights
//! made of their scores, and add up the columns' vectors by these.

use crate::graph::{KernelBuilder, Slot};

/// What the weights are; `shaders/attention/tile.wgsl` has the formulas.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Mode {
    /// Of queries that look at keys, and adds up values.
    Forward,
    /// The gradient by queries.
    Queries,
    /// The gradient by keys: they look at queries.
    Keys,
    /// The gradient by values: keys look at queries.
    Values,
}

/// One pass over all rows and columns.
pub(in crate::ops) struct Problem {
    pub(super) mode: Mode,
    pub(super) causal: bool,
    pub(super) scale: f32,
    pub(super) batch: usize,
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// Of what scores are made of.
    pub(super) width: usize,
    /// Of what is multiplied besides; 0 where nothing is.
    pub(super) second: usize,
    /// Of what is added up.
    pub(super) wide: usize,
    /// Those of rows and columns, then the second pair, or what is added up.
    pub(super) inputs: Vec<Slot>,
    /// Numbers of every query that the gradients read.
    pub(super) stats: Vec<Slot>,
    pub(super) outputs: Vec<Slot>,
}

impl Problem {
    /// The bindings, arguments and defines that all kernels share. A workgroup or subgroup
    /// takes `tile` rows and columns of the result; returns how many there are, too.
    pub(super) fn common<'a, 'b>(
        &self,
        kernel: KernelBuilder<'a, 'b>,
        tile: [usize; 2],
    ) -> (KernelBuilder<'a, 'b>, usize) {
        let vec4 = [self.width, self.second, self.wide]
            .iter()
            .all(|w| w.is_multiple_of(4));
        let mode = match self.mode {
            Mode::Forward => "forward",
            Mode::Queries => "dq",
            Mode::Keys => "dk",
            Mode::Values => "dv",
        };
        let adds_its_columns = matches!(self.mode, Mode::Queries | Mode::Keys);
        let row_tiles = self.rows.div_ceil(tile[0]);
        let wide_tiles = self.wide.div_ceil(tile[1]);
        let total = self.batch * row_tiles * wide_tiles;
        let mut kernel = kernel
            .define("MODE", mode)
            .define(
                "TURNED",
                u32::from(matches!(self.mode, Mode::Keys | Mode::Values)),
            )
            .define("CAUSAL", u32::from(self.causal))
            .define("SECOND", u32::from(self.second > 0))
            .define("SOURCES", self.inputs.len())
            // The input whose rows are added up.
            .define("X", if adds_its_columns { 1 } else { 2 })
            .define("VEC4", u32::from(vec4))
            .define("FLOATS", if vec4 { "Quad" } else { "f32" })
            .arg("rows", self.rows)
            .arg("cols", self.cols)
            .arg("width", self.width)
            .arg("second", self.second)
            .arg("wide", self.wide)
            .arg("row_tiles", row_tiles)
            .arg("wide_tiles", wide_tiles)
            .arg("total", total)
            .arg_f32("scale", self.scale)
            .flops(2 * self.batch * self.rows * self.cols * (self.width + self.second + self.wide));
        for slot in self.inputs.iter().chain(&self.stats) {
            kernel = kernel.read(*slot);
        }
        for slot in &self.outputs {
            kernel = kernel.write(*slot);
        }
        (kernel, total)
    }

    /// What a plan shows behind the variant's name.
    pub(super) fn label(&self, name: &str) -> String {
        let causal = if self.causal { ", causal" } else { "" };
        format!("{name} {:?}{causal}", self.mode).to_lowercase()
    }

    /// Loop iterations over vec4s of what is multiplied.
    pub(super) fn vectors(&self) -> usize {
        self.width.div_ceil(4) + self.second.div_ceil(4)
    }
}
