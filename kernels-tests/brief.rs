//! Every op and every variant once, small: for drivers too slow for the whole suite, which
//! has all of this in more shapes. `./x test --driver swiftshader --quick` runs it.

use flowgrad::device::Choices;
use flowgrad::gpu::GpuOptions;
use flowgrad::graph::Array;
use flowgrad::{Gpu, Tensor, ops};

use crate::support::{Case, Data, PACKED_CONV_FLOPS, gpu, run_on};
use crate::zoo::zoo;

/// The element that is furthest off, if any is by more than 1e-4 of the largest. What is not
/// finite must be what is expected.
fn worst(got: &[f64], expected: &Array) -> Option<String> {
    let finite = expected.data.iter().filter(|v| v.is_finite());
    let scale = finite.fold(0.0f64, |m, v| m.max(v.abs()));
    let fits = |g: f64, e: f64| match e.is_finite() {
        true => (g - e).abs() <= 1e-4 * scale + 1e-6,
        false => g.to_bits() == e.to_bits() || (g.is_nan() && e.is_nan()),
    };
    let pairs = got.iter().zip(&expected.data).enumerate();
    let mut wrong = pairs.filter(|(_, (g, e))| !fits(**g, **e)).peekable();
    let first = wrong
        .peek()
        .map(|(i, (g, e))| format!("element {i} is {g}, expected {e}"));
    first.map(|first| format!("{first}, {} of {} wrong", wrong.count(), got.len()))
}

fn run(gpu: &Gpu, case: &Case, expected: &[Array], failures: &mut Vec<String>) {
    let wanted: Vec<&Tensor> = case.wanted();
    let what = format!("{} {:?}", case.name, gpu.profile().choices.iter().next());
    match run_on(gpu, &case.inputs, &wanted) {
        Err(e) => failures.push(format!("{what}: {e}")),
        Ok((got, kernels)) => {
            for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
                let values: Vec<f64> = match got {
                    Data::F32 { values, .. } => values.iter().map(|v| f64::from(*v)).collect(),
                    Data::U32 { values, .. } => values.iter().map(|v| f64::from(*v)).collect(),
                };
                if let Some(wrong) = worst(&values, expected) {
                    let output = case.describe(i);
                    failures.push(format!("{what}: {output}: {wrong} ({kernels:?})"));
                }
            }
        }
    }
}

#[test]
#[ignore = "the whole suite has all of it: ./x test --driver swiftshader --quick"]
fn every_op_and_variant_once() {
    let cases = zoo();
    let mut failures = Vec::new();
    let expected: Vec<Vec<Array>> = cases.iter().map(Case::reference).collect();
    for (case, expected) in cases.iter().zip(&expected) {
        run(gpu(), case, expected, &mut failures);
    }
    for kernel in ["matmul", "conv2d"] {
        let start = &kernel[..4];
        for variant in ops::variants(kernel) {
            let mut choices = Choices::default();
            choices.set(kernel, "*", variant);
            let options = GpuOptions {
                choices,
                packed_conv_flops: PACKED_CONV_FLOPS,
                ..Default::default()
            };
            let gpu = Gpu::with(options).expect("an adapter");
            for (case, expected) in cases.iter().zip(&expected) {
                if case.name.starts_with(start) {
                    run(&gpu, case, expected, &mut failures);
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
