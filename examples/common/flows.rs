//! What the examples that train flows of images share: training, evaluation, pictures,
//! figures.

use std::path::Path;

use flowgrad::data::ImageSet;
use flowgrad::flow::{Batch, Context};
use flowgrad::models::ImageFlow;
use flowgrad::optim::{Adam, Optimizer, Schedule};
use flowgrad::params::Strict;
use flowgrad::{Gpu, Graph, Params, Program, Tensor};

use super::{Busy, CommonArgs, Images, Outcome, Report, Run, every, picture};

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
    let (model, params) = (setup.model, setup.params);
    let title = format!("{}: bits per dimension", setup.title);
    let mut run = Run::over(args, gpu, params, &title, &["bits_per_dim"])?;
    run.curve = Some(("bpd.png", 1));
    run.tell_figures = false;
    if let Some(file) = setup.log_prob {
        super::try_file(file)?;
    }
    let mut batches = args.batches(setup.train.len(), "the number of training images")?;

    // Labels that a conditional model does not know are found before anything else.
    if model.classes().is_some() {
        for set in [setup.train, setup.test] {
            model.check_classes(&set.labels(&(0..set.len()).collect::<Vec<_>>())?)?;
        }
    }
    let busy = Busy::new("building the training program");
    run.load_by(setup.load)?;
    if args.fresh() {
        let first = batches.batch(0);
        let labels = setup.train.labels(&first)?;
        let labels = model.classes().map(|_| labels.as_slice());
        let pixels = setup.train.pixels(&first)?;
        model.initialize(gpu, params, &pixels, labels, setup.dequantize)?;
    }

    let graph = Graph::new();
    let classes = setup.classes(&graph, args.batch);
    let x = graph.input("x", setup.shape(args.batch));
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

    let step = |[program]: &mut [Program; 1], step| {
        let items = batches.batch(step);
        let (x, labels) = (setup.train.pixels(&items)?, setup.train.labels(&items)?);
        program.set_scalars(&optimizer.inputs(step))?;
        let out = setup.run(program, Some(&x), &labels)?;
        if out.check_finite(&["the loss"]).is_err() {
            // Says which layer it was rather than that the loss is not finite.
            probe(gpu, setup, &x, &labels)?;
        }
        Ok(vec![out.scalar(0)?])
    };
    let mut log_prob = Vec::new();
    let judged = every(0, |_| {
        let test = evaluate(gpu, setup, setup.test, args.seed)?;
        let train_part = setup.train.clone().take(setup.test.len());
        let train = evaluate(gpu, setup, &train_part, args.seed)?;
        log_prob = test.log_prob;
        Ok(vec![
            ("test_bpd", test.bits_per_dim),
            ("train_bpd", train.bits_per_dim),
        ])
    });
    run.train_with(std::array::from_mut(&mut program), step, judged)?;

    let busy = Busy::new("drawing");
    if let Some(file) = setup.log_prob {
        super::write_file(file, &npy(&log_prob))?;
    }
    let roundtrip = pictures(args, gpu, setup)?;
    drop(busy);

    let mut table = run.report();
    table
        .row(
            "bits per dim",
            format!(
                "{:.4} on {} held-out images, {:.4} on training images (chance {:.4})",
                run.figure("test_bpd"),
                setup.test.len(),
                run.figure("train_bpd"),
                (model.bins() as f64).log2()
            ),
        )
        .row(
            "round trip",
            format!("{roundtrip:.1e} of the pixels' range at most"),
        )
        .figure("roundtrip_max_abs", f64::from(roundtrip));
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
