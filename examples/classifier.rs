//! The shortest whole example of a training run, to copy from: a convolutional network
//! tells images apart.
//!
//! `cargo run --release --example classifier` learns the 8x8 digits that the project ships,
//! with `-- --data DIR` images in MNIST's or CIFAR-10's file format. Writes to
//! `out/classifier/`: `loss.png`, `evaluations.png`, `mistakes.png` (held-out images that it
//! took for others, by what it took them for) and `model.safetensors`. Everything but the
//! model, its loss and its pictures is in `common::train` and its neighbours.

mod common;

use std::process::ExitCode;

use clap::Parser;
use common::{CommonArgs, Defaults, ImageArgs, Images, Outcome, Run, every, picture};
use flowgrad::nn::{Conv2d, Flatten, Layer, Linear, Mode, Sequential};
use flowgrad::ops::{Activation, ConvParams, CrossEntropy};
use flowgrad::optim::{Adam, Optimizer};
use flowgrad::{Graph, Params, Program};

/// Trains a small convolutional network to tell images apart.
///
/// Two 3x3 convolutions with ReLU, the second with stride 2, and a linear layer; pixels
/// are scaled to 0..1. The loss is the cross-entropy in nats; Adam with betas 0.9 and
/// 0.999. Row `n` of the CSV (from 0) holds loss and accuracy on the batch before update
/// `n`.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    images: ImageArgs,
    /// The share of the target that is spread over all classes
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
    let mut run = Run::start(&args.common, "cross-entropy", &["loss", "accuracy"])?;
    let (gpu, params) = (run.gpu.clone(), run.params.clone());
    let sets = args.images.sets(2)?;
    let (train, test) = (&sets.train, &sets.test);
    let [channels, height, width] = sets.image();
    let image = |n: usize| [n, channels, height, width];
    let classes = train.classes().max(test.classes());
    let net = network(&params, sets.image(), classes)?;

    let graph = Graph::new();
    let size = args.common.batch;
    let labels = graph.input_u32("labels", [size]);
    let logits = net.forward(&graph.input("x", image(size)), Mode::Train);
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
    let x = graph.input("x", image(test.len()));
    let found = net.forward(&x, Mode::Eval).argmax(Some(1));
    let mut judge = graph.compile_pure(&gpu, &params, &[&found])?;
    let all: Vec<usize> = (0..test.len()).collect();
    let (held_out, truth) = (sets.scaled(test, &all)?, test.labels(&all)?);
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
            ("x", (&sets.scaled(train, &items)?).into()),
            ("labels", (&train.labels(&items)?).into()),
        ])?;
        Ok(())
    };
    run.train(&mut program, feed, judged)?;

    wrong.sort();
    let items: Vec<usize> = wrong.iter().map(|(_, i)| *i).collect();
    let pixels = sets.scaled(test, &items)?;
    let images = Images::new(&pixels, image(items.len()))?;
    let picture = picture::grid(&images, 10, 10, (80 / height).max(1));
    picture::save(&picture, &args.common.out_file("mistakes.png")?)?;
    run.report().print(&args.common);
    Ok(())
}

fn network(
    params: &Params,
    [channels, height, width]: [usize; 3],
    classes: usize,
) -> flowgrad::Result<Sequential> {
    let conv = |stride| ConvParams {
        stride: [stride; 2],
        padding: [1; 4],
        activation: Activation::Relu,
        ..Default::default()
    };
    let (first, second, last) = (params.scope("0"), params.scope("1"), params.scope("3"));
    Ok(Sequential::new()
        .with(Conv2d::new(&first, [channels, 32], [3, 3], conv(1))?)
        .with(Conv2d::new(&second, [32, 64], [3, 3], conv(2))?)
        .with(Flatten)
        .with(Linear::new(
            &last,
            64 * (height / 2) * (width / 2),
            classes,
        )?))
}
