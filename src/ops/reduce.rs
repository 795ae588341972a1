//! Reductions over any axes: sum (more follow).

use crate::graph::{Array, Lower, Op, Slot, Spec, Tensor, Vjp};
use crate::{DType, Error, Result, Shape};

const SHADER: &str = include_str!("../../shaders/reduce.wgsl");

/// What is computed over the reduced axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduction {
    /// The sum.
    Sum,
}

/// A [`Reduction`] over `axes`; reduced axes stay with extent 1 where `keepdim`.
#[derive(Debug)]
pub struct Reduce {
    kind: Reduction,
    axes: Vec<usize>,
    keepdim: bool,
}

impl Reduce {
    fn output_shape(&self, input: &Shape) -> Shape {
        let dims = input.dims().iter().enumerate();
        let kept = dims.filter_map(|(i, d)| match (self.axes.contains(&i), self.keepdim) {
            (false, _) => Some(*d),
            (true, true) => Some(1),
            (true, false) => None,
        });
        kept.collect::<Vec<_>>().into()
    }
}

/// A WGSL expression for the offset of flat index `var` over `dims` with `strides`.
pub(crate) fn offset_expression(var: &str, dims: &[usize], strides: &[usize]) -> String {
    let mut terms = Vec::new();
    let mut divisor = 1;
    for (d, s) in dims.iter().zip(strides).rev() {
        if *d > 1 && *s > 0 {
            let index = match divisor {
                1 => format!("{var} % {d}u"),
                _ => format!("({var} / {divisor}u) % {d}u"),
            };
            terms.push(format!("({index}) * {s}u"));
        }
        divisor *= d;
    }
    if terms.is_empty() {
        "0u".into()
    } else {
        terms.join(" + ")
    }
}

impl Op for Reduce {
    fn name(&self) -> &'static str {
        "sum"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        if inputs[0].dtype != DType::F32 {
            return Err(Error::dtype(
                self.name(),
                format!("expected f32, got {}", inputs[0].dtype),
            ));
        }
        Ok(vec![Spec::f32(self.output_shape(&inputs[0].shape))])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let mut out = Array::zeros(self.output_shape(&inputs[0].shape));
        let keep = Reduce {
            kind: self.kind,
            axes: self.axes.clone(),
            keepdim: true,
        };
        let strides = keep
            .output_shape(&inputs[0].shape)
            .broadcast_strides(&inputs[0].shape);
        for (flat, v) in inputs[0].data.iter().enumerate() {
            let index = inputs[0].shape.unravel(flat);
            let at: usize = index.iter().zip(&strides).map(|(i, s)| i * s).sum();
            out.data[at] += v;
        }
        Ok(vec![out])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        let shape = cx.input(0).shape().clone();
        let keep = Reduce {
            kind: self.kind,
            axes: self.axes.clone(),
            keepdim: true,
        };
        let grad = cx.grad(0).reshape(keep.output_shape(&shape));
        let zeros = cx.input(0).zeros_like();
        cx.set(0, grad.add(&zeros));
        Ok(())
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let shape = cx.input(0).shape.clone();
        let strides = shape.strides();
        let pick = |reduced: bool| -> (Vec<usize>, Vec<usize>) {
            (0..shape.rank())
                .filter(|i| self.axes.contains(i) == reduced)
                .map(|i| (shape[i], strides[i]))
                .unzip()
        };
        let (kept, kept_strides) = pick(false);
        let (reduced, reduced_strides) = pick(true);
        let outputs: usize = kept.iter().product();
        let count: usize = reduced.iter().product();
        cx.kernel("reduce", SHADER)
            .define("BASE", offset_expression("o", &kept, &kept_strides))
            .define("OFFSET", offset_expression("r", &reduced, &reduced_strides))
            .arg(outputs)
            .arg(count)
            .read(Slot::In(0))
            .write(Slot::Out(0))
            .flops(outputs * count)
            .trips(count)
            .threads(outputs, 64)
    }
}

impl Tensor {
    /// Sums over `axes` (counted from the end where negative; all axes where empty).
    #[track_caller]
    pub fn sum(&self, axes: &[isize], keepdim: bool) -> Tensor {
        match normalize_axes("sum", self.shape(), axes) {
            Ok(axes) => {
                let op = Reduce {
                    kind: Reduction::Sum,
                    axes,
                    keepdim,
                };
                self.graph().push1(op, &[self])
            }
            Err(e) => self.graph().poisoned(e),
        }
    }
}

/// Axes in order, counted from the front; all of them where `axes` is empty.
pub(crate) fn normalize_axes(op: &str, shape: &Shape, axes: &[isize]) -> Result<Vec<usize>> {
    let rank = shape.rank() as isize;
    if axes.is_empty() {
        return Ok((0..shape.rank()).collect());
    }
    let mut out = Vec::new();
    for axis in axes {
        let at = if *axis < 0 { axis + rank } else { *axis };
        if at < 0 || at >= rank || out.contains(&(at as usize)) {
            return Err(Error::shape(
                op,
                format!("axis {axis} of shape {shape:?} is out of range or given twice"),
            ));
        }
        out.push(at as usize);
    }
    out.sort_unstable();
    Ok(out)
}
