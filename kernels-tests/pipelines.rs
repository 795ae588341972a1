//! What a device keeps compiled: numbers are arguments, and the cache can be emptied.

use flowgrad::gpu::GpuOptions;
use flowgrad::{Gpu, Graph, Params, Program};

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
