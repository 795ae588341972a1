//! Tensors side by side along an axis; the gradient slices.

use super::rearrange::resolve_axis;
use super::view::check_words;
use crate::graph::{Array, Lower, Op, Slot, Spec, Tensor, Vjp};
use crate::{Error, Result, Shape};

const SHADER: &str = include_str!("../../../shaders/view/concat.wgsl");

/// All inputs side by side along `axis`.
#[derive(Debug)]
struct Concat {
    axis: usize,
}

impl Concat {
    fn output_shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        let Some(first) = inputs.first() else {
            return Err(Error::shape("concat", "no tensor was given"));
        };
        let mut dims = first.dims().to_vec();
        let without = |s: &Shape| {
            let mut dims = s.dims().to_vec();
            (self.axis < dims.len()).then(|| dims.remove(self.axis));
            dims
        };
        for shape in inputs.iter().skip(1) {
            if shape.rank() != first.rank() || without(shape) != without(first) {
                return Err(Error::shape(
                    "concat",
                    format!(
                        "{shape:?} does not fit beside {first:?} along axis {}",
                        self.axis
                    ),
                ));
            }
            dims[self.axis] += shape[self.axis];
        }
        Ok(dims.into())
    }

    /// Elements that lie together along the axis and after it.
    fn chunk(&self, shape: &Shape) -> usize {
        shape.dims()[self.axis..].iter().product()
    }
}

impl Op for Concat {
    fn name(&self) -> &'static str {
        "concat"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        let shapes: Vec<&Shape> = inputs.iter().map(|s| &s.shape).collect();
        let shape = self.output_shape(&shapes)?;
        let dtype = inputs[0].dtype;
        check_words("concat", inputs[0])?;
        if let Some(other) = inputs.iter().find(|s| s.dtype != dtype) {
            return Err(Error::dtype(
                "concat",
                format!("{dtype} and {} do not mix", other.dtype),
            ));
        }
        Ok(vec![Spec { shape, dtype }])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let shapes: Vec<&Shape> = inputs.iter().map(|a| &a.shape).collect();
        let shape = self.output_shape(&shapes)?;
        let mut data = Vec::with_capacity(shape.numel());
        let rows: usize = shape.dims()[..self.axis].iter().product();
        for row in 0..rows {
            for input in inputs {
                let chunk = self.chunk(&input.shape);
                data.extend(&input.data[row * chunk..(row + 1) * chunk]);
            }
        }
        Ok(vec![Array::new(shape, data)?])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        let dy = cx.grad(0);
        let mut start = 0;
        for i in 0..cx.inputs() {
            let len = cx.input(i).shape()[self.axis];
            if cx.needs(i) {
                cx.set(i, dy.slice(self.axis as isize, start, len));
            }
            start += len;
        }
        Ok(())
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let out = cx.output(0).clone();
        let pitch = self.chunk(&out.shape);
        let rows = out.shape.numel() / pitch.max(1);
        let chunks: Vec<usize> = (0..cx.inputs())
            .map(|i| self.chunk(&cx.input(i).shape))
            .collect();
        // One dispatch takes as many inputs as there are bindings beside the output.
        let together = match chunks.iter().all(|chunk| chunk.is_multiple_of(8)) {
            true => cx.device().elements_each(out.shape.numel()),
            false => 1,
        };
        let name = match together {
            8 => "Oct",
            _ => out.dtype.wgsl(),
        };
        let (pitch, chunks) = (pitch / together, chunks.iter().map(|c| c / together));
        let chunks: Vec<usize> = chunks.collect();
        let most = cx.device().max_bindings.clamp(2, 8) - 1;
        let mut offset = 0;
        for (stripe, chunks) in chunks.chunks(most).enumerate() {
            let width: usize = chunks.iter().sum();
            let mut kernel = cx
                .kernel("concat", SHADER)
                .variant(format!("{} inputs", chunks.len()))
                .define("COUNT", chunks.len())
                .define("TYPE", name)
                .arg("total", rows * width)
                .arg("width", width)
                .arg("pitch", pitch)
                .arg("offset", offset);
            let mut begin = 0;
            for (k, chunk) in chunks.iter().enumerate() {
                kernel = kernel
                    .arg(format!("begin{k}"), begin)
                    .read(Slot::In(stripe * most + k));
                begin += chunk;
            }
            kernel
                .write(Slot::Out(0))
                .bytes(8 * together * rows * width)
                .threads(rows * width, 64)?;
            offset += width;
        }
        Ok(())
    }
}

impl Tensor {
    /// The tensors one after the other along `axis` (counted from the end where
    /// negative). Errors: no tensor, extents of other axes that differ, mixed types.
    #[track_caller]
    pub fn concat(tensors: &[&Tensor], axis: isize) -> Tensor {
        let Some(first) = tensors.first() else {
            // There is no graph to put the error into: it shows when this one is used.
            return crate::Graph::new().poisoned(Error::shape("concat", "no tensor was given"));
        };
        if let [only] = tensors {
            return (*only).clone();
        }
        match resolve_axis("concat", first.shape(), axis) {
            Ok(axis) => first.graph().push1(Concat { axis }, tensors),
            Err(e) => first.poison(e),
        }
    }
}
