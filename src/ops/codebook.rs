//! The nearest code of a codebook, without a matrix of distances.

use crate::device::{DeviceClass, LOOP_BUDGET};
use crate::graph::{Array, Lower, Op, Slot, Spec, Tensor};
use crate::{DType, Error, Result};

const NORMS: &str = include_str!("../../shaders/codebook_norms.wgsl");
const NEAREST: &str = include_str!("../../shaders/codebook_nearest.wgsl");
const MERGE: &str = include_str!("../../shaders/codebook_merge.wgsl");

/// Codes an invocation holds in registers at a time.
const CODES: usize = 4;

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
        let nearest = x.data.chunks(width).map(|row| {
            let distances = codebook.data.chunks(width).map(|code| {
                let square = |(a, b): (&f64, &f64)| (a - b) * (a - b);
                row.iter().zip(code).map(square).sum::<f64>()
            });
            let mut best = (0, f64::INFINITY);
            for (k, distance) in distances.enumerate() {
                if distance < best.1 {
                    best = (k, distance);
                }
            }
            best.0 as f64
        });
        Ok(vec![Array::new([x.shape[0]], nearest.collect())?])
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let (rows, width) = (cx.input(0).shape[0], cx.input(0).shape[1]);
        let codes = cx.input(1).shape[0];
        let norms = cx.scratch(4 * codes as u64);
        cx.kernel("codebook_norms", NORMS)
            .arg(codes)
            .arg(width)
            .read(Slot::In(1))
            .write(norms)
            .flops(2 * codes * width)
            .trips(width)
            .threads(codes, 64)?;

        let tile = rows.next_power_of_two().min(8);
        let tiles = rows.div_ceil(tile);
        let vec = if width % 4 == 0 { 4 } else { 1 };
        // One step takes CODES codes through `width / vec` iterations, and one more
        // for the outer loop. Half of the budget leaves room for the driver's own loops.
        let step = width / vec + 1;
        let steps = codes.div_ceil(CODES);
        let most = (LOOP_BUDGET as usize / 2 / step).max(1);
        // Few rows would leave most of the device idle.
        let wanted = match cx.device().class {
            DeviceClass::Software => 256,
            DeviceClass::Integrated => 4096,
            DeviceClass::Discrete => 32_768,
        };
        let useful = wanted / tiles.max(1);
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
        let mut kernel = cx
            .kernel("codebook_nearest", NEAREST)
            .variant(format!("register {tile}x{CODES} vec{vec}"))
            .define("ROWS", tile)
            .define("CODES", CODES)
            .define("VEC", vec)
            .define("SPLIT", split as u32)
            .arg(rows)
            .arg(codes)
            .arg(width / vec)
            .arg(tiles)
            .arg(part_steps * CODES)
            .arg(parts)
            .read(Slot::In(0))
            .read(Slot::In(1))
            .read(norms)
            .write(index);
        if let Some(best) = best {
            kernel = kernel.write(best);
        }
        kernel
            .flops(rows * codes * (2 * width + 3))
            .trips(part_steps * step)
            .threads(tiles * parts, 64)?;
        if let Some(best) = best {
            cx.kernel("codebook_merge", MERGE)
                .arg(rows)
                .arg(parts)
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
    /// It compares `|e|^2 / 2 - x . e` in f32, so codes whose distances differ by
    /// less than about 1e-6 of `|x| |e|` may be taken for each other. It has no
    /// gradient: see [`Tensor::straight_through`].
    #[track_caller]
    pub fn codebook_nearest(&self, codebook: &Tensor) -> Tensor {
        self.graph().push1(CodebookNearest, &[self, codebook])
    }
}
