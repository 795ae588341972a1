//! Monotone rational-quadratic splines with linear tails, one per element (Durkan et al.
//! 2019, "Neural spline flows"), forward and inverse, with the logarithm of the derivative.

pub use super::spline_params::SplineParams;

use super::spline_params::LEAST;
use super::spline_second;
use crate::graph::{Array, KernelBuilder, Lower, Op, Slot, Spec, Tensor, Vjp};
use crate::ops::pointwise::func::larger;
use crate::ops::reduce::axes::expect_f32;
use crate::{Error, Result, Shape};

const SHADER: &str = include_str!("../../../shaders/flow/spline.wgsl");
const GRAD_SHADER: &str = include_str!("../../../shaders/flow/spline_grad.wgsl");

/// The spline's value and the logarithm of its derivative, or those of its inverse.
#[derive(Debug)]
struct Spline {
    params: SplineParams,
    inverse: bool,
}

/// The gradients of [`Spline`] by its input and the raw values. The first input is the
/// point on the spline's x axis: the input, or the output of the inverse.
#[derive(Debug)]
struct SplineGrad {
    params: SplineParams,
    inverse: bool,
}

/// One spline in float64.
struct Curve {
    /// Knots along x and y, and the slopes there; `bins + 1` each.
    x: Vec<f64>,
    y: Vec<f64>,
    slope: Vec<f64>,
    /// The shares of bins along both axes, softmax of the raw values.
    shares: [Vec<f64>; 2],
    raw_slopes: Vec<f64>,
}

/// One piece of it at one point.
struct Point {
    bin: usize,
    w: f64,
    h: f64,
    d0: f64,
    d1: f64,
    /// The position within the bin, `0 ..= 1`.
    s: f64,
}

impl Curve {
    fn new(params: &SplineParams, raw: impl Fn(usize) -> f64) -> Curve {
        let (k, bound, least) = (params.bins, params.bound as f64, LEAST as f64);
        let axis = |first: usize| {
            let peak = (0..k).fold(f64::NEG_INFINITY, |m, j| m.max(raw(first + j)));
            let mass: f64 = (0..k).map(|j| (raw(first + j) - peak).exp()).sum();
            let share = |j: usize| (raw(first + j) - peak).exp() / mass;
            let shares: Vec<f64> = (0..k).map(share).collect();
            let mut knots = vec![-bound];
            for share in &shares {
                let size = 2.0 * bound * (least + (1.0 - least * k as f64) * share);
                knots.push(knots[knots.len() - 1] + size);
            }
            knots[k] = bound;
            (knots, shares)
        };
        let ((x, across), (y, up)) = (axis(0), axis(k));
        let raw_slopes: Vec<f64> = (0..k - 1)
            .map(|j| raw(2 * k + j) + SplineParams::offset() as f64)
            .collect();
        let mut slope = vec![1.0; k + 1];
        for (d, u) in slope[1..].iter_mut().zip(&raw_slopes) {
            *d = least + u.max(0.0) + (-u.abs()).exp().ln_1p();
        }
        let shares = [across, up];
        Curve {
            x,
            y,
            slope,
            shares,
            raw_slopes,
        }
    }

    /// The bin of `value` among `knots`.
    fn bin(knots: &[f64], value: f64) -> usize {
        let inner = &knots[1..knots.len() - 1];
        inner.iter().filter(|k| value >= **k).count()
    }

    fn point(&self, bin: usize, s: f64) -> Point {
        Point {
            bin,
            w: self.x[bin + 1] - self.x[bin],
            h: self.y[bin + 1] - self.y[bin],
            d0: self.slope[bin],
            d1: self.slope[bin + 1],
            s,
        }
    }

    fn at(&self, x: f64) -> Point {
        let bin = Self::bin(&self.x, x);
        let mut point = self.point(bin, 0.0);
        point.s = ((x - self.x[bin]) / point.w).clamp(0.0, 1.0);
        point
    }

    /// The point whose y is `y`, by the quadratic formula without cancellation.
    fn at_height(&self, y: f64) -> Point {
        let bin = Self::bin(&self.y, y);
        let mut p = self.point(bin, 0.0);
        let (d, up) = (p.h / p.w, y - self.y[bin]);
        let bend = p.d0 + p.d1 - 2.0 * d;
        let a = up * bend + p.h * (d - p.d0);
        let b = p.h * p.d0 - up * bend;
        let c = -d * up;
        let root = larger(b * b - 4.0 * a * c, 0.0).sqrt();
        p.s = (2.0 * c / (-b - root)).clamp(0.0, 1.0);
        p
    }
}

impl Point {
    /// `y - y0`, and the logarithm of the derivative.
    fn value(&self) -> (f64, f64) {
        let (s, d) = (self.s, self.h / self.w);
        let t = s * (1.0 - s);
        let r = d + (self.d0 + self.d1 - 2.0 * d) * t;
        let q = self.d1 * s * s + 2.0 * d * t + self.d0 * (1.0 - s).powi(2);
        let rise = self.h * (d * s * s + self.d0 * t) / r;
        (rise, 2.0 * (d / r).ln() + q.ln())
    }
}

/// Calls `f(i, raw)` for every element: `raw(j)` is the position of its raw value `j`.
fn each_element(
    params: &SplineParams,
    shape: &Shape,
    mut f: impl FnMut(usize, &dyn Fn(usize) -> usize),
) {
    let plane: usize = shape.dims()[2..].iter().product();
    for i in 0..shape.numel() {
        let (channel, p) = (i / plane, i % plane);
        f(i, &|j| (channel * params.raw_values() + j) * plane + p);
    }
}

impl Op for Spline {
    fn name(&self) -> &'static str {
        if self.inverse {
            "spline_inverse"
        } else {
            "spline"
        }
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        expect_f32(self.name(), inputs)?;
        self.params.check(self.name(), inputs[0], inputs[1])?;
        Ok(vec![inputs[0].clone(), inputs[0].clone()])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let (x, raw) = (inputs[0], inputs[1]);
        let (mut y, mut log_slope) = (x.clone(), Array::zeros(&x.shape));
        each_element(&self.params, &x.shape, |i, place| {
            let v = x.data[i];
            if v.abs() >= self.params.bound as f64 || v.is_nan() {
                log_slope.data[i] = if v.is_nan() { v } else { 0.0 };
                return;
            }
            let curve = Curve::new(&self.params, |j| raw.data[place(j)]);
            let point = match self.inverse {
                false => curve.at(v),
                true => curve.at_height(v),
            };
            let (rise, log) = point.value();
            (y.data[i], log_slope.data[i]) = match self.inverse {
                false => (curve.y[point.bin] + rise, log),
                true => (curve.x[point.bin] + point.s * point.w, -log),
            };
        });
        Ok(vec![y, log_slope])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        let on_x = match self.inverse {
            false => cx.input(0).clone(),
            true => cx.output(0).clone(),
        };
        let (raw, dy, dlog) = (cx.input(1).clone(), cx.grad(0), cx.grad(1));
        let op = SplineGrad {
            params: self.params,
            inverse: self.inverse,
        };
        let mut grads = raw.graph().push(op, &[&on_x, &raw, &dy, &dlog]);
        if cx.needs(1) {
            cx.set(1, grads.swap_remove(1));
        }
        if cx.needs(0) {
            cx.set(0, grads.swap_remove(0));
        }
        Ok(())
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let x = cx.input(0).clone();
        let kernel = cx.kernel("spline", SHADER);
        describe(kernel, &self.params, self.inverse, &x)
            .read(Slot::In(0))
            .read(Slot::In(1))
            .write(Slot::Out(0))
            .write(Slot::Out(1))
            .threads(x.shape.numel(), 64)
    }
}

impl Op for SplineGrad {
    fn name(&self) -> &'static str {
        "spline_grad"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        expect_f32(self.name(), inputs)?;
        self.params.check(self.name(), inputs[0], inputs[1])?;
        if inputs[2] != inputs[0] || inputs[3] != inputs[0] {
            let detail = "the upstream gradients must have the shape of the values";
            return Err(Error::shape(self.name(), detail));
        }
        Ok(vec![inputs[0].clone(), inputs[1].clone()])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let [x, raw, by_value, by_log] = [inputs[0], inputs[1], inputs[2], inputs[3]];
        let (mut dx, mut draw) = (by_value.clone(), Array::zeros(&raw.shape));
        each_element(&self.params, &x.shape, |i, place| {
            let v = x.data[i];
            if v.abs() >= self.params.bound as f64 || v.is_nan() {
                return;
            }
            let curve = Curve::new(&self.params, |j| raw.data[place(j)]);
            let (dv, grads) = self.pull(&curve, v, by_value.data[i], by_log.data[i]);
            dx.data[i] = dv;
            for (j, g) in grads.into_iter().enumerate() {
                draw.data[place(j)] = g;
            }
        });
        Ok(vec![dx, draw])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        let (by_dx, by_draw) = (cx.grad(0), cx.grad(1));
        cx.through(|inputs, backward| {
            let (params, inverse) = (&self.params, self.inverse);
            spline_second::parts(params, inverse, inputs, &by_dx, &by_draw, backward)
        })
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let x = cx.input(0).clone();
        let kernel = cx.kernel("spline_grad", GRAD_SHADER);
        describe(kernel, &self.params, self.inverse, &x)
            .read(Slot::In(0))
            .read(Slot::In(1))
            .read(Slot::In(2))
            .read(Slot::In(3))
            .write(Slot::Out(0))
            .write(Slot::Out(1))
            .threads(x.shape.numel(), 64)
    }
}

impl SplineGrad {
    /// The gradients by the value and by all raw values.
    fn pull(&self, curve: &Curve, x: f64, by_value: f64, by_log: f64) -> (f64, Vec<f64>) {
        let p = curve.at(x);
        let (s, d) = (p.s, p.h / p.w);
        let (t, turn, bend) = (s * (1.0 - s), 1.0 - 2.0 * s, p.d0 + p.d1 - 2.0 * d);
        let r = d + bend * t;
        let a = d * s * s + p.d0 * t;
        let q = p.d1 * s * s + 2.0 * d * t + p.d0 * (1.0 - s).powi(2);
        // The quotient rule for y - y0 = h a / r, by s, d, d0 and d1.
        let quotient = |a_by: f64, r_by: f64| p.h * (a_by * r - a * r_by) / (r * r);
        let y_by = [
            quotient(2.0 * d * s + p.d0 * turn, bend * turn),
            quotient(s * s, 1.0 - 2.0 * t),
            quotient(t, t),
            quotient(0.0, t),
        ];
        let log_by = [
            2.0 * (p.d1 * s + d * turn - p.d0 * (1.0 - s)) / q - 2.0 * bend * turn / r,
            2.0 / d + 2.0 * t / q - 2.0 * (1.0 - 2.0 * t) / r,
            (1.0 - s).powi(2) / q - 2.0 * t / r,
            s * s / q - 2.0 * t / r,
        ];
        let (u, v, through) = match self.inverse {
            false => (by_value, by_log, None),
            true => {
                let dy = (by_value - by_log * log_by[0] / p.w) / (y_by[0] / p.w);
                (-dy, -by_log, Some(dy))
            }
        };
        let g: Vec<f64> = y_by
            .iter()
            .zip(&log_by)
            .map(|(y, l)| u * y + v * l)
            .collect();
        let k = self.params.bins;
        let mut grads = vec![0.0; self.params.raw_values()];
        let starts = [-g[0] / p.w, u];
        let sizes = [-(g[0] * s + g[1] * d) / p.w, u * a / r + g[1] / p.w];
        let factor = 2.0 * self.params.bound as f64 * (1.0 - LEAST as f64 * k as f64);
        for axis in 0..2 {
            let by = |j: usize| match j.cmp(&p.bin) {
                std::cmp::Ordering::Less => starts[axis],
                std::cmp::Ordering::Equal => sizes[axis],
                std::cmp::Ordering::Greater => 0.0,
            };
            let shares = &curve.shares[axis];
            let mean: f64 = (0..k).map(|j| shares[j] * by(j)).sum();
            for j in 0..k {
                grads[axis * k + j] = factor * shares[j] * (by(j) - mean);
            }
        }
        for (j, raw) in curve.raw_slopes.iter().enumerate() {
            let by = if j == p.bin { g[3] } else { 0.0 } + if j + 1 == p.bin { g[2] } else { 0.0 };
            grads[2 * k + j] = by / (1.0 + (-raw).exp());
        }
        (through.unwrap_or(g[0] / p.w), grads)
    }
}

/// The defines and arguments that both kernels share.
fn describe<'l, 'a>(
    kernel: KernelBuilder<'l, 'a>,
    params: &SplineParams,
    inverse: bool,
    x: &Spec,
) -> KernelBuilder<'l, 'a> {
    let plane: usize = x.shape.dims()[2..].iter().product();
    kernel
        .variant(if inverse { "inverse" } else { "forward" })
        .define("INVERSE", inverse as u32)
        .arg("total", x.shape.numel())
        .arg("plane", plane)
        .arg("bins", params.bins)
        .arg_f32("bound", params.bound)
        .arg_f32("least", LEAST)
        .arg_f32("offset", SplineParams::offset())
        .flops(x.shape.numel() * (60 * params.bins + 60))
        .trips(16 * params.bins)
}

impl Tensor {
    /// A monotone rational-quadratic spline of every element of `[N, C, ..]`, and the
    /// logarithm of its derivative, both in the same shape. Summed per sample that is the
    /// log-determinant, in nats.
    ///
    /// Within `-bound .. bound` there are `bins` bins; outside the spline is the identity.
    /// `raw` is `[N, C * (3 bins - 1), ..]`, the values of a channel side by side: their
    /// softmax gives the widths of the bins, then the heights, and a softplus the slopes
    /// at the inner knots (1 at the ends). Widths and heights are at least 1e-3 of the
    /// interval, slopes at least 1e-3; raw values of 0 give the identity.
    /// Durkan et al. 2019, "Neural spline flows".
    #[track_caller]
    pub fn spline(&self, raw: &Tensor, params: &SplineParams) -> (Tensor, Tensor) {
        self.splines(raw, params, false)
    }

    /// The inverse of [`Tensor::spline`] with the same raw values, and the logarithm of
    /// its own derivative.
    #[track_caller]
    pub fn spline_inverse(&self, raw: &Tensor, params: &SplineParams) -> (Tensor, Tensor) {
        self.splines(raw, params, true)
    }

    #[track_caller]
    fn splines(&self, raw: &Tensor, params: &SplineParams, inverse: bool) -> (Tensor, Tensor) {
        let params = *params;
        let mut out = self.graph().push(Spline { params, inverse }, &[self, raw]);
        let log_slope = out.swap_remove(1);
        (out.swap_remove(0), log_slope)
    }
}
