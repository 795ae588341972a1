//! What the two VQ-VAE examples share: training, evaluation, pictures, figures.

use flowgrad::data::{Batches, ImageSet};
use flowgrad::models::VqVae;
use flowgrad::nn::Mode;
use flowgrad::optim::{Adam, Optimizer};
use flowgrad::{Gpu, Graph, Params, Program};

use super::{
    Busy, CommonArgs, Figures, Images, Outcome, Report, Run, edits, every, picture, report, stopped,
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

/// What a VQ-VAE's example does beside training.
pub struct Setup {
    /// Whether the codebook starts from the first batch.
    pub k_means: bool,
    /// Whether edits of codes are drawn.
    pub edit: bool,
    pub title: &'static str,
}

/// Trains, evaluates, draws; what is to be reported.
pub fn run(
    args: &CommonArgs,
    data: &Digits,
    setup: &Setup,
    build: impl Fn(&Params) -> flowgrad::Result<VqVae>,
) -> Outcome<Report> {
    let mut run = Run::start(args, setup.title, &["loss", "mse", "perplexity"])?;
    run.curve = Some(("loss.png", 2));
    run.tell_figures = false;
    let (gpu, params) = (run.gpu.clone(), run.params.clone());
    let model = build(&params)?;
    let batch = args.batch_of(data.train.len(), "the number of training images")?;
    if setup.k_means && args.fresh() {
        enough_for_codes(&model, batch)?;
    }
    let mut batches = args.batches(data.train.len(), "the number of training images")?;
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
    if setup.k_means && args.fresh() {
        start_codebook(&gpu, &params, &model, data, &mut batches, args.seed)?;
    }
    let mut program = graph.compile(
        &gpu,
        &params,
        &[&out.loss, &out.mse, &out.quantized.perplexity],
    )?;
    drop(busy);

    let feed = |program: &mut Program, step| {
        let x = data.input(&data.train, &batches.batch(step))?;
        program.set_scalars(&optimizer.inputs(step))?;
        Ok(program.set_inputs(&[("x", (&x).into())])?)
    };
    let mut judge = None;
    let judged = every(0, |_| {
        let judge = match &mut judge {
            Some(judge) => judge,
            none => none.insert(Judge::new(&gpu, &params, &model, data)?),
        };
        judge.figures(data)
    });
    run.train(&mut program, feed, judged)?;
    if let Some(judge) = &judge {
        judge.draw(args)?;
        if setup.edit {
            edits::draw(args, &gpu, &params, &model, &judge.shown.0)?;
        }
    }

    let mut table = run.report();
    let codes_used = run.figure("codes_used") as u64;
    table
        .row(
            "test MSE",
            format!(
                "{:.5} (pixels 0..1, {} held-out images)",
                run.figure("test_mse"),
                data.test.len()
            ),
        )
        .row("perplexity", format!("{:.1}", run.figure("perplexity")))
        .row(
            "codes used",
            format!("{codes_used} of {}", model.quantizer.config().codes),
        )
        .figure("codes_used", codes_used);
    // Profiled runs train on, so this comes after everything was saved.
    if program.runs() > 0 && !stopped() {
        table.row("where the time goes", kernels(&mut program)?);
    }
    Ok(table)
}

/// The kernels that take longest.
fn kernels(program: &mut Program) -> Outcome<String> {
    let profile = program.profile(&[], 5)?;
    let total = profile.seconds();
    let row = |(kernel, n, s): (String, usize, f64)| {
        let share = format!("{:.0} %", 100.0 * s / total);
        vec![kernel, n.to_string(), report::seconds(s), share]
    };
    let rows: Vec<_> = profile.by_kernel().into_iter().take(8).map(row).collect();
    let head = ["kernel", "dispatches", "time", "share"];
    Ok(report::columns(&head, &rows))
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

/// What looks at held-out images.
struct Judge {
    program: Program,
    /// Images in a batch.
    batch: usize,
    image: [usize; 2],
    map: [usize; 2],
    codes: usize,
    /// The first images, what was made of them, and their codes.
    shown: (Vec<f32>, Vec<f32>, Vec<u32>),
}

impl Judge {
    fn new(gpu: &Gpu, params: &Params, model: &VqVae, data: &Digits) -> Outcome<Self> {
        let image = model.image_shape();
        // Batches of one size, so that one program serves all; the rest is repeated
        // images that are not counted.
        let batch = data.test.len().min(120);
        let graph = Graph::new();
        let x = graph.input("x", [batch, 1, image[0], image[1]]);
        let out = model.forward(&x, Mode::Eval);
        let outputs = [&out.reconstruction, &out.quantized.indices];
        Ok(Judge {
            program: graph.compile_pure(gpu, params, &outputs)?,
            batch,
            image,
            map: model.codes_shape(),
            codes: model.quantizer.config().codes,
            shown: Default::default(),
        })
    }

    fn figures(&mut self, data: &Digits) -> Outcome<Figures> {
        let [height, width] = self.image;
        let [rows, cols] = self.map;
        let (mut squares, mut counts) = (0.0f64, vec![0u64; self.codes]);
        let mut at = 0;
        while at < data.test.len() {
            let count = self.batch.min(data.test.len() - at);
            let indices: Vec<usize> = (0..self.batch).map(|i| at + i % count).collect();
            let x = data.input(&data.test, &indices)?;
            let result = self.program.run(&[("x", (&x).into())])?;
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
            if at == 0 {
                self.shown = (x, made, used);
            }
            at += count;
        }
        let total = (data.test.len() * rows * cols) as f64;
        let entropy: f64 = counts
            .iter()
            .map(|c| *c as f64 / total)
            .filter(|p| *p > 0.0)
            .map(|p| -p * p.ln())
            .sum();
        let mse = squares / (data.test.len() * height * width) as f64;
        let used = counts.iter().filter(|c| **c > 0).count();
        Ok(vec![
            ("test_mse", mse),
            ("perplexity", entropy.exp()),
            ("codes_used", used as f64),
        ])
    }

    fn draw(&self, args: &CommonArgs) -> Outcome {
        let [height, width] = self.image;
        let [rows, cols] = self.map;
        let (x, made, used) = &self.shown;
        let shown = self.batch.min(20);
        let pixels = |v: &[f32]| -> Vec<f32> {
            v[..shown * height * width]
                .iter()
                .map(|p| p + 0.5)
                .collect()
        };
        let (x, made) = (pixels(x), pixels(made));
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
        picture::save(&maps, &args.out_file("codes.png")?)
    }
}
