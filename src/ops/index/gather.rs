//! Rows by index: embedding look-up and one-hot vectors.

use crate::graph::{Array, Lower, Op, Slot, Spec, Tensor, Vjp};
use crate::ops::reduce::axes::expect_f32;
use crate::{DType, Error, Result, Shape};

const SHADER: &str = include_str!("../../../shaders/index/gather.wgsl");

/// `y[i, :] = table[idx[i], :]`
#[derive(Debug)]
struct GatherRows;

/// An error unless `spec` holds indices.
pub(crate) fn expect_u32(op: &str, spec: &Spec) -> Result<()> {
    if spec.dtype == DType::U32 {
        return Ok(());
    }
    Err(Error::dtype(
        op,
        format!(
            "the indices must be u32, got {} of shape {:?}",
            spec.dtype, spec.shape
        ),
    ))
}

impl Op for GatherRows {
    fn name(&self) -> &'static str {
        "gather_rows"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        let (table, idx) = (inputs[0], inputs[1]);
        if table.dtype != DType::F16 {
            expect_f32(self.name(), &inputs[..1])?;
        }
        expect_u32(self.name(), idx)?;
        if table.shape.rank() != 2 {
            return Err(Error::shape(
                self.name(),
                format!("the table must be [K, D], it is {:?}", table.shape),
            ));
        }
        let mut shape = idx.shape.dims().to_vec();
        shape.push(table.shape[1]);
        Ok(vec![Spec::f32(shape)])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let (table, idx) = (inputs[0], inputs[1]);
        let width = table.shape[1];
        let mut shape = idx.shape.dims().to_vec();
        shape.push(width);
        let mut out = Array::zeros(shape);
        for (row, i) in out.data.chunks_mut(width).zip(&idx.data) {
            if let Some(from) = table.data.chunks(width).nth(*i as usize) {
                row.copy_from_slice(from);
            }
        }
        Ok(vec![out])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        if cx.needs(0) {
            let (table, idx) = (cx.input(0).clone(), cx.input(1).clone());
            let n = idx.numel();
            let rows = cx.grad(0).reshape([n, table.dim(1)]);
            cx.set(0, rows.segment_sum(&idx.reshape([n]), table.dim(0)));
        }
        Ok(())
    }

    fn reads_f16(&self, i: usize) -> bool {
        i == 0
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let table = cx.input(0).shape.clone();
        let cell = if table[1].is_multiple_of(4) { 4 } else { 1 };
        let total = cx.output(0).shape.numel() / cell;
        cx.kernel("gather", SHADER)
            .variant(if cell == 4 { "vec4" } else { "scalar" })
            .define("VEC4", cell / 4)
            .stored("TABLE", Slot::In(0))
            .arg("total", total)
            .arg("width", table[1] / cell)
            .arg("rows", table[0])
            .read(Slot::In(0))
            .read(Slot::In(1))
            .write(Slot::Out(0))
            .bytes(8 * total * cell)
            .threads(total, 64)
    }
}

impl Tensor {
    /// The rows of this table `[K, D]` at the u32 indices `idx` of any shape `[..]`, as
    /// `[.., D]`; zeros where an index is out of range. The gradient adds up the rows
    /// of each index in their order ([`Tensor::segment_sum`]).
    #[track_caller]
    pub fn gather_rows(&self, idx: &Tensor) -> Tensor {
        self.graph().push1(GatherRows, &[self, idx])
    }

    /// For u32 indices `[..]` the float32 tensor `[.., classes]` with 1 at each index, 0
    /// elsewhere; zeros only where the index is out of range.
    #[track_caller]
    pub fn one_hot(&self, classes: usize) -> Tensor {
        if self.dtype() != DType::U32 {
            let error = Error::dtype(
                "one_hot",
                format!("the indices must be u32, they are {}", self.dtype()),
            );
            return self.graph().poisoned(self.check().err().unwrap_or(error));
        }
        let mut shape = self.shape().dims().to_vec();
        shape.push(classes);
        // Before the numbers of all classes are written down.
        if let Err(e) = Shape::from(&shape).check_countable("one_hot") {
            return self.poison(e);
        }
        shape[self.shape().rank()] = 1;
        let numbers: Vec<u32> = (0..classes as u32).collect();
        let numbers = self.graph().constant_u32([classes], &numbers);
        self.reshape(shape).equal(&numbers)
    }
}
