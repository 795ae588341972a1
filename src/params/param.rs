//! One parameter or state: a name, a shape, and the way to its values.

use super::Params;
use crate::{Error, Graph, Result, Shape, Tensor};

/// A parameter or state of a set.
#[derive(Clone)]
pub struct Param {
    pub(super) set: Params,
    pub(super) index: usize,
    pub(super) name: String,
    pub(super) shape: Shape,
    pub(super) trainable: bool,
}

impl Param {
    /// The full name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The full name without its last part: what the layer that has it is called.
    pub fn scope_name(&self) -> &str {
        self.name.rsplit_once('.').map_or("", |(scope, _)| scope)
    }

    /// The shape.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Whether it is trained.
    pub fn is_trainable(&self) -> bool {
        self.trainable
    }

    /// Its position in the set, as in [`crate::graph::Source`].
    pub fn index(&self) -> usize {
        self.index
    }

    /// The set it belongs to.
    pub fn set_of(&self) -> &Params {
        &self.set
    }

    /// Its value in `graph`; the same node every time.
    #[track_caller]
    pub fn on(&self, graph: &Graph) -> Tensor {
        graph.param_source(self.set.id(), self.index, &self.shape)
    }

    /// Its values, row-major.
    pub fn get(&self) -> Result<Vec<f32>> {
        self.set.lock().read_value(self.index)
    }

    /// Sets its values. Errors: a wrong number of values, values that are not finite.
    pub fn set(&self, values: &[f32]) -> Result<()> {
        if values.len() != self.shape.numel() {
            return Err(Error::Argument {
                what: format!("parameter `{}`", self.name),
                detail: format!("{} values given for shape {:?}", values.len(), self.shape),
            });
        }
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            return Err(Error::NonFinite {
                place: format!("parameter `{}`", self.name),
                detail: format!("element {at} is {}", values[at]),
            });
        }
        self.set.lock().write_value(self.index, values)
    }
}

impl std::fmt::Debug for Param {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Param({} {:?})", self.name, self.shape)
    }
}
