//! What the two VQ-VAE examples share: training, evaluation, pictures, figures.

use std::time::Instant;

use flowgrad::data::{Batches, ImageSet, Order};
use flowgrad::models::VqVae;
use flowgrad::nn::Mode;
use flowgrad::optim::{Adam, Optimizer};
use flowgrad::params::{Precision, Strict};
use flowgrad::train::Checkpoint;
use flowgrad::{Gpu, Graph, Params, Program};

use super::{
    Busy, CommonArgs, Images, Losses, Outcome, Progress, Report, picture, plot, report, stopped,
};

/// A data set and how its pixels become the model's input.
pub struct Digits {
    pub train: ImageSet,
    pub test: ImageSet,
    /// The value of a white pixel.
    pub white: f32,
}

impl Digits {
    /// Pixels in -0.5..0.5.
    fn input(&self, set: &ImageSet, indices: &[usize]) -> flowgrad::Result<Vec<f32>> {
        let scale = 1.0 / self.white;
        Ok(set
            .pixels(indices)?
            .iter()
            .map(|v| v * scale - 0.5)
            .collect())
    }
}

/// Whether the codebook starts from the first batch.
pub struct Setup {
    pub k_means: bool,
    pub title: &'static str,
}

/// Figures of an evaluation.
struct Evaluation {
    mse: f64,
    perplexity: f64,
    codes_used: usize,
}

/// Trains, evaluates, draws; what is to be reported.
pub fn run(
    args: &CommonArgs,
    data: &Digits,
    setup: &Setup,
    build: impl Fn(&Params) -> flowgrad::Result<VqVae>,
) -> Outcome<Report> {
    let start = Instant::now();
    args.try_paths()?;
    let gpu = args.gpu()?;
    let params = Params::new(args.seed);
    let model = build(&params)?;
    let order = match args.no_shuffle {
        true => Order::File,
        false => Order::Shuffled { seed: args.seed },
    };
    let batch = args.batch_of(data.train.len(), "the number of training images")?;
    if setup.k_means && args.load.is_none() {
        enough_for_codes(&model, batch)?;
    }
    let mut batches = Batches::new(data.train.len(), batch, order, true)?;
    let [height, width] = model.image_shape();
    let shape = [batch, 1, height, width];

    // The training program: loss, gradients, optimiser, codebook averages.
    let busy = Busy::new("building the training program");
    let graph = Graph::new();
    let out = model.forward(&graph.input("x", shape), Mode::Train);
    let optimizer = Optimizer::new(
        &params,
        Adam {
            lr: f64::from(args.lr),
            ..Default::default()
        },
    )?;
    optimizer.minimize(&out.loss)?;
    match &args.load {
        Some(file) => drop(params.load(file, Strict::Yes)?),
        None if setup.k_means => {
            start_codebook(&gpu, &params, &model, data, &mut batches, args.seed)?
        }
        None => {}
    }
    let mut program = graph.compile(
        &gpu,
        &params,
        &[&out.loss, &out.mse, &out.quantized.perplexity],
    )?;
    drop(busy);
    let compiled = start.elapsed().as_secs_f64();

    let mut losses = Losses::new(&["loss", "mse", "perplexity"]);
    let mut progress = Progress::new("training", args.steps);
    let training = Instant::now();
    let mut pending = None;
    for step in 0..args.steps {
        if progress.stopped() {
            break;
        }
        // The next batch is prepared and submitted while the last one computes.
        let x = data.input(&data.train, &batches.batch(step as u64))?;
        program.set_scalars(&optimizer.inputs(step as u64))?;
        let ticket = program.submit(&[("x", (&x).into())])?;
        if let Some((step, ticket)) = pending.replace((step, ticket)) {
            record(&mut program, ticket, step, &mut losses, &mut progress)?;
        }
    }
    if let Some((step, ticket)) = pending {
        record(&mut program, ticket, step, &mut losses, &mut progress)?;
    }
    progress.finish();
    let trained = training.elapsed().as_secs_f64();

    if stopped() {
        let checkpoint = Checkpoint {
            step: losses.len() as u64,
            seed: args.seed,
            ..Default::default()
        };
        checkpoint.save(args.out_file("checkpoint.safetensors")?, &params)?;
    }

    let busy = Busy::new("evaluating");
    let evaluation = evaluate(&gpu, &params, &model, data, args)?;
    drop(busy);
    if let Some(file) = &args.losses {
        losses.write(file)?;
    }
    if losses.len() > 1 {
        plot::losses(&args.out_file("loss.png")?, setup.title, &losses.all()[..2])?;
    }
    params.save(args.out_file("model.safetensors")?, Precision::F32)?;
    if let Some(file) = &args.save {
        params.save(file, Precision::F32)?;
    }
    let seconds = start.elapsed().as_secs_f64();

    let plan = program.plan();
    let mut table = Report::new();
    let done = losses.len();
    let rate = if done > 0 { done as f64 / trained } else { 0.0 };
    table
        .row("adapter", gpu.summary())
        .row("parameters", report::count(params.count() as u64))
        .row(
            "plan",
            format!(
                "{} dispatches a step, {} at most in use, {:.1} MFLOP",
                plan.steps.len(),
                report::bytes(plan.memory().total()),
                plan.flops() as f64 / 1e6
            ),
        )
        .row("set-up", report::seconds(compiled))
        .row(
            "time per step",
            if done > 0 {
                report::seconds(1.0 / rate)
            } else {
                "-".into()
            },
        )
        .row(
            "test MSE",
            format!(
                "{:.5} (pixels 0..1, {} held-out images)",
                evaluation.mse,
                data.test.len()
            ),
        )
        .row("perplexity", format!("{:.1}", evaluation.perplexity))
        .row(
            "codes used",
            format!(
                "{} of {}",
                evaluation.codes_used,
                model.quantizer.config().codes
            ),
        )
        .row("written to", args.out.display());
    table
        .figure("test_mse", evaluation.mse)
        .figure("perplexity", evaluation.perplexity)
        .figure("codes_used", evaluation.codes_used)
        .figure("seconds", seconds)
        .figure("steps_per_second", rate)
        .figure("seconds_setup", compiled)
        .figure("peak_bytes", plan.memory().total())
        .figure("dispatches_per_step", plan.steps.len())
        .figure("parameters", params.count())
        .steps(done, args.steps)
        .figure("adapter", gpu.name());
    if let Some(last) = losses.last() {
        table.figure("final_loss", f64::from(last[0]));
    }
    // Profiled runs train on, so this comes after everything was saved.
    if done > 0 && !stopped() {
        let profile = program.profile(&[], 5)?;
        let total = profile.seconds();
        let rows: Vec<Vec<String>> = profile
            .by_kernel()
            .into_iter()
            .take(8)
            .map(|(kernel, n, s)| {
                vec![
                    kernel,
                    n.to_string(),
                    report::seconds(s),
                    format!("{:.0} %", 100.0 * s / total),
                ]
            })
            .collect();
        table.row(
            "where the time goes",
            report::columns(&["kernel", "dispatches", "time", "share"], &rows),
        );
    }
    Ok(table)
}

fn record(
    program: &mut Program,
    ticket: flowgrad::exec::Ticket,
    step: usize,
    losses: &mut Losses,
    progress: &mut Progress,
) -> Outcome {
    let out = program.wait(ticket)?;
    out.check_finite(&["the loss", "the reconstruction error", "the perplexity"])?;
    let values = [out.scalar(0)?, out.scalar(1)?, out.scalar(2)?];
    losses.push(step, &values);
    progress.step(step + 1, Some(values[0]));
    Ok(())
}

/// An error where the first batch has fewer vectors than there are codes to find in them.
fn enough_for_codes(model: &VqVae, batch: usize) -> Outcome {
    let [rows, cols] = model.codes_shape();
    let (each, codes) = (rows * cols, model.quantizer.config().codes);
    let least = codes.div_ceil(each);
    match batch >= least {
        true => Ok(()),
        false => Err(format!(
            "--batch {batch}: the {codes} codes start from the first batch, in which an image has {each} vectors; use --batch {least} or more"
        )
        .into()),
    }
}

/// k-means over the encoder's outputs for the first batches.
fn start_codebook(
    gpu: &Gpu,
    params: &Params,
    model: &VqVae,
    data: &Digits,
    batches: &mut Batches,
    seed: u64,
) -> Outcome {
    let first = data.input(&data.train, &batches.batch(0))?;
    let [height, width] = model.image_shape();
    let graph = Graph::new();
    let x = graph.input("x", [first.len() / (height * width), 1, height, width]);
    let rows = model.quantizer.rows(&model.encode(&x, Mode::Eval));
    let mut program = graph.compile(gpu, params, &[&rows])?;
    let rows = program.run(&[("x", (&first).into())])?.f32(0)?;
    model.quantizer.start_from(&rows, seed)?;
    Ok(())
}

/// Runs over the held-out images; draws the first of them.
fn evaluate(
    gpu: &Gpu,
    params: &Params,
    model: &VqVae,
    data: &Digits,
    args: &CommonArgs,
) -> Outcome<Evaluation> {
    let [height, width] = model.image_shape();
    let [rows, cols] = model.codes_shape();
    let codes = model.quantizer.config().codes;
    // Batches of one size, so that one program serves all; the rest is repeated
    // images that are not counted.
    let batch = data.test.len().min(120);
    let graph = Graph::new();
    let out = model.forward(&graph.input("x", [batch, 1, height, width]), Mode::Eval);
    let mut program =
        graph.compile_pure(gpu, params, &[&out.reconstruction, &out.quantized.indices])?;
    let (mut squares, mut counts) = (0.0f64, vec![0u64; codes]);
    let mut first = None;
    let mut at = 0;
    while at < data.test.len() {
        let count = batch.min(data.test.len() - at);
        let indices: Vec<usize> = (0..batch).map(|i| at + i % count).collect();
        let x = data.input(&data.test, &indices)?;
        let result = program.run(&[("x", (&x).into())])?;
        result.check_finite(&["the reconstruction"])?;
        let (made, used) = (result.f32(0)?, result.u32(1)?);
        let pixels = count * height * width;
        squares += x[..pixels]
            .iter()
            .zip(&made)
            .map(|(a, b)| f64::from(a - b).powi(2))
            .sum::<f64>();
        for code in &used[..count * rows * cols] {
            counts[*code as usize] += 1;
        }
        first.get_or_insert((x, made, used));
        at += count;
    }
    let total = (data.test.len() * rows * cols) as f64;
    let entropy: f64 = counts
        .iter()
        .map(|c| *c as f64 / total)
        .filter(|p| *p > 0.0)
        .map(|p| -p * p.ln())
        .sum();
    if let Some((x, made, used)) = first {
        let shown = batch.min(20);
        let pixels = |v: &[f32]| -> Vec<f32> {
            v[..shown * height * width]
                .iter()
                .map(|p| p + 0.5)
                .collect()
        };
        let (x, made) = (pixels(&x), pixels(&made));
        let shape = [shown, 1, height, width];
        let scale = (160 / height).clamp(2, 12);
        let picture = picture::above(
            &Images::new(&x, shape)?,
            &Images::new(&made, shape)?,
            2,
            10,
            scale,
        );
        picture::save(&picture, &args.out_file("reconstructions.png")?)?;
        let maps = picture::code_maps(
            &used[..shown * rows * cols],
            [shown, rows, cols],
            2,
            10,
            scale * height / rows,
        )?;
        picture::save(&maps, &args.out_file("codes.png")?)?;
    }
    Ok(Evaluation {
        mse: squares / (data.test.len() * height * width) as f64,
        perplexity: entropy.exp(),
        codes_used: counts.iter().filter(|c| **c > 0).count(),
    })
}
