//! NaN is never swallowed: literal values, a property of all ops, and the switches that
//! tell of it in training.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use flowgrad::graph::{Array, Feed, evaluate};
use flowgrad::nn::{BatchNorm2d, Conv2d, Layer, Linear, Mode, Sequential};
use flowgrad::ops::{
    Activation, ConvParams, CouplingMask, CouplingParams, CouplingScale, PoolParams, SplineParams,
};
use flowgrad::optim::{Adam, Optimizer, Sgd};
use flowgrad::{DType, Error, Graph, Params, Tensor, Value};

use crate::edges::literal;
use crate::support::{Case, Data, Numbers, gpu};
use crate::zoo::zoo;

const NAN: f64 = f64::NAN;

fn pair() -> [Data; 1] {
    [Data::values([2], &[1.0, f32::NAN])]
}

#[test]
fn comparisons_give_nan_for_nan() {
    let x = &pair();
    literal("relu", x, |x| x[0].relu(), &[1.0, NAN]);
    literal("clamp", x, |x| x[0].clamp(-2.0, 2.0), &[1.0, NAN]);
    let zeros = |x: &Tensor| x.zeros_like();
    let larger = |x: &[Tensor]| x[0].maximum(&zeros(&x[0]));
    literal("maximum", x, larger, &[1.0, NAN]);
    let other_way = |x: &[Tensor]| zeros(&x[0]).minimum(&x[0]);
    literal("minimum", x, other_way, &[0.0, NAN]);
    literal("max", x, |x| x[0].max(&[], false), &[NAN]);
    literal("min", x, |x| x[0].min(&[], false), &[NAN]);
    literal("sign", x, |x| x[0].sign(), &[1.0, NAN]);
    literal("elu", x, |x| x[0].elu(1.0), &[1.0, NAN]);
    literal("leaky_relu", x, |x| x[0].leaky_relu(0.1), &[1.0, NAN]);
    let shifted = |x: &[Tensor]| x[0].logsumexp(&[], false);
    literal("logsumexp", x, shifted, &[NAN]);
    literal("softmax", x, |x| x[0].softmax(0), &[NAN, NAN]);
    let image = |x: &Tensor| x.reshape([1, 1, 1, 2]);
    let window = PoolParams::new([1, 2], [1, 2]);
    let pooled = |x: &[Tensor]| image(&x[0]).max_pool2d(&window);
    literal("max_pool2d", x, pooled, &[NAN]);
}

#[test]
fn the_first_nan_is_largest_and_smallest() {
    let x = [Data::values([5], &[3.0, f32::NAN, 7.0, f32::NAN, -1.0])];
    literal("argmax", &x, |x| x[0].argmax(None), &[1.0]);
    literal("argmin", &x, |x| x[0].argmin(None), &[1.0]);
    // In every place of rows that are read four and eight at a time, or in parts.
    for (rows, columns) in [(3, 7), (2, 64), (1, 5000)] {
        for at in [0, columns / 2, columns - 1] {
            let mut values = vec![0.5; rows * columns];
            values[(rows - 1) * columns + at] = f32::NAN;
            let x = [Data::values([rows, columns], &values)];
            let mut expected = vec![0.5; rows];
            expected[rows - 1] = NAN;
            let name = format!("max of {rows}x{columns} at {at}");
            literal(&name, &x, |x| x[0].max(&[1], false), &expected);
            literal(&name, &x, |x| x[0].min(&[1], false), &expected);
            let mut place = vec![0.0; rows];
            place[rows - 1] = at as f64;
            literal(&name, &x, |x| x[0].argmax(Some(1)), &place);
            literal(
                &name,
                &x,
                |x| x[0].transpose(0, 1).max(&[0], false),
                &expected,
            );
        }
    }
}

#[test]
fn what_has_no_value_is_not_folded_to_one() {
    let x = [Data::values([3], &[2.0, f32::NAN, f32::INFINITY])];
    literal("x * 0", &x, |x| x[0].mul_scalar(0.0), &[0.0, NAN, NAN]);
    let zeros = |x: &[Tensor]| x[0].mul(&x[0].zeros_like());
    literal("x * zeros", &x, zeros, &[0.0, NAN, NAN]);
    literal("x - x", &x, |x| x[0].sub(&x[0]), &[0.0, NAN, NAN]);
    literal("x / x", &x, |x| x[0].div(&x[0]), &[1.0, NAN, NAN]);
    literal("x == x", &x, |x| x[0].equal(&x[0]), &[1.0, 0.0, 1.0]);
    let far = |x: &[Tensor]| x[0].exp().sub(&x[0].exp());
    literal("e^x - e^x", &x, far, &[0.0, NAN, NAN]);
}

#[test]
fn activations_of_kernels_keep_nan() {
    let row = [Data::values([1, 2], &[1.0, f32::NAN])];
    for activation in [
        Activation::Relu,
        Activation::LeakyRelu(0.1),
        Activation::Sigmoid,
        Activation::Tanh,
    ] {
        let name = format!("{activation:?}");
        let one = activation.eval(2.0);
        let product = |x: &[Tensor]| {
            let two = x[0].graph().full([1, 1], 2.0);
            x[0].reshape([2, 1]).linear(&two, None, activation)
        };
        let data = [Data::values([1, 2], &[1.0, f32::NAN])];
        literal(&name, &data, product, &[one, NAN]);
        let convolved = |x: &[Tensor]| {
            let two = x[0].graph().full([1, 1, 1, 1], 2.0);
            let params = ConvParams {
                activation,
                ..Default::default()
            };
            x[0].reshape([1, 1, 1, 2]).conv2d(&two, None, &params)
        };
        literal(&name, &row, convolved, &[one, NAN]);
    }
}

#[test]
fn couplings_and_splines_keep_nan() {
    let x = Data::values([1, 2], &[0.5, 0.25]);
    for scale in [
        CouplingScale::Exp,
        CouplingScale::Sigmoid { offset: 2.0 },
        CouplingScale::Tanh { clamp: 1.9 },
    ] {
        let params = CouplingParams {
            scale,
            ..CouplingParams::new(CouplingMask::After(1))
        };
        let raw = Data::values([1, 2], &[f32::NAN, 0.125]);
        let inputs = [x.clone(), raw];
        let forward = |x: &[Tensor]| x[0].coupling(&x[1], &params).0;
        literal(&format!("{scale:?}"), &inputs, forward, &[0.5, NAN]);
        let log_det = |x: &[Tensor]| x[0].coupling(&x[1], &params).1;
        literal(&format!("{scale:?}"), &inputs, log_det, &[NAN]);
        let inverse = |x: &[Tensor]| x[0].coupling_inverse(&x[1], &params).0;
        literal(&format!("{scale:?}"), &inputs, inverse, &[0.5, NAN]);
    }
    let spline = SplineParams {
        bins: 4,
        bound: 3.0,
    };
    let x = Data::values([1, 1], &[0.5]);
    for bad in [0, 5, 9] {
        let mut raw = vec![0.1; 11];
        raw[bad] = f32::NAN;
        let inputs = [x.clone(), Data::values([1, 11], &raw)];
        let name = format!("spline, raw value {bad}");
        literal(&name, &inputs, |x| x[0].spline(&x[1], &spline).0, &[NAN]);
        let inverse = |x: &[Tensor]| x[0].spline_inverse(&x[1], &spline).0;
        literal(&name, &inputs, inverse, &[NAN]);
    }
    let inputs = [
        Data::values([1, 1], &[f32::NAN]),
        Data::values([1, 11], &[0.1; 11]),
    ];
    let log_slope = |x: &[Tensor]| x[0].spline(&x[1], &spline).1;
    literal("spline of NaN", &inputs, log_slope, &[NAN]);
}

/// The values of a case with one element of an input changed, in float64.
fn changed(case: &Case, wanted: &[&Tensor], input: usize, at: usize, to: f32) -> Vec<Array> {
    let arrays = case.inputs.iter().enumerate().map(|(i, (name, data))| {
        let mut array = data.array();
        if i == input {
            array.data[at] = f64::from(to);
        }
        (name.clone(), array)
    });
    let feed = Feed {
        inputs: arrays.collect::<HashMap<_, _>>(),
        ..Feed::default()
    };
    evaluate(wanted, &feed).unwrap_or_else(|e| panic!("{}: {e}", case.name))
}

/// Where NaN decides which other number is taken, and so need not come out: the beginning
/// of a case's name, the output (all where there is none), why.
const CHOICES: &[(&str, Option<usize>, &str)] = &[
    ("codes", None, "a code that is NaN is nobody's nearest"),
    ("functions", Some(31), "the condition of a select is false"),
];

/// Whatever a number changes when it moves a little, NaN in its place makes NaN: for every op and kernel of the
/// zoo, outputs and gradients, on the GPU and in the reference.
#[test]
fn nan_in_nan_out() {
    let mut seen = BTreeSet::new();
    let mut failures: BTreeMap<String, String> = BTreeMap::new();
    let (mut cases, mut elements) = (0, 0);
    for case in zoo() {
        let floats: Vec<usize> = (0..case.inputs.len())
            .filter(|i| case.inputs[*i].1.is_f32())
            .collect();
        let size: usize = case.inputs.iter().map(|(_, d)| d.shape().numel()).sum();
        let wanted: Vec<&Tensor> = (case.wanted().into_iter())
            .filter(|t| t.dtype() == DType::F32)
            .collect();
        if size > 20_000 || floats.is_empty() || wanted.is_empty() {
            continue;
        }
        let graph = wanted[0].graph();
        let mut program = match graph.plan(gpu().profile(), &[], &wanted, &Default::default()) {
            Ok(plan) => {
                let kernels = plan.steps.iter().map(|s| format!("{} {}", s.op, s.kernel));
                let new: Vec<String> = kernels.filter(|k| !seen.contains(k)).collect();
                if new.is_empty() || plan.random.is_some() {
                    continue;
                }
                seen.extend(new);
                graph
                    .compile_pure(gpu(), &Params::new(0), &wanted)
                    .unwrap_or_else(|e| panic!("{}: {e}", case.name))
            }
            Err(e) => panic!("{}: {e}", case.name),
        };
        cases += 1;
        let used: Vec<String> = (program.plan().inputs.iter())
            .map(|i| i.name.clone())
            .collect();
        let before = changed(&case, &wanted, usize::MAX, 0, 0.0);
        for input in floats {
            let Data::F32 { values, .. } = &case.inputs[input].1 else {
                continue;
            };
            let at = Numbers::new(input as u64 + 3).below(values.len());
            let after = changed(&case, &wanted, input, at, values[at] + 1e-3);
            let reference = changed(&case, &wanted, input, at, f32::NAN);
            let mut poisoned = values.clone();
            poisoned[at] = f32::NAN;
            let feed: Vec<(&str, Value<'_>)> = (case.inputs.iter().enumerate())
                .filter(|(_, (name, _))| used.contains(name))
                .map(|(i, (name, data))| {
                    let value = match data {
                        Data::F32 { .. } if i == input => Value::F32(&poisoned),
                        Data::F32 { values, .. } => Value::F32(values),
                        Data::U32 { values, .. } => Value::U32(values),
                    };
                    (name.as_str(), value)
                })
                .collect();
            let outputs = program.run(&feed).expect("a run");
            for k in 0..wanted.len() {
                let chooses = |(name, output, _): &&(&str, Option<usize>, &str)| {
                    case.name.starts_with(name) && output.is_none_or(|o| o == k)
                };
                if CHOICES.iter().any(|c| chooses(&c)) {
                    continue;
                }
                let got = outputs.f32(k).expect("floats");
                for (i, value) in got.iter().enumerate() {
                    let moved = (before[k].data[i] - after[k].data[i]).abs();
                    if moved.is_nan() || moved <= 1e-9 {
                        continue;
                    }
                    elements += 1;
                    for (who, number) in [
                        ("reference", reference[k].data[i]),
                        ("GPU", f64::from(*value)),
                    ] {
                        if !number.is_nan() {
                            let told = format!("{}, {who}, output {k} by input {input}", case.name);
                            let example = format!("element {i} is {number}");
                            failures.entry(told).or_insert(example);
                        }
                    }
                }
            }
        }
    }
    assert!(cases > 30 && elements > 5_000, "{cases} cases, {elements}");
    assert!(failures.is_empty(), "{failures:#?}");
}

/// A small classifier, as in a first training script.
fn net(params: &Params) -> Sequential {
    Sequential::new()
        .with(
            Conv2d::new(
                &params.scope("conv"),
                [1, 4],
                [3, 3],
                ConvParams {
                    activation: Activation::Relu,
                    ..Default::default()
                },
            )
            .expect("a layer"),
        )
        .with(BatchNorm2d::new(&params.scope("bn"), 4).expect("a layer"))
        .with(flowgrad::nn::Flatten)
        .with(Linear::new(&params.scope("head"), 4 * 36, 3).expect("a layer"))
}

fn images(bad: bool) -> Vec<f32> {
    let mut numbers = Numbers::new(5);
    let mut x: Vec<f32> = (0..5 * 64).map(|_| numbers.uniform(-1.0, 1.0)).collect();
    if bad {
        x[70] = f32::NAN;
    }
    x
}

#[test]
fn a_pixel_that_is_nan_is_told_with_a_parameters_name() {
    let params = Params::new(1);
    let net = net(&params);
    let graph = Graph::new();
    let x = graph.input("x", [5, 1, 8, 8]);
    let loss = net.forward(&x, Mode::Train).square().mean(&[], false);
    let adam = Optimizer::new(&params, Adam::default()).expect("a rule");
    adam.minimize(&loss).expect("a step");
    let mut program = graph
        .compile_watched(gpu(), &params, &[&loss])
        .expect("a program");
    program.set_scalars(&adam.inputs(0)).expect("scalars");
    let good = program.run(&[("x", Value::F32(&images(false)))]);
    assert_eq!(good.expect("finite").specs().len(), 1);
    match program.run(&[("x", Value::F32(&images(true)))]) {
        Err(Error::NonFinite { place, detail }) => {
            assert!(place.starts_with("gradient of `conv."), "{place}");
            assert!(detail.contains("output 0"), "{detail}");
            assert!(detail.contains("update of"), "{detail}");
        }
        other => panic!("{other:?}"),
    }
    // The loss is NaN to those who only look at it.
    let mut plain = graph.compile_pure(gpu(), &params, &[&loss]).expect("it");
    let seen = plain.run(&[("x", Value::F32(&images(true)))]).expect("run");
    assert!(seen.scalar(0).expect("a loss").is_nan());
}

#[test]
fn a_norm_that_is_not_finite_is_never_clipped_to_a_step() {
    for bad in [f32::NAN, f32::INFINITY] {
        for skip in [false, true] {
            let params = Params::new(0);
            let w = params.add("w", [3], flowgrad::Init::Ones).expect("new");
            let graph = Graph::new();
            let scale = graph.input("scale", [3]);
            let loss = w.on(&graph).mul(&scale).sum(&[], false);
            let sgd = Sgd {
                lr: 0.5,
                momentum: 0.9,
                ..Sgd::default()
            };
            let mut sgd = Optimizer::new(&params, sgd)
                .expect("a rule")
                .clip_grad_norm(1.0);
            if skip {
                sgd = sgd.skip_non_finite();
            }
            let step = sgd.minimize(&loss).expect("a step");
            let norm = step.norm.expect("a norm");
            let taken = step.taken.unwrap_or_else(|| norm.ones_like());
            let mut program = graph.compile(gpu(), &params, &[&norm, &taken]).expect("it");
            program.set_scalars(&sgd.inputs(0)).expect("scalars");
            let good = program.run(&[("scale", Value::F32(&[0.0, 3.0, 4.0]))]);
            assert_eq!(good.expect("a run").scalar(1).expect("it"), 1.0);
            let before = params.get("w").expect("values");
            let out = program.run(&[("scale", Value::F32(&[1.0, bad, 2.0]))]);
            let out = out.expect("a run");
            assert!(!out.scalar(0).expect("a norm").is_finite());
            let after = params.get("w").expect("values");
            match skip {
                true => {
                    assert_eq!(out.scalar(1).expect("it"), 0.0);
                    assert_eq!(after, before, "{bad}: the step is left out");
                    // And so is what it would have left in the momentum.
                    let next = program.run(&[("scale", Value::F32(&[0.0, 3.0, 4.0]))]);
                    next.expect("a run");
                    let next = params.get("w").expect("values");
                    assert!(next.iter().all(|v| v.is_finite()), "{next:?}");
                }
                false => assert!(after.iter().all(|v| v.is_nan()), "{bad}: {after:?}"),
            }
        }
    }
}
