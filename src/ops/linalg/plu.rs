//! Square matrices from the factors P, L, U and the logarithm of U's diagonal
//! (Kingma, Dhariwal 2018, arXiv 1807.03039, section 3.2).

use super::triangular::{Triangular, square};
use crate::graph::{Array, Lower, Op, Slot, Spec, Tensor, Vjp};
use crate::ops::reduce::axes::expect_f32;
use crate::{Error, Result};

const SHADER: &str = include_str!("../../../shaders/linalg/plu.wgsl");
const GRAD: &str = include_str!("../../../shaders/linalg/plu_grad.wgsl");

/// `(tril(l, -1) + I) (triu(u, 1) + diag(sign exp(log_s)))`; inputs `l`, `u` `[n, n]`,
/// `sign`, `log_s` `[n]`.
#[derive(Debug)]
struct Product;

/// The gradients of [`Product`] by `l`, `u` and `log_s`, from that of its output.
#[derive(Debug)]
struct ProductGrad;

/// The factors in full, L and U, in float64.
fn factors(l: &Array, u: &Array, sign: &Array, log_s: &Array) -> (Array, Array) {
    let lower = Array::from_fn(&l.shape, |i| match i[0].cmp(&i[1]) {
        std::cmp::Ordering::Greater => l.at(i),
        std::cmp::Ordering::Equal => 1.0,
        std::cmp::Ordering::Less => 0.0,
    });
    let upper = Array::from_fn(&u.shape, |i| match i[0].cmp(&i[1]) {
        std::cmp::Ordering::Less => u.at(i),
        std::cmp::Ordering::Equal => sign.data[i[0]] * log_s.data[i[0]].exp(),
        std::cmp::Ordering::Greater => 0.0,
    });
    (lower, upper)
}

/// `[n, n]` twice, then `[n]` twice: the rows `n`.
fn check(op: &str, inputs: &[&Spec]) -> Result<usize> {
    expect_f32(op, inputs)?;
    let n = square(op, &inputs[0].shape)?;
    for (input, name, dims) in [
        (0, "l", vec![n, n]),
        (1, "u", vec![n, n]),
        (2, "sign", vec![n]),
        (3, "log_s", vec![n]),
    ] {
        if inputs[input].shape.dims() != dims {
            return Err(Error::shape(
                op,
                format!("`{name}` must be {dims:?}, it is {:?}", inputs[input].shape),
            ));
        }
    }
    Ok(n)
}

impl Op for Product {
    fn name(&self) -> &'static str {
        "plu"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        let n = check(self.name(), inputs)?;
        Ok(vec![Spec::f32([n, n])])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let (l, u) = factors(inputs[0], inputs[1], inputs[2], inputs[3]);
        let n = l.shape[0];
        Ok(vec![Array::from_fn([n, n], |i| {
            (0..n).map(|k| l.at(&[i[0], k]) * u.at(&[k, i[1]])).sum()
        })])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        let dy = cx.grad(0);
        let inputs: Vec<&Tensor> = (0..4).map(|i| cx.input(i)).collect();
        let all = [&[&dy], &inputs[..]].concat();
        let grads = dy.graph().push(ProductGrad, &all);
        for (input, grad) in [0, 1, 3].into_iter().zip(grads) {
            if cx.needs(input) {
                cx.set(input, grad);
            }
        }
        Ok(())
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let n = cx.input(0).shape[0];
        let mut kernel = cx
            .kernel("plu", SHADER)
            .define("VECTORS", n.is_multiple_of(4) as u32)
            .arg("n", n);
        for input in 0..4 {
            kernel = kernel.read(Slot::In(input));
        }
        kernel
            .write(Slot::Out(0))
            .flops(2 * n * n * n / 3)
            .trips(n.div_ceil(4))
            .threads(n.div_ceil(4) * n.div_ceil(4), 32)
    }
}

impl Op for ProductGrad {
    fn name(&self) -> &'static str {
        "plu_grad"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        let n = check(self.name(), &inputs[1..])?;
        Ok(vec![Spec::f32([n, n]), Spec::f32([n, n]), Spec::f32([n])])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let g = inputs[0];
        let (l, u) = factors(inputs[1], inputs[2], inputs[3], inputs[4]);
        let n = l.shape[0];
        let by_l = |i: &[usize]| (0..n).map(|c| g.at(&[i[0], c]) * u.at(&[i[1], c])).sum();
        let by_u =
            |i: &[usize]| -> f64 { (0..n).map(|r| l.at(&[r, i[0]]) * g.at(&[r, i[1]])).sum() };
        let kept = |keep: bool, v: f64| if keep { v } else { 0.0 };
        Ok(vec![
            Array::from_fn([n, n], |i| kept(i[0] > i[1], by_l(i))),
            Array::from_fn([n, n], |i| kept(i[0] < i[1], by_u(i))),
            Array::from_fn([n], |i| by_u(&[i[0], i[0]]) * u.at(&[i[0], i[0]])),
        ])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        let by: Vec<Tensor> = (0..3).map(|i| cx.grad(i)).collect();
        cx.through(|inputs, _| {
            let [g, l, u, sign, log_s] = inputs else {
                return Ok(Vec::new());
            };
            // Signs are constants.
            let diagonal = sign.stop_gradient().mul(&log_s.exp());
            let lower = l.with_diagonal(&diagonal.ones_like()).tril(0);
            let upper = u.with_diagonal(&diagonal).triu(0);
            let du = lower.matmul_with(g, true, false);
            // What lies outside a triangle belongs to outputs that are always zero.
            Ok(vec![
                (g.matmul_with(&upper, false, true), by[0].tril(-1)),
                (du.clone(), by[1].triu(1)),
                (
                    du.mul(&du.zeros_like().with_diagonal(&diagonal)),
                    by[2].add(&du.zeros_like()),
                ),
            ])
        })
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let n = cx.input(1).shape[0];
        let mut kernel = cx
            .kernel("plu_grad", GRAD)
            .define("VECTORS", n.is_multiple_of(4) as u32)
            .arg("n", n);
        for input in 0..5 {
            kernel = kernel.read(Slot::In(input));
        }
        for output in 0..3 {
            kernel = kernel.write(Slot::Out(output));
        }
        kernel
            .flops(4 * n * n * n / 3)
            .trips(n.div_ceil(4))
            .threads(2 * n.div_ceil(4) * n.div_ceil(4), 32)
    }
}

/// A square matrix `W = P (tril(l, -1) + I) (triu(u, 1) + diag(sign exp(log_s)))`, with
/// `log |det W| = sum(log_s)`, nats. Entries of `l` and `u` outside these triangles are
/// ignored and have no gradient. `P` and `sign` are constants.
#[derive(Debug, Clone, Copy)]
pub struct Plu<'a> {
    /// A permutation matrix `[n, n]`.
    pub p: &'a Tensor,
    /// The lower factor, `[n, n]`.
    pub l: &'a Tensor,
    /// The upper factor, `[n, n]`.
    pub u: &'a Tensor,
    /// Signs of the upper factor's diagonal, `[n]`.
    pub sign: &'a Tensor,
    /// Logarithms of its magnitudes, `[n]`.
    pub log_s: &'a Tensor,
}

impl Plu<'_> {
    /// `W`, `[n, n]`. Poisoned where the shapes do not fit.
    #[track_caller]
    pub fn assemble(&self) -> Tensor {
        let inputs = [self.l, self.u, self.sign, self.log_s];
        let product = self.l.graph().push1(Product, &inputs);
        self.p.matmul(&product)
    }

    /// `W^-1 = U^-1 L^-1 P^T`, `[n, n]`, by two triangular systems.
    #[track_caller]
    pub fn inverse(&self) -> Tensor {
        let y = self
            .l
            .solve_triangular(&self.p.transpose(-1, -2), Triangular::lower().unit());
        let s = self.sign.mul(&self.log_s.exp());
        let upper = self.u.with_diagonal(&s);
        upper.solve_triangular(&y, Triangular::upper())
    }
}
