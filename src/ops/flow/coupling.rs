//! Affine and additive coupling, forward and inverse, each with its log-determinant in
//! the same pass; a second pass adds up the parts of every sample in a fixed order.
//!
//! NICE (Dinh et al. 2014), RealNVP (Dinh et al. 2017), Glow (Kingma and Dhariwal 2018).
//! The gradient reads the output and not the input, so that nobody has to keep that.

pub use super::coupling_layout::{CouplingMask, CouplingParams, CouplingScale, RawLayout};

use super::coupling_layout::Places;
use super::coupling_second::{self, checkerboard};
use crate::device::DeviceClass;
use crate::graph::{Access, Array, KernelBuilder, Lower, Op, Slot, Spec, Tensor, Vjp};
use crate::ops::reduce::axes::expect_f32;
use crate::ops::reduce::fold::{Fold, Split, fold};
use crate::{Error, Result};

const SHADER: &str = include_str!("../../../shaders/flow/coupling.wgsl");
const GRAD_SHADER: &str = include_str!("../../../shaders/flow/coupling_grad.wgsl");

/// From x and the raw values: y, and the log-determinant per sample where there is one.
#[derive(Debug)]
struct Coupling {
    params: CouplingParams,
    inverse: bool,
}

/// The gradients of [`Coupling`] by x and the raw values, from its output, the raw
/// values, and the upstream gradients of both outputs.
#[derive(Debug)]
struct CouplingGrad {
    params: CouplingParams,
    inverse: bool,
}

/// The scale of a raw value, its logarithm `l`, and `dl/ds`.
fn scale(params: &CouplingParams, s: f64) -> (f64, f64, f64) {
    let sigmoid = |v: f64| 1.0 / (1.0 + (-v).exp());
    let (log, slope) = match params.scale {
        CouplingScale::None => (0.0, 0.0),
        CouplingScale::Exp => (s, 1.0),
        CouplingScale::Sigmoid { offset } => {
            let u = s + offset as f64;
            (u.min(0.0) - (-u.abs()).exp().ln_1p(), sigmoid(-u))
        }
        CouplingScale::Tanh { clamp } => {
            let tanh = (s / clamp as f64).tanh();
            (clamp as f64 * tanh, 1.0 - tanh * tanh)
        }
    };
    if params.minimum == 0.0 {
        return (log.exp(), log, slope);
    }
    let sum = log.exp() + params.minimum as f64;
    (sum, sum.ln(), slope * log.exp() / sum)
}

impl Op for Coupling {
    fn name(&self) -> &'static str {
        if self.inverse {
            "coupling_inverse"
        } else {
            "coupling"
        }
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        expect_f32(self.name(), inputs)?;
        let places = Places::new(self.name(), &self.params, inputs[0], inputs[1])?;
        let mut out = vec![inputs[0].clone()];
        if self.params.scale != CouplingScale::None {
            out.push(Spec::f32([places.samples]));
        }
        Ok(out)
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let (x, raw) = (inputs[0], inputs[1]);
        let places = places_of(self.name(), &self.params, x, raw)?;
        let mut y = x.clone();
        let mut log_det = Array::zeros([places.samples]);
        places.each(&self.params, |at, s, t, n| {
            let (scale, log, _) = scale(&self.params, raw.data[s]);
            let (v, t) = (x.data[at], raw.data[t]);
            y.data[at] = match (self.inverse, self.params.shift_first) {
                (false, false) => v * scale + t,
                (false, true) => (v + t) * scale,
                (true, false) => (v - t) / scale,
                (true, true) => v / scale - t,
            };
            log_det.data[n] += if self.inverse { -log } else { log };
        });
        Ok(match self.params.scale {
            CouplingScale::None => vec![y],
            _ => vec![y, log_det],
        })
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        let (y, raw, dy) = (cx.output(0).clone(), cx.input(1).clone(), cx.grad(0));
        let upstream = match self.params.scale {
            CouplingScale::None => None,
            _ => cx.grad_if_any(1),
        };
        let (dx, draw) = y.coupling_grad(&raw, &dy, upstream.as_ref(), &self.params, self.inverse);
        if cx.needs(0) {
            cx.set(0, dx);
        }
        if cx.needs(1) {
            cx.set(1, draw);
        }
        Ok(())
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let places =
            Places::new(self.name(), &self.params, cx.input(0), cx.input(1))?.on(cx.device());
        let share = Share::new(cx, &places);
        let parts = share.parts;
        let scaled = self.params.scale != CouplingScale::None;
        let sums = match (scaled, parts) {
            (false, _) => None,
            (true, 1) => Some(Slot::Out(1)),
            (true, _) => Some(cx.scratch(4 * (places.samples * parts) as u64)),
        };
        let direction = if self.inverse { "inverse" } else { "forward" };
        let in_place = cx.in_place(0);
        let kernel = cx
            .kernel("coupling", SHADER)
            .variant(direction)
            .define("X", if in_place { "y" } else { "x" })
            .define("BINDING_X", 2 + scaled as usize);
        let mut kernel = describe(
            kernel,
            &self.params,
            self.inverse,
            &places,
            &share,
            in_place,
        )
        .bind(Slot::Out(0), written(in_place))
        .read(Slot::In(1));
        if let Some(sums) = sums {
            kernel = kernel.write(sums);
        }
        if !in_place {
            kernel = kernel.read(Slot::In(0));
        }
        let touched = if scaled { 4 } else { 3 };
        kernel
            .bytes(places.bytes(touched, in_place))
            .threads(places.samples * parts, 64)?;
        match sums {
            Some(sums) if parts > 1 => {
                let split = Split {
                    kept: vec![(places.samples, parts)],
                    reduced: vec![(parts, 1)],
                };
                fold(cx, split, Fold::Sum, &[sums], &[Slot::Out(1)], 1.0)
            }
            _ => Ok(()),
        }
    }
}

impl Op for CouplingGrad {
    fn name(&self) -> &'static str {
        "coupling_grad"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        expect_f32(self.name(), inputs)?;
        let places = Places::new(self.name(), &self.params, inputs[0], inputs[1])?;
        if inputs[2] != inputs[0] || inputs[3] != &Spec::f32([places.samples]) {
            return Err(Error::shape(
                self.name(),
                format!(
                    "the upstream gradients {:?} and {:?} do not belong to {:?} and its log-determinants",
                    inputs[2].shape, inputs[3].shape, inputs[0].shape
                ),
            ));
        }
        Ok(vec![inputs[0].clone(), inputs[1].clone()])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let (y, raw, dy, upstream) = (inputs[0], inputs[1], inputs[2], inputs[3]);
        let places = places_of(self.name(), &self.params, y, raw)?;
        let (mut dx, mut draw) = (dy.clone(), Array::zeros(&raw.shape));
        places.each(&self.params, |at, s, t, n| {
            let (scale, _, slope) = scale(&self.params, raw.data[s]);
            let (v, g, shift, u) = (y.data[at], dy.data[at], raw.data[t], upstream.data[n]);
            let (by_x, by_t, by_log) = match (self.inverse, self.params.shift_first) {
                (false, false) => (g * scale, g, g * (v - shift) + u),
                (false, true) => (g * scale, g * scale, g * v + u),
                (true, false) => (g / scale, -g / scale, -(g * v + u)),
                (true, true) => (g / scale, -g, -(g * (v + shift) + u)),
            };
            dx.data[at] = by_x;
            draw.data[t] = by_t;
            draw.data[s] = slope * by_log;
        });
        Ok(vec![dx, draw])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        let (by_dx, by_draw) = (cx.grad(0), cx.grad(1));
        cx.through(|inputs, _| {
            let (params, inverse) = (&self.params, self.inverse);
            Ok(coupling_second::parts(
                params, inverse, inputs, &by_dx, &by_draw,
            ))
        })
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 2)]
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let places =
            Places::new(self.name(), &self.params, cx.input(0), cx.input(1))?.on(cx.device());
        let share = Share::new(cx, &places);
        let parts = share.parts;
        let direction = if self.inverse { "inverse" } else { "forward" };
        let in_place = cx.in_place(0);
        let kernel = cx
            .kernel("coupling_grad", GRAD_SHADER)
            .variant(direction)
            .define("DY", if in_place { "dx" } else { "dy" });
        let mut kernel = describe(
            kernel,
            &self.params,
            self.inverse,
            &places,
            &share,
            in_place,
        )
        .read(Slot::In(0))
        .read(Slot::In(1))
        .read(Slot::In(3))
        .bind(Slot::Out(0), written(in_place))
        .write(Slot::Out(1));
        if !in_place {
            kernel = kernel.read(Slot::In(2));
        }
        kernel
            .bytes(places.bytes(7, in_place))
            .threads(places.samples * parts, 64)
    }
}

fn places_of(op: &str, params: &CouplingParams, x: &Array, raw: &Array) -> Result<Places> {
    Places::new(op, params, &Spec::f32(&x.shape), &Spec::f32(&raw.shape))
}

/// How an output is bound that may lie over an input.
fn written(in_place: bool) -> Access {
    match in_place {
        true => Access::ReadWrite,
        false => Access::Write,
    }
}

/// How the cells of a sample are dealt out: neighbouring invocations take neighbouring
/// cells, in blocks that lie together, so that memory is walked in order.
struct Share {
    /// Invocations per sample, and per block of them.
    parts: usize,
    lanes: usize,
    /// Cells that an invocation takes of what is transformed and of what is kept.
    each: usize,
    kept_each: usize,
}

impl Share {
    fn new(cx: &Lower<'_>, places: &Places) -> Self {
        let wanted = match cx.device().class {
            // A loop costs more there than the sums of more parts.
            DeviceClass::Software => 8usize.div_ceil(places.cell).min(2),
            _ => 4,
        };
        let cells = places.elements / places.cell;
        let kept = places.kept_elements / places.cell;
        let lanes = cells.max(kept).div_ceil(wanted).clamp(1, 64);
        let parts = cells.max(kept).div_ceil(lanes * wanted) * lanes;
        Share {
            parts,
            lanes,
            each: cells.div_ceil(parts),
            kept_each: kept.div_ceil(parts),
        }
    }
}

/// The defines and arguments that both kernels share.
fn describe<'l, 'a>(
    kernel: KernelBuilder<'l, 'a>,
    params: &CouplingParams,
    inverse: bool,
    places: &Places,
    share: &Share,
    in_place: bool,
) -> KernelBuilder<'l, 'a> {
    let (name, a) = match params.scale {
        CouplingScale::None => ("none", 0.0),
        CouplingScale::Exp => ("exp", 0.0),
        CouplingScale::Sigmoid { offset } => ("sigmoid", offset),
        CouplingScale::Tanh { clamp } => ("tanh", clamp),
    };
    let (checker, parity) = match params.mask {
        CouplingMask::Checkerboard { parity } => (1, parity),
        _ => (0, 0),
    };
    let least = params.minimum > 0.0 && name != "none";
    let (plane, cell) = (places.plane, places.cell);
    let cells = places.elements / cell;
    let kept_cells = places.kept_elements / cell;
    let picked = checker == 1 && cell == 8;
    kernel
        .define("SCALE", name)
        .define("INVERSE", inverse as u32)
        .define("SHIFT_FIRST", params.shift_first as u32)
        .define("LEAST", least as u32)
        .define("CHECKER", checker)
        .define("VEC4", u32::from(cell > 1))
        .define("HALVES", if cell == 8 { 2 } else { 1 })
        .define("PICKED", u32::from(picked))
        .define("WORK", if cell == 8 && !picked { 2 } else { 1 })
        .define("ONE_RUN", u32::from(places.run == places.elements))
        .define(
            "ONE_KEPT_RUN",
            u32::from(places.kept_run == places.kept_elements),
        )
        .define("ONCE", u32::from(share.each.max(share.kept_each) == 1))
        .define("IN_PLACE", in_place as u32)
        .define("COPY", (checker == 0 && !in_place) as u32)
        .arg("samples", places.samples)
        .arg("parts", share.parts)
        .arg("lanes", share.lanes)
        .arg("each", share.each)
        .arg("kept_each", share.kept_each)
        .arg("cells", cells)
        .arg("run", places.run / cell)
        .arg("x_sample", places.x_sample / cell)
        .arg("x_base", places.moved.first * plane / cell)
        .arg("x_step", places.moved.step * plane / cell)
        .arg("raw_sample", places.raw_sample / cell)
        .arg("s_base", places.scale_first * plane / cell)
        .arg("t_base", places.shift_first * plane / cell)
        .arg("raw_step", places.raw_step * plane / cell)
        .arg("kept_cells", kept_cells)
        .arg("kept_run", places.kept_run / cell)
        .arg("kept_base", places.kept_base / cell)
        .arg("width", places.width)
        .arg("parity", parity)
        .arg_f32("a", a)
        .arg_f32("least", params.minimum)
        .flops(20 * places.samples * places.elements)
        .trips(share.each + share.kept_each + 1)
}

impl Tensor {
    /// A coupling layer on `[N, C, H, W]` or `[N, C]`: what the mask transforms becomes
    /// `x * scale + t` (or as `params` say), the rest passes through. Returns the result
    /// in the same shape and, per sample, the log-determinant `[N]` in nats: the sum of
    /// the logarithms of its scales.
    ///
    /// `raw` holds raw scales and shifts as the coupling's network gives them: the shape
    /// of the tensor, with [`CouplingParams::raw_channels`] channels in the order of the
    /// [`RawLayout`]. For a checkerboard these are values for every position, of which
    /// those that pass through are not used. Errors: shapes that do not fit, a mask that
    /// leaves nothing to transform or to keep.
    #[track_caller]
    pub fn coupling(&self, raw: &Tensor, params: &CouplingParams) -> (Tensor, Tensor) {
        self.couple(raw, params, false)
    }

    /// The inverse of [`Tensor::coupling`] with the same raw values, and its own
    /// log-determinant `[N]`: the other's with the opposite sign.
    #[track_caller]
    pub fn coupling_inverse(&self, raw: &Tensor, params: &CouplingParams) -> (Tensor, Tensor) {
        self.couple(raw, params, true)
    }

    /// From this output of [`Tensor::coupling`] (or its inverse), its raw values, and the
    /// upstream gradients of both outputs (`log_det`'s may be missing): the gradients by
    /// the input and by `raw`. The input itself is not needed.
    #[track_caller]
    pub(crate) fn coupling_grad(
        &self,
        raw: &Tensor,
        dy: &Tensor,
        log_det: Option<&Tensor>,
        params: &CouplingParams,
        inverse: bool,
    ) -> (Tensor, Tensor) {
        let params = *params;
        if params.scale == CouplingScale::None {
            // What is added gets its part of the gradient, or with the other sign.
            let moved = params.mask.moved(dy.dim(1));
            let part = match params.mask {
                CouplingMask::Checkerboard { parity } => dy.mul(&checkerboard(dy, parity)),
                _ => dy.slice_step(1, moved.first, moved.count, moved.step as isize),
            };
            return (dy.clone(), if inverse { part.neg() } else { part });
        }
        let none = || self.graph().full([self.dim(0)], 0.0);
        let upstream = log_det.cloned().unwrap_or_else(none);
        let op = CouplingGrad { params, inverse };
        let mut grads = self.graph().push(op, &[self, raw, dy, &upstream]);
        let draw = grads.swap_remove(1);
        (grads.swap_remove(0), draw)
    }

    #[track_caller]
    fn couple(&self, raw: &Tensor, params: &CouplingParams, inverse: bool) -> (Tensor, Tensor) {
        let op = Coupling {
            params: *params,
            inverse,
        };
        let mut out = self.graph().push(op, &[self, raw]);
        let y = out.swap_remove(0);
        let log_det = match params.scale {
            CouplingScale::None if y.check().is_ok() => self.graph().full([self.dim(0)], 0.0),
            CouplingScale::None => y.clone(),
            _ => out.swap_remove(0),
        };
        (y, log_det)
    }
}
