//! Ops that move elements without computing. [`View`] is one strided copy that
//! permutes, slices, pads, flips, rolls and broadcasts; reshape moves nothing.
//!
//! The gradient of a view is a view: a slice pads, a permutation goes back, a
//! broadcast sums.

use crate::graph::{Array, Kind, Lower, Op, Slot, Spec, Tensor, Vjp};
use crate::{DType, Error, Result, Shape};

const SHADER: &str = include_str!("../../../shaders/view/view.wgsl");

/// Words of `struct Args` that fit into 128 bytes of immediates.
const MAX_WORDS: usize = 32;

/// Where one output axis of a [`View`] reads: input index `t / dilate` along axis
/// `source` with `t = start + step * o`, if that is a whole number inside the input.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct AxisView {
    /// The input axis; `None` repeats the input.
    pub source: Option<usize>,
    pub start: isize,
    pub step: isize,
    pub dilate: usize,
}

impl AxisView {
    pub(crate) fn whole(axis: usize) -> Self {
        AxisView {
            source: Some(axis),
            start: 0,
            step: 1,
            dilate: 1,
        }
    }

    pub(crate) const REPEAT: AxisView = AxisView {
        source: None,
        start: 0,
        step: 0,
        dilate: 1,
    };

    /// The input index of output index `o`, for `extent` input elements.
    fn input(&self, o: usize, extent: usize, outside: Outside) -> Option<usize> {
        let t = self.start + self.step * o as isize;
        let t = match outside {
            Outside::Wrap => t.rem_euclid(extent as isize),
            Outside::Fill(_) => t,
        };
        let index = usize::try_from(t).ok()?;
        (index % self.dilate == 0 && index / self.dilate < extent).then(|| index / self.dilate)
    }

    /// The axis that reads back what this one wrote, for input axis `source`.
    fn inverse(&self, source: usize) -> Self {
        let sign = self.step.signum();
        AxisView {
            source: Some(source),
            start: -self.start * sign,
            step: self.dilate as isize * sign,
            dilate: self.step.unsigned_abs(),
        }
    }
}

/// What stands where a view reads outside of its input.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Outside {
    /// This value.
    Fill(f32),
    /// The element that many extents away.
    Wrap,
}

/// A strided copy. Every input axis is the source of one output axis, or has
/// extent 1.
#[derive(Debug)]
pub(crate) struct View {
    name: &'static str,
    shape: Shape,
    axes: Vec<AxisView>,
    outside: Outside,
}

/// One output axis as the kernel sees it, see `shaders/view/view.wgsl`.
#[derive(Debug, Clone, Copy)]
struct Run {
    extent: usize,
    stride: isize,
    from: usize,
    count: usize,
    dilate: usize,
    /// Where the index wraps around; the extent where it does not.
    turn: usize,
    jump: isize,
}

impl Run {
    fn is_whole(&self) -> bool {
        self.from == 0 && self.count == self.extent && self.dilate == 1 && self.turn == self.extent
    }
}

impl View {
    /// The kernel's axes, outermost first and merged where possible, and the
    /// input offset of the first element read.
    fn runs(&self, input: &Shape) -> (Vec<Run>, isize) {
        let strides = input.strides();
        let mut base = 0;
        let mut runs: Vec<Run> = Vec::new();
        for (axis, &extent) in self.axes.iter().zip(self.shape.dims()) {
            let mut run = Run {
                extent,
                stride: 0,
                from: 0,
                count: extent,
                dilate: 1,
                turn: extent,
                jump: 0,
            };
            if let Some(source) = axis.source {
                let (n, stride) = (input[source], strides[source] as isize);
                let at = |o: usize| axis.input(o, n, self.outside);
                run.stride = axis.step * stride;
                if self.outside == Outside::Wrap {
                    let start = axis.start.rem_euclid(n as isize);
                    base += start * stride;
                    run.turn = n - start as usize;
                    run.jump = -(n as isize * stride);
                } else if let (1, Some(first), Some(_)) = (axis.dilate, at(0), at(extent - 1)) {
                    base += first as isize * stride;
                } else {
                    let mut inside = (0..extent).filter_map(|o| at(o).map(|i| (o, i)));
                    let first = inside.next();
                    let second = inside.next();
                    let last = inside.next_back().or(second).or(first);
                    let (from, index) = first.unwrap_or((0, 0));
                    run.from = from;
                    run.count = last.map_or(0, |(o, _)| o - from + 1);
                    base += index as isize * stride;
                    if let Some((o, i)) = second {
                        run.dilate = o - from;
                        run.stride = (i as isize - index as isize) * stride;
                    }
                }
            }
            if extent == 1 && run.is_whole() {
                continue;
            }
            match runs.last_mut() {
                Some(outer)
                    if run.is_whole()
                        && outer.dilate == 1
                        && outer.stride == run.stride * extent as isize =>
                {
                    outer.extent *= extent;
                    outer.stride = run.stride;
                    outer.from *= extent;
                    outer.count *= extent;
                    outer.turn *= extent;
                }
                _ => runs.push(run),
            }
        }
        (runs, base)
    }

    /// Whether the output is the input's memory as it lies.
    fn moves_nothing(&self, input: &Shape) -> bool {
        let (runs, base) = self.runs(input);
        base == 0
            && self.shape.numel() == input.numel()
            && match runs.as_slice() {
                [] => true,
                [run] => run.is_whole() && run.stride == 1,
                _ => false,
            }
    }
}

/// Views copy whole 32-bit words.
pub(crate) fn check_words(op: &str, spec: &Spec) -> Result<()> {
    if spec.dtype == DType::F16 {
        return Err(Error::dtype(
            op,
            "two f16 share a word and cannot be moved one by one; convert to f32 first",
        ));
    }
    Ok(())
}

/// Whether `count` neighbours from a multiple of `count` on always move together.
fn moves_in_runs(runs: &[Run], base: isize, count: usize) -> bool {
    let whole = |x: isize| x % count as isize == 0;
    runs.split_last().is_some_and(|(inner, outer)| {
        let [extent, from, length] = [inner.extent, inner.from, inner.count];
        inner.stride == 1
            && inner.dilate == 1
            && inner.turn == extent
            && [extent, from, length]
                .iter()
                .all(|n| n.is_multiple_of(count))
            && whole(base)
            && outer.iter().all(|run| whole(run.stride) && whole(run.jump))
    })
}

impl Op for View {
    fn name(&self) -> &'static str {
        self.name
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        check_words(self.name, inputs[0])?;
        Ok(vec![Spec {
            shape: self.shape.clone(),
            dtype: inputs[0].dtype,
        }])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let x = inputs[0];
        let strides = x.shape.strides();
        Ok(vec![Array::from_fn(&self.shape, |index| {
            let mut at = 0;
            for (axis, o) in self.axes.iter().zip(index) {
                let Some(source) = axis.source else { continue };
                match axis.input(*o, x.shape[source], self.outside) {
                    Some(i) => at += i * strides[source],
                    None => {
                        return match self.outside {
                            Outside::Fill(value) => value as f64,
                            Outside::Wrap => 0.0,
                        };
                    }
                }
            }
            x.data[at]
        })])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        let shape = cx.input(0).shape().clone();
        let repeated: Vec<isize> = (0..self.axes.len())
            .filter(|i| self.axes[*i].source.is_none())
            .map(|i| i as isize)
            .collect();
        let mut dy = cx.grad(0);
        if !repeated.is_empty() {
            dy = dy.sum(&repeated, false);
        }
        // What is left of the output's axes, in order, reads input axis `source`.
        let kept: Vec<AxisView> = (self.axes.iter().copied())
            .filter(|a| a.source.is_some())
            .collect();
        let axes = (0..shape.rank()).map(|i| match kept.iter().position(|a| a.source == Some(i)) {
            Some(at) => kept[at].inverse(at),
            None => AxisView::REPEAT,
        });
        let outside = match self.outside {
            Outside::Fill(_) => Outside::Fill(0.0),
            Outside::Wrap => Outside::Wrap,
        };
        let grad = dy.view(self.name, shape.clone(), axes.collect(), outside);
        cx.set(0, grad);
        Ok(())
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let spec = cx.input(0).clone();
        let (mut runs, base) = self.runs(&spec.shape);
        if runs.is_empty() {
            runs.push(Run {
                extent: 1,
                stride: 0,
                from: 0,
                count: 1,
                dilate: 1,
                turn: 1,
                jump: 0,
            });
        }
        let plain = runs.iter().all(Run::is_whole);
        let dilated = runs.iter().any(|r| r.dilate > 1);
        let (mode, per_axis) = match (plain, self.outside) {
            (true, _) => ("plain", 2),
            (_, Outside::Wrap) => ("wrap", 4),
            _ if dilated => ("fill", 5),
            _ => ("fill", 4),
        };
        if 3 + per_axis * runs.len() > MAX_WORDS {
            return Err(Error::LimitExceeded {
                what: format!("{}: axes that cannot be merged", self.name),
                needed: runs.len() as u64,
                available: ((MAX_WORDS - 3) / per_axis) as u64,
            });
        }
        let fill = match self.outside {
            Outside::Fill(value) if spec.dtype == DType::U32 => value as u32,
            Outside::Fill(value) => value.to_bits(),
            Outside::Wrap => 0,
        };
        let each = match moves_in_runs(&runs, base, 8) {
            true => cx.device().elements_each(self.shape.numel()),
            false => 1,
        };
        if let (8, Some((inner, outer))) = (each, runs.split_last_mut()) {
            inner.extent /= 8;
            inner.from /= 8;
            inner.count /= 8;
            inner.turn /= 8;
            for run in outer {
                run.stride /= 8;
                run.jump /= 8;
            }
        }
        let (total, base) = (self.shape.numel() / each, base / each as isize);
        let mut kernel = cx
            .kernel("view", SHADER)
            .variant(format!("{mode} {}", runs.len()))
            .define("RANK", runs.len())
            .define("MODE", mode)
            .define("DILATED", (mode == "fill" && dilated) as u32)
            .define(
                "TYPE",
                match each {
                    8 => "Oct",
                    _ => spec.dtype.wgsl(),
                },
            )
            .arg("total", total)
            .arg_i32("base", base)
            .arg("fill", fill as usize);
        for (i, run) in runs.iter().rev().enumerate() {
            let named = |name: &str| format!("{name}{i}");
            kernel = kernel
                .arg(named("extent"), run.extent)
                .arg_i32(named("stride"), run.stride);
            if mode == "fill" {
                kernel = kernel
                    .arg(named("from"), run.from)
                    .arg(named("count"), run.count);
            }
            kernel = match mode {
                "fill" if dilated => kernel.arg(named("dilate"), run.dilate),
                "wrap" => kernel
                    .arg(named("turn"), run.turn)
                    .arg_i32(named("jump"), run.jump),
                _ => kernel,
            };
        }
        kernel
            .read(Slot::In(0))
            .write(Slot::Out(0))
            .bytes(8 * each * total)
            .threads(total, 64)
    }
}

/// The same elements under another shape; no memory moves.
#[derive(Debug)]
struct Reshape {
    shape: Shape,
}

impl Op for Reshape {
    fn name(&self) -> &'static str {
        "reshape"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        if inputs[0].shape.numel() != self.shape.numel() {
            return Err(Error::shape(
                self.name(),
                format!(
                    "{:?} has {} elements, {:?} has {}",
                    inputs[0].shape,
                    inputs[0].shape.numel(),
                    self.shape,
                    self.shape.numel()
                ),
            ));
        }
        Ok(vec![Spec {
            shape: self.shape.clone(),
            dtype: inputs[0].dtype,
        }])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        Ok(vec![Array::new(&self.shape, inputs[0].data.clone())?])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        let grad = cx.grad(0).reshape(cx.input(0).shape());
        cx.set(0, grad);
        Ok(())
    }

    fn lower(&self, _: &mut Lower<'_>) -> Result<()> {
        Ok(())
    }

    fn kind(&self) -> Kind<'_> {
        Kind::Alias
    }
}

impl Tensor {
    /// The same elements, row-major, under another shape.
    #[track_caller]
    pub fn reshape(&self, shape: impl Into<Shape>) -> Tensor {
        let shape = shape.into();
        if &shape == self.shape() {
            return self.clone();
        }
        self.graph().push1(Reshape { shape }, &[self])
    }

    /// A [`View`] of this tensor; no copy where nothing would move.
    #[track_caller]
    pub(crate) fn view(
        &self,
        name: &'static str,
        shape: impl Into<Shape>,
        axes: Vec<AxisView>,
        outside: Outside,
    ) -> Tensor {
        let shape = shape.into();
        let view = View {
            name,
            shape,
            axes,
            outside,
        };
        if view.shape.numel() == self.numel() && view.moves_nothing(self.shape()) {
            return self.reshape(view.shape);
        }
        self.graph().push1(view, &[self])
    }
}
