//! Four densities of the plane learnt by three kinds of flow, drawn side by side.
//!
//! `cargo run --release --example density2d` writes `out/density2d/density2d.png`.

mod common;

use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use common::{
    Busy, CommonArgs, Defaults, Images, Losses, Outcome, Report, Run, never, picture, plot, report,
    stopped,
};
use flowgrad::data::Plane;
use flowgrad::flow::{Context, Flow};
use flowgrad::models::{VectorCoupling, VectorFlowConfig, vector_flow};
use flowgrad::ops::SplineParams;
use flowgrad::optim::{Adam, Optimizer, Schedule};
use flowgrad::{Gpu, Graph, Params, Program};
use image::RgbImage;

/// Learns two moons, a checkerboard, rings and a pinwheel with spline, RealNVP and NICE
/// flows, and draws density and samples of each in one picture.
///
/// Every flow trains on the same 16,384 points of a density, in shuffled batches, by Adam
/// with a cosine schedule; 4,096 further points are held out. The loss is the mean
/// negative log-likelihood in nats. Weights are saved and loaded for one density and one
/// flow at a time (`--data`, `--model`), named as `models::vector_flow` says. Column
/// `data_model` of the CSV holds that flow's loss before update `n` in row `n` (from 0).
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    common: CommonArgs,
    /// Only this density
    #[arg(long, value_enum)]
    data: Option<Data>,
    /// Only this kind of flow
    #[arg(long, value_enum)]
    model: Option<Model>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Data {
    TwoMoons,
    Checkerboard,
    Rings,
    Pinwheel,
}

#[derive(Clone, Copy, ValueEnum)]
enum Model {
    Spline,
    Realnvp,
    Nice,
}

impl Data {
    fn plane(self) -> Plane {
        match self {
            Data::TwoMoons => Plane::TwoMoons,
            Data::Checkerboard => Plane::Checkerboard,
            Data::Rings => Plane::Rings,
            Data::Pinwheel => Plane::Pinwheel,
        }
    }
}

impl Model {
    fn name(self) -> &'static str {
        match self {
            Model::Spline => "spline",
            Model::Realnvp => "realnvp",
            Model::Nice => "nice",
        }
    }

    fn config(self) -> VectorFlowConfig {
        let (coupling, layers) = match self {
            Model::Spline => {
                let spline = SplineParams {
                    bins: 16,
                    bound: 4.0,
                };
                (VectorCoupling::Spline(spline), 6)
            }
            Model::Realnvp => (VectorCoupling::Affine { clamp: 2.0 }, 12),
            Model::Nice => (VectorCoupling::Additive, 8),
        };
        VectorFlowConfig {
            dims: 2,
            coupling,
            layers,
            hidden: vec![64, 64],
        }
    }
}

const TRAIN: usize = 16_384;
const TEST: usize = 4096;
/// Densities are summed over squares of this side ..
const CELL: f64 = 1.0 / 32.0;
/// .. of which so many lie along each side of the plane's part that is looked at,
const CELLS: usize = 384;
/// and so many pixels (of 2 x 2 cells) along each side of a panel in its middle.
const PANEL: usize = 128;

/// What one flow made of one density.
struct Learnt {
    nll: f64,
    integral: f64,
    /// The density at every cell.
    density: Vec<f32>,
    /// Points `[TEST, 2]`.
    samples: Vec<f32>,
    losses: Vec<f32>,
    parameters: usize,
}

fn main() -> ExitCode {
    common::main(|| {
        let args: Args = common::parse(Defaults {
            name: "density2d",
            steps: 400,
            batch: 256,
            lr: 3e-3,
        });
        run(&args)
    })
}

fn run(args: &Args) -> Outcome {
    let start = Instant::now();
    let common = &args.common;
    let of_one = [&common.save, &common.load, &common.resume];
    if (of_one.iter().any(|file| file.is_some()) || common.checkpoint_every.is_some())
        && (args.data.is_none() || args.model.is_none())
    {
        return Err(
            "--save, --load, --resume and --checkpoint-every need one --data and one --model"
                .into(),
        );
    }
    common.try_paths()?;
    common.batch_of(TRAIN, "the number of training points")?;
    let gpu = common.gpu()?;
    let all = [Model::Spline, Model::Realnvp, Model::Nice];
    let models: Vec<Model> = match args.model {
        Some(model) => vec![model],
        None => all.to_vec(),
    };
    let planes: Vec<Plane> = match args.data {
        Some(data) => vec![data.plane()],
        None => Plane::ALL.to_vec(),
    };
    let mut table = Report::new();
    table.row("adapter", gpu.summary());
    let mut rows = Vec::new();
    let mut panels = Vec::new();
    let (mut names, mut curves) = (Vec::new(), Vec::new());
    let mut training = 0.0;
    for plane in &planes {
        let test = plane.sample(TEST, common.seed.wrapping_add(1));
        panels.push(scatter(&test));
        for model in &models {
            if stopped() {
                // The picture stays whole, with empty places.
                panels.extend([blank(), blank()]);
                continue;
            }
            let name = format!("{}_{}", plane.name(), model.name());
            let (learnt, seconds) = learn(&gpu, common, *plane, *model, &name)?;
            training += seconds;
            panels.push(heat(&learnt.density));
            panels.push(scatter(&learnt.samples));
            table
                .figure(&format!("{name}_nll"), learnt.nll)
                .figure(&format!("{name}_integral"), learnt.integral);
            rows.push(vec![
                plane.name().into(),
                model.name().into(),
                report::count(learnt.parameters as u64),
                format!("{:.4}", learnt.nll),
                format!("{:.4}", learnt.integral),
            ]);
            names.push(name);
            curves.push(learnt.losses);
        }
    }
    let columns: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut losses = Losses::new(&columns);
    for step in 0..curves.iter().map(Vec::len).max().unwrap_or(0) {
        // Nothing where a flow was stopped early.
        let value = |c: &Vec<f32>| c.get(step).copied().unwrap_or(f32::NAN);
        let values: Vec<f32> = curves.iter().map(value).collect();
        losses.push(step, &values);
    }
    if let Some(file) = &common.losses {
        losses.write(file)?;
    }
    if losses.len() > 1 {
        let shown: Vec<_> = losses.all().into_iter().take(models.len()).collect();
        plot::losses(&common.out_file("loss.png")?, planes[0].name(), &shown)?;
    }
    let file = common.out_file("density2d.png")?;
    picture::save(&draw(&panels, planes.len(), &models)?, &file)?;

    let head = ["density", "flow", "parameters", "held-out nats", "integral"];
    table
        .row("learnt", report::columns(&head, &rows))
        .row("picture", file.display());
    let steps: usize = curves.iter().map(Vec::len).sum();
    let last = curves.last().map_or(0, Vec::len);
    let rate = if steps > 0 {
        steps as f64 / training
    } else {
        0.0
    };
    table
        .steps(last, common.steps)
        .figure("steps_per_second", rate)
        .figure("seconds", start.elapsed().as_secs_f64())
        .figure("adapter", gpu.name());
    table.print(common);
    Ok(())
}

/// Trains one flow on one density; what it learnt, and the seconds of training.
fn learn(
    gpu: &Gpu,
    args: &CommonArgs,
    plane: Plane,
    model: Model,
    name: &str,
) -> Outcome<(Learnt, f64)> {
    let params = Params::new(args.seed);
    let flow = vector_flow(&params, &model.config())?;
    let (losses, seconds) = train(gpu, args, plane, &params, &flow, name)?;

    let _busy = Busy::new("drawing");
    // One program tells the density of points, and draws as many samples.
    let graph = Graph::new();
    let cx = Context::eval();
    let log_prob = flow.log_prob(&graph.input("x", [TEST, 2]), &cx);
    let samples = flow.sample(&graph, TEST, 1.0, &cx);
    let mut density = graph.compile_pure(gpu, &params, &[&log_prob])?;
    let test = plane.sample(TEST, args.seed.wrapping_add(1));
    let out = density.run(&[("x", (&test).into())])?;
    out.check_finite(&["the log-density of held-out points"])?;
    let nll = -out.f32(0)?.iter().map(|v| f64::from(*v)).sum::<f64>() / TEST as f64;
    let centre = |i: usize| ((i as f64 + 0.5 - CELLS as f64 / 2.0) * CELL) as f32;
    let points: Vec<f32> = (0..CELLS * CELLS)
        .flat_map(|i| [centre(i % CELLS), centre(i / CELLS)])
        .collect();
    let mut cells = Vec::with_capacity(CELLS * CELLS);
    for part in points.chunks(2 * TEST) {
        let out = density.run(&[("x", part.into())])?;
        cells.extend(out.f32(0)?.iter().map(|v| v.exp()));
    }
    let integral = cells.iter().map(|v| f64::from(*v)).sum::<f64>() * CELL * CELL;
    let mut sampler = graph.compile_pure(gpu, &params, &[&samples])?;
    sampler.set_random_state(args.seed, 0);
    let out = sampler.run(&[])?;
    out.check_finite(&["the samples"])?;
    let learnt = Learnt {
        nll,
        integral,
        density: cells,
        samples: out.f32(0)?,
        losses,
        parameters: params.count(),
    };
    Ok((learnt, seconds))
}

/// Trains, and writes what `--save` asks for; losses and seconds.
fn train(
    gpu: &Gpu,
    args: &CommonArgs,
    plane: Plane,
    params: &Params,
    flow: &Flow,
    name: &str,
) -> Outcome<(Vec<f32>, f64)> {
    // All flows are written into one CSV, one picture.
    let own = CommonArgs {
        losses: None,
        ..args.clone()
    };
    let mut run = Run::over(&own, gpu, params, name, &[name])?;
    run.label = name.into();
    (run.curve, run.keep_weights) = (None, false);
    let points = plane.sample(TRAIN, args.seed);
    let busy = Busy::new("building the training program");
    let mut batches = args.batches(TRAIN, "the number of training points")?;
    let graph = Graph::new();
    let log_prob = flow.log_prob(&graph.input("x", [args.batch, 2]), &Context::train());
    let loss = log_prob.mean(&[], false).neg();
    let rule = Adam {
        lr: f64::from(args.lr),
        ..Default::default()
    };
    let schedule = Schedule::cosine(args.steps as u64, 0.01);
    let optimizer = Optimizer::new(params, rule)?
        .schedule(schedule)
        .clip_grad_norm(5.0);
    optimizer.minimize(&loss)?;
    let mut program = graph.compile(gpu, params, &[&loss])?;
    drop(busy);
    let feed = |program: &mut Program, step| {
        let items = batches.batch(step);
        let x = items
            .iter()
            .flat_map(|i| [points[2 * i], points[2 * i + 1]]);
        program.set_scalars(&optimizer.inputs(step))?;
        Ok(program.set_inputs(&[("x", (&x.collect::<Vec<_>>()).into())])?)
    };
    run.train(&mut program, feed, never())?;
    let losses = run
        .losses
        .series(0)
        .iter()
        .map(|(_, v)| *v as f32)
        .collect();
    Ok((losses, run.seconds()))
}

/// An RGB panel `[3, PANEL, PANEL]`.
type Panel = Vec<f32>;

fn blank() -> Panel {
    vec![1.0; 3 * PANEL * PANEL]
}

/// Points as dots.
fn scatter(points: &[f32]) -> Panel {
    let mut panel = blank();
    let pixel = |v: f32| (f64::from(v) / (2.0 * CELL) + PANEL as f64 / 2.0).floor();
    for point in points.chunks_exact(2) {
        let (x, y) = (pixel(point[0]), PANEL as f64 - 1.0 - pixel(point[1]));
        if (0.0..PANEL as f64).contains(&x) && (0.0..PANEL as f64).contains(&y) {
            let at = y as usize * PANEL + x as usize;
            for (c, ink) in [0.1, 0.3, 0.65].into_iter().enumerate() {
                let old = &mut panel[c * PANEL * PANEL + at];
                *old = 0.45 * *old + 0.55 * ink;
            }
        }
    }
    panel
}

/// A density as colours from dark (none) to bright (its 99.5th percentile and above).
fn heat(density: &[f32]) -> Panel {
    let margin = (CELLS - 2 * PANEL) / 2;
    let mean: Vec<f32> = (0..PANEL * PANEL)
        .map(|i| {
            let (row, column) = (PANEL - 1 - i / PANEL, i % PANEL);
            let cell = |dy: usize, dx: usize| {
                density[(margin + 2 * row + dy) * CELLS + margin + 2 * column + dx]
            };
            0.25 * (cell(0, 0) + cell(0, 1) + cell(1, 0) + cell(1, 1))
        })
        .collect();
    let mut sorted = mean.clone();
    sorted.sort_by(f32::total_cmp);
    let top = sorted[sorted.len() * 995 / 1000].max(1e-9);
    let mut panel = vec![0.0; 3 * PANEL * PANEL];
    for (i, v) in mean.iter().enumerate() {
        // The square root shows thin tails, too.
        for (c, part) in shade((v / top).clamp(0.0, 1.0).sqrt())
            .into_iter()
            .enumerate()
        {
            panel[c * PANEL * PANEL + i] = part;
        }
    }
    panel
}

/// Dark blue over purple and orange to pale yellow.
fn shade(v: f32) -> [f32; 3] {
    const STOPS: [[f32; 3]; 5] = [
        [0.02, 0.02, 0.14],
        [0.34, 0.06, 0.43],
        [0.73, 0.21, 0.33],
        [0.98, 0.55, 0.04],
        [0.99, 1.0, 0.75],
    ];
    let at = v * (STOPS.len() - 1) as f32;
    let i = (at as usize).min(STOPS.len() - 2);
    let part = at - i as f32;
    std::array::from_fn(|c| STOPS[i][c] + part * (STOPS[i + 1][c] - STOPS[i][c]))
}

/// One row for each density: held-out points, then density and samples of every flow.
fn draw(panels: &[Panel], rows: usize, models: &[Model]) -> Outcome<RgbImage> {
    let data: Vec<f32> = panels.concat();
    let images = Images::new(&data, [panels.len(), 3, PANEL, PANEL])?;
    let grid = picture::grid(&images, rows, panels.len() / rows, 1);
    let flows: Vec<String> = models
        .iter()
        .map(|m| format!("{} density, samples", m.name()))
        .collect();
    plot::captioned(&grid, &format!("data | {}", flows.join(" | ")))
}
