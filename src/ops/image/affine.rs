//! Affine warps: the grid of an affine map, sampled.

use super::bilinear::GridPadding;
use crate::graph::Tensor;
use crate::{DType, Error, Shape};

impl Tensor {
    /// The grid `[N, P, Q, 2]` of the affine maps `self` `[N, 2, 3]` for a picture of `size`
    /// `[P, Q]`: PyTorch's `affine_grid` with `align_corners=False`. The centre of pixel
    /// `(p, q)` at `(x, y) = ((2 q + 1) / Q - 1, (2 p + 1) / P - 1)` is read at
    /// `self[n] (x, y, 1)`; `[[1, 0, 0], [0, 1, 0]]` changes nothing, and what is read is the
    /// inverse of what the picture seems to do (a scale of 2 halves it).
    #[track_caller]
    pub fn affine_grid(&self, size: [usize; 2]) -> Tensor {
        let [p, q] = size;
        let &[n, 2, 3] = self.shape().dims() else {
            let detail = format!("expected maps f32 [N, 2, 3], got {:?}", self.shape());
            return self.poison(Error::shape("affine_grid", detail));
        };
        if self.dtype() != DType::F32 || p == 0 || q == 0 {
            let detail = format!(
                "expected f32 maps and a size with pixels, got {} and {p}x{q}",
                self.dtype()
            );
            return self.poison(Error::shape("affine_grid", detail));
        }
        // Before centres are written down.
        if let Err(e) = Shape::from([n, p, q, 2]).check_countable("affine_grid") {
            return self.poison(e);
        }
        let centre = |i: usize, of: usize| ((2 * i + 1) as f64 / of as f64 - 1.0) as f32;
        let centres = |of: usize| (0..of).map(|i| centre(i, of)).collect::<Vec<f32>>();
        let x = self.graph().constant([1, 1, q, 1], &centres(q));
        let y = self.graph().constant([1, p, 1, 1], &centres(p));
        let column = |k: usize| self.slice(2, k, 1).reshape([n, 1, 1, 2]);
        let moved = column(1).mul(&y).add(&column(2));
        column(0).mul(&x).add(&moved)
    }

    /// Pictures `[N, C, H, W]` warped by an affine map each, `theta` `[N, 2, 3]` on the GPU,
    /// to `size` (height, width): [`Tensor::grid_sample`] at the places of
    /// [`Tensor::affine_grid`]. Gradients go to the pictures and to `theta`.
    #[track_caller]
    pub fn affine_warp(&self, theta: &Tensor, size: [usize; 2], padding: GridPadding) -> Tensor {
        self.grid_sample(&theta.affine_grid(size), padding)
    }
}
