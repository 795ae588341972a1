//! Convolution over the last two axes of `[N, C, H, W]`: cross-correlation,
//! without a kernel flip, with bias and activation in the epilogue.
//!
//! Convolution, its gradient by the input ([`ConvInput`]) and its gradient by the
//! weight ([`ConvWeight`]) are linear in both operands and each other's gradients,
//! so gradients of gradients need nothing more. All three share one [`Window`].

use super::Activation;
use super::conv_direct::{self, Direct};
use super::conv_input::ConvInput;
use super::conv_weight::ConvWeight;
use super::product::{Bias, Product};
use crate::graph::{Array, Lower, Op, Slot, Spec, Tensor, Vjp};
use crate::{DType, Error, Result, Shape};

/// Parameters of [`Tensor::conv2d`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ConvParams {
    /// Step between windows, vertical and horizontal.
    pub stride: [usize; 2],
    /// Zeros around the image: top, bottom, left, right.
    pub padding: [usize; 4],
    /// Distance between two taps, vertical and horizontal.
    pub dilation: [usize; 2],
    /// Independent blocks of channels; the number of channels for a depthwise one.
    pub groups: usize,
    /// Applied last.
    pub activation: Activation,
}

impl Default for ConvParams {
    fn default() -> Self {
        ConvParams {
            stride: [1, 1],
            padding: [0; 4],
            dilation: [1, 1],
            groups: 1,
            activation: Activation::None,
        }
    }
}

/// Which input pixels an output pixel sees. Axes are vertical, horizontal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    pub stride: [usize; 2],
    /// Zeros above and to the left.
    pub before: [isize; 2],
    /// Zeros below and to the right; negative where rows are left out.
    pub after: [isize; 2],
    pub dilation: [usize; 2],
    pub groups: usize,
}

/// All extents of a convolution: `x [n, c, h, w]`, `weight [o, c / groups, k, k]`,
/// `y [n, o, p, q]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dims {
    pub n: usize,
    pub c: usize,
    pub o: usize,
    pub input: [usize; 2],
    pub kernel: [usize; 2],
    pub output: [usize; 2],
    /// Channels per group.
    pub cg: usize,
    pub og: usize,
}

/// Above this, extents could overflow index arithmetic; no use is known.
const LARGEST: usize = 65_535;

impl Window {
    /// Refuses zeros and absurd values.
    pub fn check(&self, op: &str) -> Result<()> {
        let fail = |name: &str, what: String| Err(Error::argument(&format!("{op}, {name}"), what));
        for (name, values) in [("stride", self.stride), ("dilation", self.dilation)] {
            if values.iter().any(|v| !(1..=LARGEST).contains(v)) {
                return fail(
                    name,
                    format!("{values:?} given, 1 to {LARGEST} are possible"),
                );
            }
        }
        if self.groups == 0 {
            return fail("groups", "0 given, at least 1 is needed".into());
        }
        let padding = self.before.iter().chain(&self.after);
        if padding.clone().any(|v| v.unsigned_abs() > LARGEST) {
            return fail("padding", format!("at most {LARGEST} is possible"));
        }
        Ok(())
    }

    /// The extents for an input of the given shape and a weight of `weight`.
    pub fn dims(&self, op: &str, x: [usize; 4], weight: [usize; 4]) -> Result<Dims> {
        self.check(op)?;
        let ([n, c, h, w], [o, cg, kh, kw]) = (x, weight);
        if !c.is_multiple_of(self.groups) || !o.is_multiple_of(self.groups) {
            return Err(Error::shape(
                op,
                format!(
                    "{c} input and {o} output channels do not divide into {} groups",
                    self.groups
                ),
            ));
        }
        if cg != c / self.groups {
            return Err(Error::shape(
                op,
                format!(
                    "the weight {weight:?} is for {cg} input channels per group, the input {x:?} has {} in each of {} groups",
                    c / self.groups,
                    self.groups
                ),
            ));
        }
        let size = |axis: usize, extent: usize, kernel: usize| -> Result<usize> {
            let reach = self.dilation[axis].saturating_mul(kernel.saturating_sub(1)) as isize;
            let padded = extent as isize + self.before[axis] + self.after[axis];
            let room = padded - 1 - reach;
            if room < 0 || kernel == 0 {
                return Err(Error::shape(
                    op,
                    format!(
                        "a kernel that spans {} pixels does not fit into {padded} (padding included) of {x:?}",
                        reach + 1
                    ),
                ));
            }
            Ok(room as usize / self.stride[axis] + 1)
        };
        Ok(Dims {
            n,
            c,
            o,
            input: [h, w],
            kernel: [kh, kw],
            output: [size(0, h, kh)?, size(1, w, kw)?],
            cg,
            og: o / self.groups,
        })
    }

    /// Calls `f` with the flat positions in input, weight and output of every
    /// product that the convolution sums. The one loop of all three references.
    pub fn each_product(&self, d: &Dims, mut f: impl FnMut(usize, usize, usize)) {
        let inside = |axis: usize, out: usize, tap: usize| -> Option<usize> {
            let at = (out * self.stride[axis] + tap * self.dilation[axis]) as isize;
            usize::try_from(at - self.before[axis])
                .ok()
                .filter(|at| *at < d.input[axis])
        };
        let ([p, q], [kh, kw], [h, w]) = (d.output, d.kernel, d.input);
        for n in 0..d.n {
            for o in 0..d.o {
                let first = o / d.og * d.cg;
                for (y, ky) in (0..p).flat_map(|y| (0..kh).map(move |ky| (y, ky))) {
                    let Some(iy) = inside(0, y, ky) else { continue };
                    for (x, kx) in (0..q).flat_map(|x| (0..kw).map(move |kx| (x, kx))) {
                        let Some(ix) = inside(1, x, kx) else { continue };
                        for c in 0..d.cg {
                            f(
                                ((n * d.c + first + c) * h + iy) * w + ix,
                                ((o * d.cg + c) * kh + ky) * kw + kx,
                                ((n * d.o + o) * p + y) * q + x,
                            );
                        }
                    }
                }
            }
        }
    }
}

/// The four extents of a weight, which may be stored as 16-bit floats.
pub(crate) fn four_stored(op: &str, spec: &Spec) -> Result<[usize; 4]> {
    match spec.dtype {
        DType::F16 => four(op, "the weight", &Spec::f32(&spec.shape)),
        _ => four(op, "the weight", spec),
    }
}

/// The four extents of an operand, or what is wrong with it.
pub(crate) fn four(op: &str, what: &str, spec: &Spec) -> Result<[usize; 4]> {
    if spec.dtype != DType::F32 {
        return Err(Error::dtype(
            op,
            format!("{what} must be f32, it is {}", spec.dtype),
        ));
    }
    spec.shape.dims().try_into().map_err(|_| {
        Error::shape(
            op,
            format!("{what} must have four axes, it is {:?}", spec.shape),
        )
    })
}

/// Checks that a bias has one element per output channel.
pub(crate) fn check_bias(op: &str, bias: Option<&&Spec>, channels: usize) -> Result<()> {
    match bias {
        Some(b) if b.shape.dims() != [channels] || b.dtype != DType::F32 => Err(Error::shape(
            op,
            format!(
                "the bias must be f32 [{channels}], it is {} {:?}",
                b.dtype, b.shape
            ),
        )),
        _ => Ok(()),
    }
}

/// Adds a bias per channel and applies the activation, for the references.
pub(crate) fn epilogue(y: &mut Array, bias: Option<&&Array>, activation: Activation) {
    let (channels, plane) = (y.shape[1], y.shape[2] * y.shape[3]);
    for (i, v) in y.data.iter_mut().enumerate() {
        let shift = bias.map_or(0.0, |b| b.data[i / plane % channels]);
        *v = activation.eval(*v + shift);
    }
}

/// `y = act(x * weight + bias + residual)`: inputs `x`, `weight`, then those that are
/// there of `bias [O]` and `residual [N, O, P, Q]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Conv {
    pub window: Window,
    pub bias: bool,
    pub residual: bool,
    pub activation: Activation,
}

impl Conv {
    const NAME: &'static str = "conv2d";

    /// The position of the bias among the inputs.
    fn bias(&self) -> Option<usize> {
        self.bias.then_some(2)
    }

    /// The position of the residual among the inputs.
    fn residual(&self) -> Option<usize> {
        self.residual.then_some(2 + self.bias as usize)
    }

    fn dims(&self, x: &Spec, weight: &Spec) -> Result<Dims> {
        let x = four(Self::NAME, "the input", x)?;
        let weight = four_stored(Self::NAME, weight)?;
        self.window.dims(Self::NAME, x, weight)
    }
}

impl Op for Conv {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        let d = self.dims(inputs[0], inputs[1])?;
        check_bias(Self::NAME, self.bias().map(|i| &inputs[i]), d.o)?;
        let output = Spec::f32([d.n, d.o, d.output[0], d.output[1]]);
        match self.residual().map(|i| inputs[i]) {
            Some(residual) if *residual != output => Err(Error::shape(
                Self::NAME,
                format!(
                    "the residual must be f32 {:?}, it is {} {:?}",
                    output.shape, residual.dtype, residual.shape
                ),
            )),
            _ => Ok(vec![output]),
        }
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let spec = |a: &Array| Spec::f32(&a.shape);
        let (x, weight) = (inputs[0], inputs[1]);
        let d = self.dims(&spec(x), &spec(weight))?;
        let mut y = Array::zeros([d.n, d.o, d.output[0], d.output[1]]);
        self.window.each_product(&d, |ix, iw, iy| {
            y.data[iy] += x.data[ix] * weight.data[iw];
        });
        if let Some(residual) = self.residual().map(|i| inputs[i]) {
            for (v, r) in y.data.iter_mut().zip(&residual.data) {
                *v += r;
            }
        }
        epilogue(&mut y, self.bias().map(|i| &inputs[i]), self.activation);
        Ok(vec![y])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        let dy = self.activation.backward(cx.output(0), &cx.grad(0));
        let (x, weight) = (cx.input(0).clone(), cx.input(1).clone());
        if cx.needs(0) {
            cx.set(0, ConvInput::gradient(self.window, &dy, &weight, x.shape()));
        }
        if cx.needs(1) {
            let grad = ConvWeight::gradient(self.window, &x, &dy, weight.shape());
            cx.set(1, grad);
        }
        if let Some(bias) = self.bias().filter(|i| cx.needs(*i)) {
            cx.set(bias, dy.sum(&[0, 2, 3], false));
        }
        if let Some(residual) = self.residual().filter(|i| cx.needs(*i)) {
            cx.set(residual, dy);
        }
        Ok(())
    }

    fn reads_f16(&self, i: usize) -> bool {
        i == 1
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let mut d = self.dims(cx.input(0), cx.input(1))?;
        let product = self.product(&d);
        let mut window = self.window;
        if d.is_pointwise(&window) {
            // Rows mean nothing to a 1x1 convolution: as one long row, tiles of
            // neighbouring pixels have no ragged end in every row.
            (d.input, d.output) = ([1, d.input[0] * d.input[1]], [1, d.output[0] * d.output[1]]);
            window.stride = [1, 1];
        }
        let taps = d.kernel[0] * d.kernel[1];
        let direct = Direct {
            name: "conv2d",
            n: d.n,
            groups: window.groups,
            channels_in: d.cg,
            channels_out: d.og,
            input: d.input,
            output: d.output,
            count: d.output,
            first: [0, 0],
            step: [1, 1],
            taps: d.kernel,
            stride: window.stride,
            dilation: window.dilation,
            before: window.before,
            weight_first: 0,
            weight_group: d.og * d.cg * taps,
            weight_out: d.cg * taps,
            weight_in: taps,
            weight_tap: [d.kernel[1] as isize, 1],
            bias: self.bias().map(Slot::In),
            residual: self.residual().map(Slot::In),
            activation: self.activation,
        };
        conv_direct::lower(&[direct], product, cx)
    }
}

impl Dims {
    /// Whether every output pixel sees exactly the input pixel at its own place.
    pub fn is_pointwise(&self, window: &Window) -> bool {
        self.kernel == [1, 1]
            && window.stride == [1, 1]
            && window.before == [0, 0]
            && self.input == self.output
    }
}

impl Conv {
    /// A 1x1 convolution as the product of its weight and every sample.
    fn product(&self, d: &Dims) -> Option<Product> {
        let pixels = d.input[0] * d.input[1];
        let product = Product {
            batch: d.n,
            m: d.o,
            n: pixels,
            k: d.c,
            a: (Slot::In(1), 0, false),
            b: (Slot::In(0), d.c * pixels, false),
            bias: match self.bias() {
                Some(i) => Bias::Rows(Slot::In(i)),
                None => Bias::None,
            },
            residual: self.residual().map(Slot::In),
            activation: self.activation,
        };
        let pointwise = d.is_pointwise(&self.window) && d.c == d.cg;
        pointwise.then_some(product)
    }

    /// The same window applied to `x`, without bias and activation.
    #[track_caller]
    pub fn plain(window: Window, x: &Tensor, weight: &Tensor) -> Tensor {
        let op = Conv {
            window,
            bias: false,
            residual: false,
            activation: Activation::None,
        };
        x.graph().push1(op, &[x, weight])
    }
}

impl Tensor {
    /// Convolution (cross-correlation) of `[N, C, H, W]` with a `weight` of
    /// `[O, C / groups, kh, kw]` and a `bias` of `[O]`, giving `[N, O, P, Q]` with
    /// `P = (H + top + bottom - dilation * (kh - 1) - 1) / stride + 1`, rounded down.
    ///
    /// Poisoned by: other ranks or types, channels that do not divide into the
    /// groups, a kernel larger than the padded image, a stride, dilation or group
    /// count of 0.
    #[track_caller]
    pub fn conv2d(&self, weight: &Tensor, bias: Option<&Tensor>, params: &ConvParams) -> Tensor {
        self.conv2d_residual(weight, bias, None, params)
    }

    /// The same with a `residual` of the output's shape added before the activation, by
    /// the same kernel.
    #[track_caller]
    pub fn conv2d_residual(
        &self,
        weight: &Tensor,
        bias: Option<&Tensor>,
        residual: Option<&Tensor>,
        params: &ConvParams,
    ) -> Tensor {
        let [top, bottom, left, right] = params.padding.map(|p| p.min(LARGEST + 1) as isize);
        let op = Conv {
            window: Window {
                stride: params.stride,
                before: [top, left],
                after: [bottom, right],
                dilation: params.dilation,
                groups: params.groups,
            },
            bias: bias.is_some(),
            residual: residual.is_some(),
            activation: params.activation,
        };
        let mut inputs = vec![self, weight];
        inputs.extend(bias);
        inputs.extend(residual);
        self.graph().push1(op, &inputs)
    }
}

/// The four extents of a shape that is known to have four.
pub(crate) fn extents(shape: &Shape) -> [usize; 4] {
    let d = shape.dims();
    [d[0], d[1], d[2], d[3]]
}
