//! Max pooling over the last two axes of `[N, C, H, W]`, and its gradients.

use super::windows::{PoolParams, check_like, shape_of};
use crate::graph::{Array, Lower, Op, Samples, Slot, Spec, Tensor, Vjp};
use crate::ops::conv::window::four;
use crate::{DType, Result};

const MAX: &str = include_str!("../../../shaders/pool/max_pool2d.wgsl");
const MAX_SPREAD: &str = include_str!("../../../shaders/pool/max_pool2d_spread.wgsl");
const PICK: &str = include_str!("../../../shaders/index/plane_pick.wgsl");

/// Outputs the maxima and, as u32, the flat position `h * W + w` of each in its
/// plane: the first in scan order where several are equal.
#[derive(Debug)]
struct MaxPool(PoolParams);

impl Op for MaxPool {
    fn name(&self) -> &'static str {
        "max_pool2d"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        let y = self
            .0
            .output(self.name(), four(self.name(), "the input", inputs[0])?)?;
        Ok(vec![Spec::f32(y), Spec::u32(y)])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let x = shape_of(inputs[0]);
        let shape = self.0.output(self.name(), x)?;
        let (mut y, mut at) = (Array::zeros(shape), Array::zeros(shape));
        for flat in 0..y.numel() {
            let i = y.shape.unravel(flat);
            let mut best: Option<(f64, usize)> = None;
            for h in self.0.covers(0, i[2], x[2]) {
                for w in self.0.covers(1, i[3], x[3]) {
                    let v = inputs[0].at(&[i[0], i[1], h, w]);
                    if best.is_none_or(|(b, _)| v > b || v.is_nan() && !b.is_nan()) {
                        best = Some((v, h * x[3] + w));
                    }
                }
            }
            let (value, position) = best.unwrap_or((f64::NEG_INFINITY, 0));
            (y.data[flat], at.data[flat]) = (value, position as f64);
        }
        Ok(vec![y, at])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        let x = cx.input(0).shape();
        let op = MaxSpread {
            params: self.0,
            size: [x[2], x[3]],
        };
        let (dy, at) = (cx.grad(0), cx.output(1).clone());
        let grad = dy.graph().push1(op, &[&dy, &at]);
        cx.set(0, grad);
        Ok(())
    }

    fn samples(&self, _: &[Spec]) -> Option<Samples> {
        Some(Samples::Apart(vec![0]))
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let x = four(self.name(), "the input", cx.input(0))?;
        let y = self.0.output(self.name(), x)?;
        let count = y.iter().product::<usize>();
        let take = self.0.take(cx.device(), x, y, false);
        let kernel = cx.kernel(self.name(), MAX);
        self.0
            .args(kernel, x, y, &take)
            .define("BEYOND", "nearest")
            .read(Slot::In(0))
            .write(Slot::Out(0))
            .write(Slot::Out(1))
            .flops(count * self.0.area())
            .trips(self.0.kernel[0] * (1 + self.0.kernel[1]))
            .threads(count / take.each(), 64)
    }
}

/// The gradient of [`MaxPool`]: every upstream element goes to its position.
#[derive(Debug)]
struct MaxSpread {
    params: PoolParams,
    size: [usize; 2],
}

impl MaxSpread {
    fn shapes(&self, dy: [usize; 4]) -> Result<([usize; 4], [usize; 4])> {
        let x = [dy[0], dy[1], self.size[0], self.size[1]];
        Ok((x, self.params.output(self.name(), x)?))
    }
}

impl Op for MaxSpread {
    fn name(&self) -> &'static str {
        "max_pool2d_spread"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        let dy = four(self.name(), "the upstream gradient", inputs[0])?;
        let (x, y) = self.shapes(dy)?;
        check_like(
            self.name(),
            "the upstream gradient",
            inputs[0],
            y,
            DType::F32,
        )?;
        check_like(self.name(), "the positions", inputs[1], y, DType::U32)?;
        Ok(vec![Spec::f32(x)])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let (x, y) = self.shapes(shape_of(inputs[0]))?;
        let mut grad = Array::zeros(x);
        for (flat, (v, at)) in inputs[0].data.iter().zip(&inputs[1].data).enumerate() {
            let plane = flat / (y[2] * y[3]);
            grad.data[plane * x[2] * x[3] + *at as usize] += v;
        }
        Ok(vec![grad])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        let (up, at) = (cx.grad(0), cx.input(1).clone());
        let op = Pick {
            params: self.params,
        };
        let grad = up.graph().push1(op, &[&up, &at]);
        cx.set(0, grad);
        Ok(())
    }

    fn samples(&self, _: &[Spec]) -> Option<Samples> {
        Some(Samples::Apart(vec![0, 1]))
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let dy = four(self.name(), "the upstream gradient", cx.input(0))?;
        let (x, y) = self.shapes(dy)?;
        let count = x.iter().product::<usize>();
        let take = self.params.take(cx.device(), x, y, true);
        let kernel = cx.kernel(self.name(), MAX_SPREAD);
        self.params
            .args(kernel, x, y, &take)
            .define("BEYOND", "zero")
            .read(Slot::In(0))
            .read(Slot::In(1))
            .write(Slot::Out(0))
            .flops(y.iter().product::<usize>())
            .trips(self.params.overlap() * 2)
            .threads(count / take.each(), 64)
    }
}

/// The elements of every plane of `x` at the positions that [`MaxPool`] found in an
/// input of the same shape: the gradient of [`MaxSpread`], and the other way round.
#[derive(Debug)]
struct Pick {
    params: PoolParams,
}

impl Op for Pick {
    fn name(&self) -> &'static str {
        "plane_pick"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        let x = four(self.name(), "the input", inputs[0])?;
        let y = self.params.output(self.name(), x)?;
        check_like(self.name(), "the positions", inputs[1], y, DType::U32)?;
        Ok(vec![Spec::f32(y)])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let x = shape_of(inputs[0]);
        let y = shape_of(inputs[1]);
        let mut out = Array::zeros(y);
        for (flat, v) in out.data.iter_mut().enumerate() {
            let plane = flat / (y[2] * y[3]);
            *v = inputs[0].data[plane * x[2] * x[3] + inputs[1].data[flat] as usize];
        }
        Ok(vec![out])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        let x = cx.input(0).shape();
        let op = MaxSpread {
            params: self.params,
            size: [x[2], x[3]],
        };
        let (dy, at) = (cx.grad(0), cx.input(1).clone());
        let grad = dy.graph().push1(op, &[&dy, &at]);
        cx.set(0, grad);
        Ok(())
    }

    fn samples(&self, _: &[Spec]) -> Option<Samples> {
        Some(Samples::Apart(vec![0, 1]))
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let x = cx.input(0).shape.clone();
        let y = cx.input(1).shape.clone();
        cx.kernel(self.name(), PICK)
            .arg("total", y.numel())
            .arg("size_y", y[2] * y[3])
            .arg("size_x", x[2] * x[3])
            .read(Slot::In(0))
            .read(Slot::In(1))
            .write(Slot::Out(0))
            .threads(y.numel(), 64)
    }
}

impl Tensor {
    /// The maximum of every window of `[N, C, H, W]`: `[N, C, P, Q]` with `P = (H + 2 *
    /// padding - kernel) / stride + 1`, rounded down. Where several are equal, the
    /// first in scan order takes the gradient.
    ///
    /// Poisoned by: other ranks or types, a window larger than the padded image,
    /// a padding of more than half the window.
    #[track_caller]
    pub fn max_pool2d(&self, params: &PoolParams) -> Tensor {
        self.max_pool2d_with_indices(params).0
    }

    /// [`Tensor::max_pool2d`] and, as u32, the position `h * W + w` of each maximum.
    #[track_caller]
    pub fn max_pool2d_with_indices(&self, params: &PoolParams) -> (Tensor, Tensor) {
        // What the maximum ignores must not make two equal nodes differ.
        let params = PoolParams {
            count_include_pad: true,
            ..*params
        };
        let mut outputs = self.graph().push(MaxPool(params), &[self]);
        let at = outputs.swap_remove(1);
        (outputs.swap_remove(0), at)
    }
}
