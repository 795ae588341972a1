//! Programs for inference: batch norms folded into convolutions, and what depends on
//! parameters alone computed once.

use flowgrad::graph::{Feed, evaluate};
use flowgrad::ops::{Activation, ConvParams, fold_batch_norms};
use flowgrad::plan::PlanOptions;
use flowgrad::{Error, Graph, Init, Params, Tensor, Value};

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
