//! Named parameters and state, their initial values, and the arenas they live in.
//!
//! A set knows names, shapes and places; the graph sees a parameter as a source,
//! the executor sees one buffer per arena. This room knows no op and no layer.

mod file;
mod init;
mod layout;
mod param;
mod rules;
mod store;
mod weights;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::rng::Stream;
use crate::{Error, Graph, Result, Shape, Tensor};

pub use file::{Precision, WeightsFile};
pub(crate) use file::{Record, weights as weights_error, write as write_weights};
pub use init::Init;
pub use layout::{ALIGN, ARENA_FLOATS, Arena, ArenaKind, Layout, Place};
pub use param::Param;
pub use rules::LoadRules;
pub(crate) use weights::COMPANION;
pub use weights::{LoadReport, Strict};

/// A set of named parameters and states. Clones share it; [`Params::scope`] gives
/// a handle that puts a prefix before every name.
#[derive(Clone)]
pub struct Params {
    inner: Arc<Mutex<Inner>>,
    prefix: String,
    /// Whether a name that is taken gives what it stands for.
    reuse: bool,
}

/// How a standalone arena starts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ArenaInit {
    /// All zeros.
    Zeros,
    /// What the mirrored arena holds when this one is first used.
    Copy,
}

pub(crate) struct Inner {
    id: u64,
    seed: u64,
    entries: Vec<Entry>,
    by_name: HashMap<String, usize>,
    arenas: Vec<ArenaEntry>,
    device: Option<store::Device>,
    /// Programs so far that draw random numbers.
    drawing: u64,
}

struct Entry {
    name: String,
    shape: Shape,
    trainable: bool,
    init: Init,
    place: Option<Place>,
    /// Parameters of different classes get different arenas.
    class: usize,
    /// Set by the user while the values are on the host; wins over `init`.
    value: Option<Vec<f32>>,
    /// The values were on a device that is lost, and none were set since.
    lost: bool,
}

impl Entry {
    fn hold(&mut self, values: &[f32]) {
        self.value = Some(values.to_vec());
        self.lost = false;
    }
}

struct ArenaEntry {
    arena: Arena,
    init: ArenaInit,
    /// Standalone arenas only, as in `Entry`.
    value: Option<Vec<f32>>,
}

impl Params {
    /// An empty set. Initial values depend on `seed` and the parameters' names
    /// only, not on the order in which they are added.
    pub fn new(seed: u64) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Params {
            inner: Arc::new(Mutex::new(Inner {
                id: NEXT.fetch_add(1, Ordering::Relaxed),
                seed,
                entries: Vec::new(),
                by_name: HashMap::new(),
                arenas: Vec::new(),
                device: None,
                drawing: 0,
            })),
            prefix: String::new(),
            reuse: false,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No method leaves the lists half written, so a panic elsewhere does no harm.
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The set's identity, as in [`crate::graph::Source`].
    pub fn id(&self) -> u64 {
        self.lock().id
    }

    /// The seed of the initial values.
    pub fn seed(&self) -> u64 {
        self.lock().seed
    }

    /// The seed of the random numbers of the next program that draws any: the set's own
    /// for the first, then one derived from it and the program's number.
    pub(crate) fn seed_of_next_program(&self) -> u64 {
        let mut inner = self.lock();
        let number = inner.drawing;
        inner.drawing += 1;
        match number {
            0 => inner.seed,
            _ => Stream::named(inner.seed, "program").bits(number),
        }
    }

    /// The same set; names added through it get `name` and a dot in front.
    pub fn scope(&self, name: impl std::fmt::Display) -> Params {
        Params {
            inner: self.inner.clone(),
            prefix: format!("{}{name}.", self.prefix),
            reuse: self.reuse,
        }
    }

    /// The same set without a prefix.
    pub fn root(&self) -> Params {
        Params {
            inner: self.inner.clone(),
            prefix: String::new(),
            reuse: self.reuse,
        }
    }

    /// The same set for building over what exists: through this handle and its scopes,
    /// [`Params::add`] and [`Params::add_state`] give a parameter or state that exists,
    /// with the values it has, and add only what is missing. So a model can be built
    /// twice over one set, with other settings. A shape or kind that differs is an error.
    pub fn reusing(&self) -> Params {
        Params {
            reuse: true,
            ..self.clone()
        }
    }

    /// Adds a trainable parameter. Errors: a name that is taken or empty, an empty
    /// shape, an [`Init`] that does not fit.
    pub fn add(&self, name: &str, shape: impl Into<Shape>, init: Init) -> Result<Param> {
        self.insert(name, shape.into(), init, true)
    }

    /// Adds a tensor that is not trained, but kept and saved with the parameters
    /// (running statistics, codebooks kept by moving averages).
    pub fn add_state(&self, name: &str, shape: impl Into<Shape>, init: Init) -> Result<Param> {
        self.insert(name, shape.into(), init, false)
    }

    /// What a parameter added as `name` is called.
    pub(crate) fn full_name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn insert(&self, name: &str, shape: Shape, init: Init, trainable: bool) -> Result<Param> {
        let full = self.full_name(name);
        let wrong = |detail: String| Error::Argument {
            what: format!("parameter `{full}`"),
            detail,
        };
        let part = |p: &str| !p.is_empty() && !p.contains(|c: char| c.is_control() || c == '/');
        if !full.split('.').all(part) {
            return Err(wrong(
                "names are parts joined by dots; a part is not empty and has no `/` and no control characters"
                    .into(),
            ));
        }
        if !(1..=(u32::MAX / 4) as usize).contains(&shape.numel()) {
            return Err(wrong(format!(
                "shape {shape:?} must have between 1 and 2^30 - 1 elements"
            )));
        }
        init.check(&full, &shape)?;
        let mut inner = self.lock();
        if let Some(&index) = inner.by_name.get(&full) {
            let found = &inner.entries[index];
            let kind = |trainable| if trainable { "parameter" } else { "state" };
            if !self.reuse {
                return Err(wrong(
                    "the name is taken; give each layer a scope of its own, or build over what exists with `Params::reusing`".into(),
                ));
            }
            if (&found.shape, found.trainable) != (&shape, trainable) {
                return Err(wrong(format!(
                    "it exists as a {} {:?}, asked for is a {} {shape:?}",
                    kind(found.trainable),
                    found.shape,
                    kind(trainable)
                )));
            }
            drop(inner);
            return Ok(self.handle(index, full, shape, trainable));
        }
        let index = inner.entries.len();
        inner.by_name.insert(full.clone(), index);
        inner.entries.push(Entry {
            name: full.clone(),
            shape: shape.clone(),
            trainable,
            init,
            place: None,
            class: 0,
            value: None,
            lost: false,
        });
        drop(inner);
        Ok(self.handle(index, full, shape, trainable))
    }

    fn handle(&self, index: usize, name: String, shape: Shape, trainable: bool) -> Param {
        Param {
            set: self.root(),
            index,
            name,
            shape,
            trainable,
        }
    }

    /// All full names in the order of addition, parameters and states.
    pub fn names(&self) -> Vec<String> {
        self.lock().entries.iter().map(|e| e.name.clone()).collect()
    }

    /// All parameters and states whose name starts with this handle's prefix, in
    /// the order of addition.
    pub fn all(&self) -> Vec<Param> {
        let inner = self.lock();
        let found = inner.entries.iter().enumerate();
        found
            .filter(|(_, e)| e.name.starts_with(&self.prefix))
            .map(|(i, e)| self.handle(i, e.name.clone(), e.shape.clone(), e.trainable))
            .collect()
    }

    /// The trainable parameters of [`Params::all`].
    pub fn trainable(&self) -> Vec<Param> {
        let mut all = self.all();
        all.retain(|p| p.trainable);
        all
    }

    /// The parameter or state called `name` (below this handle's prefix).
    pub fn find(&self, name: &str) -> Result<Param> {
        let full = self.full_name(name);
        let inner = self.lock();
        let index = inner.index(&full)?;
        let entry = &inner.entries[index];
        Ok(self.handle(index, full, entry.shape.clone(), entry.trainable))
    }

    /// The number of trainable scalars below this handle's prefix.
    pub fn count(&self) -> usize {
        self.trainable().iter().map(|p| p.shape.numel()).sum()
    }

    /// The places of all parameters. Those that have none yet are put into new
    /// arenas, so later calls extend the layout and never change it.
    pub fn layout(&self) -> Layout {
        let mut inner = self.lock();
        inner.place();
        Layout {
            set: inner.id,
            params: inner.entries.iter().filter_map(|e| e.place).collect(),
            arenas: inner.arenas.iter().map(|a| a.arena.clone()).collect(),
        }
    }

    /// Lets the trainable parameters at the positions `members` share no arena with
    /// others, as far as the layout is still open.
    pub(crate) fn separate(&self, members: &[usize]) {
        self.lock().separate(members);
    }

    /// A standalone arena as long as the arena `mirrors`, one element beside each
    /// of its elements: optimiser moments, accumulators, averages. Asking again by
    /// the same name gives the same arena. Errors: no such arena, or the name
    /// belongs to an arena of another kind.
    pub fn add_arena(&self, name: &str, mirrors: usize, init: ArenaInit) -> Result<usize> {
        let mut inner = self.lock();
        let wrong = |detail: String| Error::Argument {
            what: format!("arena `{name}`"),
            detail,
        };
        let Some(len) = inner.arenas.get(mirrors).map(|a| a.arena.len) else {
            return Err(wrong(format!("there is no arena {mirrors} to go with")));
        };
        if let Some(found) = inner.arenas.iter().position(|a| a.arena.name == name) {
            return match inner.arenas[found].arena.mirrors == Some(mirrors) {
                true => Ok(found),
                false => Err(wrong(
                    "the name is taken by an arena of another kind".into(),
                )),
            };
        }
        inner.arenas.push(ArenaEntry {
            arena: Arena {
                name: name.into(),
                kind: ArenaKind::Standalone,
                len,
                mirrors: Some(mirrors),
            },
            init,
            value: None,
        });
        Ok(inner.arenas.len() - 1)
    }

    /// The whole arena as a flat tensor `[len]` of `graph`.
    #[track_caller]
    pub fn arena_tensor(&self, graph: &Graph, arena: usize) -> Tensor {
        let inner = self.lock();
        let found = inner.arenas.get(arena).map(|a| (inner.id, a.arena.len));
        drop(inner);
        match found {
            Some((set, len)) => graph.arena_source(set, arena, len),
            None => graph.poisoned(Error::argument(
                "arena_tensor",
                format!("there is no arena {arena}"),
            )),
        }
    }

    /// The values of the parameter or state called `name`.
    pub fn get(&self, name: &str) -> Result<Vec<f32>> {
        self.find(name)?.get()
    }

    /// Sets the values of the parameter or state called `name`. Errors: no such
    /// name, a wrong number of values, values that are not finite.
    pub fn set(&self, name: &str, values: &[f32]) -> Result<()> {
        self.find(name)?.set(values)
    }

    /// The contents of a whole arena, padding included.
    pub fn arena_values(&self, arena: usize) -> Result<Vec<f32>> {
        let inner = self.lock();
        inner.check_arena(arena)?;
        inner.read_arena(arena)
    }

    /// Sets the contents of a whole arena; padding becomes 0.
    pub fn set_arena_values(&self, arena: usize, values: &[f32]) -> Result<()> {
        let mut inner = self.lock();
        inner.check_arena(arena)?;
        let len = inner.arenas[arena].arena.len;
        if values.len() != len {
            return Err(Error::argument(
                "set_arena_values",
                format!("{} values given for {len}", values.len()),
            ));
        }
        let clean = inner.without_padding(arena, values);
        inner.write_arena(arena, &clean)
    }
}

impl Inner {
    fn index(&self, name: &str) -> Result<usize> {
        self.by_name
            .get(name)
            .copied()
            .ok_or_else(|| Error::MissingParameter {
                name: name.into(),
                detail: format!("the set has {} parameters and states", self.entries.len()),
            })
    }

    fn check_arena(&self, arena: usize) -> Result<()> {
        match self.arenas.get(arena) {
            Some(_) => Ok(()),
            None => Err(Error::argument(
                "arena",
                format!("{arena} of {}", self.arenas.len()),
            )),
        }
    }

    /// The values of an arena, or of one beside it, with zeros between parameters:
    /// norms of layers count on them.
    fn without_padding(&self, arena: usize, values: &[f32]) -> Vec<f32> {
        let of = self.arenas[arena].arena.mirrors.unwrap_or(arena);
        let mut clean = vec![0.0; values.len()];
        let places = self.entries.iter().filter_map(|e| e.place);
        for p in places.filter(|p| p.arena == of) {
            let part = p.offset..p.offset + p.len;
            clean[part.clone()].copy_from_slice(&values[part]);
        }
        clean
    }

    fn new_arena(&mut self, name: &str, kind: ArenaKind, len: usize) {
        let number = self.arenas.iter().filter(|a| a.arena.kind == kind).count();
        self.arenas.push(ArenaEntry {
            arena: Arena {
                name: format!("{name}.{number}"),
                kind,
                len,
                mirrors: None,
            },
            init: ArenaInit::Zeros,
            value: None,
        });
    }
}

impl std::fmt::Debug for Params {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let inner = self.lock();
        write!(f, "Params(#{}, {} tensors)", inner.id, inner.entries.len())
    }
}
