//! Normalisation across neighbouring channels, as the networks of 2012 to 2014 have it.

use crate::graph::Tensor;
use crate::ops::PoolParams;
use crate::{Error, Shape};

/// Parameters of [`Tensor::local_response_norm`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LocalResponse {
    /// Channels that are looked at, the own one in the middle.
    pub size: usize,
    /// What their mean square is multiplied with. Where the formula has a sum (Krizhevsky et
    /// al., TensorFlow's `lrn` with `depth_radius`), this is `size` times its alpha.
    pub alpha: f32,
    /// The power.
    pub beta: f32,
    /// What is added: 1 in PyTorch and Caffe, 2 in AlexNet's paper.
    pub k: f32,
}

impl LocalResponse {
    /// PyTorch's: alpha 1e-4, beta 0.75, k 1.
    pub fn new(size: usize) -> Self {
        LocalResponse {
            size,
            alpha: 1e-4,
            beta: 0.75,
            k: 1.0,
        }
    }
}

impl Tensor {
    /// `x / (k + alpha m)^beta` of `[N, C, ..]`, where `m` is the sum of the squares of
    /// `size` neighbouring channels, divided by `size`: `size / 2` channels before the own
    /// one, `(size - 1) / 2` behind, zeros beyond the first and the last. PyTorch's
    /// `LocalResponseNorm`; Krizhevsky et al. 2012.
    ///
    /// Poisoned by: fewer than two axes, a size of 0.
    #[track_caller]
    pub fn local_response_norm(&self, options: &LocalResponse) -> Tensor {
        let size = options.size;
        let rank = self.shape().rank();
        if let Err(e) = self.check() {
            return self.graph().poisoned(e);
        }
        if rank < 2 || size == 0 {
            let detail = format!(
                "a size of {size} for {:?}; [N, C, ..] is needed",
                self.shape()
            );
            return self
                .graph()
                .poisoned(Error::shape("local_response_norm", detail));
        }
        let (samples, channels) = (self.dim(0), self.dim(1));
        let plane = self.numel() / (samples * channels).max(1);
        let flat = Shape::from([samples, 1, channels, plane]);
        let squares = self.square().reshape(&flat);
        let ends = (size / 2, (size - 1) / 2);
        let squares = squares.pad(&[(0, 0), (0, 0), ends, (0, 0)], 0.0);
        let mean = squares.avg_pool2d(&PoolParams::new([size, 1], [1, 1]));
        let mean = mean.reshape(self.shape());
        let scale = mean.mul_scalar(options.alpha).add_scalar(options.k);
        self.mul(&scale.pow_scalar(-options.beta))
    }
}
