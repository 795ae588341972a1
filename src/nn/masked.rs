//! Convolutions that see only pixels before their own, in row-major order.

use super::{Layer, Mode};
use crate::ops::ConvParams;
use crate::{Error, Graph, Init, Param, Params, Result, Tensor};

/// What a masked kernel sees of its own pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Centre {
    /// Nothing: mask A of PixelCNN, for its first layer. With colours only those before.
    Hidden,
    /// Itself: mask B, for all others. With colours those before and its own.
    Seen,
}

/// A colour for each channel: red before green before blue, by increasing numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Colours {
    /// Of the channels that come in.
    pub inputs: Vec<u32>,
    /// Of those that go out.
    pub outputs: Vec<u32>,
}

/// The mask of a kernel `[out, in, kh, kw]`, zeros and ones: taps before the centre in
/// row-major order are kept, those behind it are not, and of the centre what `centre` says
/// (van den Oord et al., 2016). Errors: an even extent, which has no centre; numbers of
/// colours that are not those of channels.
pub fn causal_mask(
    [outputs, inputs, height, width]: [usize; 4],
    centre: Centre,
    colours: Option<&Colours>,
) -> Result<Vec<f32>> {
    if height.is_multiple_of(2) || width.is_multiple_of(2) {
        let detail = format!("a kernel of {height}x{width} has no centre");
        return Err(Error::argument("causal_mask", detail));
    }
    if let Some(colours) = colours
        && [colours.inputs.len(), colours.outputs.len()] != [inputs, outputs]
    {
        let found = (colours.inputs.len(), colours.outputs.len());
        let detail = format!("{found:?} colours for {inputs} channels in and {outputs} out");
        return Err(Error::argument("causal_mask", detail));
    }
    let middle = height / 2 * width + width / 2;
    let mut mask = Vec::with_capacity(outputs * inputs * height * width);
    for o in 0..outputs {
        for i in 0..inputs {
            let sees = match (colours, centre) {
                (None, centre) => centre == Centre::Seen,
                (Some(c), Centre::Hidden) => c.inputs[i] < c.outputs[o],
                (Some(c), Centre::Seen) => c.inputs[i] <= c.outputs[o],
            };
            mask.extend((0..height * width).map(|tap| match tap.cmp(&middle) {
                std::cmp::Ordering::Less => 1.0,
                std::cmp::Ordering::Equal => f32::from(u8::from(sees)),
                std::cmp::Ordering::Greater => 0.0,
            }));
        }
    }
    Ok(mask)
}

/// `conv(x, weight * mask) + bias` with as many pixels out as in: `[N, in, H, W]` to
/// `[N, out, H, W]`. Masked taps are not learned: their gradient is zero.
///
/// Parameters `weight` `[out, in, kh, kw]` and `bias` `[out]`, as of
/// [`Conv2d`](super::Conv2d).
pub struct MaskedConv2d {
    weight: Param,
    bias: Param,
    mask: Vec<f32>,
    options: ConvParams,
}

impl MaskedConv2d {
    /// A layer with bias. Errors: see [`causal_mask`] and [`Params::add`].
    pub fn new(
        params: &Params,
        [inputs, outputs]: [usize; 2],
        kernel: [usize; 2],
        centre: Centre,
        colours: Option<&Colours>,
    ) -> Result<Self> {
        let shape = [outputs, inputs, kernel[0], kernel[1]];
        let mask = causal_mask(shape, centre, colours)?;
        let [y, x] = kernel.map(|extent| extent / 2);
        Ok(MaskedConv2d {
            weight: params.add("weight", shape, Init::weight(&shape))?,
            bias: params.add("bias", [outputs], Init::bias(Init::fan_in(&shape)))?,
            mask,
            options: ConvParams {
                padding: [y, y, x, x],
                ..ConvParams::default()
            },
        })
    }

    /// `weight` `[out, in, kh, kw]`, not masked.
    pub fn weight(&self) -> &Param {
        &self.weight
    }

    /// `weight * mask`: what the kernel is.
    pub fn masked_weight(&self, graph: &Graph) -> Tensor {
        let mask = graph.constant(self.weight.shape(), &self.mask);
        self.weight.on(graph).mul(&mask)
    }

    /// `bias` `[out]`.
    pub fn bias(&self) -> &Param {
        &self.bias
    }
}

impl Layer for MaskedConv2d {
    fn forward(&self, x: &Tensor, _: Mode) -> Tensor {
        let graph = x.graph();
        let weight = self.masked_weight(graph);
        let y = x.conv2d(&weight, Some(&self.bias.on(graph)), &self.options);
        graph.observe(self.weight.scope_name(), "masked conv2d", x, &y);
        y
    }
}
