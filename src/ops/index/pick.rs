//! One element of each row: `take_along_axis`, and its gradient.

use crate::graph::{Array, Lower, Op, Slot, Spec, Tensor, Vjp};
use crate::ops::reduce::axes::{each, normalize_axes, offset_expression, reduced_shape};
use crate::ops::reduce::fold::{Split, digits};
use crate::{DType, Error, Result, Shape};

const SHADER: &str = include_str!("../../../shaders/index/pick.wgsl");

/// `y[o] = x[o, idx[o]]`, the index counting the elements along `axes` row-major.
#[derive(Debug)]
struct Pick {
    axes: Vec<usize>,
}

/// The gradient of [`Pick`]: zeros of `shape`, but `x[o]` at `[o, idx[o]]`.
#[derive(Debug)]
struct Place {
    axes: Vec<usize>,
    shape: Shape,
}

fn check(op: &str, values: &Spec, idx: &Spec, rows: &Shape) -> Result<()> {
    if values.dtype != DType::F32 || idx.dtype != DType::U32 {
        return Err(Error::dtype(
            op,
            format!(
                "expected f32 values and u32 indices, got {} and {}",
                values.dtype, idx.dtype
            ),
        ));
    }
    if &idx.shape != rows {
        return Err(Error::shape(
            op,
            format!(
                "one index per row is expected, {rows:?}, got {:?}",
                idx.shape
            ),
        ));
    }
    Ok(())
}

impl Op for Pick {
    fn name(&self) -> &'static str {
        "take_along_axis"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        let rows = reduced_shape(&inputs[0].shape, &self.axes, false);
        check(self.name(), inputs[0], inputs[1], &rows)?;
        Ok(vec![Spec::f32(rows)])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let mut out = Array::zeros(&inputs[1].shape);
        each(inputs[0], &self.axes, |o, r, v| {
            if inputs[1].data[o] == r as f64 {
                out.data[o] = v;
            }
        });
        Ok(vec![out])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        if cx.needs(0) {
            let (x, idx) = (cx.input(0).clone(), cx.input(1).clone());
            let grad = cx.grad(0).place(&idx, x.shape(), &self.axes);
            cx.set(0, grad);
        }
        Ok(())
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let split = Split::new(&cx.input(0).shape, &self.axes);
        let total = split.outputs();
        let generic = split.is_long();
        let mut kernel = cx
            .kernel("pick", SHADER)
            .variant("pick")
            .define("PLACE", 0)
            .define("GENERIC", generic as u32)
            .arg("total", total)
            .arg("range", split.count());
        if generic {
            let (kept, kept_strides): (Vec<_>, Vec<_>) = split.kept.iter().copied().unzip();
            let (reduced, strides): (Vec<_>, Vec<_>) = split.reduced.iter().copied().unzip();
            kernel = kernel
                .define("BASE", offset_expression("i", &kept, &kept_strides))
                .define("OFFSET", offset_expression("r", &reduced, &strides));
        }
        for (name, axes) in [("kept", &split.kept), ("reduced", &split.reduced)] {
            let (extent, outer, inner) = digits(axes);
            kernel = kernel
                .arg(format!("{name}_extent"), extent)
                .arg(format!("{name}_outer"), outer)
                .arg(format!("{name}_inner"), inner);
        }
        kernel
            .read(Slot::In(0))
            .read(Slot::In(1))
            .write(Slot::Out(0))
            .bytes(12 * total)
            .threads(total, 64)
    }
}

impl Op for Place {
    fn name(&self) -> &'static str {
        "place_along_axis"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        let rows = reduced_shape(&self.shape, &self.axes, false);
        check(self.name(), inputs[0], inputs[1], &rows)?;
        check(self.name(), inputs[0], inputs[1], &inputs[0].shape)?;
        Ok(vec![Spec::f32(&self.shape)])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let mut out = Vec::with_capacity(self.shape.numel());
        each(&Array::zeros(&self.shape), &self.axes, |o, r, _| {
            let here = inputs[1].data[o] == r as f64;
            out.push(if here { inputs[0].data[o] } else { 0.0 });
        });
        Ok(vec![Array::new(&self.shape, out)?])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        if cx.needs(0) {
            let idx = cx.input(1).clone();
            let grad = cx.grad(0).pick(&idx, &self.axes);
            cx.set(0, grad);
        }
        Ok(())
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        // Merged axes as (extent, step in o, step in r), outermost first.
        let mut groups: Vec<(usize, usize, usize)> = Vec::new();
        let (mut o, mut r) = (1, 1);
        for axis in (0..self.shape.rank()).rev() {
            let extent = self.shape[axis];
            let inside = self.axes.contains(&axis);
            let step = if inside { &mut r } else { &mut o };
            let group = if inside { (0, *step) } else { (*step, 0) };
            *step *= extent;
            match groups.first_mut() {
                _ if extent == 1 => {}
                Some(first) if (first.2 > 0) == inside => first.0 *= extent,
                _ => groups.insert(0, (extent, group.0, group.1)),
            }
        }
        let total = self.shape.numel();
        let generic = groups.len() > 4;
        let mut kernel = cx
            .kernel("pick", SHADER)
            .variant("place")
            .define("PLACE", 1)
            .define("GENERIC", generic as u32)
            .arg("total", total);
        if generic {
            let extents: Vec<usize> = groups.iter().map(|g| g.0).collect();
            let (o, r): (Vec<_>, Vec<_>) = groups.iter().map(|g| (g.1, g.2)).unzip();
            kernel = kernel
                .define("O", offset_expression("i", &extents, &o))
                .define("R", offset_expression("i", &extents, &r));
            groups.clear();
        }
        while groups.len() < 4 {
            groups.insert(0, (1, 0, 0));
        }
        for (k, (extent, ..)) in groups.iter().enumerate().skip(1) {
            kernel = kernel.arg(format!("extent{k}"), *extent);
        }
        for (k, (_, o, _)) in groups.iter().enumerate() {
            kernel = kernel.arg(format!("o{k}"), *o);
        }
        for (k, (_, _, r)) in groups.iter().enumerate() {
            kernel = kernel.arg(format!("r{k}"), *r);
        }
        kernel
            .read(Slot::In(0))
            .read(Slot::In(1))
            .write(Slot::Out(0))
            .threads(total, 64)
    }
}

impl Tensor {
    #[track_caller]
    fn pick(&self, idx: &Tensor, axes: &[usize]) -> Tensor {
        let axes = axes.to_vec();
        self.graph().push1(Pick { axes }, &[self, idx])
    }

    /// A tensor of `shape` with this one's elements at the places `idx` along `axes`.
    #[track_caller]
    pub(crate) fn place(&self, idx: &Tensor, shape: &Shape, axes: &[usize]) -> Tensor {
        let op = Place {
            axes: axes.to_vec(),
            shape: shape.clone(),
        };
        self.graph().push1(op, &[self, idx])
    }

    /// One element of each row along `axis`: `y[o] = x[o, idx[o]]`. The u32 tensor `idx`
    /// has the shape that is left without `axis`, and so has the result. An index out
    /// of range gives 0, and no gradient.
    #[track_caller]
    pub fn take_along_axis(&self, axis: isize, idx: &Tensor) -> Tensor {
        match normalize_axes("take_along_axis", self.shape(), &[axis]) {
            Ok(axes) => self.pick(idx, &axes),
            Err(e) => self.graph().poisoned(self.check().err().unwrap_or(e)),
        }
    }
}
