//! What layers see apart from their input, and data-dependent first values.

use std::sync::Mutex;

use crate::graph::Tensor;
use crate::nn::Mode;
use crate::{Error, Gpu, Param, Params, Result, Value};

/// What a layer of a flow sees apart from its input: the mode, a condition, and
/// whether data-dependent first values are being computed.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    mode: Mode,
    condition: Option<&'a Tensor>,
    first: Option<&'a FirstValues>,
}

impl<'a> Context<'a> {
    /// A context without condition.
    pub fn new(mode: Mode) -> Self {
        Context {
            mode,
            condition: None,
            first: None,
        }
    }

    /// For training.
    pub fn train() -> Self {
        Context::new(Mode::Train)
    }

    /// For evaluation and sampling.
    pub fn eval() -> Self {
        Context::new(Mode::Eval)
    }

    /// The same context with a condition: features `[N, ..]` or classes `[N]`, as the
    /// layers that read it say.
    pub fn with_condition(self, condition: &'a Tensor) -> Self {
        Context {
            condition: Some(condition),
            ..self
        }
    }

    /// The same context in which layers with data-dependent first values compute them
    /// from the batch, use them, and report them to `first`.
    pub fn computing(self, first: &'a FirstValues) -> Self {
        Context {
            first: Some(first),
            ..self
        }
    }

    /// What the graph is built for.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The condition, if one was given.
    pub fn condition(&self) -> Option<&'a Tensor> {
        self.condition
    }

    /// Where to report data-dependent first values, if they are wanted.
    pub fn first_values(&self) -> Option<&'a FirstValues> {
        self.first
    }
}

/// Data-dependent first values of parameters (Salimans, Kingma 2016, arXiv
/// 1602.07868), collected while a graph is recorded and set after one run of it.
#[derive(Default)]
pub struct FirstValues {
    found: Mutex<Vec<First>>,
}

struct First {
    param: Param,
    value: Tensor,
    /// Per channel, the standard deviation relative to the values' size, which must not
    /// be zero.
    spread: Option<Tensor>,
}

impl FirstValues {
    /// Nothing collected yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// `param` is to start as `value`, of the same number of elements.
    pub fn report(&self, param: &Param, value: &Tensor) {
        self.push(param, value, None);
    }

    /// As [`FirstValues::report`], and a channel without variance is an error: one whose
    /// `spread` `[C]`, the standard deviation relative to the size of the channel's
    /// values, is rounding only (below 1e-6).
    pub fn report_scale(&self, param: &Param, value: &Tensor, spread: &Tensor) {
        self.push(param, value, Some(spread.clone()));
    }

    fn push(&self, param: &Param, value: &Tensor, spread: Option<Tensor>) {
        let mut found = self.found.lock().unwrap_or_else(|e| e.into_inner());
        found.push(First {
            param: param.clone(),
            value: value.clone(),
            spread,
        });
    }

    /// Runs the recorded graph on `inputs` and sets the reported parameters. Errors:
    /// a channel without variance ([`Error::Data`], naming the parameter and the
    /// channel; nothing is set then), values that are not finite, those of a run.
    pub fn set(&self, gpu: &Gpu, params: &Params, inputs: &[(&str, Value<'_>)]) -> Result<()> {
        let found = self.found.lock().unwrap_or_else(|e| e.into_inner());
        let mut wanted = Vec::new();
        for first in found.iter() {
            wanted.push(&first.value);
            wanted.extend(&first.spread);
        }
        let Some(some) = wanted.first() else {
            return Ok(());
        };
        let mut program = some.graph().compile_aside(gpu, params, &wanted)?;
        // First values need not depend on all of them, say not on classes.
        let read = |(name, _): &&(&str, Value<'_>)| program.has_input(name);
        let inputs: Vec<_> = inputs.iter().filter(read).copied().collect();
        let results = program.run(&inputs)?;
        let mut at = 0;
        let mut values = Vec::new();
        for first in found.iter() {
            values.push(results.f32(at)?);
            at += 1;
            if first.spread.is_some() {
                first.check_spread(&results.f32(at)?)?;
                at += 1;
            }
        }
        for (first, values) in found.iter().zip(&values) {
            first.param.set(values)?;
        }
        Ok(())
    }
}

impl First {
    fn check_spread(&self, spread: &[f32]) -> Result<()> {
        let varies = |s: &f32| *s > 1e-6;
        match spread.iter().position(|s| !varies(s)) {
            None => Ok(()),
            Some(channel) => Err(Error::Data {
                file: format!("first batch for `{}`", self.param.name()),
                detail: format!(
                    "channel {channel} has no variance, so its scale cannot start at 1 / std. Use more or noisier images, or give the layer a minimum deviation"
                ),
            }),
        }
    }
}
