//! Values that are there before a program starts: inputs, parameters, constants.

use std::sync::Arc;

use crate::dtype::halves;
use crate::graph::{Array, Graph, Kind, Lower, Op, Source, Spec, Tensor};
use crate::{Error, Result, Shape};

/// A node without inputs.
#[derive(Debug)]
struct SourceOp {
    source: Source,
    spec: Spec,
}

impl Op for SourceOp {
    fn name(&self) -> &'static str {
        match self.source {
            Source::Input { .. } => "input",
            Source::Param { .. } => "param",
            Source::Arena { .. } => "arena",
            Source::Constant { .. } => "constant",
            Source::RandomState => "random_state",
        }
    }
    fn infer(&self, _: &[&Spec]) -> Result<Vec<Spec>> {
        Ok(vec![self.spec.clone()])
    }
    fn reference(&self, _: &[&Array]) -> Result<Vec<Array>> {
        Err(Error::Graph("a source has no value of its own".into()))
    }
    fn lower(&self, _: &mut Lower<'_>) -> Result<()> {
        Ok(())
    }
    fn kind(&self) -> Kind<'_> {
        Kind::Source(&self.source)
    }
}

impl Graph {
    /// A float32 input, given under `name` at every run.
    #[track_caller]
    pub fn input(&self, name: &str, shape: impl Into<Shape>) -> Tensor {
        self.input_of(name, Spec::f32(shape))
    }

    /// An integer input (labels, indices), given under `name` at every run.
    #[track_caller]
    pub fn input_u32(&self, name: &str, shape: impl Into<Shape>) -> Tensor {
        self.input_of(name, Spec::u32(shape))
    }

    #[track_caller]
    fn input_of(&self, name: &str, spec: Spec) -> Tensor {
        let source = Source::Input { name: name.into() };
        if let Some(earlier) = self.find_source(&source) {
            return if earlier.spec() == &spec {
                earlier
            } else {
                self.poisoned(Error::Graph(format!(
                    "the input `{name}` exists already as {:?}, now it is {spec:?}",
                    earlier.spec()
                )))
            };
        }
        self.push1(SourceOp { source, spec }, &[])
    }

    /// Float32 data baked into the program.
    #[track_caller]
    pub fn constant(&self, shape: impl Into<Shape>, data: &[f32]) -> Tensor {
        let words: Vec<u32> = data.iter().map(|v| v.to_bits()).collect();
        self.constant_of(Spec::f32(shape), words)
    }

    /// Integer data baked into the program.
    #[track_caller]
    pub fn constant_u32(&self, shape: impl Into<Shape>, data: &[u32]) -> Tensor {
        self.constant_of(Spec::u32(shape), data.to_vec())
    }

    /// Data baked into the program as 16-bit floats, rounded to the nearest: a weight of
    /// [`Tensor::matmul`], [`Tensor::conv2d`] and the like, or a table of
    /// [`Tensor::gather_rows`], at half the memory. Sums and gradients are float32.
    /// Poisoned by values that are not finite or beyond 65,504.
    #[track_caller]
    pub fn constant_f16(&self, shape: impl Into<Shape>, data: &[f32]) -> Tensor {
        let spec = Spec::f16(shape);
        match halves(data) {
            Ok(_) if spec.shape.numel() != data.len() => self.wrong_count(&spec, data.len()),
            Ok(words) => self.constant_words(spec, words),
            Err(detail) => self.poisoned(Error::NonFinite {
                place: "constant_f16".into(),
                detail,
            }),
        }
    }

    #[track_caller]
    fn constant_of(&self, spec: Spec, words: Vec<u32>) -> Tensor {
        if spec.shape.numel() != words.len() {
            return self.wrong_count(&spec, words.len());
        }
        self.constant_words(spec, words)
    }

    #[track_caller]
    fn wrong_count(&self, spec: &Spec, given: usize) -> Tensor {
        self.poisoned(Error::shape(
            "constant",
            format!("{given} elements given for shape {:?}", spec.shape),
        ))
    }

    #[track_caller]
    fn constant_words(&self, spec: Spec, words: Vec<u32>) -> Tensor {
        let source = Source::Constant {
            words: Arc::from(words),
        };
        self.push1(SourceOp { source, spec }, &[])
    }

    /// The value of parameter `index` of the set `set`; the same node every time.
    #[track_caller]
    pub(crate) fn param_source(&self, set: u64, index: usize, shape: &Shape) -> Tensor {
        self.param_as(set, index, Spec::f32(shape))
    }

    /// The same for a parameter whose words mean something else than their own floats.
    #[track_caller]
    pub(crate) fn param_as(&self, set: u64, index: usize, spec: Spec) -> Tensor {
        let source = Source::Param { set, index };
        self.find_source(&source)
            .unwrap_or_else(|| self.push1(SourceOp { source, spec }, &[]))
    }

    /// A whole arena of the set `set` as a flat tensor; the same node every time.
    #[track_caller]
    pub(crate) fn arena_source(&self, set: u64, index: usize, len: usize) -> Tensor {
        let source = Source::Arena { set, index };
        self.find_source(&source).unwrap_or_else(|| {
            let spec = Spec::f32([len]);
            self.push1(SourceOp { source, spec }, &[])
        })
    }

    /// The random state `[seed low, seed high, step, 0]` of the running program.
    #[track_caller]
    pub(crate) fn random_state(&self) -> Tensor {
        let source = Source::RandomState;
        self.find_source(&source).unwrap_or_else(|| {
            self.push1(
                SourceOp {
                    source,
                    spec: Spec::u32([4]),
                },
                &[],
            )
        })
    }

    fn find_source(&self, wanted: &Source) -> Option<Tensor> {
        let nodes = self.lock();
        let found = nodes
            .nodes
            .iter()
            .position(|n| matches!(n.op.kind(), Kind::Source(s) if s == wanted))?;
        drop(nodes);
        Some(self.tensor(crate::graph::ValueId {
            node: crate::graph::NodeId(found as u32),
            output: 0,
        }))
    }
}
