//! The networks inside Glow, in three conventions.

use super::glow_convention::{Border, GlowConvention};
use crate::flow::{ActNorm, ActNormScale, Bijector, Context, Network};
use crate::nn::Conv2d;
use crate::ops::{Activation, ConvParams};
use crate::{DType, Init, Param, Params, Result, Tensor};

impl Border {
    fn weight_shape(self, inputs: usize, outputs: usize) -> [usize; 4] {
        let extra = usize::from(self == Border::EdgeChannel);
        [outputs, inputs + extra, 3, 3]
    }

    /// A 3x3 convolution that keeps height and width.
    #[track_caller]
    fn conv(
        self,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        activation: Activation,
    ) -> Tensor {
        let options = ConvParams {
            padding: [1; 4],
            ..Default::default()
        };
        let channels = x.dim(1);
        // What the border adds is the same for all samples and depends on the weights
        // only: the image itself never has to be copied into a wider one.
        let (inner, outer) = match self {
            Border::Zeros => {
                let options = ConvParams {
                    activation,
                    ..options
                };
                return x.conv2d(weight, bias, &options);
            }
            Border::Ones => (weight.clone(), weight.sum(&[1], false)),
            Border::EdgeChannel => (
                weight.slice(1, 0, channels),
                weight.slice(1, channels, 1).sum(&[1], false),
            ),
        };
        let y = x.conv2d(&inner, bias, &options);
        let (outputs, height, width) = (y.dim(1), y.dim(-2), y.dim(-1));
        let frame = frame(height, width);
        let frame = x.graph().constant([9, height * width], &frame);
        let border = outer.reshape([outputs, 9]).matmul(&frame);
        activation.apply(&y.add(&border.reshape([1, outputs, height, width])))
    }
}

/// Row `3 dy + dx`, column `y width + x`: 1 where the tap `(dy, dx)` at pixel `(y, x)`
/// lies beyond the border.
fn frame(height: usize, width: usize) -> Vec<f32> {
    let mut rows = Vec::with_capacity(9 * height * width);
    for tap in 0..9 {
        let beyond = |at: usize, by: usize, extent: usize| at + by == 0 || at + by > extent;
        for pixel in 0..height * width {
            let outside =
                beyond(pixel / width, tap / 3, height) || beyond(pixel % width, tap % 3, width);
            rows.push(f32::from(outside));
        }
    }
    rows
}

/// A 3x3 convolution that gives zeros at first, times a learned positive scale:
/// `(conv(x) + bias) * exp(3 scale)`, all parameters zero at first.
///
/// Parameters `conv.weight` `[out, in, 3, 3]` (one more input channel for the edge),
/// `conv.bias` `[out]`, `scale` `[1, out, 1, 1]`.
pub(super) struct ZeroConv {
    weight: Param,
    bias: Param,
    scale: Param,
    border: Border,
}

impl ZeroConv {
    pub fn new(params: &Params, [inputs, outputs]: [usize; 2], border: Border) -> Result<Self> {
        let conv = params.scope("conv");
        let shape = border.weight_shape(inputs, outputs);
        Ok(ZeroConv {
            weight: conv.add("weight", shape, Init::Zeros)?,
            bias: conv.add("bias", [outputs], Init::Zeros)?,
            scale: params.add("scale", [1, outputs, 1, 1], Init::Zeros)?,
            border,
        })
    }
}

impl Network for ZeroConv {
    fn apply(&self, x: &Tensor, _: &Context<'_>) -> Tensor {
        let graph = x.graph();
        let (weight, bias) = (self.weight.on(graph), self.bias.on(graph));
        let y = self.border.conv(x, &weight, Some(&bias), Activation::None);
        y.mul(&self.scale.on(graph).mul_scalar(3.0).exp())
    }
}

/// A hidden convolution: with a bias, or without one and normalised.
enum Hidden {
    Plain(Conv2d),
    Normalised {
        weight: Param,
        border: Border,
        norm: ActNorm,
    },
}

impl Hidden {
    fn new(
        params: &Params,
        [inputs, outputs]: [usize; 2],
        kernel: usize,
        convention: GlowConvention,
    ) -> Result<Self> {
        let normal = Init::Normal {
            mean: 0.0,
            std: 0.05,
        };
        if convention != GlowConvention::OpenAi {
            let options = ConvParams {
                padding: [kernel / 2; 4],
                activation: Activation::Relu,
                ..Default::default()
            };
            let layer = Conv2d::with_init(
                params,
                [inputs, outputs],
                [kernel; 2],
                options,
                [normal, Init::Zeros],
            )?;
            return Ok(Hidden::Plain(layer));
        }
        let border = match kernel {
            3 => Border::EdgeChannel,
            _ => Border::Zeros,
        };
        let shape = match kernel {
            3 => border.weight_shape(inputs, outputs),
            _ => [outputs, inputs, kernel, kernel],
        };
        Ok(Hidden::Normalised {
            weight: params.add("weight", shape, normal)?,
            border,
            norm: ActNorm::with(
                &params.scope("actnorm"),
                outputs,
                ActNormScale::Log { factor: 3.0 },
            )?,
        })
    }
}

impl Network for Hidden {
    fn apply(&self, x: &Tensor, cx: &Context<'_>) -> Tensor {
        match self {
            Hidden::Plain(layer) => Network::apply(layer, x, cx),
            Hidden::Normalised {
                weight,
                border,
                norm,
            } => {
                let weight = weight.on(x.graph());
                let y = match weight.dim(-1) {
                    3 => border.conv(x, &weight, None, Activation::None),
                    _ => x.conv2d(&weight, None, &ConvParams::default()),
                };
                norm.forward(&y, cx).out.relu()
            }
        }
    }
}

/// The network of a coupling: 3x3, 1x1, and 3x3 that starts as zero.
pub(super) struct CouplingNet {
    first: Hidden,
    second: Hidden,
    last: ZeroConv,
}

impl CouplingNet {
    /// Parameters `net.0`, `net.2`, `net.4` (the numbers between are the activations').
    pub fn new(
        params: &Params,
        [inputs, hidden, outputs]: [usize; 3],
        convention: GlowConvention,
    ) -> Result<Self> {
        let net = params.scope("net");
        Ok(CouplingNet {
            first: Hidden::new(&net.scope(0), [inputs, hidden], 3, convention)?,
            second: Hidden::new(&net.scope(2), [hidden, hidden], 1, convention)?,
            last: ZeroConv::new(&net.scope(4), [hidden, outputs], convention.border())?,
        })
    }
}

impl Network for CouplingNet {
    fn apply(&self, x: &Tensor, cx: &Context<'_>) -> Tensor {
        let hidden = self.first.apply(x, cx);
        self.last.apply(&self.second.apply(&hidden, cx), cx)
    }
}

/// Means and log-deviations of the top: of every channel, or by a convolution over
/// zeros (which sees where the border is), and a shift of both by class.
pub(super) struct TopNet {
    base: TopBase,
    classes: Option<Param>,
}

enum TopBase {
    Channels(Param),
    Conv(Box<ZeroConv>),
}

impl TopNet {
    /// Parameters of a [`ZeroConv`], or `moments` `[1, 2 C, 1, 1]`; with classes
    /// `class_embedding` `[classes, 2 C]`. All zero at first.
    pub fn new(
        params: &Params,
        channels: usize,
        convention: GlowConvention,
        classes: Option<usize>,
    ) -> Result<Self> {
        let outputs = 2 * channels;
        let base = match convention {
            GlowConvention::House => {
                TopBase::Channels(params.add("moments", [1, outputs, 1, 1], Init::Zeros)?)
            }
            // OpenAI's convolution takes as many zeros as it gives numbers.
            GlowConvention::OpenAi => TopBase::Conv(Box::new(ZeroConv::new(
                params,
                [outputs, outputs],
                convention.border(),
            )?)),
            GlowConvention::Rosinality => TopBase::Conv(Box::new(ZeroConv::new(
                params,
                [channels, outputs],
                convention.border(),
            )?)),
        };
        let classes = match classes {
            Some(n) => Some(params.add("class_embedding", [n, outputs], Init::Zeros)?),
            None => None,
        };
        Ok(TopNet { base, classes })
    }
}

impl Network for TopNet {
    fn apply(&self, zeros: &Tensor, cx: &Context<'_>) -> Tensor {
        let graph = zeros.graph();
        let (channels, height, width) = (zeros.dim(1), zeros.dim(-2), zeros.dim(-1));
        let raw = match &self.base {
            TopBase::Channels(moments) => {
                moments
                    .on(graph)
                    .broadcast_to([1, 2 * channels, height, width])
            }
            TopBase::Conv(conv) => {
                let inputs = match conv.border {
                    Border::EdgeChannel => 2 * channels,
                    _ => channels,
                };
                conv.apply(&graph.full([1, inputs, height, width], 0.0), cx)
            }
        };
        let (Some(embedding), Some(labels)) = (&self.classes, cx.condition()) else {
            return raw;
        };
        if labels.dtype() != DType::U32 {
            return raw;
        }
        let shift = embedding.on(graph).gather_rows(labels);
        raw.add(&shift.reshape([labels.dim(0), 2 * channels, 1, 1]))
    }
}
