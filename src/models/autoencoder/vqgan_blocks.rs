//! What the networks of VQGAN are made of: residual blocks with group norm and swish,
//! attention over all places, changes of size.

use crate::nn::{Conv2d, GroupNorm, Layer, Mode};
use crate::ops::ConvParams;
use crate::{Params, Result, Tensor};

/// Kernels that keep the image's sides.
pub(super) fn conv(params: &Params, io: [usize; 2], kernel: usize) -> Result<Conv2d> {
    let options = ConvParams {
        padding: [(kernel - 1) / 2; 4],
        ..Default::default()
    };
    Conv2d::new(params, io, [kernel; 2], options)
}

/// 32 groups, or as many as there are channels.
pub(super) fn norm(params: &Params, channels: usize) -> Result<GroupNorm> {
    Ok(GroupNorm::new(params, channels.min(32), channels)?.eps(1e-6))
}

/// `x + conv2(swish(norm2(conv1(swish(norm1(x))))))`, with `nin_shortcut` 1x1 for `x`
/// where the channels change.
pub(super) struct ResidualBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
}

impl ResidualBlock {
    pub(super) fn new(params: &Params, [inputs, outputs]: [usize; 2]) -> Result<Self> {
        Ok(ResidualBlock {
            norm1: norm(&params.scope("norm1"), inputs)?,
            conv1: conv(&params.scope("conv1"), [inputs, outputs], 3)?,
            norm2: norm(&params.scope("norm2"), outputs)?,
            conv2: conv(&params.scope("conv2"), [outputs, outputs], 3)?,
            shortcut: match inputs == outputs {
                true => None,
                false => Some(conv(&params.scope("nin_shortcut"), [inputs, outputs], 1)?),
            },
        })
    }
}

impl Layer for ResidualBlock {
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let h = self
            .conv1
            .forward(&self.norm1.forward(x, mode).silu(), mode);
        let h = self
            .conv2
            .forward(&self.norm2.forward(&h, mode).silu(), mode);
        match &self.shortcut {
            Some(shortcut) => shortcut.forward(x, mode).add(&h),
            None => x.add(&h),
        }
    }
}

/// `x + proj_out(attention(q, k, v of norm(x)))`, one head over all places of the image.
pub(super) struct AttentionBlock {
    norm: GroupNorm,
    q: Conv2d,
    k: Conv2d,
    v: Conv2d,
    proj_out: Conv2d,
    channels: usize,
}

impl AttentionBlock {
    pub(super) fn new(params: &Params, channels: usize) -> Result<Self> {
        let part = |name: &str| conv(&params.scope(name), [channels; 2], 1);
        Ok(AttentionBlock {
            norm: norm(&params.scope("norm"), channels)?,
            q: part("q")?,
            k: part("k")?,
            v: part("v")?,
            proj_out: part("proj_out")?,
            channels,
        })
    }
}

impl Layer for AttentionBlock {
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let h = self.norm.forward(x, mode);
        let c = self.channels;
        let rows = |layer: &Conv2d| {
            let y = layer.forward(&h, mode);
            let places = y.numel() / (y.dim(0) * c).max(1);
            y.reshape([y.dim(0), c, places]).transpose(1, 2)
        };
        let (q, k, v) = (rows(&self.q), rows(&self.k), rows(&self.v));
        let seen = q.attention(&k, &v, (c as f32).powf(-0.5), false);
        let image = seen.transpose(1, 2).reshape(x.shape());
        x.add(&self.proj_out.forward(&image, mode))
    }
}

/// A 3x3 convolution of stride 2 behind a row and a column of zeros, below and right.
pub(super) struct Downsample(Conv2d);

impl Downsample {
    pub(super) fn new(params: &Params, channels: usize) -> Result<Self> {
        let options = ConvParams {
            stride: [2, 2],
            padding: [0, 1, 0, 1],
            ..Default::default()
        };
        let conv = Conv2d::new(&params.scope("conv"), [channels; 2], [3, 3], options)?;
        Ok(Downsample(conv))
    }
}

impl Layer for Downsample {
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        self.0.forward(x, mode)
    }
}

/// Every pixel twice in each direction, then a 3x3 convolution.
pub(super) struct Upsample(Conv2d);

impl Upsample {
    pub(super) fn new(params: &Params, channels: usize) -> Result<Self> {
        Ok(Upsample(conv(&params.scope("conv"), [channels; 2], 3)?))
    }
}

impl Layer for Upsample {
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        self.0.forward(&x.upsample_nearest2d([2, 2]), mode)
    }
}
