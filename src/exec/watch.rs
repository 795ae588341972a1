//! Programs that look for numbers that are not finite: in their float outputs, in gradients
//! that an optimiser uses, and in parameters and moments as they are updated. It is done on
//! the GPU, two reductions for each of these that is one tensor or one arena; what comes
//! back is two words each.

use crate::gpu::Gpu;
use crate::graph::{Kind, Source, ValueId};
use crate::params::{Layout, Params};
use crate::plan::PlanOptions;
use crate::{DType, Error, Graph, Result, Tensor};

use super::{ParamSets, Program};

/// What is looked at, in the order in which it is told.
#[derive(Debug, Clone, PartialEq)]
enum Place {
    Output(usize),
    /// A packed gradient, which lies like an arena.
    Gradient {
        set: u64,
        arena: usize,
    },
    Updated(Source),
}

/// A tensor of the graph whose numbers are looked at.
#[derive(Debug, Clone)]
pub(super) struct Watch {
    /// Outputs of the program's own; two for each place stand behind them.
    pub outputs: usize,
    places: Vec<Place>,
    sets: Vec<Names>,
}

#[derive(Debug, Clone)]
struct Names {
    layout: Layout,
    params: Vec<String>,
}

impl Names {
    /// The parameter whose element this is in an arena, or in one that mirrors it.
    fn element(&self, arena: usize, element: usize) -> String {
        let of = self.layout.arenas.get(arena);
        let mirrored = of.and_then(|a| a.mirrors);
        let home = mirrored.unwrap_or(arena);
        let place = self
            .layout
            .params
            .iter()
            .position(|p| p.arena == home && (p.offset..p.offset + p.len).contains(&element));
        let name = place.and_then(|i| Some((self.params.get(i)?, &self.layout.params[i])));
        match (name, of) {
            (Some((name, place)), Some(of)) if mirrored.is_some() => {
                format!(
                    "`{name}` in {}, element {}",
                    of.name,
                    element - place.offset
                )
            }
            (Some((name, place)), _) => format!("`{name}`, element {}", element - place.offset),
            (None, _) => format!("arena {arena}, element {element}"),
        }
    }

    fn param(&self, index: usize, element: usize) -> String {
        let name = self.params.get(index).map_or("?", String::as_str);
        format!("`{name}`, element {element}")
    }
}

impl Graph {
    /// [`Graph::compile`], and every run whose outputs are waited for looks whether
    /// outputs, gradients and updated parameters are finite; [`Program::step`] reads
    /// nothing back and so tells nothing. A run where something is not gives
    /// [`Error::NonFinite`] with the first parameter's name; what it updated stays as
    /// it is then, NaN included. Backends with fast mathematics (Metal) do not promise
    /// that NaN is seen.
    pub fn compile_watched(
        &self,
        gpu: &Gpu,
        params: &(impl ParamSets + ?Sized),
        outputs: &[&Tensor],
    ) -> Result<Program> {
        let sets = params.sets();
        let mut places = Vec::new();
        let mut looked: Vec<Tensor> = Vec::new();
        let mut look = |place: Place, value: &Tensor| {
            if value.dtype() == DType::F32 {
                let limit = value.full_like(f32::MAX);
                let finite = value.abs().less_equal(&limit);
                looked.push(finite.min(&[], false));
                looked.push(finite.reshape([value.numel()]).argmin(None));
                places.push(place);
            }
        };
        for (i, output) in outputs.iter().enumerate() {
            output.check()?;
            look(Place::Output(i), output);
        }
        for (set, arena, gradient) in self.watched() {
            look(Place::Gradient { set, arena }, &self.tensor(gradient));
        }
        for (source, value) in self.assigned() {
            look(Place::Updated(source), &self.tensor(value));
        }
        let all: Vec<&Tensor> = outputs.iter().copied().chain(&looked).collect();
        let mut program = self.compile_with(gpu, &sets, &all, &PlanOptions::default())?;
        let names = |p: &&Params| Names {
            layout: p.layout(),
            params: p.root().names(),
        };
        program.watch = Some(Watch {
            outputs: outputs.len(),
            places,
            sets: sets.iter().map(names).collect(),
        });
        Ok(program)
    }

    /// Gradients that optimisers packed: set, arena, value.
    fn watched(&self) -> Vec<(u64, usize, ValueId)> {
        self.lock().packed_gradients.clone()
    }

    /// What the graph assigns.
    fn assigned(&self) -> Vec<(Source, ValueId)> {
        let nodes = self.lock();
        let source = |target: ValueId| {
            let node = nodes.nodes.get(target.node.0 as usize)?;
            match node.op.kind() {
                Kind::Source(source) => Some(source.clone()),
                _ => None,
            }
        };
        let updates = nodes.updates.iter();
        updates
            .filter_map(|u| Some((source(u.target)?, u.value)))
            .collect()
    }
}

impl Watch {
    /// An error if a word says that something was not finite.
    pub(super) fn judge(&self, words: &[Vec<u32>]) -> Result<()> {
        let flags = words.get(self.outputs..).unwrap_or(&[]).chunks_exact(2);
        let mut outputs = Vec::new();
        let mut named = Vec::new();
        for (place, flag) in self.places.iter().zip(flags) {
            let word = |i: usize| flag[i].first().copied().unwrap_or(0);
            if f32::from_bits(word(0)) == 1.0 {
                continue;
            }
            let element = word(1) as usize;
            let of = |id: u64| self.sets.iter().find(|s| s.layout.set == id);
            let unknown = || format!("a tensor, element {element}");
            match place {
                Place::Output(i) => outputs.push(format!("output {i}, element {element}")),
                Place::Gradient { set, arena } => named.push(format!(
                    "gradient of {}",
                    of(*set).map_or_else(unknown, |s| s.element(*arena, element))
                )),
                Place::Updated(Source::Arena { set, index }) => named.push(format!(
                    "update of {}",
                    of(*set).map_or_else(unknown, |s| s.element(*index, element))
                )),
                Place::Updated(Source::Param { set, index }) => named.push(format!(
                    "update of {}",
                    of(*set).map_or_else(unknown, |s| s.param(*index, element))
                )),
                Place::Updated(_) => named.push(unknown()),
            }
        }
        named.extend(outputs);
        let Some((first, rest)) = named.split_first() else {
            return Ok(());
        };
        Err(Error::NonFinite {
            place: first.clone(),
            detail: match rest.is_empty() {
                true => "it is NaN or infinite".into(),
                false => format!("it is NaN or infinite; so are: {}", rest.join("; ")),
            },
        })
    }
}
