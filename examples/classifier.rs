//! The shortest whole example of a training run, to copy from: a convolutional network
//! tells the 8x8 digits that the project ships apart.
//!
//! `cargo run --release --example classifier` writes to `out/classifier/`: `loss.png`,
//! `evaluations.png`, `mistakes.png` (held-out digits that it took for others, by what it
//! took them for) and `model.safetensors`. Everything but the model, its loss and its
//! pictures is `common::train`.

mod common;

use std::process::ExitCode;

use clap::Parser;
use common::{CommonArgs, Defaults, Images, Outcome, Run, digits_dir, every, picture};
use flowgrad::data::{ImageSet, Split};
use flowgrad::nn::{Conv2d, Flatten, Layer, Linear, Mode, Sequential};
use flowgrad::ops::{Activation, ConvParams, CrossEntropy};
use flowgrad::optim::{Adam, Optimizer};
use flowgrad::{Graph, Params, Program};

/// Trains a small convolutional network to tell handwritten digits of 8x8 pixels apart.
///
/// Two 3x3 convolutions with ReLU, the second with stride 2, and a linear layer; pixels
/// are scaled to -0.5..0.5. The loss is the cross-entropy in nats; Adam with betas 0.9 and
/// 0.999. Row `n` of the CSV (from 0) holds loss and accuracy on the batch before update
/// `n`.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    common: CommonArgs,
    /// The share of the target that is spread over all digits
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    smoothing: f32,
}

fn main() -> ExitCode {
    common::main(|| {
        run(&common::parse(Defaults {
            name: "classifier",
            steps: 300,
            batch: 64,
            lr: 2e-3,
        }))
    })
}

fn run(args: &Args) -> Outcome {
    let mut run = Run::start(&args.common, "8x8 digits", &["loss", "accuracy"])?;
    let (gpu, params) = (run.gpu.clone(), run.params.clone());
    let train = ImageSet::mnist(digits_dir(), Split::Train)?;
    let test = ImageSet::mnist(digits_dir(), Split::Test)?;
    let net = network(&params)?;

    let graph = Graph::new();
    let size = args.common.batch;
    let labels = graph.input_u32("labels", [size]);
    let logits = net.forward(&graph.input("x", [size, 1, 8, 8]), Mode::Train);
    let options = CrossEntropy {
        label_smoothing: args.smoothing,
        ..Default::default()
    };
    let loss = logits.cross_entropy(&labels, &options);
    let right = logits.argmax(Some(1)).equal(&labels).mean(&[], false);
    let adam = Adam {
        lr: f64::from(args.common.lr),
        ..Default::default()
    };
    let optimizer = Optimizer::new(&params, adam)?;
    optimizer.minimize(&loss)?;
    let mut program = graph.compile(&gpu, &params, &[&loss, &right])?;

    // Evaluation reads the weights that training writes.
    let graph = Graph::new();
    let x = graph.input("x", [test.len(), 1, 8, 8]);
    let found = net.forward(&x, Mode::Eval).argmax(Some(1));
    let mut judge = graph.compile_pure(&gpu, &params, &[&found])?;
    let all: Vec<usize> = (0..test.len()).collect();
    let (held_out, truth) = (input(&test, &all)?, test.labels(&all)?);
    let mut mistakes = move || -> Outcome<Vec<(u32, usize)>> {
        let found = judge.run(&[("x", (&held_out).into())])?.u32(0)?;
        let wrong = all.iter().filter(|i| found[**i] != truth[**i]);
        Ok(wrong.map(|i| (found[*i], *i)).collect())
    };
    let mut wrong = Vec::new();
    let judged = every(100, |_| {
        wrong = mistakes()?;
        let part = wrong.len() as f64 / test.len() as f64;
        Ok(vec![("test_accuracy", 1.0 - part)])
    });

    let mut batches = args
        .common
        .batches(train.len(), "the number of training images")?;
    let feed = |program: &mut Program, step| {
        let items = batches.batch(step);
        program.set_scalars(&optimizer.inputs(step))?;
        program.set_inputs(&[
            ("x", (&input(&train, &items)?).into()),
            ("labels", (&train.labels(&items)?).into()),
        ])?;
        Ok(())
    };
    run.train(&mut program, feed, judged)?;

    wrong.sort();
    let items: Vec<usize> = wrong.iter().map(|(_, i)| *i).collect();
    let pixels: Vec<f32> = input(&test, &items)?.iter().map(|p| p + 0.5).collect();
    let images = Images::new(&pixels, [items.len(), 1, 8, 8])?;
    let picture = picture::grid(&images, 10, 10, 8);
    picture::save(&picture, &args.common.out_file("mistakes.png")?)?;
    run.report().print(&args.common);
    Ok(())
}

fn network(params: &Params) -> flowgrad::Result<Sequential> {
    let conv = |stride| ConvParams {
        stride: [stride; 2],
        padding: [1; 4],
        activation: Activation::Relu,
        ..Default::default()
    };
    Ok(Sequential::new()
        .with(Conv2d::new(&params.scope("0"), [1, 32], [3, 3], conv(1))?)
        .with(Conv2d::new(&params.scope("1"), [32, 64], [3, 3], conv(2))?)
        .with(Flatten)
        .with(Linear::new(&params.scope("3"), 64 * 16, 10)?))
}

fn input(set: &ImageSet, items: &[usize]) -> flowgrad::Result<Vec<f32>> {
    Ok(set.pixels(items)?.iter().map(|v| v / 16.0 - 0.5).collect())
}
