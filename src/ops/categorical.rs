//! Classes drawn from logits, with the random numbers of `random.rs`.

use crate::graph::{Array, Lower, Op, Slot, Spec, Tensor};
use crate::ops::random::threefry;
use crate::ops::reduce::axes::expect_f32;
use crate::{Error, Result};

const SHADER: &str = include_str!("../../shaders/categorical.wgsl");

/// Lanes that share a row; `categorical.wgsl`.
const LANES: usize = 64;

/// How [`Tensor::categorical`] draws.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Categorical {
    /// Logits are divided by it: below 1 likely classes become likelier. Above 0.
    pub temperature: f32,
    /// Only as many of the largest logits can be drawn (and those equal to the last of
    /// them); all by default.
    pub top_k: Option<usize>,
}

impl Default for Categorical {
    fn default() -> Self {
        Categorical {
            temperature: 1.0,
            top_k: None,
        }
    }
}

/// One class per row: inputs are the random state and logits `[.., K]`.
#[derive(Debug)]
struct Draw {
    options: Categorical,
    stream: u32,
}

impl Draw {
    /// The class of one row; see `categorical.wgsl`.
    fn of_row(&self, key: [u32; 2], row: usize, logits: &[f64]) -> usize {
        if let Some(nan) = logits.iter().position(|x| x.is_nan()) {
            return nan;
        }
        let mut sorted = logits.to_vec();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let keep = self.options.top_k.unwrap_or(usize::MAX).min(logits.len());
        let (peak, least) = (sorted[0], sorted[keep - 1]);
        let mut best = (f64::NEG_INFINITY, logits.len());
        for (j, x) in logits.iter().enumerate() {
            let word = threefry(key, [j as u32 / 2, row as u32])[j % 2];
            let unit = (f64::from(word) + 0.5) / (1u64 << 32) as f64;
            let gumbel = -(-(-unit).ln_1p()).ln();
            let distance = if *x == peak { 0.0 } else { x - peak };
            let score = distance / f64::from(self.options.temperature) + gumbel;
            if *x >= least && *x > f64::NEG_INFINITY && score > best.0 {
                best = (score, j);
            }
        }
        best.1
    }
}

impl Op for Draw {
    fn name(&self) -> &'static str {
        "categorical"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        expect_f32(self.name(), &inputs[1..])?;
        let Categorical { temperature, top_k } = self.options;
        if temperature <= 0.0 || !temperature.is_normal() {
            let detail = format!(
                "the temperature is {temperature}; it must be a positive number (at 0 the likeliest class is certain: use `argmax`)"
            );
            return Err(Error::argument(self.name(), detail));
        }
        if top_k == Some(0) {
            let detail = "top_k is 0: no class would be left; it must be 1 or more";
            return Err(Error::argument(self.name(), detail));
        }
        match inputs[1].shape.dims() {
            [rows @ .., _] => Ok(vec![Spec::u32(rows)]),
            [] => Err(Error::shape(
                self.name(),
                "expected logits [.., K], got a scalar",
            )),
        }
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let (state, logits) = (&inputs[0].data, inputs[1]);
        let [seed, high, step] = [0, 1, 2].map(|i| state[i] as u32);
        let key = threefry([seed, high], [step, self.stream]);
        let (classes, rows) = match &logits.shape.dims() {
            [rows @ .., classes] => (*classes, rows.to_vec()),
            [] => (1, Vec::new()),
        };
        let drawn = logits.data.chunks(classes).enumerate();
        let drawn = drawn.map(|(n, row)| self.of_row(key, n, row) as f64);
        Ok(vec![Array::new(rows, drawn.collect())?])
    }

    fn stops_gradient(&self) -> bool {
        true
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let rows = cx.output(0).shape.numel();
        let classes = cx.input(1).shape.numel() / rows;
        let keep = self.options.top_k.filter(|k| *k < classes);
        let steps = classes.div_ceil(LANES);
        let trips = steps * if keep.is_some() { 34 } else { 2 } + 64;
        cx.kernel("categorical", SHADER)
            .variant(if keep.is_some() { "top k" } else { "all" })
            .define("TOP", keep.is_some() as u32)
            .arg("rows", rows)
            .arg("classes", classes)
            .arg("stream", self.stream as usize)
            .arg("keep", keep.unwrap_or(0))
            .arg_f32("scale", 1.0 / self.options.temperature)
            .read(Slot::In(0))
            .read(Slot::In(1))
            .write(Slot::Out(0))
            .flops(40 * rows * classes)
            .trips(trips)
            .flat_groups(rows)
    }
}

impl Tensor {
    /// Classes drawn from logits `[.., K]`, one for each row along the last axis, as u32
    /// `[..]`: class `j` with probability `softmax(logits / temperature)[j]`, among the
    /// `top_k` largest logits where asked (Gumbel's maximum, with the counter-based numbers
    /// of [`Graph::uniform`](crate::Graph::uniform): the same classes in every run from the
    /// same random state). Logits shared by several draws are repeated with
    /// [`Tensor::broadcast_to`]. For a temperature on the GPU, divide the logits.
    ///
    /// Logits of minus infinity are never drawn: a row that has nothing else gives `K`, which
    /// [`Tensor::one_hot`] and [`Tensor::gather_rows`] answer with zeros. Infinite logits share
    /// what is drawn. A row with NaN gives the first NaN's class, as [`Tensor::argmax`] does.
    /// No gradient. Errors: a temperature that is not positive (at 0 use
    /// [`Tensor::argmax`]), `top_k` of 0.
    #[track_caller]
    pub fn categorical(&self, options: &Categorical) -> Tensor {
        let graph = self.graph();
        let op = Draw {
            options: *options,
            stream: graph.next_random_stream(),
        };
        graph.push1(op, &[&graph.random_state(), self])
    }
}
