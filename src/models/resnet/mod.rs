//! Residual networks by family: those of torchvision and of CIFAR (plain, pre-activation,
//! with option-A shortcuts), and wide ones with and without normalisation.

mod blocks;
mod config;
mod network;
mod wide;

pub use config::{ResNetBlock, ResNetConfig, ResNetNames, ResNetShortcut, ResNetStem};
pub use network::ResNet;
pub use wide::{WideResNet, WideResNetConfig};
