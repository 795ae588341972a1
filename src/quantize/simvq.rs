//! SimVQ: a codebook that learns as a whole, through a linear map.

use super::nearest::{Estimator, Metric, quantize_rows};
use super::output::{Quantized, Quantizer};
use super::quantizer::look_up;
use super::rows::Rows;
use crate::nn::Mode;
use crate::{Error, Init, Param, Params, Result, Tensor};

/// Vector quantisation with the codebook `C W^T`: `C` is drawn once and stays, `W` is
/// trained (Zhu et al. 2024, "Addressing representation collapse in vector quantized
/// models with one linear layer", arXiv 2411.02038). A gradient by any code moves all of
/// them, so none is left behind unused.
///
/// The state `codebook` `[K, D]`, normal with standard deviation `1 / sqrt(D)`, and the
/// parameter `code_transform.weight` `[D, D]`, uniform in `+-1 / sqrt(D)`.
pub struct SimVq {
    codes: usize,
    dim: usize,
    beta: f32,
    estimator: Estimator,
    frozen: Param,
    transform: Param,
}

impl SimVq {
    /// `beta` 0.25, gradients by [`Estimator::Rotation`] as in lucidrains'
    /// vector-quantize-pytorch. Errors: see [`Params::add`].
    pub fn new(params: &Params, codes: usize, dim: usize) -> Result<Self> {
        let std = 1.0 / (dim.max(1) as f32).sqrt();
        let normal = Init::Normal { mean: 0.0, std };
        let square = [dim, dim];
        Ok(SimVq {
            codes,
            dim,
            beta: 0.25,
            estimator: Estimator::Rotation,
            frozen: params.add_state("codebook", [codes, dim], normal)?,
            transform: (params.scope("code_transform")).add(
                "weight",
                square,
                Init::weight(&square),
            )?,
        })
    }

    /// The same with another estimator.
    pub fn estimator(mut self, estimator: Estimator) -> Self {
        self.estimator = estimator;
        self
    }

    /// The same with another weight of the commitment loss. Error: negative or not finite.
    pub fn beta(mut self, beta: f32) -> Result<Self> {
        if !(beta >= 0.0 && beta.is_finite()) {
            return Err(Error::argument(
                "SimVq",
                format!("beta is {beta}; it must be finite and not negative"),
            ));
        }
        self.beta = beta;
        Ok(self)
    }

    /// The codebook `[K, D]` in the graph of `of`.
    #[track_caller]
    fn codebook(&self, of: &Tensor) -> Tensor {
        let frozen = self.frozen.on(of.graph()).stop_gradient();
        frozen.matmul_with(&self.transform.on(of.graph()), false, true)
    }
}

impl Quantizer for SimVq {
    fn width(&self) -> usize {
        self.dim
    }

    fn codes(&self) -> usize {
        self.codes
    }

    #[track_caller]
    fn forward_masked(&self, x: &Tensor, valid: Option<&Tensor>, _: Mode) -> Quantized {
        match Rows::new("SimVq", x, self.dim, valid) {
            Ok(rows) => {
                let codebook = self.codebook(x);
                let metric = Metric::Euclidean;
                quantize_rows(&rows, &codebook, metric, self.estimator, self.beta)
            }
            Err(e) => Quantized::poisoned(x.graph(), e),
        }
    }

    #[track_caller]
    fn decode(&self, indices: &Tensor) -> Tensor {
        look_up(&self.codebook(indices), indices)
    }
}
