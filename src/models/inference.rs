//! Networks for pictures, ready to run: pictures in 8 bits, batch norms folded, programs for
//! a few batch sizes.

use std::collections::BTreeMap;

use crate::exec::{FreezeOptions, ParamSets, Program, Storage};
use crate::gpu::Gpu;
use crate::graph::{Graph, Tensor};
use crate::ops::{PixelFormat, fold_batch_norms};
use crate::params::Params;
use crate::{Error, Result, Value};

/// The name of the input.
const INPUT: &str = "pictures";

type Build = Box<dyn Fn(&Tensor) -> Tensor + Send + Sync>;

/// A network for pictures of 8 bits a channel. Pixels become floats on the GPU
/// ([`Tensor::pixels`]), batch norms, residuals and activations are folded
/// ([`fold_batch_norms`]), what depends on weights alone is computed once
/// ([`Graph::compile_frozen`]). Any number of pictures is taken in batches of a few sizes,
/// each compiled when it is first needed. Parameters are taken as they are then; change none
/// of them afterwards.
///
/// Every size has its own copies of folded and reordered weights: [`Inference::memory`].
/// Results of one picture in batches of different sizes may differ by rounding.
///
/// ```no_run
/// use flowgrad::models::{Inference, ResNet, ResNetConfig};
/// use flowgrad::{Gpu, Params, nn::{Layer, Mode}, ops::PixelFormat};
/// # fn main() -> flowgrad::Result<()> {
/// let params = Params::new(0);
/// let net = ResNet::new(&params, ResNetConfig::resnet18())?;
/// let format = PixelFormat::rgba([224, 224]).imagenet();
/// let mut net = Inference::new(&Gpu::new()?, &params, format, move |x| {
///     net.forward(x, Mode::Eval)
/// })?;
/// let logits = net.run(&vec![0; 3 * 224 * 224 * 4])?; // three pictures
/// assert_eq!(logits.len(), 3 * 1000);
/// # Ok(())
/// # }
/// ```
pub struct Inference {
    gpu: Gpu,
    sets: Vec<Params>,
    format: PixelFormat,
    build: Build,
    storage: Storage,
    sizes: Vec<usize>,
    programs: BTreeMap<usize, Program>,
}

impl Inference {
    /// The network that `build` appends to normalised pictures `[n, C, H, W]`, with results
    /// `[n, ..]`, in batches of 1, 8 and 32. Nothing is compiled yet. Error: a format that
    /// [`Tensor::pixels`] does not take.
    pub fn new(
        gpu: &Gpu,
        params: &(impl ParamSets + ?Sized),
        format: PixelFormat,
        build: impl Fn(&Tensor) -> Tensor + Send + Sync + 'static,
    ) -> Result<Self> {
        format.check()?;
        Ok(Inference {
            gpu: gpu.clone(),
            sets: params.sets().into_iter().cloned().collect(),
            format,
            build: Box::new(build),
            storage: Storage::F32,
            sizes: vec![1, 8, 32],
            programs: BTreeMap::new(),
        })
    }

    /// The same in batches of other sizes. Error: none, or one of 0.
    pub fn batches(mut self, sizes: &[usize]) -> Result<Self> {
        if sizes.is_empty() || sizes.contains(&0) {
            let detail = format!("{sizes:?} given; at least one size of at least 1 is needed");
            return Err(Error::argument("Inference::batches", detail));
        }
        self.sizes = sizes.to_vec();
        self.sizes.sort_unstable();
        self.sizes.dedup();
        self.programs.clear();
        Ok(self)
    }

    /// The same with weights stored so.
    pub fn weights(mut self, storage: Storage) -> Self {
        self.storage = storage;
        self.programs.clear();
        self
    }

    /// The pictures that it takes.
    pub fn format(&self) -> &PixelFormat {
        &self.format
    }

    /// The batch sizes that are compiled.
    pub fn compiled(&self) -> Vec<usize> {
        self.programs.keys().copied().collect()
    }

    /// Bytes that the compiled programs planned, parameters that they share counted every
    /// time.
    pub fn memory(&self) -> u64 {
        let plans = self.programs.values().map(|p| p.plan().memory().total());
        plans.sum()
    }

    /// The program for a batch of `size` pictures, whose input is called `pictures`; compiled
    /// now if it was not. Errors: what building and compiling the network gives; results that
    /// are not `[size, ..]`.
    pub fn program(&mut self, size: usize) -> Result<&mut Program> {
        let program = match self.programs.remove(&size) {
            Some(program) => program,
            None => self.compile(size)?,
        };
        Ok(self.programs.entry(size).or_insert(program))
    }

    fn compile(&self, size: usize) -> Result<Program> {
        let graph = Graph::new();
        let words = graph.input_u32(INPUT, [self.format.words(size)]);
        let y = (self.build)(&words.pixels(size, &self.format));
        y.check()?;
        if y.shape().dims().first() != Some(&size) {
            let detail = format!("results for {size} pictures are {:?}", y.shape());
            return Err(Error::shape("Inference", detail));
        }
        let folded = fold_batch_norms(&[&y])?;
        let folded: Vec<&Tensor> = folded.iter().collect();
        let sets: Vec<&Params> = self.sets.iter().collect();
        let options = FreezeOptions {
            weights: self.storage,
        };
        graph.compile_frozen_with(&self.gpu, &sets[..], &folded, &options)
    }

    /// The batch for so many pictures: the smallest that takes them all if they fill half of
    /// it, else the largest that they fill.
    fn batch(&self, left: usize) -> usize {
        let above = self.sizes.iter().copied().find(|s| *s >= left);
        let below = self.sizes.iter().copied().rev().find(|s| *s <= left);
        match (above, below) {
            (Some(above), Some(below)) if above > 2 * left => below,
            (Some(above), _) => above,
            (None, below) => below.unwrap_or(1),
        }
    }

    /// The results of all pictures in `bytes`, one behind the other. Errors: bytes that are
    /// not whole pictures, and those of [`Inference::program`] and [`Program::run`].
    pub fn run(&mut self, bytes: &[u8]) -> Result<Vec<f32>> {
        let each = self.format.picture_bytes();
        if !bytes.len().is_multiple_of(each) {
            return Err(Error::argument(
                "Inference::run",
                format!(
                    "{} bytes are not whole pictures of {:?} pixels, {each} bytes each",
                    bytes.len(),
                    self.format.size
                ),
            ));
        }
        let mut results = Vec::new();
        let mut left = bytes;
        while !left.is_empty() {
            let size = self.batch(left.len() / each);
            let taken = size.min(left.len() / each);
            let (now, rest) = left.split_at(taken * each);
            left = rest;
            let mut words = PixelFormat::pack(now);
            words.resize(self.format.words(size), 0);
            let run = self.program(size)?.run(&[(INPUT, Value::U32(&words))])?;
            let all = run.f32(0)?;
            results.extend(all.get(..all.len() / size * taken).unwrap_or(&all));
        }
        Ok(results)
    }
}
