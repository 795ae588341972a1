//! Shows the adapters of this machine and what flowgrad would do with them, and
//! compares every kernel family with its float64 reference.

mod common;

use std::collections::HashMap;
use std::process::ExitCode;

use clap::Parser;
use flowgrad::device::DeviceProfile;
use flowgrad::graph::{Array, Feed, Spec, evaluate};
use flowgrad::{DType, Error, Gpu, GpuOptions, Graph, Tensor, gpu, tape};
use serde_json::{Value, json};

use common::{Outcome, Report, report};

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
    let head = ["family", "kernels (variant)", "error", "allowed", "verdict"];
    report::print(&report::columns(&head, &rows));
    let wrong = results.iter().filter(|r| !r.passed()).count();
    report.figure(
        "families",
        Value::Array(results.iter().map(Verdict::json).collect()),
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
    let yes = |have: bool| if have { "yes" } else { "no, a fallback is used" };
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
        .row("workgroup memory", report::bytes(profile.workgroup_memory.into()))
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
            let losses = wanted.iter().map(|y| y.square().sum(&[], false));
            if let Some(loss) = losses.reduce(|a, b| a.add(&b)) {
                let targets: Vec<&Tensor> = inputs.iter().collect();
                wanted.extend(tape::backward(&loss, &targets)?);
            }
        }
        let wanted: Vec<&Tensor> = wanted.iter().collect();
        let feed = Feed {
            inputs: data,
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
        let (error, verdict) = match &self.error {
            Ok(e) if self.passed() => (format!("{e:.1e}"), "ok".to_string()),
            Ok(e) => (format!("{e:.1e}"), "WRONG".to_string()),
            Err(e) => ("-".into(), format!("FAILED: {e}")),
        };
        vec![
            self.name.into(),
            self.kernels.clone(),
            error,
            format!("{:.1e}", self.allowed),
            verdict,
        ]
    }

    fn json(&self) -> Value {
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
        f("sum", &[&[9, 31, 17]], |_, x| {
            vec![x[0].sum(&[1], false), x[0].sum(&[0, 2], true)]
        }),
    ]
}
