//! What a picture shows: a residual network with somebody's weights, or one that learns the
//! shipped digits first.
//!
//! `cargo run --release --example classify -- PICTURE --weights FILE --model resnet50 --names
//! LABELS.txt` prints the five likeliest classes and the time per picture. Without weights a
//! small network learns handwritten digits in some seconds and names the picture's, or that
//! of a held-out one.

mod common;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use common::networks::{self, Model, Ready};
use common::{Busy, Outcome, Report, report};
use flowgrad::exec::Storage;
use flowgrad::ops::PixelFormat;
use flowgrad::{Gpu, GpuOptions};

/// Names the likeliest classes of a picture.
///
/// Networks for ImageNet see the middle 224x224 pixels of the picture at 256 pixels of its
/// shorter side, those for CIFAR all of it at 32x32.
#[derive(Parser)]
struct Args {
    /// The picture, PNG or JPEG
    picture: Option<PathBuf>,
    /// Weights under the published names (safetensors)
    #[arg(long, value_name = "FILE", requires = "picture")]
    weights: Option<PathBuf>,
    /// Which network the weights are for; the names of shortcuts and the last layer, and the
    /// number of classes, are found out
    #[arg(long, value_enum, requires = "weights")]
    model: Option<Model>,
    /// Names of the classes, one a line
    #[arg(long, value_name = "FILE")]
    names: Option<PathBuf>,
    /// Means of the channels in 0..1 that the network was trained with
    #[arg(long, value_name = "R,G,B", value_delimiter = ',', num_args = 3)]
    mean: Option<Vec<f32>>,
    /// Deviations of the channels
    #[arg(long, value_name = "R,G,B", value_delimiter = ',', num_args = 3)]
    std: Option<Vec<f32>>,
    /// Keep the weights as 16-bit floats, in half the memory
    #[arg(long)]
    f16: bool,
    /// Seed of the first values
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Steps of 64 digits that the small network learns, without weights
    #[arg(long, value_name = "N", default_value_t = 200)]
    steps: usize,
    /// Use the adapter whose name contains this (see the example `doctor`)
    #[arg(long, value_name = "NAME")]
    adapter: Option<String>,
    /// Print all figures as one JSON object in the last line
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    common::main(|| run(&Args::parse()))
}

fn run(args: &Args) -> Outcome {
    let gpu = Gpu::with(GpuOptions {
        adapter: args.adapter.clone(),
        ..GpuOptions::default()
    })?;
    let Ready {
        inference,
        picture,
        truth,
        accuracy,
    } = match &args.weights {
        Some(file) => {
            let model = args.model.unwrap_or(Model::Resnet18);
            let picture = args.picture.as_deref().ok_or("which picture?")?;
            let change = |format: PixelFormat| PixelFormat {
                mean: args.mean.clone().unwrap_or(format.mean),
                std: args.std.clone().unwrap_or(format.std),
                ..format
            };
            networks::loaded(&gpu, model, file, picture, change)?
        }
        None => networks::learnt(&gpu, args.seed, args.steps, args.picture.as_deref())?,
    };
    let storage = if args.f16 { Storage::F16 } else { Storage::F32 };
    let mut inference = inference.weights(storage);
    let start = Instant::now();
    let busy = Busy::new("compile");
    let logits = inference.run(&picture)?;
    drop(busy);
    let first = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let mut runs = 0;
    while runs < 3 || start.elapsed().as_secs_f64() < 1.0 {
        inference.run(&picture)?;
        runs += 1;
    }
    let seconds = start.elapsed().as_secs_f64() / f64::from(runs);

    let names = match &args.names {
        Some(file) => {
            std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?
        }
        None => String::new(),
    };
    let names: Vec<&str> = names.lines().collect();
    let most = logits.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v));
    let weight = |v: f32| f64::from(v - most).exp();
    let all: f64 = logits.iter().map(|v| weight(*v)).sum();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
    let mut table = Report::new();
    for class in order.iter().take(5) {
        let name = names
            .get(*class)
            .map_or_else(|| format!("class {class}"), |n| n.to_string());
        let percent = 100.0 * weight(logits[*class]) / all;
        table.row(&name, format!("{percent:.2} %"));
    }
    if let Some(truth) = truth {
        table.row("in truth", truth).figure("truth", truth);
    }
    if let Some(accuracy) = accuracy {
        table.row(
            "accuracy",
            format!("{:.2} % of held-out digits", 100.0 * accuracy),
        );
        table.figure("accuracy", accuracy);
    }
    let memory = inference.program(1)?.plan().memory();
    table
        .row(
            "first run",
            format!("{}, compiling included", report::seconds(first)),
        )
        .row("per picture", report::seconds(seconds))
        .row(
            "memory",
            format!("{:.1} MiB", memory.total() as f64 / (1 << 20) as f64),
        )
        .figure("class", order[0])
        .figure("probability", weight(logits[order[0]]) / all)
        .figure("first_seconds", first)
        .figure("seconds", seconds)
        .figure("bytes", memory.total());
    table.print_with(args.json);
    Ok(())
}
