//! What the examples that train flows of images share: training, evaluation, pictures,
//! figures.

use std::path::{Path, PathBuf};
use std::time::Instant;

use flowgrad::data::{Batches, ImageSet, Order};
use flowgrad::flow::{Batch, Context};
use flowgrad::models::ImageFlow;
use flowgrad::optim::{Adam, Optimizer, Schedule};
use flowgrad::params::{Precision, Strict};
use flowgrad::train::Checkpoint;
use flowgrad::{Gpu, Graph, Params, Program, Tensor};

use super::{
    Busy, CommonArgs, Images, Losses, Outcome, Progress, Report, picture, plot, report, stopped,
};

/// What is trained, on what, and how.
pub struct Setup<'a> {
    pub params: &'a Params,
    pub model: &'a ImageFlow,
    pub train: &'a ImageSet,
    pub test: &'a ImageSet,
    pub title: &'a str,
    /// Uniform noise on the pixels.
    pub dequantize: bool,
    /// Steps over which the learning rate rises.
    pub warmup: u64,
    /// The largest norm of a gradient.
    pub clip: Option<f32>,
    /// Of the samples in `samples.png`.
    pub temperature: f32,
    /// Where per-image log-likelihoods go.
    pub log_prob: Option<&'a Path>,
    /// Loads weights where names or shapes need translation.
    pub load: &'a dyn Fn(&Params, &Path) -> flowgrad::Result<()>,
}

/// Loads weights by name, all of them.
pub fn load_exactly(params: &Params, file: &Path) -> flowgrad::Result<()> {
    params.load(file, Strict::Yes).map(drop)
}

impl Setup<'_> {
    fn shape(&self, n: usize) -> [usize; 4] {
        let [c, h, w] = self.model.image_shape();
        [n, c, h, w]
    }

    /// Labels as an input of `graph`, where the model wants them.
    fn classes(&self, graph: &Graph, n: usize) -> Option<Tensor> {
        self.model.classes().map(|_| graph.input_u32("class", [n]))
    }

    fn run(
        &self,
        program: &mut Program,
        pixels: Option<&[f32]>,
        labels: &[u32],
    ) -> flowgrad::Result<flowgrad::Outputs> {
        let mut inputs = Vec::new();
        if let Some(pixels) = pixels {
            inputs.push(("x", pixels.into()));
        }
        if self.model.classes().is_some() {
            inputs.push(("class", labels.into()));
        }
        program.run(&inputs)
    }
}

fn context(labels: &Option<Tensor>, train: bool) -> Context<'_> {
    let cx = match train {
        true => Context::train(),
        false => Context::eval(),
    };
    match labels {
        Some(labels) => cx.with_condition(labels),
        None => cx,
    }
}

/// Trains, evaluates, draws; what is to be reported.
pub fn run(args: &CommonArgs, gpu: &Gpu, setup: &Setup<'_>) -> Outcome<Report> {
    let start = Instant::now();
    args.try_paths()?;
    if let Some(file) = setup.log_prob {
        super::try_file(file)?;
    }
    let (model, params) = (setup.model, setup.params);
    let order = match args.no_shuffle {
        true => Order::File,
        false => Order::Shuffled { seed: args.seed },
    };
    let size = args.batch_of(setup.train.len(), "the number of training images")?;
    let mut batches = Batches::new(setup.train.len(), size, order, true)?;

    // Labels that a conditional model does not know are found before anything else.
    if model.classes().is_some() {
        for set in [setup.train, setup.test] {
            model.check_classes(&set.labels(&(0..set.len()).collect::<Vec<_>>())?)?;
        }
    }
    let busy = Busy::new("building the training program");
    match &args.load {
        Some(file) => (setup.load)(params, file)?,
        None => {
            let first = batches.batch(0);
            let labels = setup.train.labels(&first)?;
            let labels = model.classes().map(|_| labels.as_slice());
            let pixels = setup.train.pixels(&first)?;
            model.initialize(gpu, params, &pixels, labels, setup.dequantize)?;
        }
    }

    let graph = Graph::new();
    let classes = setup.classes(&graph, size);
    let x = graph.input("x", setup.shape(size));
    let loss = model.loss(&x, setup.dequantize, &context(&classes, true));
    let adam = Adam {
        lr: f64::from(args.lr),
        ..Default::default()
    };
    let mut optimizer =
        Optimizer::new(params, adam)?.schedule(Schedule::constant().warmup(setup.warmup));
    if let Some(norm) = setup.clip {
        optimizer = optimizer.clip_grad_norm(norm);
    }
    optimizer.minimize(&loss)?;
    let mut program = graph.compile(gpu, params, &[&loss])?;
    program.set_random_state(args.seed, 0);
    drop(busy);
    let compiled = start.elapsed().as_secs_f64();

    let mut losses = Losses::new(&["bits_per_dim"]);
    let mut progress = Progress::new("training", args.steps);
    let training = Instant::now();
    for step in 0..args.steps {
        if progress.stopped() {
            break;
        }
        let items = batches.batch(step as u64);
        let (x, labels) = (setup.train.pixels(&items)?, setup.train.labels(&items)?);
        program.set_scalars(&optimizer.inputs(step as u64))?;
        let out = setup.run(&mut program, Some(&x), &labels)?;
        if out.check_finite(&["the loss"]).is_err() {
            // Says which layer it was rather than that the loss is not finite.
            probe(gpu, setup, &x, &labels)?;
            out.check_finite(&["the loss"])?;
        }
        let loss = out.scalar(0)?;
        losses.push(step, &[loss]);
        progress.step(step + 1, Some(loss));
    }
    progress.finish();
    let trained = training.elapsed().as_secs_f64();
    let plan = program.plan();
    let memory = plan.memory();
    let (dispatches, flops) = (plan.steps.len(), plan.flops());

    if stopped() {
        let checkpoint = Checkpoint {
            step: losses.len() as u64,
            seed: args.seed,
            random_step: losses.len() as u32,
            ..Default::default()
        };
        checkpoint.save(args.out_file("checkpoint.safetensors")?, params)?;
    }

    let busy = Busy::new("evaluating and drawing");
    let test = evaluate(gpu, setup, setup.test, args.seed)?;
    let train_part = setup.train.clone().take(setup.test.len());
    let train = evaluate(gpu, setup, &train_part, args.seed)?;
    if let Some(file) = setup.log_prob {
        super::write_file(file, &npy(&test.log_prob))?;
    }
    let roundtrip = pictures(args, gpu, setup)?;
    drop(busy);
    if let Some(file) = &args.losses {
        losses.write(file)?;
    }
    if losses.len() > 1 {
        let title = format!("{}: bits per dimension", setup.title);
        plot::losses(&args.out_file("bpd.png")?, &title, &losses.all())?;
    }
    params.save(args.out_file("model.safetensors")?, Precision::F32)?;
    if let Some(file) = &args.save {
        params.save(file, Precision::F32)?;
    }

    let rate = match losses.len() {
        0 => 0.0,
        n => n as f64 / trained,
    };
    let mut table = Report::new();
    table
        .row("adapter", gpu.summary())
        .row("parameters", report::count(params.count() as u64))
        .row(
            "plan",
            format!(
                "{dispatches} dispatches a step, {} for activations, {:.0} MFLOP",
                report::bytes(memory.temporary),
                flops as f64 / 1e6
            ),
        )
        .row("set-up", report::seconds(compiled))
        .row(
            "time per step",
            match losses.len() {
                0 => "-".into(),
                _ => report::seconds(1.0 / rate),
            },
        )
        .row(
            "bits per dim",
            format!(
                "{:.4} on {} held-out images, {:.4} on training images (chance {:.4})",
                test.bits_per_dim,
                setup.test.len(),
                train.bits_per_dim,
                (model.bins() as f64).log2()
            ),
        )
        .row(
            "round trip",
            format!("{roundtrip:.1e} of the pixels' range at most"),
        )
        .row("written to", args.out.display());
    table
        .figure("test_bpd", test.bits_per_dim)
        .figure("train_bpd", train.bits_per_dim)
        .figure("roundtrip_max_abs", f64::from(roundtrip))
        .figure("peak_activation_bytes", memory.temporary)
        .figure("parameters", params.count())
        .figure("steps_per_second", rate)
        .figure("seconds", start.elapsed().as_secs_f64())
        .figure("seconds_setup", compiled)
        .figure("peak_bytes", memory.total())
        .figure("dispatches_per_step", dispatches)
        .steps(losses.len(), args.steps)
        .figure("adapter", gpu.name());
    if let Some(last) = losses.last() {
        table.figure("final_loss", f64::from(last[0]));
    }
    Ok(table)
}

/// An error that names the first layer with a value that is not finite.
fn probe(gpu: &Gpu, setup: &Setup<'_>, pixels: &[f32], labels: &[u32]) -> Outcome {
    let bins = setup.model.bins() as f32;
    let x: Vec<f32> = pixels.iter().map(|p| (p + 0.5) / bins - 0.5).collect();
    let mut batch = Batch::new(&x, setup.shape(labels.len()));
    if setup.model.classes().is_some() {
        batch = batch.with_condition(labels, [labels.len()]);
    }
    setup.model.flow.check_finite(gpu, setup.params, &batch)?;
    Ok(())
}

struct Evaluation {
    bits_per_dim: f64,
    log_prob: Vec<f32>,
}

/// Runs over a set in batches of one size, the last one filled up with images that are
/// not counted.
fn evaluate(gpu: &Gpu, setup: &Setup<'_>, set: &ImageSet, seed: u64) -> Outcome<Evaluation> {
    let size = set.len().min(120);
    let graph = Graph::new();
    let classes = setup.classes(&graph, size);
    let x = graph.input("x", setup.shape(size));
    let log_prob = setup
        .model
        .log_prob(&x, setup.dequantize, &context(&classes, false));
    let mut program = graph.compile_pure(gpu, setup.params, &[&log_prob])?;
    program.set_random_state(seed, 0);
    let mut all = Vec::with_capacity(set.len());
    while all.len() < set.len() {
        let count = size.min(set.len() - all.len());
        let items: Vec<usize> = (0..size).map(|i| all.len() + i % count).collect();
        let (x, labels) = (set.pixels(&items)?, set.labels(&items)?);
        let out = setup.run(&mut program, Some(&x), &labels)?;
        if out.check_finite(&["the log-likelihood"]).is_err() {
            probe(gpu, setup, &x, &labels)?;
            out.check_finite(&["the log-likelihood"])?;
        }
        all.extend(&out.f32(0)?[..count]);
    }
    let mean = all.iter().map(|v| f64::from(*v)).sum::<f64>() / all.len() as f64;
    Ok(Evaluation {
        bits_per_dim: -mean / (setup.model.dims() as f64 * std::f64::consts::LN_2),
        log_prob: all,
    })
}

/// Samples, samples by temperature, interpolations and reconstructions. Gives the largest
/// error of a reconstruction, the pixels' range being 1.
fn pictures(args: &CommonArgs, gpu: &Gpu, setup: &Setup<'_>) -> Outcome<f32> {
    const COLUMNS: usize = 10;
    let model = setup.model;
    let [_, _, height, _] = setup.shape(1);
    let scale = (160 / height).clamp(2, 12);
    let known = model.classes().unwrap_or(1) as u32;
    let save = |name: &str, data: &[f32], rows: usize| -> Outcome {
        let images = Images::new(data, setup.shape(data.len() / model.dims()))?;
        let grid = picture::grid(&images, rows, COLUMNS, scale);
        picture::save(&grid, &args.out_file(name)?)
    };

    // One row per class where there are classes.
    let rows = match model.classes() {
        Some(classes) => classes.min(20),
        None => 6,
    };
    let labels: Vec<u32> = (0..rows * COLUMNS)
        .map(|i| (i / COLUMNS) as u32 % known)
        .collect();
    let samples = sample(gpu, setup, setup.temperature, &labels, args.seed)?;
    save("samples.png", &samples, rows)?;

    let mut by_temperature = Vec::new();
    let labels: Vec<u32> = (0..COLUMNS).map(|i| i as u32 % known).collect();
    for temperature in [0.25, 0.5, 0.7, 0.8, 0.9, 1.0] {
        // The same seed: the same noise in every row, only its size differs.
        by_temperature.extend(sample(gpu, setup, temperature, &labels, args.seed)?);
    }
    save("temperatures.png", &by_temperature, 6)?;

    // From held-out images to latents and back.
    let count = setup.test.len().min(2 * COLUMNS);
    let items: Vec<usize> = (0..count).collect();
    let (pixels, labels) = (setup.test.pixels(&items)?, setup.test.labels(&items)?);
    let graph = Graph::new();
    let classes = setup.classes(&graph, count);
    let cx = context(&classes, false);
    let x = model.scale(&graph.input("x", setup.shape(count)), false);
    let z = model.flow.encode(&x, &cx).out;
    let back = model.flow.decode(&z, &cx).out;
    let mut program = graph.compile_pure(gpu, setup.params, &[&x, &z, &back])?;
    let out = setup.run(&mut program, Some(&pixels), &labels)?;
    out.check_finite(&["the images", "the latents", "the reconstruction"])?;
    let (x, z, back) = (out.f32(0)?, out.f32(1)?, out.f32(2)?);
    let worst = x.iter().zip(&back).map(|(a, b)| (a - b).abs());
    let worst = worst.fold(0.0f32, f32::max);
    let brightness = |v: &[f32]| -> Vec<f32> { v.iter().map(|p| p + 0.5).collect() };
    let (originals, made) = (brightness(&x), brightness(&back));
    let shape = setup.shape(count);
    let above = picture::above(
        &Images::new(&originals, shape)?,
        &Images::new(&made, shape)?,
        2,
        COLUMNS,
        scale,
    );
    picture::save(&above, &args.out_file("reconstruction.png")?)?;

    // Straight lines between the latents of pairs of images.
    let dims = model.dims();
    let pairs = (count / 2).min(6);
    let (mut between, mut between_labels) = (Vec::new(), Vec::new());
    for pair in 0..pairs {
        let [a, b] = [2 * pair, 2 * pair + 1].map(|i| &z[i * dims..(i + 1) * dims]);
        for step in 0..COLUMNS {
            let t = step as f32 / (COLUMNS - 1) as f32;
            between.extend(a.iter().zip(b).map(|(a, b)| a + t * (b - a)));
            between_labels.push(labels[2 * pair + usize::from(t > 0.5)]);
        }
    }
    if pairs > 0 {
        let graph = Graph::new();
        let classes = setup.classes(&graph, pairs * COLUMNS);
        let z = graph.input("x", [pairs * COLUMNS, dims]);
        let x = model.flow.decode(&z, &context(&classes, false)).out;
        let mut program = graph.compile_pure(gpu, setup.params, &[&model.brightness(&x)])?;
        let out = setup.run(&mut program, Some(&between), &between_labels)?;
        save("interpolation.png", &out.f32(0)?, pairs)?;
    }
    Ok(worst)
}

fn sample(
    gpu: &Gpu,
    setup: &Setup<'_>,
    temperature: f32,
    labels: &[u32],
    seed: u64,
) -> Outcome<Vec<f32>> {
    let graph = Graph::new();
    let classes = setup.classes(&graph, labels.len());
    let x = setup
        .model
        .sample(&graph, labels.len(), temperature, &context(&classes, false));
    let mut program = graph.compile_pure(gpu, setup.params, &[&x])?;
    program.set_random_state(seed, 0);
    let out = setup.run(&mut program, None, labels)?;
    out.check_finite(&["the samples"])?;
    Ok(out.f32(0)?)
}

/// A vector in NumPy's file format, version 1.0.
fn npy(values: &[f32]) -> Vec<u8> {
    let mut header = format!(
        "{{'descr': '<f4', 'fortran_order': False, 'shape': ({},), }}",
        values.len()
    );
    // Magic, version, length and header together fill a multiple of 64 bytes.
    let full = (10 + header.len() + 1).next_multiple_of(64);
    header.extend(std::iter::repeat_n(' ', full - 10 - header.len() - 1));
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.bytes());
    bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    bytes
}

/// Training and held-out images from a folder in MNIST's or CIFAR-10's format, padded
/// with zeros until height and width are divisible by `multiple`.
pub fn images(folder: &PathBuf, multiple: usize) -> Outcome<[ImageSet; 2]> {
    use flowgrad::data::Split;
    let cifar = std::fs::read_dir(folder)
        .map_err(|e| format!("{}: {e}", folder.display()))?
        .filter_map(Result::ok)
        .any(|f| f.file_name().to_string_lossy().starts_with("data_batch"));
    let read = |split: Split| -> flowgrad::Result<ImageSet> {
        let set = match cifar {
            true => ImageSet::cifar10(folder, split)?,
            false => ImageSet::mnist(folder, split)?,
        };
        let [_, _, h, w] = set.shape;
        let (height, width) = (h.next_multiple_of(multiple), w.next_multiple_of(multiple));
        match (height, width) == (h, w) {
            true => Ok(set),
            false => set.padded(height, width),
        }
    };
    Ok([read(Split::Train)?, read(Split::Test)?])
}
