//! Programs for inference: batch norms folded into the products before them, and what
//! depends on parameters alone computed once.

use flowgrad::device::{DeviceClass, DeviceProfile};
use flowgrad::exec::{FreezeOptions, Storage, arena_map};
use flowgrad::graph::{Feed, evaluate};
use flowgrad::ops::{Activation, ConvParams, ConvTransposeParams, fold_batch_norms};
use flowgrad::plan::PlanOptions;
use flowgrad::{Error, Graph, Init, Params, Program, Tensor, Value};

use crate::support::{Data, gpu};

/// Inputs of a convolution of `[2, 4, 7, 6]` to 6 channels and of its batch norm.
const INPUTS: [(&str, &[usize], f32, f32); 7] = [
    ("x", &[2, 4, 7, 6], -1.0, 1.0),
    ("weight", &[6, 4, 3, 3], -1.0, 1.0),
    ("bias", &[6], -1.0, 1.0),
    ("mean", &[6], -1.0, 1.0),
    ("var", &[6], 0.5, 2.0),
    ("gamma", &[6], 0.5, 2.0),
    ("beta", &[6], -1.0, 1.0),
];

fn block(graph: &Graph, bias: bool, affine: bool) -> (Tensor, Tensor) {
    let t: Vec<Tensor> = INPUTS
        .iter()
        .map(|(n, s, _, _)| graph.input(n, *s))
        .collect();
    let params = ConvParams {
        padding: [1; 4],
        ..ConvParams::default()
    };
    let conv = t[0].conv2d(&t[1], bias.then_some(&t[2]), &params);
    let (gamma, beta) = (affine.then_some(&t[5]), affine.then_some(&t[6]));
    (
        conv.clone(),
        conv.batch_norm_eval(&t[3], &t[4], gamma, beta, 1e-5),
    )
}

fn feed() -> Feed<'static> {
    let inputs = INPUTS.iter().enumerate().map(|(i, (name, shape, lo, hi))| {
        let data = Data::uniform(*shape, i as u64, *lo, *hi);
        (name.to_string(), data.array())
    });
    Feed {
        inputs: inputs.collect(),
        ..Feed::default()
    }
}

/// The ops of a plan's dispatches.
fn ops(graph: &Graph, outputs: &[Tensor]) -> String {
    let outputs: Vec<&Tensor> = outputs.iter().collect();
    let options = PlanOptions::default();
    let plan = graph
        .plan(gpu().profile(), &[], &outputs, &options)
        .unwrap();
    let steps = plan.steps.iter().map(|s| format!("{} {}", s.op, s.variant));
    steps.collect::<Vec<_>>().join("; ")
}

#[test]
fn folding_changes_nothing_but_the_dispatches() {
    for (bias, affine) in [(true, true), (false, true), (true, false)] {
        for activation in [Activation::None, Activation::Relu, Activation::Tanh] {
            let graph = Graph::new();
            let y = activation.apply(&block(&graph, bias, affine).1);
            let folded = fold_batch_norms(&[&y]).unwrap();
            assert!(ops(&graph, std::slice::from_ref(&y)).contains("normalize"));
            let after = ops(&graph, &folded);
            assert!(!after.contains("normalize"), "{after}");
            // The activation is the convolution's own: nothing comes after it.
            let last = after.rsplit("; ").next().unwrap();
            assert!(last.starts_with("conv2d"), "{after}");
            let both = evaluate(&[&y, &folded[0]], &feed()).unwrap();
            for (a, b) in both[0].data.iter().zip(&both[1].data) {
                assert!((a - b).abs() < 1e-12, "{a} became {b}");
            }
        }
    }
}

/// Where the scale goes is what differs: rows, columns, or channels of a group.
#[test]
fn transposed_convolutions_and_linear_layers_fold() {
    type Build = Box<dyn Fn(&Tensor, &Tensor, Option<&Tensor>) -> Tensor>;
    let mut cases: Vec<(String, Vec<usize>, Vec<usize>, Build)> = Vec::new();
    for (groups, stride, weight) in [(1, 2, [4, 6, 3, 2]), (2, 1, [4, 3, 3, 3])] {
        let params = ConvTransposeParams {
            stride: [stride; 2],
            groups,
            ..Default::default()
        };
        cases.push((
            format!("transposed, {groups} groups"),
            vec![2, 4, 3, 5],
            weight.to_vec(),
            Box::new(move |x, w, b| x.conv_transpose2d(w, b, &params)),
        ));
    }
    cases.push((
        "linear".into(),
        vec![5, 4],
        vec![6, 4],
        Box::new(|x, w, b| x.linear(w, b, Activation::None)),
    ));
    cases.push((
        "product".into(),
        vec![4, 5],
        vec![4, 6],
        Box::new(|x, w, _| x.matmul_with(w, true, false)),
    ));
    for (name, x, w, build) in cases {
        for (bias, activation) in [(true, Activation::None), (false, Activation::Relu)] {
            let graph = Graph::new();
            let mut feed = feed();
            let mut add = |name: &str, shape: &[usize]| {
                let data = Data::f32(shape, 11);
                feed.inputs.insert(name.into(), data.array());
                graph.input(name, shape)
            };
            let (x, w) = (add("x", &x), add("weight", &w));
            let of = |i: usize| graph.input(INPUTS[i].0, INPUTS[i].1);
            let y = build(&x, &w, bias.then(|| of(2)).as_ref());
            let (mean, var, gamma, beta) = (of(3), of(4), of(5), of(6));
            let y = y.batch_norm_eval(&mean, &var, Some(&gamma), Some(&beta), 1e-5);
            let y = activation.apply(&y);
            let folded = fold_batch_norms(&[&y]).unwrap();
            assert!(ops(&graph, std::slice::from_ref(&y)).contains("normalize"));
            let after = ops(&graph, &folded);
            assert!(!after.contains("normalize"), "{name}: {after}");
            let last = after.rsplit("; ").next().unwrap();
            let product = last.starts_with("conv_transpose2d") || last.starts_with("matmul");
            assert!(product, "{name}: {after}");
            let both = evaluate(&[&y, &folded[0]], &feed).unwrap();
            for (a, b) in both[0].data.iter().zip(&both[1].data) {
                assert!((a - b).abs() < 1e-12, "{name}: {a} became {b}");
            }
        }
    }
    // Of a stack of matrices the second axis is not the channels'.
    let graph = Graph::new();
    let y = graph
        .input("x", [2, 6, 4])
        .matmul(&graph.input("w", [4, 5]));
    let [mean, var] = ["mean", "var"].map(|n| graph.input(n, [6]));
    let y = y.batch_norm_eval(&mean, &var, None, None, 1e-5);
    let folded = fold_batch_norms(&[&y]).unwrap();
    assert!(ops(&graph, &folded).contains("normalize"));
}

fn count(steps: &[flowgrad::plan::Step], kernel: &str) -> usize {
    steps.iter().filter(|s| s.kernel == kernel).count()
}

/// Copies of weights in a kernel's own order are made once, and once for all who read them.
#[test]
fn weights_are_packed_once() {
    let params = Params::new(3);
    let init = Init::Uniform { lo: -1.0, hi: 1.0 };
    let add = |name: &str, shape: &[usize]| params.add(name, shape, init.clone()).unwrap();
    let (weight, other) = (
        add("weight", &[16, 16, 3, 3]),
        add("other", &[16, 16, 3, 3]),
    );
    let matrix = add("matrix", &[256, 256]);
    let conv = ConvParams {
        padding: [1; 4],
        activation: Activation::Tanh,
        ..ConvParams::default()
    };
    let graph = Graph::new();
    let x = graph.input("x", [3, 16, 16, 12]);
    let (v, w) = (other.on(&graph), weight.on(&graph));
    let y = x.conv2d(&w, None, &conv).conv2d(&v, None, &conv);
    let y = y.conv2d(&w, None, &conv);
    let z = graph.input("z", [64, 256]).matmul(&matrix.on(&graph));
    let wanted = [&y, &z];
    let mut plain = graph.compile_pure(gpu(), &params, &wanted).unwrap();
    let mut frozen = graph.compile_frozen(gpu(), &params, &wanted).unwrap();
    let packs = count(&plain.plan().steps, "conv2d_pack_weight");
    let software = gpu().profile().class == DeviceClass::Software;
    if software && gpu().profile().subgroup_size.is_some() {
        assert_eq!(packs, 3, "{}", plain.plan());
    }
    let plan = frozen.plan();
    assert_eq!(count(&plan.steps, "conv2d_pack_weight"), 0, "{plan}");
    assert_eq!(
        count(&plan.prepared, "conv2d_pack_weight"),
        packs.min(2),
        "{plan}"
    );
    let all = plan.steps.len() + plan.prepared.len();
    assert_eq!(
        all + packs.saturating_sub(2),
        plain.plan().steps.len(),
        "{plan}"
    );
    assert_eq!(plan.memory().prepared > 0, packs > 0);
    assert!(plain.plan().prepared.is_empty());
    let inputs: Vec<Vec<f32>> = [x.numel(), 64 * 256]
        .map(|n| (0..n).map(|i| (i as f32 * 0.37).sin()).collect())
        .into();
    let feed = [("x", Value::F32(&inputs[0])), ("z", Value::F32(&inputs[1]))];
    let expected = plain.run(&feed).unwrap();
    for run in 0..2 {
        let got = frozen.run(&feed).unwrap();
        for output in 0..2 {
            assert!(
                got.bits(output) == expected.bits(output),
                "run {run}, output {output}"
            );
        }
    }
    // Copies of weights in 16 bits are in 16 bits.
    let full = frozen.plan().memory().prepared;
    let half = FreezeOptions {
        weights: Storage::F16,
    };
    let half = graph.compile_frozen_with(gpu(), &params, &wanted, &half);
    let half = half.unwrap();
    assert_eq!(count(&half.plan().steps, "conv2d_pack_weight"), 0);
    assert_eq!(half.plan().memory().prepared, full / 2, "{}", half.plan());
    // Programs that may train prepare nothing, whatever was asked for.
    let options = PlanOptions {
        prepare: true,
        ..PlanOptions::default()
    };
    let trains = graph.compile_with(gpu(), &[&params], &wanted, &options);
    assert!(trains.unwrap().plan().prepared.is_empty());
}

/// Parts of a convolution share one copy.
#[test]
fn parts_share_what_was_prepared() {
    let params = Params::new(3);
    let init = Init::Uniform { lo: -1.0, hi: 1.0 };
    let weight = params.add("weight", [8, 8, 3, 3], init).unwrap();
    let graph = Graph::new();
    let conv = ConvParams {
        padding: [1; 4],
        ..ConvParams::default()
    };
    let x = graph.input("x", [60, 8, 16, 12]);
    let y = x.conv2d(&weight.on(&graph), None, &conv);
    let profile = DeviceProfile {
        max_binding: 160 << 10,
        ..gpu().profile().clone()
    };
    let options = |prepare: bool| PlanOptions {
        prepare,
        updates: false,
        ..PlanOptions::default()
    };
    let maps = [arena_map(&params)];
    let values: Vec<f32> = (0..x.numel()).map(|i| (i as f32 * 0.37).sin()).collect();
    let [once, always] = [true, false].map(|prepare| {
        let plan = graph
            .plan(&profile, &maps, &[&y], &options(prepare))
            .unwrap();
        let found = (
            count(&plan.prepared, "conv2d_pack_weight"),
            count(&plan.steps, "conv2d_pack_weight"),
        );
        let mut program = Program::new(gpu(), plan, &[&params]).unwrap();
        let run = program.run(&[("x", Value::F32(&values))]).unwrap();
        (found, run.bits(0).to_vec())
    });
    let (_, packs) = always.0;
    assert_eq!(once.0, (packs.min(1), 0));
    assert!(once.1 == always.1);
}

#[test]
fn parameters_of_several_sets_freeze() {
    let (encoder, decoder) = (Params::new(1), Params::new(2));
    let graph = Graph::new();
    let init = Init::Uniform { lo: 0.5, hi: 1.0 };
    let of = |params: &Params| params.add("w", [3, 3], init.clone()).unwrap().on(&graph);
    let (a, b) = (of(&encoder), of(&decoder));
    let x = graph.input("x", [2, 3]);
    let y = x
        .matmul(&a.matmul(&a))
        .matmul(&b.exp().matmul(&a))
        .matmul(&b);
    let values = [1.0, 2.0, 3.0, -1.0, 0.5, 2.0];
    let feed = [("x", Value::F32(&values))];
    let sets = [&encoder, &decoder];
    let expected = graph.compile_pure(gpu(), &sets, &[&y]).unwrap().run(&feed);
    for weights in [Storage::F32, Storage::F16] {
        let options = FreezeOptions { weights };
        let frozen = graph.compile_frozen_with(gpu(), &sets, &[&y], &options);
        let mut frozen = frozen.unwrap();
        assert_eq!(frozen.plan().steps.len(), 3, "{}", frozen.plan());
        let got = frozen.run(&feed).unwrap().f32(0).unwrap();
        for (a, b) in got.iter().zip(expected.as_ref().unwrap().f32(0).unwrap()) {
            let limit = if weights == Storage::F16 { 3e-3 } else { 1e-5 };
            assert!((a - b).abs() < limit * b.abs(), "{a} and {b}");
        }
    }
    assert!(graph.compile_frozen(gpu(), &encoder, &[&y]).is_err());
}

#[test]
fn residuals_are_added_by_the_convolution() {
    let graph = Graph::new();
    let (_, norm) = block(&graph, false, true);
    let skip = graph.input("skip", [2, 6, 7, 6]);
    for y in [norm.add(&skip).relu(), skip.add(&norm)] {
        let folded = fold_batch_norms(&[&y]).unwrap();
        let after = ops(&graph, &folded);
        let last = after.rsplit("; ").next().unwrap();
        assert!(last.starts_with("conv2d"), "{after}");
        let mut feed = feed();
        let data = Data::f32([2, 6, 7, 6], 8);
        feed.inputs.insert("skip".into(), data.array());
        let both = evaluate(&[&y, &folded[0]], &feed).unwrap();
        for (a, b) in both[0].data.iter().zip(&both[1].data) {
            assert!((a - b).abs() < 1e-12, "{a} became {b}");
        }
    }
    // A sum that broadcasts stays.
    let row = graph.input("row", [6]);
    let folded = fold_batch_norms(&[&norm.add(&row)]).unwrap();
    let after = ops(&graph, &folded);
    assert!(
        !after.rsplit("; ").next().unwrap().starts_with("conv2d"),
        "{after}"
    );
}

#[test]
fn what_is_read_elsewhere_is_not_folded() {
    let graph = Graph::new();
    let (conv, norm) = block(&graph, true, true);
    // The convolution is read twice.
    let y = norm.add(&conv);
    let folded = fold_batch_norms(&[&y]).unwrap();
    assert!(ops(&graph, &folded).contains("normalize"));
    // It is an output itself.
    let folded = fold_batch_norms(&[&norm, &conv]).unwrap();
    assert!(ops(&graph, &folded).contains("normalize"));
    // The statistics are the batch's own.
    let x = graph.input("images", [2, 4, 7, 6]);
    let weight = graph.input("other", [6, 4, 3, 3]);
    let conv = x.conv2d(&weight, None, &ConvParams::default());
    let y = conv.batch_norm_train(None, None, 1e-5).0;
    let folded = fold_batch_norms(&[&y]).unwrap();
    assert!(ops(&graph, &folded).contains("normalize"));
}

#[test]
fn weights_alone_are_computed_once() {
    let params = Params::new(3);
    let graph = Graph::new();
    let add = |name: &str, shape: &[usize], lo: f32, hi: f32| {
        let init = Init::Uniform { lo, hi };
        params.add(name, shape, init).unwrap().on(&graph)
    };
    let x = graph.input("x", [2, 4, 7, 6]);
    let t: Vec<Tensor> = INPUTS[1..]
        .iter()
        .map(|(n, s, lo, hi)| add(n, s, *lo, *hi))
        .collect();
    let conv = x.conv2d(&t[0], Some(&t[1]), &ConvParams::default());
    let y = conv
        .batch_norm_eval(&t[2], &t[3], Some(&t[4]), Some(&t[5]), 1e-5)
        .relu();
    let matrix = add("matrix", &[6, 6], -1.0, 1.0);
    let z = y
        .mean(&[2, 3], false)
        .matmul(&matrix.matmul(&matrix).relu());
    let norm = t[4].square().sum(&[], false);
    let folded = fold_batch_norms(&[&z, &norm]).unwrap();
    let wanted: Vec<&Tensor> = folded.iter().collect();
    let mut plain = graph.compile_pure(gpu(), &params, &[&z, &norm]).unwrap();
    let mut frozen = graph.compile_frozen(gpu(), &params, &wanted).unwrap();
    // The convolution, the mean, the product; the norm is a copy.
    let names: Vec<&str> = frozen
        .plan()
        .steps
        .iter()
        .map(|s| s.kernel.as_str())
        .collect();
    assert!(
        names.iter().filter(|n| n.starts_with("matmul")).count() == 1,
        "{names:?}"
    );
    assert!(
        names.len() <= 4 && names.len() < plain.plan().steps.len(),
        "{names:?}"
    );
    let Data::F32 { values, .. } = Data::f32([2, 4, 7, 6], 9) else {
        unreachable!()
    };
    for run in 0..2 {
        let a = plain.run(&[("x", Value::F32(&values))]).unwrap();
        let b = frozen.run(&[("x", Value::F32(&values))]).unwrap();
        for output in 0..2 {
            let (a, b) = (a.f32(output).unwrap(), b.f32(output).unwrap());
            for (a, b) in a.iter().zip(&b) {
                assert!(
                    (a - b).abs() < 1e-4 * (1.0 + a.abs()),
                    "run {run}: {a}, {b}"
                );
            }
        }
    }
}

#[test]
fn weights_that_give_no_numbers_tell() {
    let params = Params::new(1);
    let graph = Graph::new();
    let w = params
        .add("w", [3], Init::Constant(-1.0))
        .unwrap()
        .on(&graph);
    let y = graph.input("x", [3]).mul(&w.log());
    let error = graph.compile_frozen(gpu(), &params, &[&y]).unwrap_err();
    assert!(matches!(error, Error::NonFinite { .. }), "{error}");
}
