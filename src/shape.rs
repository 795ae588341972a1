//! Shapes, strides and broadcasting.

use crate::{Error, Result};

/// The extents of a tensor, outermost axis first (`[N, C, H, W]` for images).
/// A scalar has the empty shape.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Shape(Vec<usize>);

impl Shape {
    /// The extents as a slice.
    pub fn dims(&self) -> &[usize] {
        &self.0
    }

    /// The number of axes.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// The number of elements (1 for a scalar); `usize::MAX` where it is larger than that.
    pub fn numel(&self) -> usize {
        if self.0.contains(&0) {
            return 0;
        }
        self.0.iter().fold(1, |n, d| n.saturating_mul(*d))
    }

    /// Error: more elements than kernels can count, which they do in 32 bits. Products of
    /// extents of a shape that passed do not overflow.
    pub(crate) fn check_countable(&self, op: &str) -> Result<()> {
        let most = u32::MAX as usize;
        if self.numel() > most {
            return Err(Error::shape(
                op,
                format!("{self:?} has more elements than the {most} that kernels can count"),
            ));
        }
        Ok(())
    }

    /// Row-major strides, in elements.
    pub fn strides(&self) -> Vec<usize> {
        let mut strides = vec![1usize; self.0.len()];
        for i in (0..self.0.len().saturating_sub(1)).rev() {
            strides[i] = strides[i + 1].saturating_mul(self.0[i + 1]);
        }
        strides
    }

    /// Strides with which a tensor of this shape is read as if it had the shape
    /// `to`: 0 along broadcast axes, axes aligned at the right.
    pub fn broadcast_strides(&self, to: &Shape) -> Vec<usize> {
        let lead = to.rank() - self.rank();
        let own = self.strides();
        (0..to.rank())
            .map(|i| {
                if i < lead || self.0[i - lead] == 1 {
                    0
                } else {
                    own[i - lead]
                }
            })
            .collect()
    }

    /// The common shape of two operands by right-aligned broadcasting.
    pub fn broadcast(op: &str, a: &Shape, b: &Shape) -> Result<Shape> {
        let rank = a.rank().max(b.rank());
        let at = |s: &Shape, i: usize| {
            let lead = rank - s.rank();
            if i < lead { 1 } else { s.0[i - lead] }
        };
        (0..rank)
            .map(|i| match (at(a, i), at(b, i)) {
                (x, y) if x == y => Ok(x),
                (1, y) => Ok(y),
                (x, 1) => Ok(x),
                (x, y) => Err(Error::shape(
                    op,
                    format!("shapes {a:?} and {b:?} do not broadcast: {x} against {y} at axis {i}"),
                )),
            })
            .collect::<Result<Vec<_>>>()
            .map(Shape)
    }

    /// The index along every axis of the flat element `flat`.
    pub fn unravel(&self, mut flat: usize) -> Vec<usize> {
        let mut index = vec![0; self.0.len()];
        for i in (0..self.0.len()).rev() {
            index[i] = flat % self.0[i];
            flat /= self.0[i];
        }
        index
    }
}

impl std::ops::Index<usize> for Shape {
    type Output = usize;
    fn index(&self, axis: usize) -> &usize {
        &self.0[axis]
    }
}

impl std::fmt::Debug for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl From<&[usize]> for Shape {
    fn from(dims: &[usize]) -> Self {
        Shape(dims.to_vec())
    }
}

impl From<Vec<usize>> for Shape {
    fn from(dims: Vec<usize>) -> Self {
        Shape(dims)
    }
}

impl From<&Shape> for Shape {
    fn from(shape: &Shape) -> Self {
        shape.clone()
    }
}

impl From<&Vec<usize>> for Shape {
    fn from(dims: &Vec<usize>) -> Self {
        Shape(dims.clone())
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(dims: [usize; N]) -> Self {
        Shape(dims.to_vec())
    }
}

impl<const N: usize> From<&[usize; N]> for Shape {
    fn from(dims: &[usize; N]) -> Self {
        Shape(dims.to_vec())
    }
}
