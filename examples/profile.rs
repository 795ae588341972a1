//! Where the time of a training step goes: every dispatch with its time, GFLOP/s, GB/s
//! and fraction of what the adapter can do at most, as a table and as a trace.
//!
//! `cargo run --release --example profile -- --model vqvae`. Writes
//! `out/profile/trace.json`, which <https://ui.perfetto.dev> and `chrome://tracing` open.

mod common;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use common::Outcome;
use flowgrad::device::Roof;
use flowgrad::exec::{FreezeOptions, Storage};
use flowgrad::flow::Context;
use flowgrad::models::{Glow, GlowConfig, ResNet, ResNetConfig, VqVae};
use flowgrad::nn::{Layer, Mode};
use flowgrad::ops::fold_batch_norms;
use flowgrad::optim::{Adam, Optimizer};
use flowgrad::{Gpu, GpuOptions, Graph, Params, Program, Tensor};

/// Profiles a step of a model on random images: training, or inference of a ResNet.
#[derive(Parser)]
struct Args {
    /// Whose step
    #[arg(long, value_enum, default_value_t = Model::Digits)]
    model: Model,
    /// Images in a batch
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Steps of which the median is shown
    #[arg(long, value_name = "N", default_value_t = 5)]
    runs: usize,
    /// Use the adapter whose name contains this (see the example `doctor`)
    #[arg(long, value_name = "NAME")]
    adapter: Option<String>,
    /// Keep the weights as 16-bit floats, for inference
    #[arg(long)]
    f16: bool,
    /// Directory for the trace
    #[arg(long, value_name = "DIR", default_value = "out/profile")]
    out: PathBuf,
    /// Print all figures as one JSON object in the last line
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Model {
    /// The VQ-VAE of the demo, digits of 8x8 pixels
    Digits,
    /// The VQ-VAE for MNIST, 28x28
    Vqvae,
    /// The Glow of the demo, digits of 8x8 pixels
    Glow,
    /// The same Glow for MNIST padded to 32x32
    GlowMnist,
    /// Inference of ResNet-18 on 32x32 images, batch norms folded
    Resnet,
    /// Inference of ResNet-50 on 224x224 images, likewise
    Resnet50,
}

fn main() -> ExitCode {
    common::main(run)
}

fn run() -> Outcome {
    let args = Args::parse();
    common::try_dir(&args.out)?;
    let gpu = Gpu::with(GpuOptions {
        adapter: args.adapter.clone(),
        ..GpuOptions::default()
    })?;
    let roof = Roof::measure(&gpu)?;
    let busy = common::Busy::new("building and profiling the step");
    let start = Instant::now();
    let mut program = program(&gpu, &args)?;
    program.run(&[])?;
    let first = start.elapsed().as_secs_f64();
    let profile = program.profile(&[], args.runs.max(1))?;
    let memory = program.plan().memory();
    drop(busy);
    let file = args.out.join("trace.json");
    common::write_file(&file, profile.chrome_trace(Some(&roof)).as_bytes())?;
    common::report::print(&format!("{}\n", gpu.summary()));
    common::report::print(&format!("{}\n", profile.table(Some(&roof))));
    let kernels = profile.by_kernel();
    let rows: Vec<Vec<String>> = kernels
        .iter()
        .map(|(kernel, dispatches, seconds)| {
            let share = 100.0 * seconds / profile.seconds();
            vec![
                kernel.clone(),
                dispatches.to_string(),
                format!("{:.3}", seconds * 1e3),
                format!("{share:.1} %"),
            ]
        })
        .collect();
    let head = ["kernel", "dispatches", "ms", "share"];
    common::report::print(&format!("\n{}", common::report::columns(&head, &rows)));
    let mut report = common::Report::new();
    let flops = program.plan().flops() as f64 / profile.seconds();
    report
        .row("trace", file.display())
        .row(
            "first result",
            format!("after {}", common::report::seconds(first)),
        )
        .row(
            "memory",
            format!(
                "{:.1} MiB planned",
                memory.total() as f64 / (1 << 20) as f64
            ),
        )
        .row(
            "rate",
            format!(
                "{:.2} GFLOP/s, {:.0} % of the roof of arithmetic",
                flops / 1e9,
                100.0 * flops / roof.flops
            ),
        )
        .figure("first_seconds", first)
        .figure("bytes", memory.total())
        .figure("gflops", flops / 1e9)
        .figure("trace", file.display().to_string())
        .figure("step_ms", profile.seconds() * 1e3)
        .figure("dispatches", profile.rows.len())
        .figure("gpu_clock", profile.gpu_clock)
        .figure("roof_gflops", roof.flops / 1e9)
        .figure("roof_gbytes", roof.bytes / 1e9);
    report.print_with(args.json);
    Ok(())
}

/// Compiles the model's step. The images are drawn on the device:
/// nothing is uploaded that a step waits for.
fn program(gpu: &Gpu, args: &Args) -> Outcome<Program> {
    let params = Params::new(0);
    let graph = Graph::new();
    let images = |channels: usize, side: usize| {
        let shape = [args.batch as usize, channels, side, side];
        graph.uniform(shape).add_scalar(-0.5)
    };
    let vqvae = |model: VqVae, side: usize| model.forward(&images(1, side), Mode::Train).loss;
    let glow = |config: GlowConfig| -> Outcome<Tensor> {
        let [_, side, _] = config.image;
        let levels = (config.bins - 1) as f32;
        let pixels = images(1, side).add_scalar(0.5).mul_scalar(levels).floor();
        let model = Glow::new(&params, config)?;
        Ok(model.loss(&pixels, true, &Context::train()))
    };
    let loss = match args.model {
        Model::Digits => vqvae(VqVae::digits(&params)?, 8),
        Model::Vqvae => vqvae(VqVae::mnist(&params, 0.0949)?, 28),
        Model::Glow => glow(GlowConfig::digits())?,
        Model::GlowMnist => glow(GlowConfig::mnist())?,
        Model::Resnet | Model::Resnet50 => {
            let (config, side) = match args.model {
                Model::Resnet50 => (ResNetConfig::resnet50(), 224),
                _ => (ResNetConfig::resnet18_cifar(), 32),
            };
            let net = ResNet::new(&params, config)?;
            let logits = net.forward(&images(3, side), Mode::Eval);
            let folded = fold_batch_norms(&[&logits])?;
            let weights = if args.f16 { Storage::F16 } else { Storage::F32 };
            let options = FreezeOptions { weights };
            return Ok(graph.compile_frozen_with(gpu, &params, &[&folded[0]], &options)?);
        }
    };
    let optimizer = Optimizer::new(&params, Adam::default())?;
    optimizer.minimize(&loss)?;
    let mut program = graph.compile(gpu, &params, &[&loss])?;
    program.set_scalars(&optimizer.inputs(0))?;
    Ok(program)
}
