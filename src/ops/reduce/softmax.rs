//! Softmax and log-softmax along an axis, with the maximum taken out.

use super::axes::{each, expect_f32, normalize_axes};
use super::fold::{Fold, Split, fold};
use crate::Result;
use crate::device::DeviceClass;
use crate::graph::{Array, Lower, Op, Samples, Slot, Spec, Tensor, Vjp};
use crate::ops::pointwise::func::larger;

const SHADER: &str = include_str!("../../../shaders/reduce/softmax.wgsl");

/// `e^x / sum e^x` along `axis`, or its logarithm.
#[derive(Debug)]
struct Softmax {
    log: bool,
    axis: usize,
}

/// The gradient of [`Softmax`] from the upstream gradient and the output.
#[derive(Debug)]
struct SoftmaxGrad {
    log: bool,
    axis: usize,
}

/// Appends the kernel, after the sums over rows where these are too few or too long
/// for one invocation each.
fn lower(cx: &mut Lower<'_>, axis: usize, log: bool, grad: bool) -> Result<()> {
    let shape = cx.input(0).shape.clone();
    let split = Split::new(&shape, &[axis]);
    let (rows, extent) = (split.outputs(), split.count());
    let inner: usize = shape.dims()[axis + 1..].iter().product();
    let software = cx.device().class == DeviceClass::Software;
    let enough = match cx.device().class {
        DeviceClass::Software => extent <= 64 || rows >= 64 && extent <= 16_384,
        // Rows side by side in memory are read well; along the last axis only short ones.
        _ => extent <= 16 || inner >= 32 && rows >= 8192 && extent <= 4096,
    };
    let (x, w) = (Slot::In(0), Slot::In(1));
    let mut sums = Vec::new();
    if !enough {
        for _ in 0..if grad { 1 } else { 2 } {
            sums.push(cx.scratch(4 * rows as u64));
        }
        let (kind, inputs) = match (grad, log) {
            (false, _) => (Fold::LogSumExp, vec![x]),
            (true, true) => (Fold::Sum, vec![x]),
            (true, false) => (Fold::Product, vec![x, w]),
        };
        fold(cx, split, kind, &inputs, &sums, 1.0)?;
    }
    let cell = match inner {
        1 if software && extent.is_multiple_of(8) => 8,
        1 if enough && extent.is_multiple_of(4) => 4,
        _ => 1,
    };
    let extent = extent / cell;
    let total = if enough { rows } else { shape.numel() / cell };
    // A longer text, which takes the driver's compiler longer.
    let kept = cell == 8 && enough && extent <= 8 && shape.numel() >= 1 << 15;
    // A software adapter gives every thread whole workgroups: few rows need small ones.
    let size = if software && total <= 1024 { 8 } else { 64 };
    let mut kernel = cx
        .kernel("softmax", SHADER)
        .variant(match (grad, enough) {
            (false, true) => "rows",
            (false, false) => "elements",
            (true, true) => "gradient, rows",
            (true, false) => "gradient, elements",
        })
        .define("LOG", log as u32)
        .define("GRAD", grad as u32)
        .define("ROWS", enough as u32)
        .define("VEC4", u32::from(cell > 1))
        .define("HALVES", if cell == 8 { 2 } else { 1 })
        .define("KEPT", if kept { extent } else { 0 })
        .define("WG", size)
        .arg("total", total)
        .arg("extent", extent)
        .arg("inner", inner)
        .read(x)
        .write(Slot::Out(0));
    if grad {
        kernel = kernel.read(w);
    }
    for slot in sums {
        kernel = kernel.read(slot);
    }
    kernel
        .flops(8 * shape.numel())
        .trips(if enough { 2 * extent } else { 1 })
        .threads(total, size)
}

impl Op for Softmax {
    fn name(&self) -> &'static str {
        if self.log { "log_softmax" } else { "softmax" }
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        expect_f32(self.name(), inputs)?;
        Ok(vec![inputs[0].clone()])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let x = inputs[0];
        let rows = x.numel() / x.shape[self.axis];
        let (mut peaks, mut masses) = (vec![f64::NEG_INFINITY; rows], vec![0.0; rows]);
        each(x, &[self.axis], |o, _, v| peaks[o] = larger(peaks[o], v));
        each(x, &[self.axis], |o, _, v| masses[o] += (v - peaks[o]).exp());
        let mut out = Vec::with_capacity(x.numel());
        each(x, &[self.axis], |o, _, v| {
            let log = v - peaks[o] - masses[o].ln();
            out.push(if self.log { log } else { log.exp() });
        });
        Ok(vec![Array::new(&x.shape, out)?])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        let (dy, y) = (cx.grad(0), cx.output(0).clone());
        let op = SoftmaxGrad {
            log: self.log,
            axis: self.axis,
        };
        let grad = y.graph().push1(op, &[&dy, &y]);
        cx.set(0, grad);
        Ok(())
    }

    fn samples(&self, _: &[Spec]) -> Option<Samples> {
        (self.axis > 0).then(|| Samples::Apart(vec![0]))
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        lower(cx, self.axis, self.log, false)
    }
}

impl Op for SoftmaxGrad {
    fn name(&self) -> &'static str {
        if self.log {
            "log_softmax_grad"
        } else {
            "softmax_grad"
        }
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        expect_f32(self.name(), inputs)?;
        Ok(vec![inputs[0].clone()])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let (dy, y) = (inputs[0], inputs[1]);
        let mut sums = vec![0.0; dy.numel() / dy.shape[self.axis]];
        let mut at = 0;
        each(dy, &[self.axis], |o, _, g| {
            sums[o] += if self.log { g } else { g * y.data[at] };
            at += 1;
        });
        let mut out = Vec::with_capacity(dy.numel());
        each(dy, &[self.axis], |o, _, g| {
            let w = y.data[out.len()];
            out.push(if self.log {
                g - w.exp() * sums[o]
            } else {
                w * (g - sums[o])
            });
        });
        Ok(vec![Array::new(&dy.shape, out)?])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        let (u, dy, y) = (cx.grad(0), cx.input(0).clone(), cx.input(1).clone());
        let sum = |t: &Tensor| t.sum(&[self.axis as isize], true);
        if self.log {
            let p = y.exp();
            if cx.needs(0) {
                cx.set(0, u.sub(&sum(&u.mul(&p))));
            }
            if cx.needs(1) {
                cx.set(1, u.mul(&p).mul(&sum(&dy)).neg());
            }
        } else {
            if cx.needs(0) {
                let op = SoftmaxGrad {
                    log: false,
                    axis: self.axis,
                };
                let grad = y.graph().push1(op, &[&u, &y]);
                cx.set(0, grad);
            }
            if cx.needs(1) {
                let centered = dy.sub(&sum(&dy.mul(&y)));
                cx.set(1, u.mul(&centered).sub(&dy.mul(&sum(&u.mul(&y)))));
            }
        }
        Ok(())
    }

    fn samples(&self, _: &[Spec]) -> Option<Samples> {
        (self.axis > 0).then(|| Samples::Apart(vec![0, 1]))
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        lower(cx, self.axis, self.log, true)
    }
}

impl Tensor {
    #[track_caller]
    fn softmax_of(&self, log: bool, axis: isize) -> Tensor {
        match normalize_axes("softmax", self.shape(), &[axis]) {
            Ok(axes) => {
                let axis = axes[0];
                self.graph().push1(Softmax { log, axis }, &[self])
            }
            Err(e) => self.graph().poisoned(self.check().err().unwrap_or(e)),
        }
    }

    /// `e^x / sum e^x` along `axis` (from the end where negative), in the same shape.
    #[track_caller]
    pub fn softmax(&self, axis: isize) -> Tensor {
        self.softmax_of(false, axis)
    }

    /// The logarithm of [`Tensor::softmax`].
    #[track_caller]
    pub fn log_softmax(&self, axis: isize) -> Tensor {
        self.softmax_of(true, axis)
    }
}
