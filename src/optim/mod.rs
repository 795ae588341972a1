//! Optimisers: graph nodes that turn a loss into assignments to whole arenas.
//!
//! Gradients are packed like the arena of their parameters, so a step is a handful
//! of element-wise nodes per arena, however many layers there are. Composed of
//! Tensor methods only; this room knows no kernel and no GPU.

mod accumulate;
mod adam;
mod group;
mod groups;
mod layers;
mod layerwise;
mod rules;
mod schedule;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::graph::Source;
use crate::params::{ALIGN, ArenaInit, ArenaKind, Layout, Param, Params, Place};
use crate::{Error, Graph, Result, Tensor, tape};

pub use adam::{Adam, AdamW, Adamax};
use group::Group;
pub use layers::Layers;
pub use layerwise::{Lamb, Lars};
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
///
/// [`Optimizer::group`] and [`Optimizer::freeze`] treat some parameters differently.
/// Several optimisers may train one set in one graph (a GAN): make each from a scope of
/// its own, with another [`Optimizer::named`] name, before the set is first compiled or
/// laid out, so that each has arenas of its own. All their steps start from the old
/// values of all parameters.
#[derive(Debug, Clone)]
pub struct Optimizer {
    params: Params,
    rule: Arc<dyn Rule>,
    groups: Vec<Group>,
    /// Its number: clones are the same optimiser.
    id: u64,
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

/// The part of a step that concerns one group and one arena.
#[derive(Debug, Clone)]
struct Part {
    arena: usize,
    group: usize,
    /// The accumulator arena, for accumulated gradients.
    sums: Option<usize>,
    /// The elements that got a gradient, where not all did.
    written: Option<Vec<Range<usize>>>,
}

impl Part {
    /// 1 where an element of the arena got a gradient, 0 elsewhere; `None` where all did.
    fn mask(&self, graph: &Graph, len: usize) -> Option<Tensor> {
        let mut mask = vec![0.0; len];
        for range in self.written.as_ref()? {
            mask[range.clone()].fill(1.0);
        }
        Some(graph.constant([len], &mask))
    }
}

impl Optimizer {
    /// An optimiser for the trainable parameters below `params`' prefix. Errors:
    /// hyper-parameters that make no sense.
    pub fn new(params: &Params, rule: impl Rule + 'static) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        rule.check()?;
        let optimizer = Optimizer {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            params: params.clone(),
            rule: Arc::new(rule),
            groups: Vec::new(),
            name: "optim".into(),
            schedule: Schedule::constant(),
            clip: None,
            ema: None,
            skip: false,
        };
        optimizer.separate();
        Ok(optimizer)
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

    /// The learning rate of `step` (from 0), outside of groups.
    pub fn lr(&self, step: u64) -> f64 {
        self.rule.lr() * self.schedule.factor(step)
    }

    /// Names and values of the scalar inputs of `step` (from 0), as the program
    /// with this optimiser's nodes wants them.
    pub fn inputs(&self, step: u64) -> Vec<(String, f32)> {
        let t = step + 1;
        let mut inputs: Vec<(String, f32)> = Vec::new();
        for group in self.trained_groups() {
            let Some(rule) = self.rule_of(group) else {
                continue;
            };
            let prefix = self.prefix_of(group);
            let scalars = rule.scalars(rule.lr() * self.schedule.factor(step), t);
            let named = scalars.into_iter();
            inputs.extend(named.map(|(name, v)| (format!("{prefix}.{name}"), v as f32)));
        }
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
        params.retain(|p| self.rule_of(self.group_of(p)).is_some());
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

    #[track_caller]
    fn scalar(&self, graph: &Graph, prefix: &str, name: &str) -> Tensor {
        graph.input(&format!("{prefix}.{name}"), [])
    }

    /// The scalars of a group's rule; several arenas of a group share them.
    #[track_caller]
    fn scalars(&self, graph: &Graph, group: usize) -> Vec<Tensor> {
        let prefix = self.prefix_of(group);
        let rule = self.rule_of(group);
        let names = rule.map_or(Vec::new(), |r| r.scalars(r.lr(), 1));
        let each = names.iter();
        each.map(|(name, _)| self.scalar(graph, &prefix, name))
            .collect()
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
        self.separate();
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
            let group = self.group_of(param);
            if self.rule_of(group).is_none() {
                return Err(Error::argument(
                    "optimizer",
                    format!("`{}` is frozen, but a gradient is given", param.name()),
                ));
            }
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
            placed.push((group, *place, grad));
        }
        placed.sort_by_key(|(group, place, _)| (*group, place.arena, place.offset));
        let (mut parts, mut packed) = (Vec::new(), Vec::new());
        for chunk in placed.chunk_by(|a, b| (a.0, a.1.arena) == (b.0, b.1.arena)) {
            let (group, Place { arena, .. }, _) = chunk[0];
            let len = layout.arenas[arena].len;
            let inside = chunk.iter().map(|(_, p, g)| (p.offset, *g));
            let grad = graph.pack(&inside.collect::<Vec<(usize, &Tensor)>>(), len);
            grad.check()?;
            graph.watch_gradient(layout.set, arena, &grad);
            packed.push(grad);
            let all = layout.params.iter().filter(|p| p.arena == arena).count();
            let room = |p: &Place| p.offset..p.offset + p.len.next_multiple_of(ALIGN);
            parts.push(Part {
                arena,
                group,
                sums: None,
                written: (all != chunk.len())
                    .then(|| chunk.iter().map(|(_, p, _)| room(p)).collect()),
            });
        }
        match parts.is_empty() {
            true => Err(Error::Graph(
                "optimizer: the loss depends on none of its trainable parameters".into(),
            )),
            false => {
                let found: Vec<usize> = parts.iter().map(|p| p.group).collect();
                self.check_groups(&found)?;
                Ok((parts, packed))
            }
        }
    }

    /// One step from packed gradients.
    #[track_caller]
    fn update(&self, graph: &Graph, parts: &[Part], grads: Vec<Tensor>) -> Result<Step> {
        let layout = self.params.layout();
        if !graph.claim(&self.name, self.id) {
            return Err(Error::argument(
                "optimizer",
                format!(
                    "another optimiser of this graph is called `{}`, too, and would share its inputs; give it a name with `Optimizer::named`",
                    self.name
                ),
            ));
        }
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
            let Some(rule) = self.rule_of(part.group) else {
                continue;
            };
            let mut arenas = vec![part.arena];
            for moment in rule.moments() {
                arenas.push(self.mirror(&layout, moment, part.arena, ArenaInit::Zeros)?);
            }
            let tensor = |arena: &usize| self.params.arena_tensor(graph, *arena);
            let old: Vec<Tensor> = arenas.iter().map(tensor).collect();
            let scalars = self.scalars(graph, part.group);
            let layers = Layers::new(graph, &layout, part.arena);
            let Updated { param, moments } =
                rule.update(&old[0], &grad, &old[1..], &scalars, &layers);
            let mask = part.mask(graph, old[0].numel());
            let new = std::iter::once(param).chain(moments);
            for ((arena, old), new) in arenas.into_iter().zip(old).zip(new) {
                let new = match &taken {
                    Some(taken) => taken.select(&new, &old),
                    None => new,
                };
                new.check()?;
                let value = match (&mask, &part.written) {
                    (Some(mask), Some(written)) => {
                        let value = mask.select(&new, &graph.newest(&old));
                        graph.assign_part(&old, &value, written);
                        value
                    }
                    _ => {
                        graph.assign(&old, &new);
                        new
                    }
                };
                updates.push((arena, value));
            }
        }
        if self.ema.is_some() {
            let towards = self.scalar(graph, &self.name, "ema");
            let mut arenas: Vec<usize> = parts.iter().map(|p| p.arena).collect();
            arenas.sort_unstable();
            arenas.dedup();
            for of in arenas {
                let arena = self.mirror(&layout, "ema", of, ArenaInit::Copy)?;
                let average = self.params.arena_tensor(graph, arena);
                let new = graph.newest(&self.params.arena_tensor(graph, of));
                let new = average.add(&new.sub(&average).mul(&towards));
                let new = match &taken {
                    Some(taken) => taken.select(&new, &average),
                    None => new,
                };
                new.check()?;
                graph.assign(&average, &new);
                updates.push((arena, new));
            }
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
