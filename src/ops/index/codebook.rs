//! The nearest code of a codebook, without a matrix of distances.

use crate::device::{DeviceClass, LOOP_BUDGET};
use crate::graph::{Array, Lower, Op, Slot, Spec, Tensor};
use crate::ops::reduce::fold::{Fold, Split, fold};
use crate::{DType, Error, Result};

const CENTER: &str = include_str!("../../../shaders/index/codebook_center.wgsl");
const NORMS: &str = include_str!("../../../shaders/index/codebook_norms.wgsl");
const NEAREST: &str = include_str!("../../../shaders/index/codebook_nearest.wgsl");
const SUBGROUP: &str = include_str!("../../../shaders/index/codebook_subgroup.wgsl");
const MERGE: &str = include_str!("../../../shaders/index/codebook_merge.wgsl");

/// Elements of a row that are read as one.
fn vector(width: usize) -> usize {
    if width.is_multiple_of(4) { 4 } else { 1 }
}

/// How rows and codes are dealt out.
struct Tiling {
    /// Lanes that share their loads; 1 without subgroups.
    lanes: usize,
    /// Rows of `x` that those lanes take together.
    rows: usize,
    /// Codes that they take in one step.
    codes: usize,
}

impl Tiling {
    fn new(cx: &Lower<'_>, rows: usize, codes: usize) -> Self {
        match cx.device().subgroup_size {
            // Below 16 rows there is too little to share.
            Some(lanes @ (4 | 8 | 16 | 32 | 64)) if rows >= 16 => Tiling {
                lanes: lanes as usize,
                rows: match (rows, cx.device().class) {
                    // What is read costs most there, and all sums live in memory anyway.
                    (64.., DeviceClass::Software) => 64,
                    (32.., _) => 32,
                    _ => 16,
                },
                // More codes make more of every row that is read.
                codes: lanes as usize * (codes / lanes as usize).clamp(1, 4),
            },
            _ => Tiling {
                lanes: 1,
                rows: rows.next_power_of_two().min(8),
                codes: 4,
            },
        }
    }
}

/// For every row of `x [N, D]` the index of the nearest row of the codebook `[K, D]`.
#[derive(Debug)]
struct CodebookNearest;

impl Op for CodebookNearest {
    fn name(&self) -> &'static str {
        "codebook_nearest"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        if let Some(wrong) = inputs.iter().find(|s| s.dtype != DType::F32) {
            return Err(Error::dtype(
                self.name(),
                format!("expected f32, got {}", wrong.dtype),
            ));
        }
        match (inputs[0].shape.dims(), inputs[1].shape.dims()) {
            ([n, d], [_, width]) if d == width => Ok(vec![Spec::u32([*n])]),
            _ => Err(Error::shape(
                self.name(),
                format!(
                    "expected rows [N, D] and a codebook [K, D], got {:?} and {:?}",
                    inputs[0].shape, inputs[1].shape
                ),
            )),
        }
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let (x, codebook) = (inputs[0], inputs[1]);
        let width = x.shape[1];
        let finite = |row: &[f64]| row.iter().all(|v| v.is_finite());
        let codes = codebook.data.chunks(width).enumerate();
        let codes: Vec<(usize, &[f64])> = codes.filter(|(_, code)| finite(code)).collect();
        let nearest = x.data.chunks(width).map(|row| {
            let mut best: Option<(usize, &[f64])> = None;
            for &(k, code) in &codes {
                // |x - a|^2 - |x - b|^2, which distances of far rows could not tell apart.
                let nearer = |b: &[f64]| {
                    let pairs = row.iter().zip(code.iter().zip(b));
                    pairs
                        .map(|(x, (a, b))| (b - a) * (2.0 * x - a - b))
                        .sum::<f64>()
                        < 0.0
                };
                if best.is_none_or(|(_, b)| nearer(b)) {
                    best = Some((k, code));
                }
            }
            best.filter(|_| finite(row)).map_or(0.0, |(k, _)| k as f64)
        });
        Ok(vec![Array::new([x.shape[0]], nearest.collect())?])
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let (rows, width) = (cx.input(0).shape[0], cx.input(0).shape[1]);
        let codes = cx.input(1).shape[0];
        let center = cx.scratch(4 * width as u64);
        cx.kernel("codebook_center", CENTER)
            .arg("codes", codes)
            .arg("width", width)
            .read(Slot::In(1))
            .write(center)
            .threads(width, 64)?;
        let norms = cx.scratch(8 * codes as u64);
        let vec = vector(width);
        cx.kernel("codebook_norms", NORMS)
            .define("VEC", vec)
            .arg("codes", codes)
            .arg("width", width / vec)
            .read(Slot::In(1))
            .read(center)
            .write(norms)
            .flops(5 * codes * width)
            .trips(width / vec)
            .threads(codes, 64)?;
        let least = cx.scratch(4);
        let of_codes = Split::new(&[codes].into(), &[0]);
        let lowest = Fold::Max { negate: true };
        fold(cx, of_codes, lowest, &[norms], &[least], 1.0)?;

        // A chunk of rows per dispatch keeps each below what a GPU's watchdog allows, and
        // the scratch of all of them within a few MiB.
        let work = codes * (2 * width + 3);
        let tiling = Tiling::new(cx, rows, codes);
        let most = cx.device().dispatch_flops as usize / work.max(1);
        let chunk = most.clamp(64, 1 << 18).next_multiple_of(tiling.rows);
        for first in (0..rows).step_by(chunk) {
            let count = chunk.min(rows - first);
            Search {
                first,
                count,
                codes,
                width,
                norms,
                center,
                least,
            }
            .lower(cx, &tiling)?;
        }
        Ok(())
    }
}

/// The search for the rows of one chunk.
struct Search {
    first: usize,
    count: usize,
    codes: usize,
    width: usize,
    norms: Slot,
    center: Slot,
    least: Slot,
}

impl Search {
    fn lower(&self, cx: &mut Lower<'_>, tiling: &Tiling) -> Result<()> {
        let (rows, codes, width) = (self.count, self.codes, self.width);
        let vec = vector(width);
        let tiles = rows.div_ceil(tiling.rows);
        // One step takes a few codes through `width / vec` iterations, and one more
        // for the outer loop. Half of the budget leaves room for the driver's own loops.
        // Subgroups with numbers beyond 2^40 go through their part twice.
        let step = width / vec + 1;
        let steps = codes.div_ceil(tiling.codes);
        let rounds = if tiling.lanes > 1 { 2 } else { 1 };
        let most = (LOOP_BUDGET as usize / (2 * rounds) / step).max(1);
        // Few rows would leave most of the device idle.
        let wanted = match cx.device().class {
            DeviceClass::Software => 256,
            DeviceClass::Integrated => 4096,
            DeviceClass::Discrete => 32_768,
        };
        let useful = wanted / (tiles * tiling.lanes).max(1);
        // A part shorter than 16 steps costs more to merge than it saves.
        let parts = useful.min(steps / 16).max(steps.div_ceil(most)).max(1);
        let part_steps = steps.div_ceil(parts);
        let parts = steps.div_ceil(part_steps);

        let split = parts > 1;
        let index = if split {
            cx.scratch(4 * (parts * rows) as u64)
        } else {
            Slot::Out(0)
        };
        let best = split.then(|| cx.scratch(4 * (parts * rows) as u64));
        let mut kernel = match tiling.lanes {
            1 => cx
                .kernel("codebook_nearest", NEAREST)
                .variant(format!(
                    "register {}x{} vec{vec}",
                    tiling.rows, tiling.codes
                ))
                .define("CODES", tiling.codes)
                .define("SIZE", if vec == 4 { "magnitude4" } else { "magnitude" }),
            lanes => cx
                .kernel("codebook_subgroup", SUBGROUP)
                .variant(format!(
                    "subgroup {}x{} vec{vec}",
                    tiling.rows, tiling.codes
                ))
                .define("LANES", lanes)
                // Minima are folded over all of them.
                .shuffles(lanes)
                .define("CODES", tiling.codes / lanes)
                .define("FOLDS", lanes.min(tiling.rows).ilog2())
                .define("STEPS", lanes.ilog2())
                .define("LOADS", tiling.rows.div_ceil(lanes)),
        };
        kernel = kernel
            .define("ROWS", tiling.rows)
            .define("VEC", vec)
            .define("SPLIT", split as u32)
            .arg("first_row", self.first)
            .arg("end_row", self.first + rows)
            .arg("codes", codes)
            .arg("width", width / vec)
            .arg("tiles", tiles)
            .arg("part", part_steps * tiling.codes)
            .arg("parts", parts)
            .read(Slot::In(0))
            .read(Slot::In(1))
            .read(self.norms)
            .write(index)
            .read(self.center)
            .read(self.least);
        if let Some(best) = best {
            kernel = kernel.write(best);
        }
        kernel
            .flops(rows * codes * (2 * width + 3))
            .trips(rounds * (part_steps + 1) * step + 8)
            .dealt(tiles * parts * tiling.lanes, 64)?;
        if let Some(best) = best {
            cx.kernel("codebook_merge", MERGE)
                .arg("first", self.first)
                .arg("rows", rows)
                .arg("parts", parts)
                .read(index)
                .read(best)
                .write(Slot::Out(0))
                .trips(parts)
                .threads(rows, 64)?;
        }
        Ok(())
    }
}

impl Tensor {
    /// For every row of `self [N, D]` the index `[N]` (u32) of the nearest row of
    /// `codebook [K, D]` in Euclidean distance; the lowest index where several are.
    ///
    /// It compares `|e|^2 / 2 - x . e` in f32, both measured from a point amid the
    /// codes, so codes whose distances differ by less than about 1e-6 of `|x| |e|`, measured
    /// likewise, may be taken for each other. A row with a NaN
    /// has no nearest code and gets 0: whoever searches without a loss, where it would
    /// show, checks the rows. It has no gradient: see [`Tensor::straight_through`].
    #[track_caller]
    pub fn codebook_nearest(&self, codebook: &Tensor) -> Tensor {
        self.graph().push1(CodebookNearest, &[self, codebook])
    }
}
