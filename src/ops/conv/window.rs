//! Which pixels a convolution's output sees: what the convolution and both its
//! gradients have in common.

use crate::graph::{Array, Spec};
use crate::ops::Activation;
use crate::{DType, Error, Result, Shape};

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
pub(super) const LARGEST: usize = 65_535;

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

/// The four extents of a shape that is known to have four.
pub(crate) fn extents(shape: &Shape) -> [usize; 4] {
    let d = shape.dims();
    [d[0], d[1], d[2], d[3]]
}

/// Zeros before and behind `extent` pixels by TensorFlow's `SAME` rule: `ceil(extent /
/// stride)` windows, the odd zero behind.
pub(in crate::ops) fn same_padding(
    extent: usize,
    kernel: usize,
    stride: usize,
    dilation: usize,
) -> [usize; 2] {
    let windows = extent.div_ceil(stride.max(1)).saturating_sub(1);
    let reach = kernel.saturating_sub(1).saturating_mul(dilation) + 1;
    let all = (windows.saturating_mul(stride).saturating_add(reach)).saturating_sub(extent);
    [all / 2, all - all / 2]
}
