//! Vectors as rows: the layout in which quantisers work, and what of it is padding.

use crate::{DType, Error, Result, Tensor};

/// The vectors of an input as rows.
#[derive(Clone)]
pub(super) struct Rows {
    /// `[M, D]`; zeros at padded positions.
    pub rows: Tensor,
    /// `[M]`, 1 or 0, where there is a mask.
    pub valid: Option<Tensor>,
    /// The input's extents without the channel axis.
    places: Vec<usize>,
}

impl Rows {
    /// Of `x`, `[M, D]` or `[N, D, ..]`. Errors: see [`super::Quantizer::forward_masked`].
    pub fn new(op: &str, x: &Tensor, width: usize, valid: Option<&Tensor>) -> Result<Self> {
        x.check()?;
        if x.shape().rank() < 2 || x.dim(1) != width || x.dtype() != DType::F32 {
            return Err(Error::shape(
                op,
                format!(
                    "expected f32 vectors of width {width}, [M, {width}] or [N, {width}, ..], got {} {:?}",
                    x.dtype(),
                    x.shape()
                ),
            ));
        }
        let (mut rows, places) = (to_rows(x), places(x));
        let Some(valid) = valid else {
            return Ok(Rows {
                rows,
                valid: None,
                places,
            });
        };
        valid.check()?;
        if valid.shape().dims() != places || valid.dtype() != DType::F32 {
            return Err(Error::shape(
                op,
                format!(
                    "the mask must be f32 {places:?}, one number for each vector, it is {} {:?}",
                    valid.dtype(),
                    valid.shape()
                ),
            ));
        }
        let count = rows.dim(0);
        let padded = valid.equal(&valid.zeros_like()).reshape([count]);
        let valid = padded.neg().add_scalar(1.0);
        // Chosen, not multiplied: padding may be NaN.
        rows = valid.reshape([count, 1]).select(&rows, &rows.zeros_like());
        Ok(Rows {
            rows,
            valid: Some(valid),
            places,
        })
    }

    /// The input's extents without the channel axis.
    pub fn places(&self) -> &[usize] {
        &self.places
    }

    /// Other vectors in the same places, `[M, D']`.
    pub fn with(&self, rows: Tensor) -> Self {
        Rows {
            rows,
            ..self.clone()
        }
    }

    /// The number of rows.
    pub fn count(&self) -> usize {
        self.rows.dim(0)
    }

    /// The mean of what stands in each valid row of `values`, `[M, ..]`, 0 where there is
    /// none. Padded rows of `values` must be finite.
    pub fn mean(&self, values: &Tensor) -> Tensor {
        let Some(valid) = &self.valid else {
            return values.mean(&[], false);
        };
        let mut column = vec![1; values.shape().rank()];
        column[0] = self.count();
        let each = values.numel() / self.count();
        let count = valid.sum(&[], false).clamp(1.0, f32::MAX);
        let sum = values.mul(&valid.reshape(column)).sum(&[], false);
        sum.div(&count.mul_scalar(each as f32))
    }

    /// `indices` `[M]` in their places.
    pub fn place(&self, indices: &Tensor) -> Tensor {
        match indices.check() {
            Ok(()) => indices.reshape(&self.places),
            Err(_) => indices.clone(),
        }
    }

    /// `indices` `[M]`, padded ones `codes`.
    pub fn mask_indices(&self, indices: &Tensor, codes: usize) -> Tensor {
        let Some(valid) = &self.valid else {
            return indices.clone();
        };
        let number = indices.to_f32();
        valid
            .select(&number, &number.full_like(codes as f32))
            .to_u32()
    }

    /// Rows `[M, D']` in the places of the input.
    pub fn restore(&self, rows: &Tensor) -> Tensor {
        match &self.valid {
            Some(valid) => {
                let column = valid.reshape([self.count(), 1]);
                from_rows(&column.select(rows, &rows.zeros_like()), &self.places)
            }
            None => from_rows(rows, &self.places),
        }
    }
}

/// Vectors as rows `[M, D]`: the channel axis (the second one, of more than two)
/// goes last.
pub(super) fn to_rows(x: &Tensor) -> Tensor {
    let rank = x.shape().rank();
    if rank <= 2 {
        return x.clone();
    }
    let mut axes: Vec<usize> = (0..rank).filter(|a| *a != 1).collect();
    axes.push(1);
    let width = x.dim(1);
    x.permute(&axes).reshape([x.numel() / width, width])
}

/// Rows `[M, D]` back in the places of [`to_rows`]'s input, whose extents without
/// the channel axis are `places`.
pub(super) fn from_rows(rows: &Tensor, places: &[usize]) -> Tensor {
    if places.len() <= 1 || rows.check().is_err() {
        return rows.clone();
    }
    let mut shape = places.to_vec();
    shape.push(rows.dim(-1));
    let last = places.len();
    let mut axes = vec![0, last];
    axes.extend(1..last);
    rows.reshape(shape).permute(&axes)
}

/// The extents of `x` without its channel axis.
fn places(x: &Tensor) -> Vec<usize> {
    let dims = x.shape().dims().iter().enumerate();
    dims.filter(|(i, _)| *i != 1).map(|(_, d)| *d).collect()
}

/// Rows brought to length 1 (lengths below 1e-12 count as 1e-12).
pub(super) fn normalized(rows: &Tensor) -> Tensor {
    let square = rows.square().sum(&[-1], true);
    rows.mul(&square.clamp(1e-24, f32::MAX).rsqrt())
}
