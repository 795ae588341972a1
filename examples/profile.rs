//! Where the time of a training step goes: every dispatch with its time, GFLOP/s, GB/s
//! and fraction of what the adapter can do at most, as a table and as a trace.
//!
//! `cargo run --release --example profile -- --model vqvae`. Writes
//! `out/profile/trace.json`, which <https://ui.perfetto.dev> and `chrome://tracing` open.

mod common;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use common::Outcome;
use flowgrad::device::Roof;
use flowgrad::exec::Profile;
use flowgrad::flow::Context;
use flowgrad::models::{Glow, GlowConfig, ResNet, ResNetConfig, VqVae};
use flowgrad::nn::{Layer, Mode};
use flowgrad::ops::fold_batch_norms;
use flowgrad::optim::{Adam, Optimizer};
use flowgrad::{Gpu, GpuOptions, Graph, Params, Tensor};

/// Profiles a step of a model on random images: training, or inference of ResNet-18.
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
    let profile = profile(&gpu, &args)?;
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
    report
        .row("trace", file.display())
        .figure("trace", file.display().to_string())
        .figure("step_ms", profile.seconds() * 1e3)
        .figure("dispatches", profile.rows.len())
        .figure("gpu_clock", profile.gpu_clock)
        .figure("roof_gflops", roof.flops / 1e9)
        .figure("roof_gbytes", roof.bytes / 1e9);
    report.print_with(args.json);
    Ok(())
}

/// Compiles the model's step and profiles it. The images are drawn on the device:
/// nothing is uploaded that a step waits for.
fn profile(gpu: &Gpu, args: &Args) -> Outcome<Profile> {
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
        Model::Resnet => {
            let net = ResNet::new(&params, ResNetConfig::resnet18_cifar())?;
            let logits = net.forward(&images(3, 32), Mode::Eval);
            let folded = fold_batch_norms(&[&logits])?;
            let mut program = graph.compile_frozen(gpu, &params, &[&folded[0]])?;
            return Ok(program.profile(&[], args.runs.max(1))?);
        }
    };
    let optimizer = Optimizer::new(&params, Adam::default())?;
    optimizer.minimize(&loss)?;
    let mut program = graph.compile(gpu, &params, &[&loss])?;
    program.set_scalars(&optimizer.inputs(0))?;
    Ok(program.profile(&[], args.runs.max(1))?)
}
