//! How alike two batches of images are: tensors, so that they run where the images are
//! and have gradients.

use crate::ops::ConvParams;
use crate::{Error, Tensor};

/// Width of the window that [`ssim`] looks through, and its standard deviation, in pixels.
const WINDOW: usize = 11;
const SIGMA: f64 = 1.5;

/// The mean squared difference of each pair of images: `[N, ..]` and `[N, ..]` to `[N]`.
#[track_caller]
pub fn mean_squared_error(a: &Tensor, b: &Tensor) -> Tensor {
    if a.shape() != b.shape() || a.shape().rank() < 2 {
        let detail = format!("images of shapes {:?} and {:?}", a.shape(), b.shape());
        let error = Error::shape("mean_squared_error", detail);
        return a.graph().poisoned(error);
    }
    let n = a.dim(0);
    let each = a.numel() / n.max(1);
    a.sub(b).square().reshape([n, each]).mean(&[1], false)
}

/// The peak signal-to-noise ratio of each pair of images in decibels,
/// `10 log10(range^2 / mse)`: `[N, ..]` and `[N, ..]` to `[N]`. `range` is the distance of
/// the smallest and the largest value a pixel can have. Equal images give infinity.
#[track_caller]
pub fn psnr(a: &Tensor, b: &Tensor, range: f32) -> Tensor {
    let mse = mean_squared_error(a, b);
    let of_one = mse.mul_scalar(1.0 / (range * range)).log();
    of_one.mul_scalar((-10.0 / std::f64::consts::LN_10) as f32)
}

/// The structural similarity of each pair of images `[N, C, H, W]`, a number up to 1:
/// `[N]`. Windows are 11x11 Gaussians with a deviation of 1.5 pixels that lie inside the
/// image, the constants are 0.01 and 0.03, and the mean is over channels and positions
/// (Wang et al., 2004). `range` is as in [`psnr`]. Images smaller than a window poison.
#[track_caller]
pub fn ssim(a: &Tensor, b: &Tensor, range: f32) -> Tensor {
    let shape = a.shape().dims().to_vec();
    let fits = matches!(shape[..], [_, _, h, w] if h >= WINDOW && w >= WINDOW);
    if a.shape() != b.shape() || !fits {
        let (a_shape, b_shape) = (a.shape(), b.shape());
        let detail = format!(
            "expected two batches [N, C, H, W] of at least {WINDOW}x{WINDOW} pixels, got {a_shape:?} and {b_shape:?}"
        );
        return a.graph().poisoned(Error::shape("ssim", detail));
    }
    let bell = |i: usize| {
        let x = i as f64 - (WINDOW / 2) as f64;
        (-x * x / (2.0 * SIGMA * SIGMA)).exp()
    };
    let total: f64 = (0..WINDOW).map(bell).sum();
    let weights: Vec<f32> = (0..WINDOW * WINDOW)
        .map(|i| (bell(i / WINDOW) * bell(i % WINDOW) / (total * total)) as f32)
        .collect();
    let window = a.graph().constant([1, 1, WINDOW, WINDOW], &weights);
    let planes = [shape[0] * shape[1], 1, shape[2], shape[3]];
    let blur = |x: &Tensor| x.conv2d(&window, None, &ConvParams::default());
    let (a, b) = (a.reshape(planes), b.reshape(planes));
    let (mean_a, mean_b) = (blur(&a), blur(&b));
    let means = mean_a.mul(&mean_b);
    let squares = mean_a.square().add(&mean_b.square());
    let variances = blur(&a.square()).add(&blur(&b.square())).sub(&squares);
    let covariance = blur(&a.mul(&b)).sub(&means);
    let [c1, c2] = [0.01, 0.03].map(|k| (k * range) * (k * range));
    let twice = |x: &Tensor, c: f32| x.mul_scalar(2.0).add_scalar(c);
    let likeness = twice(&means, c1).mul(&twice(&covariance, c2));
    let most = squares.add_scalar(c1).mul(&variances.add_scalar(c2));
    let each = likeness.div(&most);
    let count = each.numel() / shape[0].max(1);
    each.reshape([shape[0], count]).mean(&[1], false)
}
