//! Weights stored as 16-bit floats: kernels that read them compute what float64 does
//! with the rounded weights, and frozen programs stay within the stated bound of the
//! unrounded ones at half the memory.

use flowgrad::device::DeviceClass;
use flowgrad::models::{ResNet, ResNetConfig, ResNetStem, VqVae};
use flowgrad::nn::{Layer, Mode};
use flowgrad::ops::{Activation, ConvParams, ConvTransposeParams, fold_batch_norms};
use flowgrad::{Error, FreezeOptions, Graph, Init, Params, Program, Storage, Tensor, Value};

use crate::support::{Data, Numbers, Tol, check_op, gpu};

const HALF: FreezeOptions = FreezeOptions {
    weights: Storage::F16,
};

fn rounded(v: f32) -> f32 {
    half::f16::from_f32(v).to_f32()
}

#[test]
fn products_read_halves() {
    let shapes = [
        [1, 1, 1],
        [1, 1000, 33],
        [3, 5, 7],
        [7, 9, 33],
        [5, 12, 8],
        [17, 40, 64],
        [33, 72, 20],
        [40, 100, 12],
    ];
    for [m, n, k] in shapes {
        for (ta, tb) in [(false, false), (false, true), (true, false), (true, true)] {
            let a = Data::f32(if ta { [k, m] } else { [m, k] }, 1);
            let b = Data::f32(if tb { [n, k] } else { [k, n] }, 2);
            let name = format!("matmul {m}x{n}x{k} {ta} {tb}");
            check_op(
                &format!("{name}, b in halves"),
                std::slice::from_ref(&a),
                |graph, x| vec![x[0].matmul_with(&b.half(graph), ta, tb)],
                Tol::default(),
            );
            check_op(
                &format!("{name}, a in halves"),
                std::slice::from_ref(&b),
                |graph, x| vec![a.half(graph).matmul_with(&x[0], ta, tb)],
                Tol::default(),
            );
        }
    }
}

#[test]
fn batches_and_layers_read_halves() {
    // Matrices of an odd number of elements begin in the middle of a word.
    for (shape_a, shape_b) in [([3, 5, 3], [3, 3, 5]), ([2, 8, 12], [2, 12, 16])] {
        let b = Data::f32(shape_b, 2);
        check_op(
            "batched, b in halves",
            &[Data::f32(shape_a, 1)],
            |graph, x| vec![x[0].matmul(&b.half(graph))],
            Tol::default(),
        );
    }
    for (m, k, n) in [(6, 5, 7), (12, 64, 40)] {
        let weight = Data::f32([n, k], 2);
        check_op(
            "linear in halves",
            &[Data::f32([m, k], 1), Data::f32([n], 3)],
            |graph, x| vec![x[0].linear(&weight.half(graph), Some(&x[1]), Activation::Tanh)],
            Tol::default(),
        );
    }
}

#[test]
fn convolutions_read_halves() {
    let case = |name: &str, c: usize, o: usize, k: usize, params: ConvParams| {
        let weight = Data::f32([o, c / params.groups, k, k], 2);
        check_op(
            name,
            &[Data::f32([2, c, 9, 8], 1), Data::f32([o], 3)],
            |graph, x| vec![x[0].conv2d(&weight.half(graph), Some(&x[1]), &params)],
            Tol::default(),
        );
    };
    let plain = ConvParams::default();
    let same = ConvParams {
        padding: [1; 4],
        activation: Activation::Tanh,
        ..plain
    };
    let stride = [2, 2];
    case("1x1", 8, 36, 1, plain);
    case("1x1, odd", 5, 7, 1, plain);
    case("3x3", 5, 37, 3, same);
    case("3x3, large enough for copies", 24, 40, 3, same);
    case("3x3, strided", 4, 6, 3, ConvParams { stride, ..same });
    case("3x3, groups", 6, 9, 3, ConvParams { groups: 3, ..same });
    case("depthwise", 5, 5, 3, ConvParams { groups: 5, ..same });
}

#[test]
fn transposed_convolutions_read_halves() {
    for (c, o, groups) in [(4, 3, 1), (16, 24, 1), (6, 3, 3)] {
        let weight = Data::f32([c, o, 4, 4], 2);
        let params = ConvTransposeParams {
            stride: [2, 2],
            padding: [1; 4],
            groups,
            ..Default::default()
        };
        check_op(
            "transposed",
            &[Data::f32([2, c, 7, 6], 1), Data::f32([o * groups], 3)],
            |graph, x| vec![x[0].conv_transpose2d(&weight.half(graph), Some(&x[1]), &params)],
            Tol::default(),
        );
    }
}

#[test]
fn tables_are_read_as_halves() {
    for width in [1, 3, 4, 6, 12] {
        let table = Data::f32([9, width], 2);
        check_op(
            "gather",
            &[Data::u32([2, 3], &[0, 8, 3, 9, 1, 1])],
            |graph, x| vec![table.half(graph).gather_rows(&x[0])],
            Tol::default().no_grad(),
        );
    }
}

#[test]
fn wrong_halves_are_errors() {
    let graph = Graph::new();
    for value in [65_505.0, f32::INFINITY, f32::NAN] {
        let error = graph.constant_f16([2], &[0.0, value]).check().unwrap_err();
        assert!(matches!(error, Error::NonFinite { .. }), "{error}");
    }
    let halves = graph.constant_f16([3, 3], &[65_504.0; 9]);
    assert!(halves.check().is_ok());
    let error = graph.constant_f16([3], &[0.0; 2]).check().unwrap_err();
    assert!(matches!(error, Error::Shape { .. }), "{error}");
    // What cannot read them says so.
    let x = graph.input("x", [3, 3]);
    for y in [
        x.add(&halves),
        halves.sum(&[], false),
        halves.slice(0, 0, 1),
        Tensor::concat(&[&halves, &halves], 0),
    ] {
        let error = y.check().unwrap_err();
        assert!(matches!(error, Error::DType { .. }), "{error}");
    }
}

/// Makes every weight one that 16 bits hold, so that storing it so changes nothing.
fn round_weights(params: &Params) {
    for param in params.all().iter().filter(|p| p.shape().rank() > 1) {
        let values: Vec<f32> = param.get().unwrap().iter().map(|v| rounded(*v)).collect();
        param.set(&values).unwrap();
    }
}

fn both(graph: &Graph, params: &Params, outputs: &[&Tensor]) -> [Program; 2] {
    let half = graph.compile_frozen_with(gpu(), params, outputs, &HALF);
    let full = graph.compile_frozen(gpu(), params, outputs);
    [half.unwrap(), full.unwrap()]
}

/// The first output of both, and the largest difference relative to the largest value.
#[track_caller]
fn differ(programs: &mut [Program; 2], inputs: &[(&str, Value<'_>)]) -> f32 {
    let [a, b] = programs
        .each_mut()
        .map(|p| p.run(inputs).unwrap().f32(0).unwrap());
    let size = b.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    assert!(size > 1e-3 && size.is_finite(), "{b:?}");
    let pairs = a.iter().zip(&b);
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / size
}

/// Bytes of weights, as a share of those of the second program.
fn share(programs: &[Program; 2]) -> f64 {
    let [half, full] = programs.each_ref().map(|p| p.plan().memory().arenas);
    half as f64 / full as f64
}

#[test]
fn a_residual_network_in_halves() {
    let params = Params::new(5);
    let config = ResNetConfig {
        stem: ResNetStem::Cifar,
        channels: 3,
        width: 16,
        blocks: vec![1; 4],
        classes: 10,
        ..ResNetConfig::resnet18()
    };
    let net = ResNet::new(&params, config).unwrap();
    let mut numbers = Numbers::new(1);
    for param in params.all().iter().filter(|p| p.shape().rank() == 1) {
        let n = param.shape().numel();
        let values: Vec<f32> = (0..n).map(|_| numbers.uniform(0.5, 1.5)).collect();
        param.set(&values).unwrap();
    }
    let x: Vec<f32> = (0..2 * 3 * 81)
        .map(|_| numbers.uniform(-1.0, 1.0))
        .collect();
    let feed = [("x", Value::F32(&x))];
    let graph = Graph::new();
    let y = net.forward(&graph.input("x", [2, 3, 9, 9]), Mode::Eval);
    let folded = fold_batch_norms(&[&y]).unwrap();
    // Ten layers, each within 2^-11 of what it sums.
    let mut programs = both(&graph, &params, &[&folded[0]]);
    let error = differ(&mut programs, &feed);
    assert!(error < 10.0 / 2048.0, "{error:e}");
    assert!(error > 1e-6, "nothing was rounded: {error:e}");
    assert!(share(&programs) < 0.52, "{}", share(&programs));
    let steps = |p: &Program| p.plan().steps.len() + p.plan().prepared.len();
    assert_eq!(steps(&programs[0]), steps(&programs[1]));

    // Nothing but the rounding: with weights that 16 bits hold there is no difference.
    round_weights(&params);
    let mut programs = both(&graph, &params, &[&y]);
    let error = differ(&mut programs, &feed);
    assert!(error < 2e-6, "{error:e}");
    assert!(share(&programs) < 0.55, "{}", share(&programs));

    // It has copies of its own.
    let first = programs[0].run(&feed).unwrap();
    for param in params.all() {
        param.set(&vec![0.5; param.shape().numel()]).unwrap();
    }
    let again = programs[0].run(&feed).unwrap();
    assert_eq!(first.bits(0), again.bits(0));
}

/// Kernels that copy their weights first copy them in 16 bits: with weights that 16 bits hold,
/// small ones too, nothing changes in any bit.
#[test]
fn copies_of_weights_are_exact() {
    let same = ConvParams {
        padding: [1; 4],
        ..ConvParams::default()
    };
    let params = Params::new(8);
    let mut numbers = Numbers::new(5);
    let mut weight = |name: &str, shape: &[usize]| {
        let param = params.add(name, shape, Init::Zeros).unwrap();
        let values: Vec<f32> = (0..param.shape().numel())
            .map(|i| rounded(numbers.uniform(-1.0, 1.0) * [1.0, 1e-3, 1e-6][i % 3]))
            .collect();
        param.set(&values).unwrap();
        param
    };
    let (few, many) = (
        weight("few", &[12, 3, 3, 3]),
        weight("many", &[64, 24, 3, 3]),
    );
    let odd = weight("odd", &[267, 259]);
    let graph = Graph::new();
    let x = graph.input("x", [2, 3, 16, 24]);
    let z = graph.input("z", [260, 267]);
    let up = x.conv2d(&few.on(&graph), None, &same);
    let up = Tensor::concat(&[&up, &up.neg()], 1);
    let wanted = [
        up.conv2d(&many.on(&graph), None, &same),
        z.matmul(&odd.on(&graph)),
    ];
    let wanted: Vec<&Tensor> = wanted.iter().collect();
    let mut programs = both(&graph, &params, &wanted);
    let kernels = |p: &Program| -> Vec<String> {
        let all = p.plan().prepared.iter().chain(&p.plan().steps);
        all.map(|s| s.kernel.clone()).collect()
    };
    assert_eq!(kernels(&programs[0]), kernels(&programs[1]));
    let [x, z] = [x.numel(), z.numel()]
        .map(|n| -> Vec<f32> { (0..n).map(|_| numbers.uniform(-1.0, 1.0)).collect() });
    let feed = [("x", Value::F32(&x)), ("z", Value::F32(&z))];
    let [half, full] = programs.each_mut().map(|p| p.run(&feed).unwrap());
    for output in 0..2 {
        assert!(half.bits(output) == full.bits(output), "output {output}");
    }
    if gpu().profile().class == DeviceClass::Software && gpu().profile().subgroup_size.is_some() {
        let found = kernels(&programs[0]);
        for kernel in [
            "conv2d_shuffle",
            "conv2d_rows",
            "matmul_packed",
            "matmul_pack",
        ] {
            assert!(found.iter().any(|k| k == kernel), "{kernel} of {found:?}");
        }
        let [half, full] = programs.each_ref().map(|p| p.plan().memory().prepared);
        assert_eq!(2 * half, full);
    }
}

#[test]
fn a_vq_vae_in_halves() {
    let params = Params::new(2);
    let net = VqVae::digits(&params).unwrap();
    let [height, width] = net.image_shape();
    let mut numbers = Numbers::new(3);
    let x: Vec<f32> = (0..4 * height * width)
        .map(|_| numbers.uniform(0.0, 1.0))
        .collect();
    for exact in [false, true] {
        if exact {
            round_weights(&params);
        }
        let graph = Graph::new();
        let latent = net.encode(&graph.input("x", [4, 1, height, width]), Mode::Eval);
        let mut encoder = both(&graph, &params, &[&latent]);
        let shape = latent.shape().clone();
        let z: Vec<f32> = (0..shape.numel())
            .map(|_| numbers.uniform(-1.0, 1.0))
            .collect();
        let picture = net.decode(&graph.input("z", &shape), Mode::Eval);
        let mut decoder = both(&graph, &params, &[&picture]);
        let errors = [
            differ(&mut encoder, &[("x", Value::F32(&x))]),
            differ(&mut decoder, &[("z", Value::F32(&z))]),
        ];
        let bound = if exact { 2e-6 } else { 6.0 / 2048.0 };
        assert!(errors.iter().all(|e| *e < bound), "{errors:?}");
        assert!(exact || errors.iter().all(|e| *e > 1e-6), "{errors:?}");
        for programs in [&encoder, &decoder] {
            assert!(share(programs) < 0.55, "{}", share(programs));
        }
    }
}

#[test]
fn only_what_every_reader_can_read_is_halved() {
    let params = Params::new(4);
    let graph = Graph::new();
    let init = Init::Uniform { lo: -1.0, hi: 1.0 };
    let w = params.add("w", [64, 64], init.clone()).unwrap().on(&graph);
    let v = params.add("v", [4096], init).unwrap().on(&graph);
    let x = graph.input("x", [3, 64]);
    let y = x.matmul(&w).add(&w.square().sum(&[0], false));
    let values: Vec<f32> = (0..192).map(|i| (i as f32).sin()).collect();
    let feed = [("x", Value::F32(&values))];
    // w is read by the product alone, what it is squared for is computed before.
    let mut programs = both(&graph, &params, &[&y]);
    let error = differ(&mut programs, &feed);
    assert!(error > 1e-6 && error < 1.0 / 2048.0, "{error:e}");
    // A sum reads it too, an output is it, or it has another shape at first.
    for y in [
        y.add(&w.slice(0, 0, 3).mul(&x)),
        x.matmul(&w.relu()).matmul(&w).mul_scalar(0.5),
    ] {
        let mut programs = both(&graph, &params, &[&y, &w]);
        assert!(differ(&mut programs, &feed) < 1.0 / 1024.0);
        let bits = programs
            .each_mut()
            .map(|p| p.run(&feed).unwrap().bits(1).to_vec());
        assert_eq!(bits[0], bits[1]);
    }
    let mut programs = both(&graph, &params, &[&x.matmul(&v.reshape([64, 64]))]);
    let error = differ(&mut programs, &feed);
    assert!(error > 1e-6 && error < 1.0 / 2048.0, "{error:e}");
    assert_eq!(share(&programs), 0.25);
}

#[test]
fn weights_beyond_halves_are_named() {
    let params = Params::new(1);
    let graph = Graph::new();
    let set = params.scope("layer");
    let large = set.add("weight", [2, 2], Init::Constant(70_000.0)).unwrap();
    let x = graph.input("x", [1, 2]);
    for weight in [large.on(&graph), large.on(&graph).add_scalar(1.0)] {
        let y = x.matmul(&weight);
        let error = graph.compile_frozen_with(gpu(), &params, &[&y], &HALF);
        let error = error.unwrap_err();
        assert!(matches!(error, Error::NonFinite { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("`layer.weight`") && text.contains("7000"),
            "{text}"
        );
        assert!(graph.compile_frozen(gpu(), &params, &[&y]).is_ok());
    }
}
