//! Element-by-element arithmetic and functions, with right-aligned broadcasting.
//!
//! Chains of these are fused by the planner into one generated dispatch; there is
//! no shader file. The WGSL helpers that expressions call stand in
//! `shaders/lib/math.wgsl`.

use super::func::Func;
use crate::graph::{Array, Graph, Kind, Lower, Op, Pointwise, Spec, Tensor, Vjp};
use crate::{DType, Error, Result, Shape};

/// One [`Func`] over broadcast inputs.
#[derive(Debug)]
pub struct Map {
    /// The function.
    pub func: Func,
    /// The output's shape where the inputs do not give it.
    pub shape: Option<Shape>,
}

impl Pointwise for Map {
    fn wgsl(&self, x: &[&str]) -> String {
        self.func.wgsl(x)
    }

    fn scalars(&self) -> Vec<f32> {
        self.func.scalars()
    }

    fn imports(&self) -> &'static [&'static str] {
        self.func.imports()
    }

    fn flops(&self) -> u64 {
        self.func.flops()
    }
}

impl Op for Map {
    fn name(&self) -> &'static str {
        self.func.name()
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        let name = self.name();
        if inputs.len() != self.func.inputs() {
            return Err(Error::Graph(format!(
                "{name} takes {} inputs, {} were given",
                self.func.inputs(),
                inputs.len()
            )));
        }
        let (want, gives) = match self.func {
            Func::ToF32 => (DType::U32, DType::F32),
            Func::ToU32 => (DType::F32, DType::U32),
            _ => (DType::F32, DType::F32),
        };
        // Comparing integers with integers is exact and needs no cast.
        let integers = matches!(self.func, Func::Equal | Func::Less | Func::LessEqual)
            && inputs.iter().all(|s| s.dtype == DType::U32);
        if let Some(wrong) = inputs.iter().find(|s| s.dtype != want && !integers) {
            return Err(Error::dtype(
                name,
                format!(
                    "expected {want}, got {} of shape {:?}",
                    wrong.dtype, wrong.shape
                ),
            ));
        }
        if let Func::Clamp(lo, hi) = self.func
            && (lo > hi || lo.is_nan() || hi.is_nan())
        {
            return Err(Error::argument(
                name,
                format!("the lower bound {lo} is not below the upper bound {hi}"),
            ));
        }
        let mut shape = self.shape.clone().unwrap_or_default();
        for input in inputs {
            shape = Shape::broadcast(name, &shape, &input.shape)?;
        }
        Ok(vec![Spec {
            shape,
            dtype: gives,
        }])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let mut shape = self.shape.clone().unwrap_or_default();
        for input in inputs {
            shape = Shape::broadcast(self.name(), &shape, &input.shape)?;
        }
        let strides: Vec<Vec<usize>> = inputs
            .iter()
            .map(|a| a.shape.broadcast_strides(&shape))
            .collect();
        let mut x = vec![0.0; inputs.len()];
        Ok(vec![Array::from_fn(shape, |index| {
            for (k, input) in inputs.iter().enumerate() {
                let flat: usize = index.iter().zip(&strides[k]).map(|(i, s)| i * s).sum();
                x[k] = input.data[flat];
            }
            self.func.eval(&x)
        })])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        use Func::*;
        let dy = cx.grad(0);
        let y = cx.output(0).clone();
        let x = |i: usize| cx.input(i).clone();
        let grads: Vec<Tensor> = match self.func {
            Fill(_) => vec![],
            Neg => vec![dy.neg()],
            Abs => vec![dy.mul(&x(0).sign().stop_gradient())],
            Exp => vec![dy.mul(&y)],
            Log => vec![dy.div(&x(0))],
            Sqrt => vec![dy.mul_scalar(0.5).div(&y)],
            Rsqrt => vec![dy.mul(&y).mul(&y).mul(&y).mul_scalar(-0.5)],
            Recip => vec![dy.mul(&y).mul(&y).neg()],
            Square => vec![dy.mul(&x(0)).mul_scalar(2.0)],
            Sin => vec![dy.mul(&x(0).cos())],
            Cos => vec![dy.mul(&x(0).sin()).neg()],
            // (1 - y)(1 + y) loses less than 1 - y^2 where y is close to 1.
            Tanh => vec![dy.mul(&y.neg().add_scalar(1.0).mul(&y.add_scalar(1.0)))],
            Sigmoid => vec![dy.mul(&y).mul(&x(0).neg().sigmoid())],
            Softplus => vec![dy.mul(&x(0).sigmoid())],
            Relu => vec![dy.where_positive(&y, 0.0)],
            LeakyRelu(s) => vec![dy.where_positive(&x(0), s)],
            Elu(a) => {
                let below = dy.mul(&y.add_scalar(a));
                vec![x(0).neg().less_equal(&x(0)).select(&dy, &below)]
            }
            Erf => {
                let c = std::f32::consts::FRAC_2_SQRT_PI;
                vec![dy.mul(&x(0).square().neg().exp().mul_scalar(c))]
            }
            Gelu => {
                let x = x(0);
                let cdf = x
                    .mul_scalar(std::f32::consts::FRAC_1_SQRT_2)
                    .erf()
                    .add_scalar(1.0)
                    .mul_scalar(0.5);
                let pdf = x.square().mul_scalar(-0.5).exp().mul_scalar(0.398_942_3);
                vec![dy.mul(&cdf.add(&x.mul(&pdf)))]
            }
            Silu => {
                let (x, s) = (x(0), x(0).sigmoid());
                let slope = x.mul(&x.neg().sigmoid()).add_scalar(1.0);
                vec![dy.mul(&s.mul(&slope))]
            }
            AddScalar(_) | Repeat => vec![dy],
            MulScalar(c) => vec![dy.mul_scalar(c)],
            // Apart from the general rule, which is 0 * infinity at x = 0.
            PowScalar(0.0) => vec![dy.zeros_like()],
            PowScalar(1.0) => vec![dy],
            PowScalar(e) => vec![dy.mul(&x(0).pow_scalar(e - 1.0)).mul_scalar(e)],
            Clamp(lo, hi) => {
                let x = x(0);
                let (lo, hi) = (x.full_like(lo), x.full_like(hi));
                let inside = lo.less_equal(&x).mul(&x.less_equal(&hi));
                vec![inside.select(&dy, &dy.zeros_like())]
            }
            Add => vec![dy.clone(), dy],
            Sub => vec![dy.clone(), dy.neg()],
            Mul => vec![dy.mul(&x(1)), dy.mul(&x(0))],
            Div => {
                let da = dy.div(&x(1));
                let db = da.mul(&y).neg();
                vec![da, db]
            }
            Pow => {
                let (a, b) = (x(0), x(1));
                let (zero, one) = (dy.zeros_like(), dy.ones_like());
                // Where the general rules are 0 * infinity, at an exponent of 0 or a base
                // of 0, other operands than the true ones give the 0 that it must be.
                let (fixed_a, fixed_b) = (a.stop_gradient(), b.stop_gradient());
                let constant = fixed_b.equal(&b.zeros_like());
                let power = constant.select(&zero, &b.add_scalar(-1.0));
                let da = dy.mul(&b).mul(&a.pow(&power));
                let flat = fixed_a
                    .equal(&a.zeros_like())
                    .mul(&b.zeros_like().less_equal(&fixed_b));
                let base = flat.select(&one, &a);
                vec![da, dy.mul(&y).mul(&base.log())]
            }
            // At a tie the first operand takes the gradient.
            Max => {
                let first = x(1).less_equal(&x(0));
                let zero = dy.zeros_like();
                vec![first.select(&dy, &zero), first.select(&zero, &dy)]
            }
            Min => {
                let first = x(0).less_equal(&x(1));
                let zero = dy.zeros_like();
                vec![first.select(&dy, &zero), first.select(&zero, &dy)]
            }
            Select => {
                let zero = dy.zeros_like();
                vec![x(0).select(&dy, &zero), x(0).select(&zero, &dy)]
            }
            Sign | Floor | Ceil | Round | Less | LessEqual | Equal | ToF32 | ToU32 => {
                return Err(Error::NotDifferentiable {
                    op: self.name().into(),
                    detail: "its output is piecewise constant".into(),
                });
            }
        };
        // A condition only chooses: it has no gradient, and what it was computed from (a
        // comparison, most often) is not asked for one.
        let first = usize::from(self.func == Select);
        for (i, grad) in (first..).zip(grads) {
            if cx.needs(i) {
                let grad = grad.sum_to(cx.input(i).shape());
                cx.set(i, grad);
            }
        }
        Ok(())
    }

    fn lower(&self, _: &mut Lower<'_>) -> Result<()> {
        // The planner generates the dispatch of a whole chain.
        Ok(())
    }

    fn kind(&self) -> Kind<'_> {
        Kind::Pointwise(self)
    }
}

impl Vjp<'_> {
    /// The gradient by output `i`; zeros where the loss does not depend on it.
    #[track_caller]
    pub fn grad(&self, i: usize) -> Tensor {
        self.grad_if_any(i)
            .unwrap_or_else(|| self.output(i).zeros_like())
    }
}

impl Graph {
    /// All elements equal to `value`.
    #[track_caller]
    pub fn full(&self, shape: impl Into<Shape>, value: f32) -> Tensor {
        let op = Map {
            func: Func::Fill(value),
            shape: Some(shape.into()),
        };
        self.push1(op, &[])
    }
}
