//! The first thing to run: a VQ-VAE and a small Glow learn the 8x8 digits that the
//! project ships.
//!
//! `cargo run --release --example demo` trains for about two minutes, then writes to
//! `out/demo/`: `reconstructions.png` (originals above what 16 codes make of
//! them), `codes.png` (the codes themselves), `loss.png` and `model.safetensors`; and to
//! `out/demo/glow/` the flow's `samples.png`, `temperatures.png`, `interpolation.png`,
//! `reconstruction.png`, `bpd.png` and `model.safetensors`.

mod common;

use std::process::ExitCode;

use clap::Parser;
use common::vqvae::{Digits, Setup, run};
use common::{CommonArgs, Defaults, Outcome, Report, digits_dir, flows};
use flowgrad::Params;
use flowgrad::data::{ImageSet, Split};
use flowgrad::models::{Glow, GlowConfig, VqVae};

/// Trains a VQ-VAE on handwritten digits of 8x8 pixels and shows what it learnt; then,
/// for as many steps, a small Glow (`--lr`, `--save`, `--load`, `--resume` and
/// `--losses` are the VQ-VAE's; the example `glow` has its own, and the same defaults).
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
            edit: false,
            title: "VQ-VAE on 8x8 digits",
        };
        let mut report = run(&args.common, &data, &setup, VqVae::digits)?;
        if !common::stopped() {
            report.append(
                "Glow on the same digits",
                "glow_",
                glow(&args.common, &data)?,
            );
        }
        report.print(&args.common);
        Ok(())
    })
}

/// The small Glow, for as many steps and with the same seed and adapter.
fn glow(args: &CommonArgs, data: &Digits) -> Outcome<Report> {
    let args = CommonArgs {
        out: args.out.join("glow"),
        lr: 1e-3,
        save: None,
        load: None,
        resume: None,
        losses: None,
        ..args.clone()
    };
    let params = Params::new(args.seed);
    let glow = Glow::new(&params, GlowConfig::digits())?;
    let setup = flows::Setup {
        params: &params,
        model: &glow,
        train: &data.train,
        test: &data.test,
        title: "Glow on 8x8 digits",
        dequantize: true,
        warmup: 0,
        clip: None,
        temperature: 0.8,
        log_prob: None,
        load: &flows::load_exactly,
    };
    flows::run(&args, &args.gpu()?, &setup)
}
