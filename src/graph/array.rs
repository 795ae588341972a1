//! Host arrays in float64: what the oracles compute with.

use crate::{Error, Result, Shape};

/// A dense row-major array of float64. Integer tensors are held exactly.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// The extents.
    pub shape: Shape,
    /// The elements, row-major.
    pub data: Vec<f64>,
}

impl Array {
    /// An array of the given elements.
    pub fn new(shape: impl Into<Shape>, data: Vec<f64>) -> Result<Self> {
        let shape = shape.into();
        if shape.numel() != data.len() {
            return Err(Error::shape(
                "Array",
                format!("{} elements given for shape {shape:?}", data.len()),
            ));
        }
        Ok(Array { shape, data })
    }

    /// All elements equal to `value`.
    pub fn full(shape: impl Into<Shape>, value: f64) -> Self {
        let shape = shape.into();
        let data = vec![value; shape.numel()];
        Array { shape, data }
    }

    /// All elements zero.
    pub fn zeros(shape: impl Into<Shape>) -> Self {
        Array::full(shape, 0.0)
    }

    /// Element `flat` computed from its index along every axis.
    pub fn from_fn(shape: impl Into<Shape>, mut f: impl FnMut(&[usize]) -> f64) -> Self {
        let shape = shape.into();
        let data = (0..shape.numel()).map(|i| f(&shape.unravel(i))).collect();
        Array { shape, data }
    }

    /// The number of elements.
    pub fn numel(&self) -> usize {
        self.data.len()
    }

    /// The element at `index`.
    pub fn at(&self, index: &[usize]) -> f64 {
        self.data[self.offset(index)]
    }

    /// The flat position of `index`.
    pub fn offset(&self, index: &[usize]) -> usize {
        index
            .iter()
            .zip(self.shape.dims())
            .fold(0, |flat, (i, d)| flat * d + i)
    }

    /// The elements rounded to float32.
    pub fn to_f32(&self) -> Vec<f32> {
        self.data.iter().map(|v| *v as f32).collect()
    }
}
