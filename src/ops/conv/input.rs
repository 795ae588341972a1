//! The gradient of a convolution by its input, which is also what a transposed
//! convolution computes: there it has a bias and an activation.

use super::direct::Direct;
use super::variants;
use super::window::{Dims, Window, check_bias, epilogue, four, four_stored};
use crate::graph::{Array, Lower, Op, Samples, Slot, Spec, Tensor, Vjp};
use crate::ops::Activation;
use crate::ops::product::problem::{Bias, Product};
use crate::{Error, Result, Shape};

/// `x = act(transpose(conv)(y, weight) + bias)`: inputs `y [N, O, P, Q]`, `weight
/// [O, C / groups, kh, kw]` and perhaps `bias [C]`; output `[N, C, H, W]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConvInput {
    /// The window of the convolution from `x` to `y`.
    pub window: Window,
    /// `H`, `W`: several heights may convolve to the same `P`.
    pub size: [usize; 2],
    pub activation: Activation,
    /// What plans and errors show.
    pub name: &'static str,
}

impl ConvInput {
    fn dims(&self, y: &Spec, weight: &Spec) -> Result<Dims> {
        let y = four(self.name, "the input", y)?;
        let weight = four_stored(self.name, weight)?;
        let [h, w] = self.size;
        let channels = weight[1].saturating_mul(self.window.groups);
        let d = self
            .window
            .dims(self.name, [y[0], channels, h, w], weight)?;
        if [d.n, d.o, d.output[0], d.output[1]] != y {
            return Err(Error::shape(
                self.name,
                format!(
                    "the input must be {:?} for the weight {weight:?} and an output of {h} x {w}, it is {y:?}",
                    [d.n, d.o, d.output[0], d.output[1]]
                ),
            ));
        }
        Ok(d)
    }
}

impl Tensor {
    /// With this tensor as the gradient by a convolution's output: the gradient by its
    /// input, of the shape `like`.
    #[track_caller]
    pub(in crate::ops) fn conv2d_input(
        &self,
        window: Window,
        weight: &Tensor,
        like: &Shape,
    ) -> Tensor {
        let d = like.dims();
        let op = ConvInput {
            window,
            size: [d[2], d[3]],
            activation: Activation::None,
            name: "conv2d_input",
        };
        self.graph().push1(op, &[self, weight])
    }
}

impl Op for ConvInput {
    fn name(&self) -> &'static str {
        self.name
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        let d = self.dims(inputs[0], inputs[1])?;
        check_bias(self.name, inputs.get(2), d.c)?;
        Ok(vec![Spec::f32([d.n, d.c, d.input[0], d.input[1]])])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let (y, weight) = (inputs[0], inputs[1]);
        let d = self.dims(&Spec::f32(&y.shape), &Spec::f32(&weight.shape))?;
        let mut x = Array::zeros([d.n, d.c, d.input[0], d.input[1]]);
        self.window.each_product(&d, |ix, iw, iy| {
            x.data[ix] += y.data[iy] * weight.data[iw];
        });
        epilogue(&mut x, inputs.get(2), self.activation);
        Ok(vec![x])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        let dx = self.activation.backward(cx.output(0), &cx.grad(0));
        let (y, weight) = (cx.input(0).clone(), cx.input(1).clone());
        if cx.needs(0) {
            cx.set(0, dx.conv2d_plain(self.window, &weight));
        }
        if cx.needs(1) {
            let grad = dx.conv2d_weight(self.window, &y, weight.shape());
            cx.set(1, grad);
        }
        if cx.inputs() > 2 && cx.needs(2) {
            cx.set(2, dx.sum(&[0, 2, 3], false));
        }
        Ok(())
    }

    fn reads_f16(&self, i: usize) -> bool {
        i == 1
    }

    fn samples(&self, _: &[Spec]) -> Option<Samples> {
        Some(Samples::Apart(vec![0]))
    }

    /// Pixels whose positions agree modulo the stride meet the same taps, and for
    /// them the gradient is a convolution of stride 1 with these taps in reverse
    /// order. So this is one dispatch of the convolution kernel per such phase.
    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let mut d = self.dims(cx.input(0), cx.input(1))?;
        let product = self.product(cx, &d);
        if d.is_pointwise(&self.window) {
            (d.input, d.output) = ([1, d.input[0] * d.input[1]], [1, d.output[0] * d.output[1]]);
        }
        let taps = d.kernel[0] * d.kernel[1];
        let row = d.kernel[1] as isize;
        let mut phases = Vec::new();
        for py in 0..self.window.stride[0].min(d.input[0]) {
            let y = self.phase(&d, 0, py);
            for px in 0..self.window.stride[1].min(d.input[1]) {
                let x = self.phase(&d, 1, px);
                phases.push(Direct {
                    name: "conv2d_input",
                    n: d.n,
                    groups: self.window.groups,
                    channels_in: d.og,
                    channels_out: d.cg,
                    input: d.output,
                    output: d.input,
                    count: [y.count, x.count],
                    first: [py, px],
                    step: self.window.stride,
                    taps: [y.taps, x.taps],
                    stride: [1, 1],
                    dilation: [y.dilation, x.dilation],
                    before: [y.before, x.before],
                    weight_first: y.last_tap * d.kernel[1] + x.last_tap,
                    weight_group: d.og * d.cg * taps,
                    weight_out: taps,
                    weight_in: d.cg * taps,
                    weight_tap: [-(y.tap_step as isize) * row, -(x.tap_step as isize)],
                    bias: (cx.inputs() > 2).then_some(Slot::In(2)),
                    residual: None,
                    activation: self.activation,
                });
            }
        }
        variants::lower(phases, product, cx)
    }
}

impl ConvInput {
    /// With a 1x1 kernel, the product of the transposed weight and every sample: see
    /// `Conv::product`.
    fn product(&self, cx: &Lower<'_>, d: &Dims) -> Option<Product> {
        let pixels = d.input[0] * d.input[1];
        let product = Product {
            batch: d.n,
            m: d.c,
            n: pixels,
            k: d.o,
            a: (Slot::In(1), 0, true),
            b: (Slot::In(0), d.o * pixels, false),
            bias: match cx.inputs() {
                2 => Bias::None,
                _ => Bias::Rows(Slot::In(2)),
            },
            residual: None,
            activation: self.activation,
        };
        let pointwise = d.is_pointwise(&self.window) && d.c == d.cg;
        pointwise.then_some(product)
    }
}

/// One axis of the stride-1 convolution that gives the pixels of one phase.
struct Phase {
    /// Pixels of this phase.
    count: usize,
    taps: usize,
    dilation: usize,
    before: isize,
    /// The tap of the original kernel that comes first, and the way to the next.
    last_tap: usize,
    tap_step: usize,
}

impl ConvInput {
    /// Pixel `x = first + s i` meets tap `k` where `first + before - k d` is `s`
    /// times a whole number; with `k = k0 + m t`, `t = s / gcd(s, d)`, it reads `y` at
    /// `i + (first + before - k0 d) / s - m d / gcd`.
    fn phase(&self, d: &Dims, axis: usize, first: usize) -> Phase {
        let (s, dil) = (self.window.stride[axis], self.window.dilation[axis]);
        let g = gcd(s, dil);
        let (tap_step, dilation) = (s / g, dil / g);
        let at = first as isize + self.window.before[axis];
        let reads = |k: usize| at - (k * dil) as isize;
        let k0 = (0..tap_step.min(d.kernel[axis])).find(|k| reads(*k).rem_euclid(s as isize) == 0);
        let count = (d.input[axis] - first).div_ceil(s);
        match k0 {
            Some(k0) => {
                let taps = (d.kernel[axis] - 1 - k0) / tap_step + 1;
                Phase {
                    count,
                    taps,
                    dilation,
                    before: ((taps - 1) * dilation) as isize - reads(k0).div_euclid(s as isize),
                    last_tap: k0 + (taps - 1) * tap_step,
                    tap_step,
                }
            }
            None => Phase {
                count,
                taps: 0,
                dilation: 1,
                before: 0,
                last_tap: 0,
                tap_step: 1,
            },
        }
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}
