//! Measuring an adapter: what it can do at most, and which of a kernel's variants
//! suits it. Nothing here runs unless it is called. It must not know models.

mod roof;

use std::time::{Duration, Instant};

use crate::device::Choices;
use crate::exec::arena_map;
use crate::gpu::Gpu;
use crate::ops::{self, ConvParams};
use crate::plan::{Plan, PlanOptions};
use crate::{Graph, Init, Params, Program, Result, Tensor};

/// The name of what the table chooses, in [`Timing::variant`].
pub const TABLE: &str = "table";

/// A variant must beat the table's by this much to be taken instead.
const WORTH: f64 = 0.95;
/// How long a variant is measured at least.
const SPEND: Duration = Duration::from_millis(40);

/// What one variant took for the problems of a shape class.
#[derive(Debug, Clone)]
pub struct Timing {
    /// The kernel, as in [`ops::variants`].
    pub kernel: &'static str,
    /// The shape class.
    pub shape: &'static str,
    /// The variant; [`TABLE`] for what is taken without any tuning.
    pub variant: &'static str,
    /// Seconds of all problems of the class together.
    pub seconds: f64,
    /// Whether it was taken; where none is, the table decides.
    pub taken: bool,
}

/// What was measured, and what follows from it.
#[derive(Debug, Clone, Default)]
pub struct Tuning {
    /// Kernels, shape classes and variants in order, the table's first. Variants that
    /// dispatch the same as another one, or cannot do a class's problems, are left out.
    pub timings: Vec<Timing>,
    /// Where a variant is worth more than the table's.
    pub choices: Choices,
}

/// Measures every variant of every kernel that has some, on `gpu`. Takes a minute or
/// two where shaders compile slowly. Errors: whatever the device reports.
pub fn tune(gpu: &Gpu) -> Result<Tuning> {
    tune_with(gpu, |_, _, _| ())
}

/// Like [`tune`]; `progress` is told the kernel and shape class before each is measured,
/// and how many are done out of how many.
pub fn tune_with(gpu: &Gpu, mut progress: impl FnMut(&str, &str, [usize; 2])) -> Result<Tuning> {
    let classes = classes();
    let mut tuning = Tuning::default();
    for (i, class) in classes.iter().enumerate() {
        progress(class.kernel, class.shape, [i, classes.len()]);
        class.measure(gpu, &mut tuning)?;
    }
    Ok(tuning)
}

/// Measures the variants of one kernel for one shape class; nothing where there is no
/// such class. Errors: whatever the device reports.
pub fn tune_class(gpu: &Gpu, kernel: &str, shape: &str) -> Result<Tuning> {
    let mut tuning = Tuning::default();
    for class in classes() {
        if class.kernel == kernel && class.shape == shape {
            class.measure(gpu, &mut tuning)?;
        }
    }
    Ok(tuning)
}

impl std::fmt::Display for Tuning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{:<8} {:<10} {:<10} {:>10}",
            "kernel", "shape", "variant", "ms"
        )?;
        for t in &self.timings {
            let mark = if t.taken { "  taken" } else { "" };
            let ms = 1e3 * t.seconds;
            writeln!(
                f,
                "{:<8} {:<10} {:<10} {ms:>10.3}{mark}",
                t.kernel, t.shape, t.variant
            )?;
        }
        let taken = self.choices.iter().count();
        write!(f, "{taken} choices differ from the table's")
    }
}

/// Problems for which one variant is chosen.
struct Class {
    kernel: &'static str,
    shape: &'static str,
    problems: Vec<Problem>,
}

/// Shapes of the inputs, and what is computed of them.
struct Problem {
    inputs: Vec<Vec<usize>>,
    build: Box<Build>,
}

type Build = dyn Fn(&[Tensor]) -> Tensor;

/// Plans with the parameters that are their inputs.
type Plans = Vec<(Plan, Params)>;

/// Shapes from real models for every shape class.
fn classes() -> Vec<Class> {
    let products = [
        ("vector", vec![[1, 1000, 512]]),
        ("thin", vec![[16, 1000, 512], [4096, 12, 12]]),
        ("small", vec![[64, 64, 128], [128, 96, 64]]),
        ("medium", vec![[256, 256, 256], [1024, 64, 576]]),
        ("large", vec![[512, 512, 512], [1024, 512, 512]]),
    ];
    let products = products.into_iter().map(|(shape, extents)| Class {
        kernel: "matmul",
        shape,
        problems: extents.into_iter().map(product).collect(),
    });
    let convolutions: [(_, Vec<Convolution>); 5] = [
        ("depthwise", vec![([4, 64, 28, 28], 64, 3, 64)]),
        ("thin", vec![([4, 64, 16, 16], 12, 3, 1)]),
        ("small", vec![([4, 16, 8, 8], 32, 3, 1)]),
        (
            "medium",
            vec![([2, 64, 28, 28], 64, 3, 1), ([4, 128, 8, 8], 256, 1, 1)],
        ),
        ("large", vec![([8, 64, 32, 32], 64, 3, 1)]),
    ];
    let convolutions = convolutions.into_iter().map(|(shape, problems)| Class {
        kernel: "conv2d",
        shape,
        problems: problems.into_iter().map(convolution).collect(),
    });
    products.chain(convolutions).collect()
}

fn product([m, n, k]: [usize; 3]) -> Problem {
    Problem {
        inputs: vec![vec![m, k], vec![k, n]],
        build: Box::new(|x| x[0].matmul(&x[1])),
    }
}

/// Input, output channels, extent of the kernel, groups.
type Convolution = ([usize; 4], usize, usize, usize);

fn convolution((x, out, kernel, groups): Convolution) -> Problem {
    let params = ConvParams {
        padding: [kernel / 2; 4],
        groups,
        ..ConvParams::default()
    };
    Problem {
        inputs: vec![x.to_vec(), vec![out, x[1] / groups, kernel, kernel]],
        build: Box::new(move |t| t[0].conv2d(&t[1], None, &params)),
    }
}

impl Class {
    /// Measures the variants and adds what came out to `tuning`.
    fn measure(&self, gpu: &Gpu, tuning: &mut Tuning) -> Result<()> {
        let mut measured: Vec<Vec<String>> = Vec::new();
        let mut timings: Vec<Timing> = Vec::new();
        let all = ops::variants(self.kernel).into_iter().map(|v| (v, Some(v)));
        for (name, variant) in [(TABLE, None)].into_iter().chain(all) {
            let plans = self.plans(gpu, variant)?;
            let kernels = kernels(&plans);
            // The table's own, or a variant that leaves these problems to it.
            if measured.contains(&kernels) {
                continue;
            }
            let mut seconds = 0.0;
            for (plan, params) in plans {
                seconds += time(gpu, plan, &params)?;
            }
            measured.push(kernels);
            timings.push(Timing {
                kernel: self.kernel,
                shape: self.shape,
                variant: name,
                seconds,
                taken: false,
            });
        }
        let limit = timings.first().map_or(0.0, |table| table.seconds * WORTH);
        let best = timings
            .iter_mut()
            .min_by(|a, b| a.seconds.total_cmp(&b.seconds));
        if let Some(best) = best.filter(|b| b.seconds < limit) {
            best.taken = true;
            tuning.choices.set(self.kernel, self.shape, best.variant);
        }
        tuning.timings.extend(timings);
        Ok(())
    }

    /// Plans of all problems with a variant, or by the table alone.
    fn plans(&self, gpu: &Gpu, variant: Option<&str>) -> Result<Plans> {
        let mut profile = gpu.profile().clone();
        profile.choices = Choices::default();
        if let Some(variant) = variant {
            profile.choices.set(self.kernel, self.shape, variant);
        }
        let plan = |problem: &Problem| {
            let params = Params::new(1);
            let graph = Graph::new();
            let mut inputs = Vec::new();
            for (i, shape) in problem.inputs.iter().enumerate() {
                let normal = Init::Normal {
                    mean: 0.0,
                    std: 1.0,
                };
                let x = params.add_state(&format!("x{i}"), shape.as_slice(), normal)?;
                inputs.push(x.on(&graph));
            }
            let y = (problem.build)(&inputs);
            let options = PlanOptions::default();
            let plan = Plan::new(&graph, &[&y], &[arena_map(&params)], &profile, &options)?;
            Ok((plan, params))
        };
        self.problems.iter().map(plan).collect()
    }
}

/// Which kernels plans dispatch: equal ones need not be measured twice.
fn kernels(plans: &[(Plan, Params)]) -> Vec<String> {
    let steps = plans.iter().flat_map(|(plan, _)| &plan.steps);
    steps
        .map(|s| format!("{} {} {:?}", s.kernel, s.variant, s.grid))
        .collect()
}

/// The least seconds of a run.
fn time(gpu: &Gpu, plan: Plan, params: &Params) -> Result<f64> {
    let mut program = Program::new(gpu, plan, &[params])?;
    program.step(&[])?;
    gpu.wait()?;
    let mut least = f64::INFINITY;
    let begin = Instant::now();
    while least.is_infinite() || begin.elapsed() < SPEND {
        let start = Instant::now();
        program.step(&[])?;
        gpu.wait()?;
        least = least.min(start.elapsed().as_secs_f64());
    }
    Ok(least)
}
