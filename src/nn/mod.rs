//! Layers: parameters and how they are put to work, with PyTorch's names, layouts
//! and initial values, so that its checkpoints load. Compositions of tensor
//! methods; no kernel of their own. They must not know models or training loops.
//!
//! A layer is made once from a [`crate::Params`] scope and used in any number of
//! graphs:
//!
//! ```
//! use flowgrad::{Graph, Params, nn::{Layer, Linear, Mode, Sequential}, ops::Activation};
//! # fn main() -> flowgrad::Result<()> {
//! let params = Params::new(1);
//! let net = Sequential::new()
//!     .with(Linear::new(&params.scope("0"), 784, 64)?.activation(Activation::Relu))
//!     .with(Linear::new(&params.scope("1"), 64, 10)?);
//! let graph = Graph::new();
//! let logits = net.forward(&graph.input("x", [32, 784]), Mode::Train);
//! assert_eq!(logits.shape().dims(), [32, 10]);
//! # Ok(())
//! # }
//! ```

mod attention;
mod basic;
mod conv;
mod masked;
mod norm;
mod spectral;

pub use attention::{Nystrom, NystromAttention};
pub use basic::{Apply, Dropout, Flatten, Linear, Sequential};
pub use conv::{Conv1d, Conv2d, ConvTranspose2d};
pub use masked::{Centre, Colours, MaskedConv2d, causal_mask};
pub use norm::{BatchNorm2d, GroupNorm};
pub use spectral::SpectralNorm;

use crate::Tensor;

/// What a graph is built for: some layers differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Batch statistics, moving averages updated, dropout active.
    Train,
    /// Training with frozen statistics (fine-tuning): stored statistics normalise and
    /// are not updated, while weights get gradients and dropout is active.
    Frozen,
    /// Stored statistics, nothing random, nothing updated.
    Eval,
}

impl Mode {
    /// Whether this is [`Mode::Train`] or [`Mode::Frozen`].
    pub fn is_train(self) -> bool {
        self != Mode::Eval
    }

    /// Whether batches are normalised by their own statistics, and moving averages
    /// updated: [`Mode::Train`].
    pub fn uses_batch_statistics(self) -> bool {
        self == Mode::Train
    }
}

/// Something that maps a tensor to a tensor of the same graph.
pub trait Layer: Send + Sync {
    /// Appends the layer to the graph of `x`. A wrong shape gives a poisoned tensor.
    #[track_caller]
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor;
}

impl<L: Layer + ?Sized> Layer for Box<L> {
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        (**self).forward(x, mode)
    }
}

impl Layer for crate::ops::Activation {
    fn forward(&self, x: &Tensor, _: Mode) -> Tensor {
        let y = self.apply(x);
        x.graph().observe("", "activation", x, &y);
        y
    }
}
