//! Shows the adapters of this machine and what flowgrad would do with them, and
//! compares every kernel family with its float64 reference.

mod common;

use std::collections::HashMap;
use std::process::ExitCode;

use clap::Parser;
use flowgrad::device::DeviceProfile;
use flowgrad::graph::{Array, Feed, Spec, evaluate};
use flowgrad::ops::{
    Activation, ConvParams, ConvTransposeParams, CouplingMask, CouplingParams, PoolParams,
    SplineParams,
};
use flowgrad::{DType, Error, Gpu, GpuOptions, Graph, Params, Tensor, Value, gpu, tape};
use serde_json::{Value as Json, json};

use common::{Outcome, Report, report};

/// Seed and step of the random numbers that are compared.
const RANDOM: (u64, u32) = (7, 3);

/// Shows adapters, drivers and limits, and tests every kernel family.
#[derive(Parser)]
struct Arguments {
    /// Test the adapter whose name contains this
    #[arg(long, value_name = "NAME")]
    adapter: Option<String>,
    /// Print all figures as one JSON object in the last line
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    common::main(run)
}

fn run() -> Outcome {
    let arguments = Arguments::parse();
    let mut report = Report::new();
    let adapters = gpu::adapters();
    let found: Vec<String> = adapters.iter().map(ToString::to_string).collect();
    report.row("adapters found", found.join("\n"));
    report.figure("adapters", found);

    let opened = Gpu::with(GpuOptions {
        adapter: arguments.adapter.clone(),
        ..GpuOptions::default()
    });
    let gpu = match opened {
        Ok(gpu) => gpu,
        Err(error) => {
            if !adapters.is_empty() {
                report.print_with(false);
            }
            return Err(error.into());
        }
    };
    let summary = gpu.summary();
    report.row("used here", &summary);
    report.row("driver", &summary.driver);
    report
        .figure("adapter", summary.name.as_str())
        .figure("backend", summary.backend.as_str())
        .figure("kind", summary.kind.as_str())
        .figure("driver", summary.driver.as_str());
    describe(gpu.profile(), &mut report);
    report.print_with(false);

    report::print("\nself-test: kernels against float64, error relative to the largest element\n");
    let results: Vec<Verdict> = families().iter().map(|f| f.test(&gpu)).collect();
    let rows: Vec<Vec<String>> = results.iter().map(Verdict::row).collect();
    let head = [
        "family",
        "verdict",
        "error",
        "allowed",
        "kernels (variants)",
    ];
    report::print(&report::columns(&head, &rows));
    for verdict in &results {
        if let Err(error) = &verdict.error {
            report::print(&format!("\n{}: {error}\n", verdict.name));
        }
    }
    let wrong = results.iter().filter(|r| !r.passed()).count();
    report.figure(
        "families",
        Json::Array(results.iter().map(Verdict::json).collect()),
    );
    report.figure("failed", wrong);
    if arguments.json {
        report::print(&format!("{}\n", report.json()));
    }
    match wrong {
        0 => Ok(()),
        n => Err(format!(
            "{n} kernel families are wrong on {summary}. Update the driver; another adapter can be chosen with --adapter NAME"
        )
        .into()),
    }
}

/// The limits and features that planning depends on.
fn describe(profile: &DeviceProfile, report: &mut Report) {
    let yes = |have: bool| {
        if have {
            "yes"
        } else {
            "no, a fallback is used"
        }
    };
    let subgroups = match profile.subgroup_size {
        Some(lanes) => format!("yes, {lanes} lanes"),
        None => "no, a fallback is used".into(),
    };
    let immediates = match profile.immediates {
        0 => "no, a fallback is used".into(),
        n => format!("yes, {n} bytes"),
    };
    report
        .row("variants for", format!("{:?} adapters", profile.class))
        .row("16-bit floats", yes(profile.f16))
        .row("subgroups", subgroups)
        .row("immediates", immediates)
        .row("timestamps", yes(profile.timestamps))
        .row("largest buffer", report::bytes(profile.max_buffer))
        .row("largest binding", report::bytes(profile.max_binding))
        .row("storage bindings", profile.max_bindings)
        .row(
            "workgroup memory",
            report::bytes(profile.workgroup_memory.into()),
        )
        .row("workgroup size", profile.max_invocations)
        .row("workgroups an axis", profile.max_groups);
    report.figure(
        "profile",
        json!({
            "class": format!("{:?}", profile.class),
            "f16": profile.f16,
            "subgroup_size": profile.subgroup_size,
            "immediates": profile.immediates,
            "timestamps": profile.timestamps,
            "max_buffer": profile.max_buffer,
            "max_binding": profile.max_binding,
            "max_bindings": profile.max_bindings,
            "max_groups": profile.max_groups,
            "max_invocations": profile.max_invocations,
            "workgroup_memory": profile.workgroup_memory,
        }),
    );
}

type Build = fn(&Graph, &[Tensor]) -> Vec<Tensor>;

/// Kernels that are tested together: outputs, and gradients by all float inputs.
struct Family {
    name: &'static str,
    inputs: Vec<Spec>,
    gradients: bool,
    /// Shapes are no multiples of any tile, and sums run over at most a few
    /// hundred terms: 100 roundings of 6e-8 are 6e-6 where none cancel.
    allowed: f64,
    build: Build,
}

impl Family {
    fn test(&self, gpu: &Gpu) -> Verdict {
        let mut kernels = String::new();
        let error = self.compare(gpu, &mut kernels);
        Verdict {
            name: self.name,
            kernels,
            allowed: self.allowed,
            error,
        }
    }

    /// The largest error of outputs and gradients, relative to the largest
    /// element of each; integers must be equal.
    fn compare(&self, gpu: &Gpu, kernels: &mut String) -> flowgrad::Result<f64> {
        let graph = Graph::new();
        let mut inputs = Vec::new();
        let mut data = HashMap::new();
        for (i, spec) in self.inputs.iter().enumerate() {
            let name = format!("x{i}");
            inputs.push(graph.input(&name, &spec.shape));
            data.insert(name, numbers(spec, 1 + i as u64));
        }
        let mut wanted = (self.build)(&graph, &inputs);
        if self.gradients {
            // Gradients for random upstream gradients: a sum of squares would be
            // constant behind a normalisation, and its gradient only noise.
            let upstream = wanted.iter().enumerate().map(|(i, y)| {
                let seed = numbers(y.spec(), 100 + i as u64).to_f32();
                (y.clone(), graph.constant(y.shape(), &seed))
            });
            let upstream: Vec<_> = upstream.collect();
            let targets: Vec<&Tensor> = inputs.iter().collect();
            wanted.extend(tape::backward_from(&upstream, &targets)?);
        }
        let wanted: Vec<&Tensor> = wanted.iter().collect();
        let feed = Feed {
            inputs: data,
            random: RANDOM,
            ..Feed::default()
        };
        let expected = evaluate(&wanted, &feed)?;
        let got = compute(gpu, &graph, &wanted, &feed.inputs, kernels)?;
        let errors = expected.iter().zip(&got).zip(&wanted).map(|((e, g), t)| {
            let largest = e.data.iter().fold(0.0f64, |m, v| m.max(v.abs()));
            let pairs = e.data.iter().zip(g);
            let worst = pairs.map(|(e, g)| (e - g).abs());
            // A NaN must not lose against a number.
            let worst = worst.fold(0.0f64, |m, v| if v.is_nan() || v > m { v } else { m });
            match t.dtype() {
                DType::F32 => worst / largest.max(1e-30),
                _ => worst,
            }
        });
        Ok(errors.fold(0.0, |m, v| if v.is_nan() || v > m { v } else { m }))
    }
}

/// Numbers in -1..1 that are the same on every machine, exact in float32.
fn numbers(spec: &Spec, seed: u64) -> Array {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    Array::from_fn(&spec.shape, |_| {
        // An LCG's high bits are good enough to find wrong kernels with.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 41) as f64 / f64::from(1 << 22) - 1.0
    })
}

/// What a family's test found.
struct Verdict {
    name: &'static str,
    kernels: String,
    allowed: f64,
    error: Result<f64, Error>,
}

impl Verdict {
    fn passed(&self) -> bool {
        // NaN is not below anything.
        self.error.as_ref().is_ok_and(|e| *e <= self.allowed)
    }

    fn row(&self) -> Vec<String> {
        let error = self
            .error
            .as_ref()
            .map_or("-".into(), |e| format!("{e:.1e}"));
        let verdict = match &self.error {
            Ok(_) if self.passed() => "ok",
            Ok(_) => "WRONG",
            Err(_) => "FAILED",
        };
        vec![
            self.name.into(),
            verdict.into(),
            error,
            format!("{:.0e}", self.allowed),
            self.kernels.clone(),
        ]
    }

    fn json(&self) -> Json {
        json!({
            "name": self.name,
            "kernels": self.kernels,
            "error": self.error.as_ref().ok(),
            "allowed": self.allowed,
            "passed": self.passed(),
            "failure": self.error.as_ref().err().map(ToString::to_string),
        })
    }
}

fn families() -> Vec<Family> {
    let f = |name, shapes: &[&[usize]], build: Build| Family {
        name,
        inputs: shapes.iter().map(|s| Spec::f32(*s)).collect(),
        gradients: true,
        allowed: 2e-5,
        build,
    };
    let exact = |family: Family| Family {
        gradients: false,
        allowed: 0.0,
        ..family
    };
    vec![
        f("pointwise", &[&[7, 1, 33], &[5, 33]], |_, x| {
            vec![x[0].mul(&x[1]).tanh().add(&x[1].exp()).relu()]
        }),
        f("matmul", &[&[3, 37, 53], &[3, 53, 29]], |_, x| {
            vec![x[0].matmul(&x[1])]
        }),
        f("matmul, transposed", &[&[65, 19], &[41, 65]], |_, x| {
            vec![x[0].matmul_with(&x[1], true, true)]
        }),
        // Large enough for the kernels that small problems do not get.
        f("matmul, large", &[&[96, 256], &[256, 192]], |_, x| {
            vec![x[0].matmul(&x[1])]
        }),
        f("linear", &[&[21, 35], &[17, 35], &[17]], |_, x| {
            vec![x[0].linear(&x[1], Some(&x[2]), Activation::Tanh)]
        }),
        f("conv2d", &[&[2, 5, 11, 9], &[7, 5, 3, 3], &[7]], |_, x| {
            let params = ConvParams {
                padding: [1; 4],
                ..ConvParams::default()
            };
            vec![x[0].conv2d(&x[1], Some(&x[2]), &params)]
        }),
        f(
            "conv2d, large",
            &[&[1, 32, 32, 32], &[64, 32, 3, 3]],
            |_, x| {
                let params = ConvParams {
                    padding: [1; 4],
                    ..ConvParams::default()
                };
                vec![x[0].conv2d(&x[1], None, &params)]
            },
        ),
        f(
            "conv2d, strided",
            &[&[2, 6, 12, 11], &[8, 3, 4, 3]],
            |_, x| {
                let params = ConvParams {
                    stride: [2, 2],
                    padding: [1, 2, 0, 1],
                    groups: 2,
                    ..ConvParams::default()
                };
                vec![x[0].conv2d(&x[1], None, &params)]
            },
        ),
        f(
            "conv_transpose2d",
            &[&[2, 5, 6, 7], &[5, 4, 4, 4]],
            |_, x| {
                let params = ConvTransposeParams {
                    stride: [2, 2],
                    padding: [1; 4],
                    ..ConvTransposeParams::default()
                };
                vec![x[0].conv_transpose2d(&x[1], None, &params)]
            },
        ),
        f("batch norm", &[&[5, 6, 7, 3], &[6], &[6]], |_, x| {
            let (y, mean, var) = x[0].batch_norm_train(Some(&x[1]), Some(&x[2]), 1e-5);
            vec![y, mean, var]
        }),
        f("couplings", &[&[3, 6, 5, 4], &[3, 6, 5, 4]], |_, x| {
            let params = CouplingParams::glow(CouplingMask::After(3));
            let (y, log_det) = x[0].coupling(&x[1], &params);
            let (back, inverse) = x[0].coupling_inverse(&x[1], &params);
            vec![y, log_det, back, inverse]
        }),
        f("splines", &[&[19, 3], &[19, 42]], |_, x| {
            let params = SplineParams {
                bins: 5,
                bound: 2.0,
            };
            let (y, log_slope) = x[0].spline(&x[1], &params);
            vec![y, log_slope, x[0].spline_inverse(&x[1], &params).0]
        }),
        f("pooling", &[&[2, 3, 10, 9]], |_, x| {
            let params = PoolParams::new([3, 3], [2, 2]);
            vec![
                x[0].max_pool2d(&params),
                x[0].avg_pool2d(&params),
                x[0].upsample_nearest2d([2, 3]),
            ]
        }),
        f("reductions", &[&[9, 31, 17]], |_, x| {
            vec![
                x[0].sum(&[1], false),
                x[0].mean(&[0, 2], true),
                x[0].max(&[-1], false),
                x[0].var(&[1], true, false),
                x[0].logsumexp(&[0], false),
            ]
        }),
        f("cumulative sums", &[&[5, 70, 3]], |_, x| {
            vec![x[0].cumsum(1)]
        }),
        f("softmax", &[&[13, 70], &[13, 70]], |_, x| {
            vec![x[0].softmax(-1).mul(&x[1]), x[0].log_softmax(0)]
        }),
        f("views", &[&[4, 6, 5], &[4, 2, 5]], |_, x| {
            let joined = Tensor::concat(&[&x[0], &x[1]], 1).permute(&[2, 0, 1]);
            vec![
                joined.slice_step(2, 1, 3, 2).flip(&[0]),
                x[0].pad(&[(0, 0), (1, 2), (0, 1)], 0.5).roll(1, 2),
            ]
        }),
        f("rows by index", &[&[23, 12]], |g, x| {
            let index: Vec<u32> = (0..57).map(|i| i * i % 23).collect();
            let index = g.constant_u32([57], &index);
            let rows = x[0].gather_rows(&index);
            vec![rows.segment_sum(&index, 23), rows]
        }),
        exact(f("arg max, arg min", &[&[19, 45]], |_, x| {
            vec![x[0].argmax(Some(1)), x[0].argmin(Some(0))]
        })),
        exact(f("code search", &[&[130, 12], &[37, 12]], |_, x| {
            vec![x[0].codebook_nearest(&x[1])]
        })),
        exact(f("random bits", &[], |g, _| vec![g.random_bits([333])])),
        // Logarithm and cosine are rounded differently by every adapter.
        Family {
            gradients: false,
            ..f("random numbers", &[], |g, _| {
                vec![g.uniform([333]), g.normal([333])]
            })
        },
    ]
}

/// What the GPU computes for `wanted`, in float64, and which kernels did it.
fn compute(
    gpu: &Gpu,
    graph: &Graph,
    wanted: &[&Tensor],
    data: &HashMap<String, Array>,
    kernels: &mut String,
) -> flowgrad::Result<Vec<Vec<f64>>> {
    let mut program = graph.compile(gpu, &Params::new(0), wanted)?;
    let mut names: Vec<String> = Vec::new();
    for step in &program.plan().steps {
        let name = match step.variant.is_empty() {
            true => step.kernel.clone(),
            false => format!("{} ({})", step.kernel, step.variant),
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    *kernels = names.join(", ");
    let data: Vec<(&String, Vec<f32>)> = data.iter().map(|(n, a)| (n, a.to_f32())).collect();
    let inputs: Vec<(&str, Value<'_>)> = data
        .iter()
        .filter(|(name, _)| program.has_input(name))
        .map(|(name, values)| (name.as_str(), values.into()))
        .collect();
    program.set_random_state(RANDOM.0, RANDOM.1);
    let outputs = program.run(&inputs)?;
    wanted
        .iter()
        .enumerate()
        .map(|(i, tensor)| match tensor.dtype() {
            DType::F32 => Ok(outputs.f32(i)?.into_iter().map(f64::from).collect()),
            _ => Ok(outputs.u32(i)?.into_iter().map(f64::from).collect()),
        })
        .collect()
}
