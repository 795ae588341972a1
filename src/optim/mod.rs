//! Optimisers: graph nodes that turn a loss into assignments to whole arenas.
//!
//! Gradients are packed like the arena of their parameters, so a step is a handful
//! of element-wise nodes per arena, however many layers there are. Composed of
//! Tensor methods only; this room knows no kernel and no GPU.

mod adam;
mod rules;
mod schedule;

use std::sync::Arc;

use crate::graph::Source;
use crate::params::{ArenaInit, ArenaKind, Layout, Param, Params};
use crate::{Error, Graph, Result, Tensor, tape};

pub use adam::{Adam, AdamW, Adamax};
pub use rules::{RmsProp, Rule, Sgd, Updated};
pub use schedule::Schedule;

/// Moving average of the parameters, kept in arenas of its own:
/// `e = d e + (1 - d) p` after every step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ema {
    /// The decay `d`.
    pub decay: f64,
    /// Starts with the smaller `(1 + t) / (10 + t)`, `t = step + 1`, so that the
    /// first values are soon forgotten.
    pub warmup: bool,
}

/// A rule with its schedule, clipping and averaging, for the trainable parameters
/// of a set or of one scope of it.
///
/// ```text
/// let optimizer = Optimizer::new(&params, Adam::default())?
///     .schedule(Schedule::cosine(10_000, 0.0).warmup(500))
///     .clip_grad_norm(1.0);
/// optimizer.minimize(&loss)?;                  // once, while the graph is built
/// for (name, value) in optimizer.inputs(step)  // at every run: f32 scalars
/// ```
///
/// Add all parameters before the optimiser's nodes: it covers those it finds.
/// Two optimisers on one set (a GAN) need different [`Optimizer::named`] names
/// and, for the smallest memory, parameter sets of their own.
#[derive(Debug, Clone)]
pub struct Optimizer {
    params: Params,
    rule: Arc<dyn Rule>,
    name: String,
    schedule: Schedule,
    clip: Option<f32>,
    ema: Option<Ema>,
    skip: bool,
}

/// What a step adds to the graph.
#[derive(Debug, Clone)]
pub struct Step {
    /// The global gradient norm before clipping (`[]`), where clipping is on.
    pub norm: Option<Tensor>,
    /// 1 where the step was taken, 0 where it was left out (`[]`), with
    /// [`Optimizer::skip_non_finite`].
    pub taken: Option<Tensor>,
    /// All assignments: arenas of the parameter set and their new contents `[len]`.
    /// They are recorded in the graph already.
    pub updates: Vec<(usize, Tensor)>,
}

/// Gradients summed over several runs; see [`Optimizer::accumulate`].
#[derive(Debug, Clone)]
pub struct Accumulation {
    /// The assignments that add to the sums.
    pub updates: Vec<(usize, Tensor)>,
    parts: Vec<Part>,
}

/// The part of a step that concerns one arena.
#[derive(Debug, Clone)]
struct Part {
    arena: usize,
    /// The accumulator arena, for accumulated gradients.
    sums: Option<usize>,
    /// 1 where an element got a gradient, 0 elsewhere; `None` where all did.
    mask: Option<Vec<f32>>,
}

impl Optimizer {
    /// An optimiser for the trainable parameters below `params`' prefix. Errors:
    /// hyper-parameters that make no sense.
    pub fn new(params: &Params, rule: impl Rule + 'static) -> Result<Self> {
        rule.check()?;
        Ok(Optimizer {
            params: params.clone(),
            rule: Arc::new(rule),
            name: "optim".into(),
            schedule: Schedule::constant(),
            clip: None,
            ema: None,
            skip: false,
        })
    }

    /// The prefix of its inputs and arenas; `optim` by default.
    pub fn named(mut self, name: &str) -> Self {
        self.name = name.into();
        self
    }

    /// Multiplies the learning rate by a schedule.
    pub fn schedule(mut self, schedule: Schedule) -> Self {
        self.schedule = schedule;
        self
    }

    /// Scales all gradients by `min(1, max / (norm + 1e-6))`, `norm` over all of
    /// them together, as PyTorch's `clip_grad_norm_`.
    pub fn clip_grad_norm(mut self, max: f32) -> Self {
        self.clip = Some(max);
        self
    }

    /// Leaves out steps with a gradient that is not finite, as training in mixed precision
    /// does: parameters, moments and averages stay as they are, and [`Step::taken`] tells.
    /// Without this such a step makes everything NaN that it reaches.
    pub fn skip_non_finite(mut self) -> Self {
        self.skip = true;
        self
    }

    /// Keeps a moving average of the parameters.
    pub fn ema(mut self, ema: Ema) -> Self {
        self.ema = Some(ema);
        self
    }

    /// The learning rate of `step` (from 0).
    pub fn lr(&self, step: u64) -> f64 {
        self.rule.lr() * self.schedule.factor(step)
    }

    /// Names and values of the scalar inputs of `step` (from 0), as the program
    /// with this optimiser's nodes wants them.
    pub fn inputs(&self, step: u64) -> Vec<(String, f32)> {
        let t = step + 1;
        let mut inputs: Vec<(String, f32)> = self
            .rule
            .scalars(self.lr(step), t)
            .into_iter()
            .map(|(name, value)| (format!("{}.{name}", self.name), value as f32))
            .collect();
        if let Some(ema) = self.ema {
            let t = t as f64;
            let decay = match ema.warmup {
                true => ema.decay.min((1.0 + t) / (10.0 + t)),
                false => ema.decay,
            };
            inputs.push((format!("{}.ema", self.name), (1.0 - decay) as f32));
        }
        inputs
    }

    /// Appends the gradients of the scalar `loss` and one step to its graph.
    /// Parameters the loss does not depend on stay as they are.
    #[track_caller]
    pub fn minimize(&self, loss: &Tensor) -> Result<Step> {
        let grads = self.grads(loss)?;
        self.step(loss.graph(), &grads)
    }

    /// Gradients of `loss` by those trainable parameters it depends on.
    #[track_caller]
    pub fn grads(&self, loss: &Tensor) -> Result<Vec<(Param, Tensor)>> {
        loss.check()?;
        let mut params = self.params.trainable();
        let set = self.params.id();
        params.retain(|p| tape::reaches(loss, &p.source(set)));
        let tensors: Vec<Tensor> = params.iter().map(|p| p.on(loss.graph())).collect();
        let grads = tape::backward(loss, &tensors.iter().collect::<Vec<_>>())?;
        Ok(params.into_iter().zip(grads).collect())
    }

    /// Appends one step with these gradients: clipping, the rule, the average.
    #[track_caller]
    pub fn step(&self, graph: &Graph, grads: &[(Param, Tensor)]) -> Result<Step> {
        let (parts, packed) = self.pack(graph, grads)?;
        self.update(graph, &parts, packed)
    }

    /// Gradient accumulation, first half: adds the gradients of `loss` to
    /// accumulator arenas. Put it in a program of its own, run that `k` times, then
    /// run once a program with [`Optimizer::apply`] in it.
    #[track_caller]
    pub fn accumulate(&self, loss: &Tensor) -> Result<Accumulation> {
        let graph = loss.graph();
        let (mut parts, packed) = self.pack(graph, &self.grads(loss)?)?;
        let layout = self.params.layout();
        let mut updates = Vec::new();
        for (part, grad) in parts.iter_mut().zip(packed) {
            let sums = self.mirror(&layout, "sum", part.arena, ArenaInit::Zeros)?;
            part.sums = Some(sums);
            let old = self.params.arena_tensor(graph, sums);
            let new = old.add(&grad);
            new.check()?;
            graph.assign(&old, &new);
            updates.push((sums, new));
        }
        Ok(Accumulation { updates, parts })
    }

    /// Gradient accumulation, second half: one step with the mean of `k`
    /// accumulated gradients; the accumulators are zero afterwards.
    #[track_caller]
    pub fn apply(&self, graph: &Graph, sums: &Accumulation, k: usize) -> Result<Step> {
        let arena = |part: &Part| part.sums.unwrap_or(usize::MAX);
        let tensors: Vec<Tensor> = sums
            .parts
            .iter()
            .map(|part| self.params.arena_tensor(graph, arena(part)))
            .collect();
        let factor = 1.0 / k.max(1) as f32;
        let means = tensors.iter().map(|t| t.mul_scalar(factor)).collect();
        let mut step = self.update(graph, &sums.parts, means)?;
        for (part, sum) in sums.parts.iter().zip(tensors) {
            let zero = sum.zeros_like();
            graph.assign(&sum, &zero);
            step.updates.push((arena(part), zero));
        }
        Ok(step)
    }

    /// Exchanges parameters and their moving average: before an evaluation with the
    /// averaged weights, and again behind it. Errors: no [`Optimizer::ema`], or no
    /// step built yet.
    pub fn swap_ema(&self) -> Result<()> {
        let layout = self.params.layout();
        let prefix = format!("{}.ema.", self.name);
        let averages = layout.arenas.iter().enumerate();
        let pairs: Vec<(usize, usize)> = averages
            .filter(|(_, a)| a.name.starts_with(&prefix))
            .filter_map(|(i, a)| Some((i, a.mirrors?)))
            .collect();
        if pairs.is_empty() {
            return Err(Error::argument(
                "swap_ema",
                "no moving average is kept; call `ema` before the step is built",
            ));
        }
        for (average, arena) in pairs {
            let (e, p) = (
                self.params.arena_values(average)?,
                self.params.arena_values(arena)?,
            );
            self.params.set_arena_values(average, &p)?;
            self.params.set_arena_values(arena, &e)?;
        }
        Ok(())
    }

    /// The accompanying arena `what` of `arena`.
    fn mirror(&self, layout: &Layout, what: &str, arena: usize, init: ArenaInit) -> Result<usize> {
        let of = layout.arenas.get(arena).map_or("", |a| a.name.as_str());
        let name = format!("{}.{what}.{of}", self.name);
        self.params.add_arena(&name, arena, init)
    }

    /// The gradients in the layout of their arenas.
    #[track_caller]
    fn pack(&self, graph: &Graph, grads: &[(Param, Tensor)]) -> Result<(Vec<Part>, Vec<Tensor>)> {
        let layout = self.params.layout();
        let mut placed = Vec::with_capacity(grads.len());
        for (param, grad) in grads {
            grad.check()?;
            let place = layout.params.get(param.index());
            let (true, Some(place)) = (param.set_of().id() == layout.set, place) else {
                return Err(Error::MissingParameter {
                    name: param.name().into(),
                    detail: "it belongs to another set than the optimiser".into(),
                });
            };
            if grad.shape() != param.shape() || !param.is_trainable() {
                return Err(Error::shape(
                    "optimizer",
                    format!(
                        "`{}` is {:?} and must be trainable, its gradient is {:?}",
                        param.name(),
                        param.shape(),
                        grad.shape()
                    ),
                ));
            }
            placed.push((*place, grad));
        }
        placed.sort_by_key(|(place, _)| (place.arena, place.offset));
        let (mut parts, mut packed) = (Vec::new(), Vec::new());
        for chunk in placed.chunk_by(|a, b| a.0.arena == b.0.arena) {
            let arena = chunk[0].0.arena;
            let len = layout.arenas[arena].len;
            let inside: Vec<(usize, &Tensor)> = chunk.iter().map(|(p, g)| (p.offset, *g)).collect();
            let grad = graph.pack(&inside, len);
            grad.check()?;
            graph.watch_gradient(layout.set, arena, &grad);
            packed.push(grad);
            let all = layout.params.iter().filter(|p| p.arena == arena).count();
            parts.push(Part {
                arena,
                sums: None,
                mask: (all != chunk.len()).then(|| {
                    let mut mask = vec![0.0; len];
                    for (p, _) in chunk {
                        mask[p.offset..p.offset + p.len].fill(1.0);
                    }
                    mask
                }),
            });
        }
        match parts.is_empty() {
            true => Err(Error::Graph(
                "optimizer: the loss depends on none of its trainable parameters".into(),
            )),
            false => Ok((parts, packed)),
        }
    }

    /// One step from packed gradients.
    #[track_caller]
    fn update(&self, graph: &Graph, parts: &[Part], grads: Vec<Tensor>) -> Result<Step> {
        let layout = self.params.layout();
        let scalar = |name: &str| graph.input(&format!("{}.{name}", self.name), []);
        let names = self.rule.scalars(self.rule.lr(), 1);
        let scalars: Vec<Tensor> = names.iter().map(|(name, _)| scalar(name)).collect();
        let (norm, factor) = match self.clip {
            Some(max) => {
                let (norm, factor) = clip(&grads, max)?;
                (Some(norm), Some(factor))
            }
            None => (None, None),
        };
        let taken = self.skip.then(|| all_finite(&grads)).flatten();
        let mut updates = Vec::new();
        for (part, grad) in parts.iter().zip(grads) {
            let kind = layout.arenas.get(part.arena).map(|a| a.kind);
            if kind != Some(ArenaKind::Trainable) {
                return Err(Error::Graph("optimizer: not an arena of parameters".into()));
            }
            let grad = match &factor {
                Some(factor) => grad.mul(factor),
                None => grad,
            };
            let mut arenas = vec![part.arena];
            for moment in self.rule.moments() {
                arenas.push(self.mirror(&layout, moment, part.arena, ArenaInit::Zeros)?);
            }
            let tensor = |arena: &usize| self.params.arena_tensor(graph, *arena);
            let mut old: Vec<Tensor> = arenas.iter().map(tensor).collect();
            let Updated { param, moments } = self.rule.update(&old[0], &grad, &old[1..], &scalars);
            let mut new = vec![param];
            new.extend(moments);
            if let Some(mask) = &part.mask {
                let mask = graph.constant([mask.len()], mask);
                new = new
                    .iter()
                    .zip(&old)
                    .map(|(new, old)| mask.select(new, old))
                    .collect();
            }
            if self.ema.is_some() {
                let arena = self.mirror(&layout, "ema", part.arena, ArenaInit::Copy)?;
                let average = tensor(&arena);
                let towards = new[0].sub(&average).mul(&scalar("ema"));
                new.push(average.add(&towards));
                arenas.push(arena);
            }
            if let Some(taken) = &taken {
                old.push(match self.ema {
                    Some(_) => tensor(&arenas[arenas.len() - 1]),
                    None => old[0].clone(),
                });
                let kept = new.iter().zip(&old);
                new = kept.map(|(new, old)| taken.select(new, old)).collect();
            }
            updates.extend(arenas.into_iter().zip(new));
        }
        for (arena, value) in &updates {
            value.check()?;
            graph.assign(&self.params.arena_tensor(graph, *arena), value);
        }
        Ok(Step {
            norm,
            taken,
            updates,
        })
    }
}

/// 1 where a scalar is a finite number, else 0.
fn is_finite(x: &Tensor) -> Tensor {
    x.abs().less_equal(&x.full_like(f32::MAX)).stop_gradient()
}

/// 1 where all elements are finite numbers, else 0.
fn all_finite(grads: &[Tensor]) -> Option<Tensor> {
    let each = grads.iter().map(|g| is_finite(&g.abs().max(&[], false)));
    each.reduce(|a, b| a.mul(&b))
}

/// The global norm of all gradients, and the factor that clips it to `max`.
#[track_caller]
fn clip(grads: &[Tensor], max: f32) -> Result<(Tensor, Tensor)> {
    let squares = grads.iter().map(|g| g.square().sum(&[], false));
    let norm = match squares.reduce(|a, b| a.add(&b)) {
        Some(total) if max > 0.0 && max.is_finite() => total.sqrt(),
        _ => {
            return Err(Error::argument(
                "clip_grad_norm",
                format!("the largest norm must be positive and finite, it is {max}"),
            ));
        }
    };
    let ratio = norm.full_like(max).div(&norm.add_scalar(1e-6));
    // Of an infinite norm the ratio would be 0, and the step would look fine.
    let clipped = ratio.minimum(&norm.ones_like());
    let factor = is_finite(&norm).select(&clipped, &norm.full_like(f32::NAN));
    Ok((norm, factor))
}

impl Param {
    /// What the graph knows this parameter as.
    fn source(&self, set: u64) -> Source {
        Source::Param {
            set,
            index: self.index(),
        }
    }
}
