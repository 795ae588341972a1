//! A kernel of your own: write WGSL, implement `Op`, and shape checks, gradients,
//! planning and profiling come with it.
//!
//! The op is the table of squared distances between two sets of points. With its
//! gradient, given as graph nodes, points are pulled to a circle by their nearest
//! neighbours. `cargo run --release --example custom_op`

mod common;

use std::process::ExitCode;

use clap::Parser;
use common::{CommonArgs, Defaults, Outcome, Run, never, plot};
use flowgrad::graph::{Array, Feed, Lower, Op, Slot, Spec, Vjp, evaluate};
use flowgrad::optim::{Adam, Optimizer};
use flowgrad::params::Strict;
use flowgrad::{DType, Error, Graph, Init, Program, Result, Tensor};

/// `y[i, j] = sum over d of (a[i, d] - b[j, d])^2`, a `[n, d]`, b `[m, d]`.
#[derive(Debug)]
struct SquaredDistances;

/// The kernel. `#args` declares `args`, as immediates where the adapter has them;
/// `flat_index` undoes the folding of large grids.
const SHADER: &str = "
#import grid

struct Args {
    n: u32,
    m: u32,
    d: u32,
}
#args

@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, 64u);
    if (index >= args.n * args.m) {
        return;
    }
    let i = index / args.m;
    let j = index % args.m;
    var sum = 0.0;
    for (var d = 0u; d < args.d; d++) {
        let difference = a[i * args.d + d] - b[j * args.d + d];
        sum += difference * difference;
    }
    y[index] = sum;
}
";

impl Op for SquaredDistances {
    fn name(&self) -> &'static str {
        "squared_distances"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        if inputs.iter().any(|s| s.dtype != DType::F32) {
            return Err(Error::dtype(self.name(), "both inputs must be f32"));
        }
        match (inputs[0].shape.dims(), inputs[1].shape.dims()) {
            ([n, d], [m, e]) if d == e => Ok(vec![Spec::f32([*n, *m])]),
            (a, b) => Err(Error::shape(
                self.name(),
                format!("expected [n, d] and [m, d], got {a:?} and {b:?}"),
            )),
        }
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let (a, b) = (inputs[0], inputs[1]);
        let d = a.shape[1];
        Ok(vec![Array::from_fn([a.shape[0], b.shape[0]], |at| {
            (0..d)
                .map(|k| (a.at(&[at[0], k]) - b.at(&[at[1], k])).powi(2))
                .sum()
        })])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        let dy = cx.grad(0);
        let (a, b) = (cx.input(0).clone(), cx.input(1).clone());
        // da[i] = 2 (a[i] sum_j dy[i, j] - sum_j dy[i, j] b[j]), and b alike.
        if cx.needs(0) {
            let grad = a
                .mul(&dy.sum(&[1], true))
                .sub(&dy.matmul(&b))
                .mul_scalar(2.0);
            cx.set(0, grad);
        }
        if cx.needs(1) {
            let total = dy.sum(&[0], false).reshape([b.dim(0), 1]);
            let grad = b
                .mul(&total)
                .sub(&dy.matmul_with(&a, true, false))
                .mul_scalar(2.0);
            cx.set(1, grad);
        }
        Ok(())
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let (n, d) = (cx.input(0).shape[0], cx.input(0).shape[1]);
        let m = cx.input(1).shape[0];
        cx.kernel("squared_distances", SHADER)
            .arg("n", n)
            .arg("m", m)
            .arg("d", d)
            .read(Slot::In(0))
            .read(Slot::In(1))
            .write(Slot::Out(0))
            .flops(3 * n * m * d)
            .trips(d)
            .threads(n * m, 64)
    }
}

/// The table has the square of it.
const MAX_POINTS: usize = 4096;

fn squared_distances(a: &Tensor, b: &Tensor) -> Tensor {
    a.graph().push1(SquaredDistances, &[a, b])
}

/// Pulls random points to a circle with a kernel of our own.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    common: CommonArgs,
}

fn run(args: &CommonArgs) -> Outcome {
    let mut run = Run::start(args, "points on a circle", &["loss"])?;
    run.label = "points".into();
    args.batch_of(MAX_POINTS, "what the table of distances has room for")?;
    let (gpu, params) = (run.gpu.clone(), run.params.clone());
    let circle: Vec<f32> = (0..args.batch)
        .flat_map(|i| {
            let angle = i as f32 / args.batch as f32 * std::f32::consts::TAU;
            [angle.cos(), angle.sin()]
        })
        .collect();
    let points = params.add(
        "points",
        [args.batch, 2],
        Init::Normal {
            mean: 0.0,
            std: 0.5,
        },
    )?;
    run.load_by(|params, file| params.load(file, Strict::Yes).map(drop))?;

    // Chamfer distance: every point near the circle, every part of it near a point.
    let graph = Graph::new();
    let target = graph.constant([args.batch, 2], &circle);
    let table = squared_distances(&points.on(&graph), &target);
    let loss = table
        .min(&[1], false)
        .mean(&[], false)
        .add(&table.min(&[0], false).mean(&[], false));

    // The same gradient by the float64 reference, as the library's own tests do it.
    let grad = flowgrad::tape::backward(&loss, &[&points.on(&graph)])?.remove(0);
    let start = points.get()?;
    let lookup = |_: u64, _: usize| {
        Array::new(
            [args.batch, 2],
            start.iter().map(|v| f64::from(*v)).collect(),
        )
        .ok()
    };
    let expected = evaluate(
        &[&grad],
        &Feed {
            param: Some(&lookup),
            ..Default::default()
        },
    )?;
    let got = graph
        .compile_pure(&gpu, &params, &[&grad])?
        .run(&[])?
        .f32(0)?;
    let error = got
        .iter()
        .zip(&expected[0].data)
        .map(|(a, b)| (f64::from(*a) - b).abs())
        .fold(0.0, f64::max);

    let optimizer = Optimizer::new(
        &params,
        Adam {
            lr: f64::from(args.lr),
            ..Default::default()
        },
    )?;
    optimizer.minimize(&loss)?;
    let mut program = graph.compile(&gpu, &params, &[&loss])?;
    let feed = |program: &mut Program, step| Ok(program.set_scalars(&optimizer.inputs(step))?);
    run.train(&mut program, feed, never())?;
    let pairs = |v: &[f32]| {
        v.chunks_exact(2)
            .map(|p| (f64::from(p[0]), f64::from(p[1])))
            .collect::<Vec<_>>()
    };
    let end = points.get()?;
    plot::scatter(
        &args.out_file("points.png")?,
        "points before and after",
        &[("before", pairs(&start)), ("after", pairs(&end))],
    )?;
    let mut report = run.report();
    report
        .row(
            "gradient",
            format!("largest error against float64: {error:.1e}"),
        )
        .row(
            "loss",
            run.losses
                .last()
                .map_or("-".into(), |l| format!("{:.5}", l[0])),
        )
        .row("dispatches", program.plan())
        .figure("gradient_error", error);
    report.print(args);
    Ok(())
}

fn main() -> ExitCode {
    common::main(|| {
        let args: Args = common::parse(Defaults {
            name: "custom_op",
            steps: 200,
            batch: 64,
            lr: 0.03,
        });
        run(&args.common)
    })
}
