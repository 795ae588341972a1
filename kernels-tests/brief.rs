//! Every op and every variant once, small: for drivers too slow for the whole suite, which
//! has all of this in more shapes. `./x test --driver swiftshader --quick` runs it.

use std::collections::BTreeSet;

use flowgrad::graph::Array;
use flowgrad::plan::{Plan, PlanOptions};
use flowgrad::{Params, Program, ops};

use crate::support::{Case, Data, gpu, run_program};
use crate::zoo::zoo;

/// The kernels that have variants.
const FAMILIES: [&str; 4] = ["matmul", "conv2d", "conv2d_weight", "attention"];

/// The first element that is off by more than `rel` of the largest, and how many are. What
/// is not finite must be what is expected.
fn worst(got: &[f64], expected: &Array, rel: f64) -> Option<String> {
    let finite = expected.data.iter().filter(|v| v.is_finite());
    let scale = finite.fold(0.0f64, |m, v| m.max(v.abs()));
    let fits = |g: f64, e: f64| match e.is_finite() {
        true => (g - e).abs() <= rel * scale + 1e-6,
        false => g.to_bits() == e.to_bits() || (g.is_nan() && e.is_nan()),
    };
    let pairs = got.iter().zip(&expected.data).enumerate();
    let mut wrong = pairs.filter(|(_, (g, e))| !fits(**g, **e)).peekable();
    let first = wrong
        .peek()
        .map(|(i, (g, e))| format!("element {i} is {g}, expected {e}"));
    first.map(|first| format!("{first}, {} of {} wrong", wrong.count(), got.len()))
}

/// The plan of a case, with one variant of a kernel forced.
fn plan(case: &Case, forced: Option<(&str, &str)>) -> Plan {
    let mut profile = gpu().profile().clone();
    if let Some((kernel, variant)) = forced {
        profile.choices.set(kernel, "*", variant);
    }
    let options = PlanOptions {
        updates: false,
        ..Default::default()
    };
    let wanted = case.wanted();
    let plan = wanted[0].graph().plan(&profile, &[], &wanted, &options);
    plan.unwrap_or_else(|e| panic!("{}: {e}", case.name))
}

/// What runs there: every kernel, and how it is made.
fn kernels(plan: &Plan) -> BTreeSet<(String, Vec<(String, String)>)> {
    let steps = plan.steps.iter();
    steps
        .map(|s| (s.kernel.clone(), s.defines.clone()))
        .collect()
}

fn run(case: &Case, plan: Plan, what: &str, expected: &[Array], failures: &mut Vec<String>) {
    let what = format!("{}{what}", case.name);
    // Inverses of random matrices are as badly conditioned as these happen to be.
    let rel = match case.name.starts_with("matrices") {
        true => 1e-3,
        false => 1e-4,
    };
    let names: Vec<String> = plan.steps.iter().map(|s| s.kernel.clone()).collect();
    let got = Program::new(gpu(), plan, &[&Params::new(0)])
        .and_then(|program| run_program(program, &case.inputs, &case.wanted()));
    match got {
        Err(e) => failures.push(format!("{what}: {e}")),
        Ok(got) => {
            for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
                let values: Vec<f64> = match got {
                    Data::F32 { values, .. } => values.iter().map(|v| f64::from(*v)).collect(),
                    Data::U32 { values, .. } => values.iter().map(|v| f64::from(*v)).collect(),
                };
                if let Some(wrong) = worst(&values, expected, rel) {
                    let output = case.describe(i);
                    failures.push(format!("{what}: {output}: {wrong} ({names:?})"));
                }
            }
        }
    }
}

#[test]
#[ignore = "the whole suite has all of it: ./x test --driver swiftshader --quick"]
fn every_op_and_variant_once() {
    // The larger matrices take the kernels of the large ones, and the reference long.
    let mut cases = zoo();
    cases.retain(|case| case.name != "matrices 200");
    let mut failures = Vec::new();
    let mut ran = BTreeSet::new();
    for case in &cases {
        let expected = case.reference();
        let usual = plan(case, None);
        ran.extend(kernels(&usual));
        run(case, usual, "", &expected, &mut failures);
        for kernel in FAMILIES {
            for variant in ops::variants(kernel) {
                let plan = plan(case, Some((kernel, variant)));
                let kernels = kernels(&plan);
                // Not possible for any of its products, or nothing new.
                if kernels.is_subset(&ran) {
                    continue;
                }
                ran.extend(kernels);
                let what = format!(" ({kernel}: {variant})");
                run(case, plan, &what, &expected, &mut failures);
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    let names: BTreeSet<&str> = ran.iter().map(|(name, _)| name.as_str()).collect();
    for kernel in [
        "matmul",
        "matmul_row",
        "matmul_tiled",
        "conv2d",
        "conv2d_depthwise",
        "conv2d_tiled",
    ] {
        assert!(names.contains(kernel), "no case takes {kernel}: {names:?}");
    }
}
