//! A PixelCNN draws digits: place by place, each number given those before it.
//!
//! `cargo run --release --example pixelcnn` learns the pixels of the 8x8 digits that the
//! project ships; with `-- --vqvae FILE` (and `--data DIR` for 28x28 images) the codes of a
//! VQ-VAE that `demo` or `vqvae` saved. Writes to `out/pixelcnn/`: `samples.png` (a row of
//! new images for each class), `loss.png`, `evaluations.png` and `model.safetensors`.

mod common;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use common::classes::Classifier;
use common::codes::{self, Coded};
use common::{CommonArgs, Defaults, ImageArgs, Images, Outcome, Run, every, picture, report};
use flowgrad::models::{PixelBlock, PixelCnn, PixelCnnConfig, PixelSampler};
use flowgrad::nn::Mode;
use flowgrad::ops::Categorical;
use flowgrad::optim::{Adam, Optimizer};
use flowgrad::{Graph, Program};

/// Learns a distribution over grids of codes or pixels by class, and draws from it.
///
/// The model is `models::PixelCnn`; the loss, bits per number, is its cross-entropy on the
/// batch before each update, Adam with betas 0.9 and 0.999. A classifier that is trained on
/// the images themselves reads what was drawn: `classifier_agreement` is the share that it
/// takes for the class it was drawn for, `classifier_accuracy` what it reaches on held-out
/// images.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    images: ImageArgs,
    /// Learn the codes of this VQ-VAE instead of pixels
    #[arg(long, value_name = "FILE")]
    vqvae: Option<PathBuf>,
    /// Residual blocks, as in the keras.io example, instead of gated ones
    #[arg(long)]
    residual: bool,
    /// Blocks
    #[arg(long, value_name = "N", default_value_t = 2)]
    blocks: usize,
    /// Channels
    #[arg(long, value_name = "N", default_value_t = 64)]
    width: usize,
    /// Logits are divided by it before numbers are drawn
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    temperature: f32,
    /// Draw among the K likeliest numbers only
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Draw N images of each class
    #[arg(long, value_name = "N", default_value_t = 30)]
    samples: usize,
}

fn main() -> ExitCode {
    common::main(|| {
        run(&common::parse(Defaults {
            name: "pixelcnn",
            steps: 600,
            batch: 32,
            lr: 2e-3,
        }))
    })
}

fn run(args: &Args) -> Outcome {
    let mut run = Run::start(&args.common, "PixelCNN", &["bits_per_code"])?;
    let (gpu, params) = (run.gpu.clone(), run.params.clone());
    let sets = args.images.sets(1)?;
    let coded = Coded::new(&gpu, &sets, args.vqvae.as_deref())?;
    let classes = sets.train.classes();
    let config = PixelCnnConfig {
        width: args.width,
        blocks: args.blocks,
        block: match args.residual {
            true => PixelBlock::Residual,
            false => PixelBlock::Gated,
        },
        classes: Some(classes),
        ..PixelCnnConfig::keras(coded.grid, coded.levels)
    };
    let prior = PixelCnn::new(&params, config)?;
    let count = (args.samples * classes).clamp(1, 100);
    let options = Categorical {
        temperature: args.temperature,
        top_k: args.top_k,
    };
    // Before training, so that what cannot be drawn is told at once.
    let mut sampler = PixelSampler::new(&gpu, &prior, &params, count, &options)?;

    let size = args.common.batch;
    let graph = Graph::new();
    let (x, labels) = codes::inputs(&graph, &config, size);
    let loss = prior.loss(&x, Some(&labels), Mode::Train);
    let adam = Adam {
        lr: f64::from(args.common.lr),
        ..Default::default()
    };
    let optimizer = Optimizer::new(&params, adam)?;
    optimizer.minimize(&loss)?;
    let bits = loss.mul_scalar(std::f32::consts::LOG2_E);
    let mut program = graph.compile(&gpu, &params, &[&bits])?;

    let batch = sets.test.len().min(100);
    let graph = Graph::new();
    let (x, labels) = codes::inputs(&graph, &config, batch);
    let nats = prior.nll(&x, Some(&labels), Mode::Eval).sum_samples();
    let mut judge = graph.compile_pure(&gpu, &params, &[&nats])?;
    let judged = every(100, |_| {
        let mut sum = 0.0;
        for at in (0..sets.test.len()).step_by(batch) {
            let count = batch.min(sets.test.len() - at);
            let items: Vec<usize> = (0..batch).map(|i| at + i % count).collect();
            let nats = judge.run(&[
                ("codes", (&coded.of(&coded.test, &items)).into()),
                ("labels", (&sets.test.labels(&items)?).into()),
            ])?;
            let nats = nats.f32(0)?;
            sum += nats[..count].iter().copied().map(f64::from).sum::<f64>();
        }
        let numbers = (sets.test.len() * config.len()) as f64;
        let bits = sum / numbers * std::f64::consts::LOG2_E;
        Ok(vec![("bits_per_code", bits)])
    });
    let what = "the number of training images";
    let mut batches = args.common.batches(sets.train.len(), what)?;
    let mut expected = false;
    let feed = |program: &mut Program, step| {
        // Weights are loaded by now, and say whose codes they learnt.
        if !std::mem::replace(&mut expected, true) {
            coded.expect(&prior)?;
        }
        let items = batches.batch(step);
        program.set_scalars(&optimizer.inputs(step))?;
        program.set_inputs(&[
            ("codes", (&coded.of(&coded.train, &items)).into()),
            ("labels", (&sets.train.labels(&items)?).into()),
        ])?;
        Ok(())
    };
    run.train(&mut program, feed, judged)?;
    coded.expect(&prior)?;

    // Rows of classes, `count` images at a time.
    let wanted: Vec<u32> = (0..args.samples.max(1))
        .flat_map(|_| 0..classes as u32)
        .collect();
    let began = Instant::now();
    let (mut made, mut drawn) = (Vec::new(), 0);
    for labels in wanted.chunks(count) {
        let mut labels = labels.to_vec();
        let fresh = labels.len();
        labels.resize(count, 0);
        let numbers = sampler.sample(Some(&labels))?;
        made.extend(coded.decode(&numbers[..fresh * config.len()])?);
        drawn += count;
    }
    let each = began.elapsed().as_secs_f64() / drawn as f64;
    let mut classifier = Classifier::train(&gpu, &sets, 400, args.common.seed)?;
    let agreement = classifier.agreement(&made, &wanted)?;
    let all: Vec<usize> = (0..sets.test.len()).collect();
    let held_out = sets.scaled(&sets.test, &all)?;
    let accuracy = classifier.agreement(&held_out, &sets.test.labels(&all)?)?;

    let [channels, height, width] = sets.image();
    let shown: Vec<f32> = (0..classes)
        .flat_map(|c| (0..args.samples.clamp(1, 10)).map(move |i| i * classes + c))
        .flat_map(|i| made[i * height * width..][..height * width].to_vec())
        .collect();
    let number = shown.len() / (height * width);
    let images = Images::new(&shown, [number, channels, height, width])?;
    let columns = number / classes;
    let picture = picture::grid(&images, classes, columns, (64 / height).max(1));
    picture::save(&picture, &args.common.out_file("samples.png")?)?;

    let mut report = run.report();
    report
        .row("time per drawn image", report::seconds(each))
        .row("classifier on held-out images", format!("{accuracy:.3}"))
        .row("classifier on drawn images", format!("{agreement:.3}"))
        .figure("seconds_per_sample", each)
        .figure("classifier_accuracy", accuracy)
        .figure("classifier_agreement", agreement);
    report.print(&args.common);
    Ok(())
}
