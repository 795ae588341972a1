//! What all reductions are lowered to: one kernel that folds the elements behind
//! every output. Long folds are cut into parts, whose results a further pass folds
//! again, always in the same order.

use super::axes::offset_expression;
use crate::device::DeviceClass;
use crate::graph::{Lower, Slot};
use crate::{Result, Shape};

const SHADER: &str = include_str!("../../../shaders/reduce/reduce.wgsl");

/// The axes of a shape as (extent, stride) pairs, kept and reduced ones apart,
/// neighbours merged, axes of extent 1 left out.
#[derive(Debug, Clone)]
pub(crate) struct Split {
    pub kept: Vec<(usize, usize)>,
    pub reduced: Vec<(usize, usize)>,
}

impl Split {
    pub fn new(shape: &Shape, axes: &[usize]) -> Self {
        let (mut kept, mut reduced): (Vec<(usize, usize)>, Vec<_>) = (Vec::new(), Vec::new());
        let mut last = None;
        for (axis, stride) in shape.strides().into_iter().enumerate() {
            if shape[axis] == 1 {
                continue;
            }
            let inside = axes.contains(&axis);
            let list = if inside { &mut reduced } else { &mut kept };
            match list.last_mut().filter(|_| last == Some(inside)) {
                Some(outer) => *outer = (outer.0 * shape[axis], stride),
                None => list.push((shape[axis], stride)),
            }
            last = Some(inside);
        }
        Split { kept, reduced }
    }

    /// The number of outputs.
    pub fn outputs(&self) -> usize {
        self.kept.iter().map(|(d, _)| d).product()
    }

    /// Whether kept or reduced axes are more than the two that a kernel's arguments tell.
    pub fn is_long(&self) -> bool {
        self.kept.len() > 2 || self.reduced.len() > 2
    }

    /// Whether the innermost axis is among the kept ones (`across`) or the reduced ones,
    /// and whole cells of `cell` elements make it up.
    fn has_cells(&self, across: bool, cell: usize) -> bool {
        let axes = if across { &self.kept } else { &self.reduced };
        let innermost = axes.last().filter(|(_, stride)| *stride == 1);
        !self.is_long() && innermost.is_some_and(|(extent, _)| extent.is_multiple_of(cell))
    }

    /// Counts in such cells.
    fn take_cells(&mut self, across: bool, cell: usize) {
        let (with, without) = match across {
            true => (&mut self.kept, &mut self.reduced),
            false => (&mut self.reduced, &mut self.kept),
        };
        // The other axes' strides are whole rows of the innermost one.
        if let Some(((extent, _), others)) = with.split_last_mut() {
            *extent /= cell;
            let strides = others.iter_mut().chain(without);
            strides.for_each(|(_, stride)| *stride /= cell);
        }
    }

    /// The number of elements behind each output.
    pub fn count(&self) -> usize {
        self.reduced.iter().map(|(d, _)| d).product()
    }
}

/// What a [`fold`] computes per output; `reduce.wgsl` has the formulas.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fold {
    /// `x`
    Sum,
    /// `x`: the mean
    Mean,
    /// `x`, then the middle per output: the scaled sum of squares around it
    Centered { wide: bool },
    /// `x`, `w`
    Product,
    /// `x`, `w`, then the middle per output; two results
    Dot,
    /// `x`
    Max { negate: bool },
    /// `x`; the result is u32
    Arg { negate: bool },
    /// `x`; one result, or two: the peak and the sum of `e^(x - peak)`
    LogSumExp,
    /// `x`; the mean, and the scaled sum of squares around it. Only on software adapters,
    /// and of [`MOMENTS_AT_MOST`] elements each.
    Moments { wide: bool },
}

/// Elements that [`Fold::Moments`] takes: their parts are merged in one pass.
const MOMENTS_AT_MOST: usize = 4 << 20;

/// Appends the dispatches that take the mean of `x` and the sum of the squares around it,
/// times `scale`, over the reduced axes of `split`. `wide` tells a sum beyond float32 as
/// `norm/variance.rs` has it, else it is infinite unless `scale` brings it back.
pub(crate) fn moments(
    cx: &mut Lower<'_>,
    split: Split,
    x: Slot,
    [mean, var]: [Slot; 2],
    (scale, wide): (f32, bool),
) -> Result<()> {
    // There reading costs more than putting blocks together.
    if cx.device().class == DeviceClass::Software && split.count() <= MOMENTS_AT_MOST {
        return fold(cx, split, Fold::Moments { wide }, &[x], &[mean, var], scale);
    }
    let share = 1.0 / split.count() as f32;
    fold(cx, split.clone(), Fold::Mean, &[x], &[mean], share)?;
    fold(
        cx,
        split,
        Fold::Centered { wide },
        &[x, mean],
        &[var],
        scale,
    )
}

/// Appends the dispatches that fold `inputs` over the reduced axes of `split` into
/// `outputs`, one element per kept index each. Sums of one result are scaled, and squares.
pub(crate) fn fold(
    cx: &mut Lower<'_>,
    mut split: Split,
    fold: Fold,
    inputs: &[Slot],
    outputs: &[Slot],
    scale: f32,
) -> Result<()> {
    let (name, sign) = match fold {
        Fold::Sum => ("sum", None),
        Fold::Mean => ("mean", None),
        Fold::Centered { .. } => ("centered", None),
        Fold::Product => ("product", None),
        Fold::Dot => ("dot", None),
        Fold::Max { negate } => ("max", Some(negate)),
        Fold::Arg { negate } => ("arg", Some(negate)),
        Fold::LogSumExp => ("lse", None),
        Fold::Moments { .. } => ("moments", None),
    };
    let pairs = !matches!(fold, Fold::Sum | Fold::Product | Fold::Max { .. });
    let squares = matches!(fold, Fold::Centered { .. } | Fold::Moments { .. });
    let wide = matches!(fold, Fold::Centered { wide } | Fold::Moments { wide } if wide);
    // Elements of a part and of all parts that are merged.
    let mut merged = (0, 0);
    let (mut name, mut sign, mut merge) = (name, sign, false);
    let mut inputs = inputs.to_vec();
    loop {
        let software = cx.device().class == DeviceClass::Software;
        let sizes: &[usize] = match (software, name) {
            (_, "arg") | (false, "lse") => &[],
            (true, _) => &[8, 4],
            (false, _) => &[4],
        };
        let cells = |across| sizes.iter().copied().find(|c| split.has_cells(across, *c));
        let (across, cell) = match (cells(false), cells(true)) {
            (Some(cell), _) if !merge => (false, cell),
            (None, Some(cell)) if software => (true, cell),
            _ => (false, 1),
        };
        if cell > 1 {
            split.take_cells(across, cell);
        }
        // Of an invocation, next to each other.
        let results = if across { cell } else { 1 };
        let (rows, count) = (split.outputs(), split.count());
        let parts = parts(cx, rows, count);
        let chunk = count.div_ceil(parts);
        // A CPU that plays GPU walks through each part; real ones read side by side.
        let interleaved = parts > 1
            && cx.device().class != DeviceClass::Software
            && split.reduced.last().is_some_and(|(_, s)| *s == 1);
        let into: Vec<Slot> = match parts {
            1 => outputs.to_vec(),
            _ => (0..1 + pairs as usize)
                .map(|_| cx.scratch(4 * (rows * results * parts) as u64))
                .collect(),
        };
        let shift = matches!(name, "centered" | "dot") && !merge;
        let second = inputs.len() > 1 + shift as usize;
        let generic = split.is_long();
        let join = match name {
            _ if across => "",
            "max" => "largest",
            _ => "add_up",
        };
        // A software adapter gives every thread whole workgroups: few rows need small ones.
        let size = if software && rows * parts <= 1024 {
            8
        } else {
            64
        };
        let mut kernel = cx
            .kernel("reduce", SHADER)
            .variant(if merge {
                format!("{name} of parts")
            } else {
                name.to_string()
            })
            .define("FOLD", name)
            .define("MERGE", merge as u32)
            .define("W", second as u32)
            .define("Y2", (into.len() > 1) as u32)
            .define("SHIFT", shift as u32)
            .define("VEC4", u32::from(cell > 1))
            .define("HALVES", if cell == 8 { 2 } else { 1 })
            .define("ACROSS", across as u32)
            .define("SUMS", if across && cell == 8 { 2 } else { 1 })
            .define("JOIN", join)
            .define("PEAK", if cell > 1 && !across { "f32" } else { "Cell" })
            .define("GENERIC", generic as u32)
            .define("WIDTH", cell / results)
            .define(
                "COUNTS",
                u32::from(name == "arg" || name == "moments" && merge),
            )
            .define("SQUARES", squares as u32)
            // Of parts that moments are put together of, too.
            .define("BEYOND", u32::from(wide || squares && parts > 1))
            .define("WG", size);
        if let Some(negate) = sign {
            kernel = kernel.define("SIGN", if negate { "-1.0" } else { "1.0" });
        }
        if generic {
            let (kept, kept_strides): (Vec<_>, Vec<_>) = split.kept.iter().copied().unzip();
            let (reduced, strides): (Vec<_>, Vec<_>) = split.reduced.iter().copied().unzip();
            kernel = kernel
                .define("BASE", offset_expression("o", &kept, &kept_strides))
                .define("OFFSET", offset_expression("r", &reduced, &strides));
        }
        kernel = kernel
            .arg("outputs", rows)
            .arg("parts", parts)
            .arg("count", count)
            .arg("chunk", chunk)
            .arg("interleaved", interleaved as usize);
        for (name, axes) in [("kept", &split.kept), ("reduced", &split.reduced)] {
            let (extent, outer, inner) = digits(axes);
            kernel = kernel
                .arg(format!("{name}_extent"), extent)
                .arg(format!("{name}_outer"), outer)
                .arg(format!("{name}_inner"), inner);
        }
        kernel = kernel
            .arg_f32("scale", if parts == 1 { scale } else { 1.0 })
            .arg("part", merged.0)
            .arg("whole", merged.1)
            .read(inputs[0])
            .write(into[0]);
        if second {
            kernel = kernel.read(inputs[1]);
        }
        if let Some(pair) = into.get(1) {
            kernel = kernel.write(*pair);
        }
        if let Some(middle) = inputs.last().filter(|_| shift) {
            kernel = kernel.read(*middle);
        }
        kernel
            .flops(rows * count * cell * if name == "sum" { 1 } else { 3 })
            .trips(2 * chunk)
            .threads(rows * parts, size)?;
        if parts == 1 {
            return Ok(());
        }
        merged = (chunk * cell / results, count * cell / results);
        let rows = rows * results;
        split = if interleaved {
            Split {
                kept: vec![(rows, parts)],
                reduced: vec![(parts, 1)],
            }
        } else {
            Split {
                kept: vec![(rows, 1)],
                reduced: vec![(parts, rows)],
            }
        };
        inputs = into;
        merge = pairs;
        match fold {
            Fold::Product => name = "sum",
            // These partial results are compared as they are.
            Fold::Arg { .. } => sign = Some(false),
            _ => {}
        }
    }
}

/// Two digits of an index: (extent, stride of the outer, stride of the inner one).
pub(crate) fn digits(axes: &[(usize, usize)]) -> (usize, usize, usize) {
    match axes {
        [] => (1, 0, 0),
        [(d, s)] => (*d, 0, *s),
        [.., (_, outer), (d, inner)] => (*d, *outer, *inner),
    }
}

/// Into how many parts `count` elements behind each of `rows` outputs are cut: enough
/// invocations for the device, and no more loop iterations than one may have.
fn parts(cx: &Lower<'_>, rows: usize, count: usize) -> usize {
    let (invocations, least) = match cx.device().class {
        DeviceClass::Software => (512, 512),
        _ => (32_768, 128),
    };
    let wanted = (invocations / rows.max(1)).min(count / least);
    let parts = wanted.max(count.div_ceil(16_384)).max(1);
    count.div_ceil(count.div_ceil(parts).max(1)).max(1)
}
