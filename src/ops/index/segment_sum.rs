//! Sums of rows by index: the gradient of an embedding, the counts of a codebook.
//!
//! No atomics: float additions in whatever order the device likes would give other
//! bits in every run. Small problems let every output look at every row; larger ones
//! sort the rows by segment first, stably, and add them in that order.

use super::gather::expect_u32;
use crate::device::DeviceClass;
use crate::graph::{Access, Array, Lower, Op, Slot, Spec, Tensor, Vjp};
use crate::ops::reduce::axes::expect_f32;
use crate::ops::reduce::fold::{Fold, Split, fold};
use crate::{Error, Result, Shape};

const SUM: &str = include_str!("../../../shaders/index/segment_sum.wgsl");
const SORT: &str = include_str!("../../../shaders/index/segment_sort.wgsl");

/// Segments that one invocation of the sort's prefix sums takes; `segment_sort.wgsl`.
const BLOCK: usize = 256;

/// `y[k, ..]` is the sum of all `x[n, ..]` with `idx[n] == k`.
#[derive(Debug)]
struct SegmentSum {
    segments: usize,
}

impl SegmentSum {
    fn shape(&self, x: &Shape) -> Shape {
        let mut dims = x.dims().to_vec();
        dims[0] = self.segments;
        dims.into()
    }
}

impl Op for SegmentSum {
    fn name(&self) -> &'static str {
        "segment_sum"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        expect_f32(self.name(), &inputs[..1])?;
        expect_u32(self.name(), inputs[1])?;
        let (x, idx) = (&inputs[0].shape, &inputs[1].shape);
        if x.rank() == 0 || idx.dims() != &x.dims()[..1] {
            return Err(Error::shape(
                self.name(),
                format!("expected rows [N, ..] and indices [N], got {x:?} and {idx:?}"),
            ));
        }
        Ok(vec![Spec::f32(self.shape(x))])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let (x, idx) = (inputs[0], inputs[1]);
        let mut out = Array::zeros(self.shape(&x.shape));
        let width = x.numel() / x.shape[0];
        for (row, k) in x.data.chunks(width).zip(&idx.data) {
            if let Some(sum) = out.data.chunks_mut(width).nth(*k as usize) {
                sum.iter_mut().zip(row).for_each(|(s, v)| *s += v);
            }
        }
        Ok(vec![out])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        if cx.needs(0) {
            let (x, idx) = (cx.input(0).clone(), cx.input(1).clone());
            let width = x.numel() / x.dim(0);
            let rows = cx.grad(0).reshape([self.segments, width]);
            cx.set(0, rows.gather_rows(&idx).reshape(x.shape()));
        }
        Ok(())
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let shape = cx.input(0).shape.clone();
        let (rows, segments) = (shape[0], self.segments);
        let elements = shape.numel() / rows;
        let cell = if elements.is_multiple_of(4) { 4 } else { 1 };
        let width = elements / cell;
        let (looks, invocations) = match cx.device().class {
            DeviceClass::Software => (1 << 20, 256),
            _ => (1 << 26, 16_384),
        };
        let sorted = rows * segments * width > looks;
        // Without sorting, parts make work; with it, they even out long segments, and
        // should still have some rows each where all segments are alike.
        let wanted = if sorted {
            (rows / 8192).min(rows / (16 * segments))
        } else {
            (invocations / (segments * width)).min(rows / 128)
        };
        let parts = wanted.max(rows.div_ceil(32_768)).max(1);
        let chunk = rows.div_ceil(parts);
        let lists = match sorted {
            true => sort(cx, Slot::In(1), rows, segments)?,
            false => vec![Slot::In(1)],
        };
        let into = match parts {
            1 => Slot::Out(0),
            _ => cx.scratch(4 * (parts * segments * elements) as u64),
        };
        let mut kernel = cx
            .kernel("segment_sum", SUM)
            .variant(if sorted { "sorted" } else { "all rows" })
            .define("SORTED", sorted as u32)
            .define("VEC4", cell / 4)
            .arg("rows", rows)
            .arg("segments", segments)
            .arg("width", width)
            .arg("parts", parts)
            .arg("chunk", chunk)
            .read(Slot::In(0));
        for list in lists {
            kernel = kernel.read(list);
        }
        kernel
            .write(into)
            .flops(shape.numel())
            .trips(chunk + chunk / 64 + 1)
            .threads(parts * segments * width, 64)?;
        if parts == 1 {
            return Ok(());
        }
        let split = Split {
            kept: vec![(segments * elements, 1)],
            reduced: vec![(parts, segments * elements)],
        };
        fold(cx, split, Fold::Sum, &[into], &[Slot::Out(0)], 1.0)
    }
}

/// Sorts rows by the segments `idx` `[rows]`, stably: the rows in order, and where each
/// segment starts (one entry more than segments). Segments out of range are left out.
pub(in crate::ops) fn sort(
    cx: &mut Lower<'_>,
    idx: Slot,
    rows: usize,
    segments: usize,
) -> Result<Vec<Slot>> {
    let chunks = match cx.device().class {
        DeviceClass::Software => 16,
        _ => 1024,
    };
    // The table of counts should not outgrow the rows by much.
    let wanted = chunks.min(rows / 64).min(4 * rows / segments);
    let parts = wanted.max(rows.div_ceil(32_768)).max(1);
    let chunk = rows.div_ceil(parts);
    let blocks = segments.div_ceil(BLOCK);
    let mut words = |n: usize| cx.scratch(4 * n as u64);
    let (counts, totals, sums) = (words(parts * segments), words(segments), words(blocks));
    let (starts, order) = (words(segments + 1), words(rows));
    use Access::{Read, ReadWrite, Write};
    let mut phase = |name: &str, threads: usize, trips: usize, slots: &[(Slot, Access)]| {
        let mut kernel = cx
            .kernel("segment_sort", SORT)
            .variant(name)
            .define("PHASE", name)
            .arg("rows", rows)
            .arg("segments", segments)
            .arg("parts", parts)
            .arg("chunk", chunk);
        for (slot, access) in slots {
            kernel = kernel.bind(*slot, *access);
        }
        kernel.trips(trips).threads(threads, 64)
    };
    phase("zero", parts * segments, 1, &[(counts, Write)])?;
    phase("count", parts, chunk, &[(idx, Read), (counts, ReadWrite)])?;
    phase(
        "offsets",
        segments,
        parts,
        &[(counts, ReadWrite), (totals, Write)],
    )?;
    phase("blocks", blocks, BLOCK, &[(totals, Read), (sums, Write)])?;
    phase(
        "starts",
        blocks,
        blocks + BLOCK,
        &[(totals, Read), (sums, Read), (starts, Write)],
    )?;
    phase(
        "scatter",
        parts,
        chunk,
        &[
            (idx, Read),
            (starts, Read),
            (counts, ReadWrite),
            (order, Write),
        ],
    )?;
    Ok(vec![order, starts])
}

impl Tensor {
    /// The sums of rows by segment: of this tensor `[N, ..]` and u32 indices `idx`
    /// `[N]` the tensor `[segments, ..]` whose element `k` is the sum of all rows `n`
    /// with `idx[n] == k`, added in the order of `n`. Indices out of range contribute
    /// nothing.
    #[track_caller]
    pub fn segment_sum(&self, idx: &Tensor, segments: usize) -> Tensor {
        self.graph().push1(SegmentSum { segments }, &[self, idx])
    }
}
