//! Quantisers side by side in one autoencoder, and the memory of a search in a large
//! codebook. Prints two tables; `cargo bench --bench quantizers`.
//!
//! The autoencoder is that of [`VqVae::digits`] on the shipped digits, each quantiser with
//! 64 codes, from the same weights and batches. `--steps N` and `--quick` make it shorter;
//! `--memory` leaves the training out, `--only WORDS` all quantisers with other names.

use std::path::Path;
use std::time::Instant;

use flowgrad::data::{ImageSet, Split};
use flowgrad::models::VqVae;
use flowgrad::nn::{Conv2d, Layer, Mode};
use flowgrad::ops::ConvParams;
use flowgrad::optim::{Adam, Optimizer};
use flowgrad::quantize::{
    Estimator, Fsq, GumbelConfig, GumbelQuantizer, Lfq, Quantizer, SimVq, VectorQuantizer,
    VqConfig, perplexity, usage_counts,
};
use flowgrad::{Gpu, Graph, Init, Params, Result, Tensor, Value};

const CODES: usize = 64;
const WIDTH: usize = 16;
const BATCH: usize = 64;

fn main() {
    // `cargo test --benches` asks only whether it starts; words choose benches by name.
    let first = std::env::args().nth(1);
    let named = first.is_some_and(|a| !a.starts_with('-') && !"quantizers".contains(a.as_str()));
    if named || std::env::args().any(|a| a == "--test") {
        return;
    }
    if let Err(error) = run() {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

fn run() -> Result<()> {
    let given: Vec<String> = std::env::args().collect();
    let flag = |name: &str| given.iter().position(|a| a == name);
    let quick = flag("--quick").is_some();
    let steps = flag("--steps").and_then(|i| given.get(i + 1)?.parse().ok());
    let steps = steps.unwrap_or(if quick { 20 } else { 300 });
    let gpu = Gpu::new()?;
    println!("{}", gpu.summary());
    memory(&gpu, quick)?;
    if flag("--memory").is_some() {
        return Ok(());
    }
    println!("\n{steps} steps of {BATCH} digits, {CODES} codes of width {WIDTH} on a 4x4 grid");
    println!("| quantiser | test MSE | perplexity | codes in use |");
    println!("|---|---|---|---|");
    let only = flag("--only").and_then(|i| given.get(i + 1));
    let chosen = |kind: &Kind| only.is_none_or(|words| kind.name.contains(words.as_str()));
    for kind in KINDS.into_iter().filter(chosen) {
        let [mse, perplexity, used] = train(&gpu, kind, steps as u64)?;
        println!("| {} | {mse:.4} | {perplexity:.1} | {used:.0} |", kind.name);
    }
    Ok(())
}

/// The nearest of many codes: what a program needs beside its input and its result.
fn memory(gpu: &Gpu, quick: bool) -> Result<()> {
    println!(
        "| vectors | codes | width | input and codes, MiB | all else, MiB | N x K would be, MiB | s |"
    );
    println!("|---|---|---|---|---|---|---|");
    let counts: &[usize] = if quick {
        &[1 << 14]
    } else {
        &[1 << 16, 1_000_000]
    };
    for n in counts {
        let (k, d) = (16_384, 16);
        let params = Params::new(1);
        let normal = Init::Normal {
            mean: 0.0,
            std: 1.0,
        };
        let codes = params.add_state("codes", [k, d], normal)?;
        let graph = Graph::new();
        let nearest = graph
            .input("x", [*n, d])
            .codebook_nearest(&codes.on(&graph));
        let used = usage_counts(&nearest, k);
        let mut program = graph.compile_pure(gpu, &params, &[&used])?;
        let x: Vec<f32> = (0..n * d)
            .map(|i| (i as f32 * 0.618).fract() - 0.5)
            .collect();
        program.set_inputs(&[("x", Value::F32(&x))])?;
        let start = Instant::now();
        program.step(&[])?;
        gpu.wait()?;
        let seconds = start.elapsed().as_secs_f64();
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let given = 4 * ((n + k) * d) as u64;
        println!(
            "| {n} | {k} | {d} | {:.1} | {:.1} | {:.0} | {seconds:.1} |",
            mib(given),
            mib(program.plan().memory().temporary),
            mib(4 * (n * k) as u64),
        );
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq)]
enum Method {
    Gradient,
    Ema,
    SimVq,
    Fsq,
    Lfq,
    Gumbel,
}

/// A row of the table.
#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    method: Method,
    k_means: bool,
    reset: bool,
    rotation: bool,
}

const fn kind(
    name: &'static str,
    method: Method,
    k_means: bool,
    reset: bool,
    rotation: bool,
) -> Kind {
    Kind {
        name,
        method,
        k_means,
        reset,
        rotation,
    }
}

const KINDS: [Kind; 13] = [
    kind("gradient", Method::Gradient, false, false, false),
    kind("gradient, k-means", Method::Gradient, true, false, false),
    kind("gradient, reset", Method::Gradient, false, true, false),
    kind(
        "gradient, k-means, reset",
        Method::Gradient,
        true,
        true,
        false,
    ),
    kind("moving averages", Method::Ema, false, false, false),
    kind("moving averages, k-means", Method::Ema, true, false, false),
    kind("moving averages, reset", Method::Ema, false, true, false),
    kind(
        "moving averages, k-means, reset",
        Method::Ema,
        true,
        true,
        false,
    ),
    kind(
        "the same by the rotation trick",
        Method::Ema,
        true,
        true,
        true,
    ),
    kind("SimVQ", Method::SimVq, false, false, true),
    kind("FSQ, levels 4, 4, 4", Method::Fsq, false, false, false),
    kind("LFQ, 6 bits", Method::Lfq, false, false, false),
    kind("Gumbel-softmax", Method::Gumbel, false, false, false),
];

/// The autoencoder with a quantiser between, through 1x1 convolutions where the quantiser
/// has another width.
struct Model {
    vqvae: VqVae,
    down: Option<Conv2d>,
    up: Option<Conv2d>,
    vq: Option<VectorQuantizer>,
    gumbel: Option<GumbelQuantizer>,
    other: Option<Box<dyn Quantizer>>,
}

impl Model {
    fn new(params: &Params, kind: Kind) -> Result<Self> {
        let vqvae = VqVae::digits(params)?;
        let scope = params.scope("compared");
        let width = match kind.method {
            Method::Fsq => 3,
            Method::Lfq => 6,
            _ => WIDTH,
        };
        let conv =
            |name: &str, io| Conv2d::new(&params.scope(name), io, [1; 2], ConvParams::default());
        let (down, up) = match width == WIDTH {
            true => (None, None),
            false => (
                Some(conv("down", [WIDTH, width])?),
                Some(conv("up", [width, WIDTH])?),
            ),
        };
        let mut config = VqConfig::new(CODES, WIDTH);
        config.init = Some(Init::Uniform {
            lo: -0.05,
            hi: 0.05,
        });
        if kind.rotation {
            config.estimator = Estimator::Rotation;
        }
        if kind.method == Method::Ema {
            config = config.moving_average();
        }
        if kind.reset {
            config.reset_below = Some(if kind.method == Method::Ema { 1.0 } else { 0.7 });
        }
        let (mut vq, mut gumbel, mut other): (_, _, Option<Box<dyn Quantizer>>) =
            (None, None, None);
        match kind.method {
            Method::Gradient | Method::Ema => vq = Some(VectorQuantizer::new(&scope, config)?),
            Method::Gumbel => {
                gumbel = Some(GumbelQuantizer::new(
                    &scope,
                    GumbelConfig::new(WIDTH, CODES, WIDTH),
                )?);
            }
            Method::SimVq => other = Some(Box::new(SimVq::new(&scope, CODES, WIDTH)?)),
            Method::Fsq => other = Some(Box::new(Fsq::new(&[4, 4, 4])?)),
            Method::Lfq => other = Some(Box::new(Lfq::new(6)?)),
        }
        Ok(Model {
            vqvae,
            down,
            up,
            vq,
            gumbel,
            other,
        })
    }

    /// Latents, indices, squared error and loss.
    fn forward(&self, x: &Tensor, mode: Mode) -> [Tensor; 4] {
        let mut latents = self.vqvae.encode(x, mode);
        if let Some(down) = &self.down {
            latents = down.forward(&latents, mode);
        }
        let out = match (&self.vq, &self.gumbel, &self.other) {
            (Some(vq), _, _) => vq.forward(&latents, mode),
            (_, Some(gumbel), _) => gumbel.forward(&latents, mode),
            (_, _, Some(other)) => other.forward(&latents, mode),
            _ => unreachable!("a model has a quantiser"),
        };
        let mut quantized = out.quantized;
        if let Some(up) = &self.up {
            quantized = up.forward(&quantized, mode);
        }
        let image = self.vqvae.decode(&quantized, mode);
        let mse = image.sub(x).square().mean(&[], false);
        let loss = mse.mul_scalar(1.0 / 0.14).add(&out.loss);
        [latents, out.indices, mse, loss]
    }
}

/// Trains and gives the squared error, perplexity and codes in use on held-out digits.
fn train(gpu: &Gpu, kind: Kind, steps: u64) -> Result<[f32; 3]> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data");
    let set = |split| ImageSet::mnist(&folder, split);
    let pixels = |set: &ImageSet, at: &[usize]| -> Result<Vec<f32>> {
        Ok(set.pixels(at)?.iter().map(|v| v / 16.0 - 0.5).collect())
    };
    let (data, held_out) = (set(Split::Train)?, set(Split::Test)?);
    let batch = |step: u64| -> Vec<usize> {
        let first = step as usize * BATCH;
        (first..first + BATCH).map(|i| i * 7 % data.len()).collect()
    };
    let params = Params::new(7);
    let model = Model::new(&params, kind)?;
    if let (Some(vq), true) = (&model.vq, kind.k_means) {
        let graph = Graph::new();
        let [latents, ..] = model.forward(&graph.input("x", [BATCH, 1, 8, 8]), Mode::Eval);
        let mut program = graph.compile_pure(gpu, &params, &[&vq.rows(&latents)])?;
        let first = pixels(&data, &batch(0))?;
        let rows = program.run(&[("x", Value::F32(&first))])?.f32(0)?;
        vq.start_from(&rows, 1)?;
    }
    let graph = Graph::new();
    let [.., loss] = model.forward(&graph.input("x", [BATCH, 1, 8, 8]), Mode::Train);
    let optimizer = Optimizer::new(
        &params,
        Adam {
            lr: 2e-3,
            ..Adam::default()
        },
    )?;
    optimizer.minimize(&loss)?;
    let mut program = graph.compile(gpu, &params, &[&loss])?;
    // Codebooks by gradient are reset between steps, in the first half of them: the decoder
    // has to learn what new codes mean.
    let mut reset = match &model.vq {
        Some(vq) if kind.reset && kind.method == Method::Gradient => {
            let graph = Graph::new();
            let [latents, ..] = model.forward(&graph.input("x", [BATCH, 1, 8, 8]), Mode::Eval);
            Some(graph.compile(gpu, &params, &[&vq.reset_unused(&latents)])?)
        }
        _ => None,
    };
    for step in 0..steps {
        let x = pixels(&data, &batch(step))?;
        program.set_scalars(&optimizer.inputs(step))?;
        if let Some(gumbel) = &model.gumbel {
            program.set_scalars(&gumbel.inputs(step))?;
        }
        program.step(&[("x", Value::F32(&x))])?;
        let due = (step + 1) % 20 == 0 && 2 * step < steps;
        if let (Some(reset), true) = (&mut reset, due) {
            reset.run(&[("x", Value::F32(&x))])?;
        }
    }
    let graph = Graph::new();
    let n = held_out.len();
    let [_, indices, mse, _] = model.forward(&graph.input("x", [n, 1, 8, 8]), Mode::Eval);
    let counts = usage_counts(&indices, CODES);
    let used = counts.zeros_like().less(&counts).sum(&[], false);
    let wanted = [&mse, &perplexity(&counts, 1e-10), &used];
    let mut program = graph.compile_pure(gpu, &params, &wanted)?;
    let all: Vec<usize> = (0..n).collect();
    let out = program.run(&[("x", Value::F32(&pixels(&held_out, &all)?))])?;
    Ok([out.scalar(0)?, out.scalar(1)?, out.scalar(2)?])
}
