//! The first thing to run: a VQ-VAE learns the 8x8 digits that the project ships.
//!
//! `cargo run --release --example demo` trains for about a minute, then writes to
//! `out/demo/`: `reconstructions.png` (originals above what 16 codes make of
//! them), `codes.png` (the codes themselves), `loss.png` and `model.safetensors`.

mod common;

use std::process::ExitCode;

use clap::Parser;
use common::vqvae::{Digits, Setup, run};
use common::{CommonArgs, Defaults, digits_dir};
use flowgrad::data::{ImageSet, Split};
use flowgrad::models::VqVae;

/// Trains a VQ-VAE on handwritten digits of 8x8 pixels and shows what it learnt.
///
/// Parameters are named and laid out as PyTorch does (see `VqVae::digits`); pixels
/// are scaled to -0.5..0.5 as `value / 16 - 0.5`. The codebook starts from k-means
/// over the first batch, unless weights are loaded. Adam with betas 0.9 and 0.999,
/// eps 1e-8. Batches come from the training file; the incomplete one at the end of an
/// epoch is left out. Row `n` of the CSV (from 0) holds loss, mean squared error (at the
/// scale -0.5..0.5) and perplexity before update `n`.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    common: CommonArgs,
}

fn main() -> ExitCode {
    common::main(|| {
        let args: Args = common::parse(Defaults {
            name: "demo",
            steps: 300,
            batch: 64,
            lr: 2e-3,
        });
        let data = Digits {
            train: ImageSet::mnist(digits_dir(), Split::Train)?,
            test: ImageSet::mnist(digits_dir(), Split::Test)?,
            white: 16.0,
        };
        let setup = Setup {
            k_means: true,
            title: "VQ-VAE on 8x8 digits",
        };
        run(&args.common, &data, &setup, VqVae::digits)
    })
}
