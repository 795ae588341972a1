//! What a device keeps compiled: numbers are arguments, and the cache can be emptied.

use std::collections::BTreeSet;
use std::sync::Arc;

use flowgrad::device::{DeviceClass, DeviceProfile};
use flowgrad::exec::kernel_texts;
use flowgrad::gpu::GpuOptions;
use flowgrad::graph::{Array, Kind, Lower, Op, Pointwise, Spec, Vjp};
use flowgrad::ops::{self, Activation, ConvParams};
use flowgrad::plan::PlanOptions;
use flowgrad::{Error, Gpu, Graph, Params, Program, Result, Tensor};

use crate::shaders::{read, shader_files};
use crate::support::{Case, Data, Numbers, Tol, build_case, compare, gpu, run_on};

fn fresh() -> Gpu {
    let options = GpuOptions {
        pipeline_cache: false,
        ..GpuOptions::default()
    };
    Gpu::with(options).expect("an adapter")
}

/// Every op that takes numbers, on a vector and on a constant fill.
fn with_numbers(gpu: &Gpu, params: &Params, c: f32) -> Program {
    let graph = Graph::new();
    let x = graph.input("x", [5]);
    let y = x
        .mul_scalar(c)
        .add_scalar(2.0 * c)
        .leaky_relu(0.01 * c)
        .add(&graph.full([5], -c))
        .clamp(-3.0 * c, 4.0 * c);
    graph.compile(gpu, params, &[&y]).expect("compiles")
}

#[test]
fn graphs_that_differ_in_numbers_share_one_pipeline() {
    let gpu = fresh();
    let params = Params::new(0);
    let x = [-9.0f32, -1.5, 0.0, 0.75, 9.0];
    let mut last = None;
    for i in 0..50 {
        let c = i as f32 * 0.37;
        let mut program = with_numbers(&gpu, &params, c);
        let got = program.run(&[("x", x[..].into())]).expect("runs");
        let expected = x.map(|x| {
            let y = x * c + 2.0 * c;
            let y = if y > 0.0 { y } else { 0.01 * c * y };
            (y + -c).clamp(-3.0 * c, 4.0 * c)
        });
        assert_eq!(got.f32(0).expect("values"), expected, "{c}");
        last = Some(program);
    }
    let report = gpu.pipeline_report();
    assert_eq!(report.pipelines, 1, "{report}");
    assert_eq!(report.by_kernel, [("fused".to_string(), 1)]);
    assert!(report.text_bytes > 100 && report.most >= 100, "{report}");

    // Forgotten, not taken away.
    gpu.clear_pipelines();
    assert_eq!(gpu.pipeline_report().pipelines, 0);
    let mut program = last.expect("fifty");
    program.run(&[("x", x[..].into())]).expect("runs");
    let before = gpu.stats().objects_created;
    with_numbers(&gpu, &params, 5.0);
    assert!(gpu.stats().objects_created > before);
    assert_eq!(gpu.pipeline_report().pipelines, 1);
}

#[test]
fn more_numbers_than_immediates_hold_are_right() {
    // 70 words; 128 bytes of immediates hold 32.
    let gpu = fresh();
    let graph = Graph::new();
    let x = graph.input("x", [9]);
    let (mut y, mut expected) = (x.clone(), [0.0f32; 9]);
    let start: Vec<f32> = (0..9).map(|i| i as f32 - 4.0).collect();
    expected.copy_from_slice(&start);
    for i in 0..35 {
        let (a, b) = (1.0 + i as f32 / 64.0, i as f32 - 17.0);
        y = y.add_scalar(b).mul_scalar(a);
        expected = expected.map(|v| (v + b) * a);
    }
    let params = Params::new(0);
    let mut program = graph.compile(&gpu, &params, &[&y]).expect("compiles");
    assert_eq!(program.plan().steps.len(), 1);
    assert_eq!(program.plan().steps[0].args.len(), 71);
    let got = program.run(&[("x", start[..].into())]).expect("runs");
    for (got, expected) in got.f32(0).expect("values").iter().zip(expected) {
        assert!(
            (got - expected).abs() <= 1e-6 * expected.abs(),
            "{got} {expected}"
        );
    }
}

/// Products and convolutions with an activation that takes a number.
fn with_slope(slope: f32) -> Case {
    let activation = Activation::LeakyRelu(slope);
    let inputs = [
        Data::f32([6, 520], 1),
        Data::f32([40, 520], 2),
        Data::f32([1, 520], 3),
        Data::f32([2, 8, 9, 8], 4),
        Data::f32([16, 8, 3, 3], 5),
        Data::f32([8, 1, 3, 3], 6),
        Data::f32([6, 36], 7),
        Data::f32([40, 36], 8),
    ];
    let same = ConvParams {
        padding: [1; 4],
        activation,
        ..ConvParams::default()
    };
    let depthwise = ConvParams { groups: 8, ..same };
    let build = |x: &[Tensor]| {
        vec![
            x[0].linear(&x[1], None, activation),
            x[2].linear(&x[1], None, activation),
            x[3].conv2d(&x[4], None, &same),
            x[3].conv2d(&x[5], None, &depthwise),
            x[6].linear(&x[7], None, activation),
        ]
    };
    build_case(&format!("slope {slope}"), &inputs, |_, x| build(x), false)
}

#[test]
fn slopes_of_activations_are_arguments() {
    let class = |class, subgroup_size| DeviceProfile {
        class,
        subgroup_size,
        immediates: 128,
        packed_conv_flops: 0,
        ..DeviceProfile::baseline()
    };
    let mut profiles = vec![
        class(DeviceClass::Software, Some(8)),
        class(DeviceClass::Integrated, None),
        class(DeviceClass::Discrete, Some(32)),
    ];
    for kernel in ["matmul", "conv2d"] {
        for variant in ops::variants(kernel) {
            let mut profile = class(DeviceClass::Software, Some(8));
            profile.choices.set(kernel, "*", variant);
            profiles.push(profile);
        }
    }
    let cases = [0.1, 0.25].map(with_slope);
    let mut reached: BTreeSet<Arc<str>> = BTreeSet::new();
    for profile in &profiles {
        let [one, two] = [0, 1].map(|i: usize| {
            let wanted = cases[i].wanted();
            let graph = wanted[0].graph();
            let plan = graph.plan(profile, &[], &wanted, &PlanOptions::default());
            plan.expect("a plan")
        });
        let texts = |plan| kernel_texts(plan, profile.immediates).expect("texts");
        assert_eq!(texts(&one), texts(&two), "{profile:?}");
        for (a, b) in one.steps.iter().zip(&two.steps) {
            if let Some(at) = a.arg_names.iter().position(|name| name == "slope") {
                let given = [a, b].map(|step| f32::from_bits(step.args[at]));
                assert_eq!(given, [0.1, 0.25], "{}", a.kernel);
                reached.insert(a.source.clone());
            }
        }
    }
    for file in shader_files() {
        let text = read(&file);
        if text.lines().any(|line| line == "#import activation") {
            assert!(reached.contains(text.as_str()), "{file} was not reached");
        }
    }
}

#[test]
fn slopes_share_pipelines() {
    let gpu = fresh();
    let mut pipelines = BTreeSet::new();
    for slope in [0.1, 0.25] {
        let case = with_slope(slope);
        let (got, _) = run_on(&gpu, &case.inputs, &case.wanted()).expect("values");
        compare(&case, &got, &case.reference(), &Tol::default());
        pipelines.insert(gpu.pipeline_report().pipelines);
    }
    assert_eq!(
        pipelines.len(),
        1,
        "the second slope made new ones: {pipelines:?}"
    );
}

/// A pointwise op with its numbers in its text.
#[derive(Debug)]
struct Baked(&'static str);

impl Pointwise for Baked {
    fn wgsl(&self, x: &[&str]) -> String {
        self.0.replace('X', x[0])
    }

    fn imports(&self) -> &'static [&'static str] {
        &["math"]
    }
}

impl Op for Baked {
    fn name(&self) -> &'static str {
        "baked"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        Ok(vec![inputs[0].clone()])
    }

    fn reference(&self, _: &[&Array]) -> Result<Vec<Array>> {
        Err(Error::Graph("it is compared on the GPU".into()))
    }

    fn vjp(&self, _: &mut Vjp<'_>) -> Result<()> {
        Ok(())
    }

    fn lower(&self, _: &mut Lower<'_>) -> Result<()> {
        Ok(())
    }

    fn kind(&self) -> Kind<'_> {
        Kind::Pointwise(self)
    }
}

#[test]
fn numbers_as_arguments_give_the_bits_of_literals() {
    type Given = fn(&Tensor) -> Tensor;
    let pairs: [(Given, &str); 8] = [
        (|x| x.mul_scalar(0.37), "X * 0.37f"),
        (|x| x.add_scalar(-0.37), "X + -0.37f"),
        (|x| x.clamp(-0.37, 1.7), "clamp(X, -0.37f, 1.7f)"),
        (|x| x.leaky_relu(0.37), "select(0.37f * X, X, X > 0.0)"),
        (|x| x.elu(0.37), "select(0.37f * expm1(X), X, X > 0.0)"),
        (|x| x.abs().pow_scalar(2.3), "pow_f32(abs(X), 2.3f)"),
        (|x| x.pow_scalar(7.0), "powi(X, 7.0f)"),
        (|x| x.div(&x.full_like(0.37)), "X / 0.37f"),
    ];
    let mut numbers = Numbers::new(5);
    let x: Vec<f32> = (0..4096)
        .map(|_| numbers.uniform(-3.0, 3.0) * 2f32.powi(numbers.uniform(-9.0, 9.0) as i32))
        .collect();
    let graph = Graph::new();
    let input = graph.input("x", [x.len()]);
    let outputs: Vec<Tensor> = pairs
        .into_iter()
        .flat_map(|(given, text)| [given(&input), graph.push1(Baked(text), &[&input])])
        .collect();
    let wanted: Vec<&Tensor> = outputs.iter().collect();
    let params = Params::new(0);
    let mut program = graph.compile(gpu(), &params, &wanted).expect("compiles");
    let out = program.run(&[("x", (&x).into())]).expect("runs");
    for (i, (_, text)) in pairs.iter().enumerate() {
        let bits = |k: usize| -> Vec<u32> {
            let values = out.f32(k).expect("values");
            values.iter().map(|v| v.to_bits()).collect()
        };
        let (given, baked) = (bits(2 * i), bits(2 * i + 1));
        // WGSL leaves 2.5 units to division, and SwiftShader multiplies by the reciprocal of
        // a literal: docs/drivers.md.
        let most = u32::from(text.contains('/'));
        let near = given
            .iter()
            .zip(&baked)
            .all(|(a, b)| a.abs_diff(*b) <= most);
        assert!(near, "{text}: {given:?} {baked:?}");
    }
}
