//! What residual networks are made of.

use super::config::{ResNetBlock, ResNetConfig, ResNetShortcut};
use crate::nn::{BatchNorm2d, Conv2d, Layer, Mode};
use crate::ops::ConvParams;
use crate::{Params, Result, Tensor};

/// A window that keeps the extents of the images at a stride of 1.
pub(super) fn window(kernel: usize, stride: usize) -> ConvParams {
    ConvParams {
        stride: [stride; 2],
        padding: [kernel / 2; 4],
        ..ConvParams::default()
    }
}

/// A convolution without bias and its batch norm.
pub(super) struct Unit {
    conv: Conv2d,
    norm: BatchNorm2d,
}

impl Unit {
    pub fn new(
        [conv, norm]: [&Params; 2],
        channels: [usize; 2],
        kernel: usize,
        stride: usize,
    ) -> Result<Self> {
        let options = window(kernel, stride);
        Ok(Unit {
            conv: Conv2d::without_bias(conv, channels, [kernel; 2], options)?,
            norm: BatchNorm2d::new(norm, channels[1])?,
        })
    }

    pub fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        self.norm.forward(&self.conv.forward(x, mode), mode)
    }
}

/// What goes past a block.
enum Past {
    Same,
    Project(Box<Unit>),
    /// Every `stride`-th pixel, `zeros` channels of zeros before and behind.
    Pad {
        stride: usize,
        zeros: usize,
    },
}

impl Past {
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        match self {
            Past::Same => x.clone(),
            Past::Project(unit) => unit.forward(x, mode),
            Past::Pad { stride, zeros } => {
                let step = |x: &Tensor, axis: isize| {
                    let count = x.dim(axis).div_ceil(*stride);
                    x.slice_step(axis, 0, count, *stride as isize)
                };
                let none = (0, 0);
                step(&step(x, 2), 3).pad(&[none, (*zeros, *zeros), none, none], 0.0)
            }
        }
    }
}

/// `past(x) + units(x)`, ReLUs between the units.
pub(super) struct Block {
    units: Vec<Unit>,
    past: Past,
}

impl Block {
    /// From so many channels to `width` of them, or four times as many.
    pub fn new(
        params: &Params,
        config: &ResNetConfig,
        [from, width]: [usize; 2],
        stride: usize,
    ) -> Result<Self> {
        let out = width * expansion(config.block);
        // Inputs, outputs, kernel and stride.
        let plan = match config.block {
            ResNetBlock::Bottleneck => vec![
                ([from, width], 1, 1),
                ([width; 2], 3, stride),
                ([width, out], 1, 1),
            ],
            _ => vec![([from, width], 3, stride), ([width; 2], 3, 1)],
        };
        let mut units = Vec::new();
        for (i, (io, kernel, stride)) in plan.into_iter().enumerate() {
            let [conv, norm] = ["conv", "bn"].map(|n| params.scope(format!("{n}{}", i + 1)));
            units.push(Unit::new([&conv, &norm], io, kernel, stride)?);
        }
        let past = match config.shortcut {
            _ if stride == 1 && from == out => Past::Same,
            ResNetShortcut::Padded => Past::Pad {
                stride,
                zeros: (out - from) / 2,
            },
            ResNetShortcut::Projection => {
                let scope = params.scope(config.names.shortcut());
                let scopes = [&scope.scope(0), &scope.scope(1)];
                Past::Project(Box::new(Unit::new(scopes, [from, out], 1, stride)?))
            }
        };
        Ok(Block { units, past })
    }

    /// Before the last ReLU.
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let mut y = x.clone();
        for (i, unit) in self.units.iter().enumerate() {
            if i > 0 {
                y = y.relu();
            }
            y = unit.forward(&y, mode);
        }
        y.add(&self.past.forward(x, mode))
    }
}

/// Channels that a block gives, in units of its width.
pub(super) fn expansion(block: ResNetBlock) -> usize {
    match block {
        ResNetBlock::Bottleneck => 4,
        _ => 1,
    }
}

/// `past + conv2(relu(bn2(conv1(h))))` with `h = relu(bn1(x))`, where `past` is `x`, or a 1x1
/// convolution of `h`.
pub(super) struct PreActBlock {
    norms: [BatchNorm2d; 2],
    convs: [Conv2d; 2],
    shortcut: Option<Conv2d>,
}

impl PreActBlock {
    pub fn new(
        params: &Params,
        config: &ResNetConfig,
        [from, out]: [usize; 2],
        stride: usize,
    ) -> Result<Self> {
        let norm = |i: usize, c| BatchNorm2d::new(&params.scope(format!("bn{i}")), c);
        let conv = |i: usize, io, stride| {
            let scope = params.scope(format!("conv{i}"));
            Conv2d::without_bias(&scope, io, [3; 2], window(3, stride))
        };
        let shortcut = match stride > 1 || from != out {
            false => None,
            true => {
                let scope = params.scope(config.names.shortcut()).scope(0);
                let options = window(1, stride);
                Some(Conv2d::without_bias(&scope, [from, out], [1; 2], options)?)
            }
        };
        Ok(PreActBlock {
            norms: [norm(1, from)?, norm(2, out)?],
            convs: [conv(1, [from, out], stride)?, conv(2, [out; 2], 1)?],
            shortcut,
        })
    }

    pub fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let h = self.norms[0].forward(x, mode).relu();
        let y = self.convs[0].forward(&h, mode);
        let y = self.norms[1].forward(&y, mode).relu();
        let y = self.convs[1].forward(&y, mode);
        match &self.shortcut {
            Some(shortcut) => y.add(&shortcut.forward(&h, mode)),
            None => y.add(x),
        }
    }
}
