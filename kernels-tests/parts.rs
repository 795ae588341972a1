//! Tensors beyond what a device binds at once: ops that take their samples in parts give
//! what they give otherwise.

use flowgrad::device::DeviceProfile;
use flowgrad::graph::Access;
use flowgrad::ops::{Activation, ConvParams, ConvTransposeParams, GridPadding, PoolParams};
use flowgrad::plan::{Plan, PlanOptions};
use flowgrad::{Graph, Program, Tensor, Value};

use crate::support::{Case, Data, Tol, build_case, compare, gpu};

/// This adapter with bindings of `kib` KiB.
fn narrow(kib: u64) -> DeviceProfile {
    DeviceProfile {
        max_binding: kib << 10,
        ..gpu().profile().clone()
    }
}

fn plan(case: &Case, profile: &DeviceProfile) -> Plan {
    let wanted = case.wanted();
    let plan = wanted[0]
        .graph()
        .plan(profile, &[], &wanted, &PlanOptions::default());
    plan.unwrap_or_else(|e| panic!("{}: {e}", case.name))
}

fn check(
    kib: u64,
    name: &str,
    inputs: &[Data],
    gradients: bool,
    build: impl Fn(&Graph, &[Tensor]) -> Vec<Tensor>,
) {
    let case = build_case(name, inputs, build, gradients);
    let (profile, whole) = (narrow(kib), plan(&case, gpu().profile()));
    let plan = plan(&case, &profile);
    let bound = plan.steps.iter().flat_map(|s| &s.bindings);
    let most = bound.map(|(slice, _)| slice.bytes).max();
    assert!(most <= Some(profile.max_binding), "{name}: {most:?} bytes");
    assert!(plan.steps.len() > whole.steps.len(), "{name}: {plan}");
    // Every element of every output is written by some part.
    for (slice, _) in &plan.outputs {
        let steps = plan.steps.iter().flat_map(|s| &s.bindings);
        let writes = steps.filter(|(s, a)| *a != Access::Read && s.buffer == slice.buffer);
        let end = writes.map(|(s, _)| s.offset + s.bytes).max();
        assert!(end >= Some(slice.offset + slice.bytes), "{name}: {plan}");
    }
    let used: Vec<String> = plan.inputs.iter().map(|i| i.name.clone()).collect();
    let mut program = Program::new(gpu(), plan, &[]).expect("a program");
    let fed: Vec<(&str, Value<'_>)> = (case.inputs.iter())
        .filter(|(name, _)| used.contains(name))
        .map(|(name, data)| match data {
            Data::F32 { values, .. } => (name.as_str(), Value::F32(values)),
            Data::U32 { values, .. } => (name.as_str(), Value::U32(values)),
        })
        .collect();
    let run = program.run(&fed).expect("a run");
    let wanted = case.wanted();
    let got: Vec<Data> = (wanted.iter().enumerate())
        .map(|(i, t)| match t.dtype() {
            flowgrad::DType::U32 => Data::u32(t.shape(), &run.u32(i).expect("integers")),
            _ => Data::values(t.shape(), &run.f32(i).expect("floats")),
        })
        .collect();
    compare(&case, &got, &case.reference(), &Tol::rel(1e-5));
}

#[test]
fn convolutions_take_samples_in_parts() {
    let params = ConvParams {
        padding: [1; 4],
        activation: Activation::Relu,
        ..ConvParams::default()
    };
    let inputs = [
        Data::distinct([60, 8, 16, 12], 1),
        Data::f32([8, 8, 3, 3], 2),
        Data::f32([8], 3),
        Data::f32([60, 8, 16, 12], 4),
    ];
    check(160, "conv with a residual", &inputs, true, |_, x| {
        vec![x[0].conv2d_residual(&x[1], Some(&x[2]), Some(&x[3]), &params)]
    });
    // Samples of 420 and 700 bytes: every 64th begins where bindings may.
    let plain = ConvParams {
        activation: Activation::None,
        ..params
    };
    let inputs = [Data::f32([150, 3, 7, 5], 1), Data::f32([5, 3, 3, 3], 2)];
    check(48, "conv of small samples", &inputs, true, |_, x| {
        vec![x[0].conv2d(&x[1], None, &plain)]
    });
    let up = ConvTransposeParams {
        stride: [2, 2],
        ..ConvTransposeParams::default()
    };
    let inputs = [Data::f32([35, 6, 8, 8], 1), Data::f32([6, 4, 2, 2], 2)];
    check(48, "transposed conv", &inputs, true, |_, x| {
        vec![x[0].conv_transpose2d(&x[1], None, &up)]
    });
}

#[test]
fn pools_take_samples_in_parts() {
    let params = PoolParams::new([2, 2], [2, 2]);
    let x = Data::distinct([7, 4, 16, 8], 1);
    check(5, "pools", &[x], true, |_, x| {
        let (y, at) = x[0].max_pool2d_with_indices(&params);
        vec![
            y,
            at,
            x[0].avg_pool2d(&params),
            x[0].avg_pool2d(&params).upsample_nearest2d([2, 2]),
        ]
    });
}

#[test]
fn reductions_take_samples_in_parts() {
    let x = [Data::distinct([150, 6, 40], 1)];
    // Results of four bytes a sample: every 64th begins where bindings may.
    check(64, "along later axes", &x, false, |_, x| {
        let x = &x[0];
        let (mean, var) = x.moments(&[1, 2], true);
        vec![
            x.sum(&[1], false),
            x.mean(&[2], true),
            x.max(&[1, 2], false),
            x.min(&[2], false),
            x.var(&[1], true, false),
            x.logsumexp(&[2], false),
            x.argmax(Some(1)),
            mean,
            var,
        ]
    });
    check(64, "over samples", &x, false, |_, x| {
        vec![x[0].sum(&[0, 2], true), x[0].sum(&[], false)]
    });
    check(64, "softmax", &x, true, |_, x| {
        vec![x[0].softmax(2), x[0].log_softmax(1)]
    });
}

#[test]
fn pictures_are_moved_in_parts() {
    let shape = [10, 16, 16, 2];
    let Data::F32 { values, .. } = Data::uniform(shape, 2, -1.2, 1.2) else {
        unreachable!()
    };
    let x = [Data::f32([10, 4, 16, 16], 1)];
    check(16, "sampled", &x, true, |g, x| {
        let grid = g.constant(shape, &values);
        vec![x[0].grid_sample(&grid, GridPadding::Zeros)]
    });
    // Every 64th sample's amounts begin where bindings may.
    let inputs = [Data::f32([130, 1, 8, 8], 1), Data::below([130], 2, 9)];
    check(20, "moved", &inputs, true, |_, x| {
        vec![x[0].roll_each(&x[1]), x[0].flip_each(&x[1])]
    });
}

/// What cannot be cut says so: one sample alone is too large.
#[test]
fn what_cannot_be_cut_is_told() {
    let graph = Graph::new();
    let x = graph.input("x", [2, 8, 32, 32]);
    let profile = narrow(16);
    for y in [x.sum(&[1], false), x.mean(&[0], false)] {
        let options = PlanOptions::default();
        let error = graph.plan(&profile, &[], &[&y], &options).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("fewer samples"), "{text}");
    }
}
