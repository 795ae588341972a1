//! Matrix products: plain, transposed, batched, with bias and activation.

use super::problem::{Bias, Product};
use super::variants;
use crate::graph::{Array, Lower, Op, Slot, Spec, Tensor, Vjp};
use crate::ops::Activation;
use crate::{DType, Error, Result, Shape};

/// Products over longer inner axes are summed in parts: below the loop budget, and a
/// multiple of what the kernels read at once.
const LONGEST: usize = 1 << 15;

/// `act(op(a) @ op(b) + bias)` over leading batch axes that broadcast.
#[derive(Debug, Clone, Copy, Default)]
pub struct Matmul {
    /// `a` is stored `[.., k, m]`.
    pub trans_a: bool,
    /// `b` is stored `[.., n, k]`.
    pub trans_b: bool,
    /// A third input `[n]` is added to every row.
    pub bias: bool,
    /// Applied last.
    pub activation: Activation,
}

struct Dims {
    batch: Shape,
    m: usize,
    n: usize,
    k: usize,
}

impl Matmul {
    fn dims(&self, a: &Shape, b: &Shape) -> Result<Dims> {
        let fail = |detail: String| Err(Error::shape("matmul", detail));
        if a.rank() < 2 || b.rank() < 2 {
            return fail(format!(
                "both operands need two axes or more, got {a:?} and {b:?}"
            ));
        }
        let split = |s: &Shape, trans: bool| {
            let (lead, tail) = s.dims().split_at(s.rank() - 2);
            let (r, c) = if trans {
                (tail[1], tail[0])
            } else {
                (tail[0], tail[1])
            };
            (Shape::from(lead), r, c)
        };
        let (batch_a, m, k) = split(a, self.trans_a);
        let (batch_b, kb, n) = split(b, self.trans_b);
        if k != kb {
            return fail(format!(
                "inner extents differ: {k} (of {a:?}{}) against {kb} (of {b:?}{})",
                if self.trans_a { " transposed" } else { "" },
                if self.trans_b { " transposed" } else { "" },
            ));
        }
        let batch = Shape::broadcast("matmul", &batch_a, &batch_b)?;
        Ok(Dims { batch, m, n, k })
    }
}

impl Op for Matmul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        let wrong = |(i, s): &(usize, &&Spec)| match s.dtype {
            DType::F32 => false,
            DType::F16 => !self.reads_f16(*i),
            _ => true,
        };
        if let Some((_, wrong)) = inputs.iter().enumerate().find(wrong) {
            return Err(Error::dtype(
                "matmul",
                format!("expected f32, got {}", wrong.dtype),
            ));
        }
        let d = self.dims(&inputs[0].shape, &inputs[1].shape)?;
        if self.bias && inputs[2].shape.dims() != [d.n] {
            return Err(Error::shape(
                "matmul",
                format!("the bias must be [{}], it is {:?}", d.n, inputs[2].shape),
            ));
        }
        let mut shape = d.batch.dims().to_vec();
        shape.extend([d.m, d.n]);
        Ok(vec![Spec::f32(shape)])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let (a, b) = (inputs[0], inputs[1]);
        let d = self.dims(&a.shape, &b.shape)?;
        let mut shape = d.batch.dims().to_vec();
        shape.extend([d.m, d.n]);
        let matrix = |s: &Shape| Shape::from(&s.dims()[..s.rank() - 2]);
        let strides_a = matrix(&a.shape).broadcast_strides(&d.batch);
        let strides_b = matrix(&b.shape).broadcast_strides(&d.batch);
        let mut out = Array::zeros(shape);
        for batch in 0..d.batch.numel() {
            let index = d.batch.unravel(batch);
            let pick = |s: &[usize]| -> usize { index.iter().zip(s).map(|(i, s)| i * s).sum() };
            let (at_a, at_b) = (pick(&strides_a) * d.m * d.k, pick(&strides_b) * d.k * d.n);
            for i in 0..d.m {
                for j in 0..d.n {
                    let mut sum = 0.0;
                    for k in 0..d.k {
                        let x = a.data[at_a
                            + if self.trans_a {
                                k * d.m + i
                            } else {
                                i * d.k + k
                            }];
                        let y = b.data[at_b
                            + if self.trans_b {
                                j * d.k + k
                            } else {
                                k * d.n + j
                            }];
                        sum += x * y;
                    }
                    if self.bias {
                        sum += inputs[2].data[j];
                    }
                    out.data[(batch * d.m + i) * d.n + j] = self.activation.eval(sum);
                }
            }
        }
        Ok(vec![out])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        let dy = self.activation.backward(cx.output(0), &cx.grad(0));
        let (a, b) = (cx.input(0).clone(), cx.input(1).clone());
        if cx.needs(0) {
            let grad = if self.trans_a {
                b.matmul_with(&dy, self.trans_b, true)
            } else {
                dy.matmul_with(&b, false, !self.trans_b)
            };
            cx.set(0, grad.sum_to(a.shape()));
        }
        if cx.needs(1) {
            let grad = if self.trans_b {
                dy.matmul_with(&a, true, self.trans_a)
            } else {
                a.matmul_with(&dy, !self.trans_a, false)
            };
            cx.set(1, grad.sum_to(b.shape()));
        }
        if self.bias && cx.needs(2) {
            let grad = dy.sum_to(cx.input(2).shape());
            cx.set(2, grad);
        }
        Ok(())
    }

    fn reads_f16(&self, i: usize) -> bool {
        i < 2
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let (a, b) = (cx.input(0).shape.clone(), cx.input(1).shape.clone());
        let d = self.dims(&a, &b)?;
        let batch = d.batch.numel();
        // The kernel steps evenly through the batch; operands that are shared by
        // all of it have stride 0. Other broadcasts are expanded by `matmul_with`.
        let stride = |s: &Shape, size: usize| if s.numel() == size { 0 } else { size };
        let whole = |s: &Shape, size: usize| s.numel() == size || s.numel() == size * batch;
        if !whole(&a, d.m * d.k) || !whole(&b, d.k * d.n) {
            return Err(Error::shape(
                "matmul",
                format!("operands {a:?} and {b:?} must be expanded before they are lowered"),
            ));
        }
        let product = Product {
            batch,
            m: d.m,
            n: d.n,
            k: d.k,
            a: (Slot::In(0), stride(&a, d.m * d.k), self.trans_a),
            b: (Slot::In(1), stride(&b, d.k * d.n), self.trans_b),
            bias: match self.bias {
                true => Bias::Columns(Slot::In(2)),
                false => Bias::None,
            },
            residual: None,
            activation: self.activation,
        };
        variants::lower(&product, cx)
    }
}

/// A stack of matrices as one per element of `batch`, unless it is a single one.
#[track_caller]
fn expand(x: &Tensor, batch: &Shape) -> Tensor {
    let (lead, tail) = x.shape().dims().split_at(x.shape().rank() - 2);
    let count: usize = lead.iter().product();
    if count == 1 || count == batch.numel() {
        x.clone()
    } else {
        x.broadcast_to([batch.dims(), tail].concat())
    }
}

impl Tensor {
    /// `self @ other` over the last two axes; leading axes broadcast.
    #[track_caller]
    pub fn matmul(&self, other: &Tensor) -> Tensor {
        self.matmul_with(other, false, false)
    }

    /// `op(self) @ op(other)`, each operand transposed where asked.
    #[track_caller]
    pub fn matmul_with(&self, other: &Tensor, trans_a: bool, trans_b: bool) -> Tensor {
        let op = Matmul {
            trans_a,
            trans_b,
            ..Default::default()
        };
        let Ok(d) = op.dims(self.shape(), other.shape()) else {
            return self.graph().push1(op, &[self, other]);
        };
        if d.k > LONGEST {
            return self.matmul_in_parts(other, op, d.k);
        }
        // The kernel takes operands that are whole or shared by the whole batch.
        let (a, b) = (expand(self, &d.batch), expand(other, &d.batch));
        self.graph().push1(op, &[&a, &b])
    }

    /// Sums products over parts of the inner axis, which one invocation could not
    /// walk as a whole.
    #[track_caller]
    fn matmul_in_parts(&self, other: &Tensor, op: Matmul, k: usize) -> Tensor {
        let axis =
            |t: &Tensor, second_last: bool| t.shape().rank() - if second_last { 2 } else { 1 };
        let (in_a, in_b) = (axis(self, op.trans_a), axis(other, !op.trans_b));
        let mut sum: Option<Tensor> = None;
        for start in (0..k).step_by(LONGEST) {
            let len = LONGEST.min(k - start);
            let a = self.slice(in_a as isize, start, len);
            let b = other.slice(in_b as isize, start, len);
            let part = a.matmul_with(&b, op.trans_a, op.trans_b);
            sum = Some(match sum {
                Some(sum) => sum.add(&part),
                None => part,
            });
        }
        sum.unwrap_or_else(|| self.zeros_like())
    }

    /// A linear layer: `act(self @ weight^T + bias)` with `self` `[.., in]`,
    /// `weight` `[out, in]` and `bias` `[out]`.
    #[track_caller]
    pub fn linear(&self, weight: &Tensor, bias: Option<&Tensor>, activation: Activation) -> Tensor {
        let inner = self.dim(-1);
        let rows = self.numel() / inner.max(1);
        let flat = self.reshape([rows, inner]);
        let op = Matmul {
            trans_b: true,
            bias: bias.is_some(),
            activation,
            trans_a: false,
        };
        let mut inputs = vec![&flat, weight];
        inputs.extend(bias);
        let y = self.graph().push1(op, &inputs);
        let mut shape = self.shape().dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = weight.dim(0);
        }
        if y.check().is_err() {
            y
        } else {
            y.reshape(shape)
        }
    }
}
