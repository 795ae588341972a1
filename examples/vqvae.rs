//! A VQ-VAE on 28x28 images in MNIST's file format: the keras.io model.
//!
//! `cargo run --release --example vqvae -- --data DIR`, where DIR holds
//! `train-images-idx3-ubyte`, `t10k-images-idx3-ubyte` and their labels, gzipped or
//! not (MNIST, Fashion-MNIST, KMNIST ...). Writes to `out/vqvae/`.

mod common;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use common::vqvae::{Digits, Setup, run};
use common::{CommonArgs, Defaults, Outcome};
use flowgrad::data::{ImageSet, Split};
use flowgrad::models::VqVae;
use flowgrad::quantize::VqConfig;

/// Trains the keras.io VQ-VAE (64 codes of width 16 on a 7x7 grid) on 28x28 images.
///
/// Parameters are named and laid out as PyTorch does (see `VqVae::mnist`); pixels
/// are scaled to -0.5..0.5 as `value / 255 - 0.5`. The loss is the mean squared
/// error divided by the variance of the training pixels, plus the codebook loss,
/// plus 0.25 times the commitment loss. Adam with betas 0.9 and 0.999, eps 1e-8.
/// Batches come from the training file; the incomplete one at the end of an epoch is
/// left out. Row `n` of the CSV (from 0) holds loss, mean squared error and perplexity
/// before update `n`.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    common: CommonArgs,
    /// Folder with images and labels under MNIST's file names
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// How the codebook learns
    #[arg(long, value_enum, default_value_t = Codebook::Gradient)]
    codebook: Codebook,
    /// Draw what edits of the codes make of held-out images, one picture each
    #[arg(long)]
    edit: bool,
    /// Start the codebook from k-means over the first batch instead of +-0.05
    #[arg(long)]
    k_means: bool,
    /// Evaluate on the first N held-out images only
    #[arg(long, value_name = "N", default_value_t = 2000)]
    test_images: usize,
}

#[derive(ValueEnum, Clone, Copy, PartialEq)]
enum Codebook {
    /// By the optimiser, as published: most codes stay unused
    Gradient,
    /// By moving averages, from k-means, unused codes become vectors of the batch
    Ema,
}

impl Codebook {
    fn config(self) -> VqConfig {
        let mut config = VqVae::mnist_quantizer();
        if self == Codebook::Ema {
            config = config.moving_average();
            config.reset_below = Some(1.0);
        }
        config
    }
}

fn main() -> ExitCode {
    common::main(|| {
        let args: Args = common::parse(Defaults {
            name: "vqvae",
            steps: 600,
            batch: 64,
            lr: 1e-3,
        });
        args.common.try_paths()?;
        let data = Digits {
            train: images(&args.data, Split::Train)?,
            test: images(&args.data, Split::Test)?.take(args.test_images.max(1)),
            white: 255.0,
        };
        let variance = variance(&data.train)?;
        let setup = Setup {
            k_means: args.k_means || args.codebook == Codebook::Ema,
            edit: args.edit,
            title: "VQ-VAE",
        };
        let report = run(&args.common, &data, &setup, |params| {
            VqVae::mnist_with(params, variance, args.codebook.config())
        })?;
        report.print(&args.common);
        Ok(())
    })
}

fn images(folder: &PathBuf, split: Split) -> Outcome<ImageSet> {
    let set = ImageSet::mnist(folder, split)?;
    match set.shape {
        [_, 1, 28, 28] => Ok(set),
        [_, c, h, w] => Err(format!(
            "{}: the images are {c}x{h}x{w}, this model takes 1x28x28",
            folder.display()
        )
        .into()),
    }
}

/// The variance of all pixels at the scale 0..1.
fn variance(set: &ImageSet) -> Outcome<f32> {
    let (mut sum, mut squares) = (0u64, 0u64);
    for v in &set.images {
        sum += u64::from(*v);
        squares += u64::from(*v) * u64::from(*v);
    }
    let n = set.images.len() as f64;
    let mean = sum as f64 / n;
    let variance = (squares as f64 / n - mean * mean) / (255.0 * 255.0);
    match variance > 0.0 {
        true => Ok(variance as f32),
        false => Err("all pixels of the training images are equal".into()),
    }
}
