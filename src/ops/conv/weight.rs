//! The gradient of a convolution by its weight: a reduction over all pixels of all
//! samples.

use super::weight_problem::WeightGradient;
use super::weight_variants::WEIGHT_GRADIENTS;
use super::window::{Dims, Window, extents, four};
use crate::graph::{Array, Lower, Op, Samples, Spec, Tensor, Vjp};
use crate::{Error, Result, Shape};

/// `dweight[o, c, k] = sum over n, i of dy[n, o, i] x[n, c, stride i + dilation k -
/// before]`: inputs `x [N, C, H, W]` and `dy [N, O, P, Q]`, output `[O, C / groups,
/// kh, kw]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConvWeight {
    pub window: Window,
    /// `kh`, `kw`: several kernels may give the same output size.
    pub kernel: [usize; 2],
}

impl ConvWeight {
    const NAME: &'static str = "conv2d_weight";

    fn dims(&self, x: &Spec, dy: &Spec) -> Result<Dims> {
        let x = four(Self::NAME, "the input", x)?;
        let dy = four(Self::NAME, "the upstream gradient", dy)?;
        self.window.check(Self::NAME)?;
        let [kh, kw] = self.kernel;
        let weight = [dy[1], x[1] / self.window.groups, kh, kw];
        let d = self.window.dims(Self::NAME, x, weight)?;
        if [d.n, d.o, d.output[0], d.output[1]] != dy {
            return Err(Error::shape(
                Self::NAME,
                format!(
                    "the upstream gradient must be {:?}, it is {dy:?}",
                    [d.n, d.o, d.output[0], d.output[1]]
                ),
            ));
        }
        Ok(d)
    }
}

impl Tensor {
    /// With this tensor as a convolution's input: the gradient by its weight, of the shape
    /// `like`, from that by its output.
    #[track_caller]
    pub(in crate::ops) fn conv2d_weight(
        &self,
        window: Window,
        dy: &Tensor,
        like: &Shape,
    ) -> Tensor {
        let [_, _, kh, kw] = extents(like);
        let kernel = [kh, kw];
        self.graph()
            .push1(ConvWeight { window, kernel }, &[self, dy])
    }
}

impl Op for ConvWeight {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        let d = self.dims(inputs[0], inputs[1])?;
        Ok(vec![Spec::f32([d.o, d.cg, d.kernel[0], d.kernel[1]])])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let (x, dy) = (inputs[0], inputs[1]);
        let d = self.dims(&Spec::f32(&x.shape), &Spec::f32(&dy.shape))?;
        let mut grad = Array::zeros([d.o, d.cg, d.kernel[0], d.kernel[1]]);
        self.window.each_product(&d, |ix, iw, iy| {
            grad.data[iw] += x.data[ix] * dy.data[iy];
        });
        Ok(vec![grad])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        let weight = cx.grad(0);
        let (x, dy) = (cx.input(0).clone(), cx.input(1).clone());
        if cx.needs(0) {
            cx.set(0, dy.conv2d_input(self.window, &weight, x.shape()));
        }
        if cx.needs(1) {
            cx.set(1, x.conv2d_plain(self.window, &weight));
        }
        Ok(())
    }

    fn samples(&self, _: &[Spec]) -> Option<Samples> {
        Some(Samples::Added(vec![0, 1]))
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let mut d = self.dims(cx.input(0), cx.input(1))?;
        if d.is_pointwise(&self.window) && d.input[1] < 16 && d.input[0] * d.input[1] <= 1 << 12 {
            (d.input, d.output) = ([1, d.input[0] * d.input[1]], [1, d.output[0] * d.output[1]]);
        }
        let problem = WeightGradient {
            window: self.window,
            dims: d,
        };
        let variant = WEIGHT_GRADIENTS.choose(&problem, problem.shape_class(), cx.device());
        variant.lower(&problem, cx)
    }
}
