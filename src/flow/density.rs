//! A chain of bijectors over a base distribution: a density and a sampler.

use super::{Base, Bijector, Chain, Context, FirstValues, Mapped};
use crate::{Error, Gpu, Graph, Outputs, Params, Result, Shape, Tensor, Value};

/// `log p(x) = log p_base(z) + log |det dz/dx|` with `z` = chain(x).
pub struct Flow {
    /// From data to latents.
    pub chain: Chain,
    /// The distribution of the latents.
    pub base: Box<dyn Base>,
}

impl Flow {
    /// A flow of these two.
    pub fn new(chain: Chain, base: impl Base + 'static) -> Self {
        Flow {
            chain,
            base: Box::new(base),
        }
    }

    /// The log-density of every sample, `[N]`, in nats, with respect to the units of `x`.
    #[track_caller]
    pub fn log_prob(&self, x: &Tensor, cx: &Context<'_>) -> Tensor {
        let Mapped { out, log_det } = self.chain.forward(x, cx);
        self.base.log_prob(&out, cx).add(&log_det)
    }

    /// Latents of `x` and the log-determinant of the way there.
    #[track_caller]
    pub fn encode(&self, x: &Tensor, cx: &Context<'_>) -> Mapped {
        self.chain.forward(x, cx)
    }

    /// Data from latents and the log-determinant of the way there.
    #[track_caller]
    pub fn decode(&self, z: &Tensor, cx: &Context<'_>) -> Mapped {
        self.chain.inverse(z, cx)
    }

    /// `n` samples. The temperature scales the deviation of the latents from their mean
    /// (Kingma, Dhariwal 2018, section 6); 1 samples the model itself. Poisoned where it
    /// is not above 0.
    #[track_caller]
    pub fn sample(&self, graph: &Graph, n: usize, temperature: f32, cx: &Context<'_>) -> Tensor {
        self.sample_with_log_prob(graph, n, temperature, cx).0
    }

    /// As [`Flow::sample`], and the log-density `[N]` (nats) of every sample under the
    /// model (at temperature 1), from the inverse's own log-determinant.
    #[track_caller]
    pub fn sample_with_log_prob(
        &self,
        graph: &Graph,
        n: usize,
        temperature: f32,
        cx: &Context<'_>,
    ) -> (Tensor, Tensor) {
        if !(temperature > 0.0 && temperature.is_finite()) || n == 0 {
            let wrong = graph.poisoned(Error::argument(
                "sample",
                format!("{n} samples at temperature {temperature}: both must be above 0"),
            ));
            return (wrong.clone(), wrong);
        }
        let z = self.base.sample(graph, n, temperature, cx);
        let Mapped { out, log_det } = self.chain.inverse(&z, cx);
        (out, self.base.log_prob(&z, cx).sub(&log_det))
    }

    /// Bits per dimension of every sample, `[N]`: see [`bits_per_dim`].
    #[track_caller]
    pub fn bits_per_dim(&self, x: &Tensor, bins: f32, cx: &Context<'_>) -> Tensor {
        let dims = x.numel() / x.dim(0).max(1);
        bits_per_dim(&self.log_prob(x, cx), dims, bins)
    }

    /// Sets the data-dependent first values of all layers from a batch: see
    /// [`FirstValues::set`] for the errors.
    pub fn initialize(&self, gpu: &Gpu, params: &Params, batch: &Batch<'_>) -> Result<()> {
        let first = FirstValues::new();
        batch.with(|x, cx| self.chain.forward(x, &cx.computing(&first)).out.check())?;
        first.set(gpu, params, &batch.inputs())
    }

    /// Looks for the first layer that gives a value that is not finite for a batch.
    /// Errors: [`Error::NonFinite`] with the layer's place in the chain; those of a run.
    pub fn check_finite(&self, gpu: &Gpu, params: &Params, batch: &Batch<'_>) -> Result<()> {
        let (names, wanted) = batch.with(|x, cx| {
            self.chain.forward(x, &cx);
            let mut names = vec!["the input".to_string()];
            let mut wanted = vec![x.clone()];
            for step in x.graph().observed() {
                // Layers inside of networks say less than the step that they belong to.
                let Some(log_det) = step.log_det else {
                    continue;
                };
                wanted.extend([step.output, log_det]);
                names.push(step.name.clone());
                names.push(format!("the log-determinant of {}", step.name));
            }
            (names, wanted)
        });
        let wanted: Vec<&Tensor> = wanted.iter().collect();
        let results = batch.run(gpu, params, &wanted)?;
        results.check_finite(&names.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// The largest `|decode(encode(x)) - x|` over a batch, in the units of `x`: how well
    /// the inverse holds, say after training. Errors: those of a run, and a result that is
    /// not finite.
    pub fn reconstruction_error(
        &self,
        gpu: &Gpu,
        params: &Params,
        batch: &Batch<'_>,
    ) -> Result<f32> {
        let wanted = batch.with(|x, cx| {
            let z = self.chain.forward(x, &cx).out;
            let error = self.chain.inverse(&z, &cx).out.sub(x).abs();
            [error.max(&[], false), error.sum(&[], false)]
        });
        let results = batch.run(gpu, params, &[&wanted[0], &wanted[1]])?;
        // A maximum may pass over a NaN; a sum does not.
        results.check_finite(&["the largest reconstruction error", "the reconstruction"])?;
        results.scalar(0)
    }
}

/// Data on the host for one run of a flow.
#[derive(Clone)]
pub struct Batch<'a> {
    x: &'a [f32],
    shape: Shape,
    condition: Option<(Value<'a>, Shape)>,
}

impl<'a> Batch<'a> {
    /// Samples `[N, ..]`, row-major.
    pub fn new(x: &'a [f32], shape: impl Into<Shape>) -> Self {
        Batch {
            x,
            shape: shape.into(),
            condition: None,
        }
    }

    /// The same samples with a condition: features, or classes as u32 `[N]`.
    pub fn with_condition(self, value: impl Into<Value<'a>>, shape: impl Into<Shape>) -> Self {
        Batch {
            condition: Some((value.into(), shape.into())),
            ..self
        }
    }

    /// Builds on this batch's inputs in a new graph.
    fn with<T>(&self, build: impl FnOnce(&Tensor, Context<'_>) -> T) -> T {
        let graph = Graph::new();
        let x = graph.input("x", &self.shape);
        let condition = self.condition.as_ref().map(|(value, shape)| match value {
            Value::F32(_) => graph.input("condition", shape),
            Value::U32(_) => graph.input_u32("condition", shape),
        });
        let cx = Context::eval();
        match &condition {
            Some(condition) => build(&x, cx.with_condition(condition)),
            None => build(&x, cx),
        }
    }

    fn inputs(&self) -> Vec<(&str, Value<'_>)> {
        let mut inputs = vec![("x", Value::F32(self.x))];
        if let Some((value, _)) = &self.condition {
            inputs.push(("condition", *value));
        }
        inputs
    }

    fn run(&self, gpu: &Gpu, params: &Params, wanted: &[&Tensor]) -> Result<Outputs> {
        let Some(first) = wanted.first() else {
            return Err(Error::Graph("nothing was asked for".into()));
        };
        let mut program = first.graph().compile_aside(gpu, params, wanted)?;
        let inputs = self.inputs().into_iter();
        program.run(
            &inputs
                .filter(|(n, _)| program.has_input(n))
                .collect::<Vec<_>>(),
        )
    }
}

/// Bits per dimension from log-densities in nats: `-log_prob / (dims ln 2) + log2(bins)`.
///
/// For data of `bins` levels that were scaled to width 1, as `(x + u) / bins` with
/// uniform noise `u`; `bins` is 256 for 8-bit images. For a density in the units of the
/// levels themselves `bins` is 1.
#[track_caller]
pub fn bits_per_dim(log_prob: &Tensor, dims: usize, bins: f32) -> Tensor {
    let per_nat = -1.0 / (dims as f64 * std::f64::consts::LN_2);
    log_prob.mul_scalar(per_nat as f32).add_scalar(bins.log2())
}
