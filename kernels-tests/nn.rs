//! Layers: PyTorch's names, shapes and first values, what they compute, and the
//! running statistics.

use flowgrad::graph::{Array, Feed, evaluate};
use flowgrad::nn::{
    Apply, BatchNorm2d, Conv1d, Conv2d, ConvTranspose2d, Dropout, Flatten, Layer, Linear, Mode,
    Sequential,
};
use flowgrad::ops::{Activation, Conv1dParams, ConvParams, ConvTransposeParams};
use flowgrad::{Graph, Init, Params, Tensor, Value, tape};

use crate::support::{Data, assert_close, gpu, run_gpu};

/// `outputs` in float64 with the parameters' own values.
fn reference(params: &Params, inputs: &[(&str, &Data)], outputs: &[&Tensor]) -> Vec<Array> {
    let all = params.all();
    let value = |_: u64, i: usize| {
        let param = all.iter().find(|p| p.index() == i)?;
        let data = param.get().ok()?.iter().map(|v| *v as f64).collect();
        Array::new(param.shape(), data).ok()
    };
    let feed = Feed {
        inputs: inputs
            .iter()
            .map(|(n, d)| (n.to_string(), d.array()))
            .collect(),
        param: Some(&value),
        ..Feed::default()
    };
    evaluate(outputs, &feed).expect("values")
}

fn largest(params: &Params, name: &str) -> f32 {
    let values = params.get(name).expect(name);
    values.iter().fold(0.0, |m, v| m.max(v.abs()))
}

#[test]
fn names_shapes_and_first_values_are_pytorch_s() {
    let params = Params::new(1);
    let options = ConvParams {
        groups: 2,
        ..Default::default()
    };
    Conv2d::new(&params.scope("conv"), [8, 16], [3, 3], options).expect("conv");
    let options = ConvTransposeParams::default();
    ConvTranspose2d::new(&params.scope("up"), [16, 8], [4, 4], options).expect("up");
    BatchNorm2d::new(&params.scope("bn"), 8).expect("bn");
    let options = Conv1dParams {
        groups: 2,
        ..Default::default()
    };
    Conv1d::new(&params.scope("wave"), [32, 16], 5, options).expect("wave");
    Linear::new(&params.scope("fc"), 100, 50).expect("fc");
    let mut listed: Vec<(String, Vec<usize>)> = params
        .all()
        .iter()
        .map(|p| (p.name().to_string(), p.shape().dims().to_vec()))
        .collect();
    listed.sort();
    let expected: [(&str, &[usize]); 12] = [
        ("bn.bias", &[8]),
        ("bn.running_mean", &[8]),
        ("bn.running_var", &[8]),
        ("bn.weight", &[8]),
        ("conv.bias", &[16]),
        ("conv.weight", &[16, 4, 3, 3]),
        ("fc.bias", &[50]),
        ("fc.weight", &[50, 100]),
        ("up.bias", &[8]),
        ("up.weight", &[16, 8, 4, 4]),
        ("wave.bias", &[16]),
        ("wave.weight", &[16, 16, 5]),
    ];
    for ((name, shape), (want, dims)) in listed.iter().zip(expected) {
        assert_eq!((name.as_str(), shape.as_slice()), (want, dims));
    }
    assert_eq!(listed.len(), expected.len());
    assert_eq!(params.trainable().len(), 10);
    // Uniform in +-1 / sqrt(fan_in): never above, and nearly reached by many values.
    for (name, fan_in) in [
        ("conv", 36.0f32),
        ("up", 128.0),
        ("fc", 100.0),
        ("wave", 80.0),
    ] {
        let bound = 1.0 / fan_in.sqrt();
        let weight = largest(&params, &format!("{name}.weight"));
        assert!(weight <= bound && weight > 0.98 * bound, "{name}: {weight}");
        assert!(largest(&params, &format!("{name}.bias")) <= bound, "{name}");
    }
    assert!(Linear::new(&params.scope("fc"), 2, 2).is_err());
}

#[test]
fn a_convolution_of_signals_computes() {
    let params = Params::new(2);
    let options = Conv1dParams {
        padding: [2, 0],
        dilation: 2,
        activation: Activation::Tanh,
        ..Default::default()
    };
    let layer = Conv1d::new(&params, [3, 4], 2, options).expect("conv");
    let graph = Graph::new();
    let data = Data::f32([2, 3, 11], 5);
    let x = graph.input("x", data.shape());
    let y = layer.forward(&x, Mode::Eval);
    let weight = params.find("weight").expect("it").on(&graph);
    let bias = params.find("bias").expect("it").on(&graph);
    let by_hand = x.pad(&[(0, 0), (0, 0), (2, 0)], 0.0);
    let tap = |i: usize| by_hand.slice(2, 2 * i, 11).transpose(1, 2);
    let row = |i: usize| weight.slice(2, i, 1).reshape([4, 3]);
    let sum = tap(0).linear(&row(0), None, Activation::None);
    let sum = sum.add(&tap(1).linear(&row(1), Some(&bias), Activation::None));
    let by_hand = sum.transpose(1, 2).tanh();
    let inputs = [("x", &data)];
    let exact = reference(&params, &inputs, &[&y, &by_hand]);
    let mut program = graph.compile(gpu(), &params, &[&y]).expect("a program");
    let Data::F32 { values, .. } = &data else {
        unreachable!()
    };
    let out = program.run(&[("x", Value::F32(values))]).expect("a run");
    let got = out.f32(0).expect("floats");
    assert_close("layer", &got, &exact[0], 4e-6);
    assert_close("by hand", &got, &exact[1], 4e-6);
}

#[test]
fn a_chain_computes_and_differentiates() {
    let params = Params::new(2);
    let conv = ConvParams {
        stride: [2, 2],
        padding: [1; 4],
        activation: Activation::Relu,
        ..Default::default()
    };
    let net = Sequential::new()
        .with(Conv2d::new(&params.scope("0"), [2, 5], [3, 3], conv).expect("conv"))
        .with(BatchNorm2d::new(&params.scope("1"), 5).expect("bn"))
        .with(Flatten)
        .with(Linear::new(&params.scope("3"), 5 * 4 * 3, 7).expect("fc"))
        .with(Activation::Tanh)
        .with(Apply(|x: &Tensor| x.mul_scalar(2.0)));
    assert_eq!(net.len(), 6);
    let graph = Graph::new();
    let data = Data::f32([3, 2, 7, 6], 5);
    let x = graph.input("x", data.shape());
    let y = net.forward(&x, Mode::Train);
    assert_eq!(y.shape().dims(), [3, 7]);
    let weights: Vec<Tensor> = params.trainable().iter().map(|p| p.on(&graph)).collect();
    let grads = tape::backward(
        &y.square().mean(&[], false),
        &weights.iter().collect::<Vec<_>>(),
    )
    .expect("gradients");
    let mut wanted = vec![&y];
    wanted.extend(&grads);
    let exact = reference(&params, &[("x", &data)], &wanted);
    let mut program = graph.compile(gpu(), &params, &wanted).expect("a program");
    let Data::F32 { values, .. } = &data else {
        unreachable!()
    };
    let out = program.run(&[("x", Value::F32(values))]).expect("a run");
    for (i, exact) in exact.iter().enumerate() {
        // The bias before a batch norm has gradient zero: only rounding is left of it.
        let scale = exact.data.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        if scale > 1e-9 {
            assert_close(
                &format!("output {i}"),
                &out.f32(i).expect("f32"),
                exact,
                2e-5,
            );
        }
    }
}

#[test]
fn batch_norm_keeps_running_statistics() {
    let params = Params::new(3);
    let layer = BatchNorm2d::new(&params, 2)
        .expect("a layer")
        .momentum(0.25);
    let data = Data::uniform([3, 2, 2, 2], 7, 1.0, 4.0);
    let Data::F32 { values, .. } = &data else {
        unreachable!()
    };
    let train = Graph::new();
    let y = layer.forward(&train.input("x", data.shape()), Mode::Train);
    let mut program = train.compile(gpu(), &params, &[&y]).expect("a program");
    let (mut mean, mut var) = ([0.0f64; 2], [1.0f64; 2]);
    for _ in 0..2 {
        program.step(&[("x", Value::F32(values))]).expect("a run");
        for c in 0..2 {
            let channel: Vec<f64> = values
                .chunks(4)
                .skip(c)
                .step_by(2)
                .flatten()
                .map(|v| *v as f64)
                .collect();
            let n = channel.len() as f64;
            let m = channel.iter().sum::<f64>() / n;
            let v = channel.iter().map(|x| (x - m).powi(2)).sum::<f64>() / (n - 1.0);
            mean[c] = 0.75 * mean[c] + 0.25 * m;
            var[c] = 0.75 * var[c] + 0.25 * v;
        }
    }
    for (name, expected) in [("running_mean", mean), ("running_var", var)] {
        let expected = Array::new([2], expected.to_vec()).expect("two");
        assert_close(name, &params.get(name).expect(name), &expected, 1e-6);
    }
    // Evaluation uses them and leaves them alone.
    let eval = Graph::new();
    let y = layer.forward(&eval.input("x", data.shape()), Mode::Eval);
    let exact = reference(&params, &[("x", &data)], &[&y]);
    let at = |c: usize| (values[4 * c] as f64 - mean[c]) / (var[c] + 1e-5).sqrt();
    assert!((exact[0].data[0] - at(0)).abs() < 1e-6 && (exact[0].data[4] - at(1)).abs() < 1e-6);
    let before = params.get("running_var").expect("a state");
    let mut program = eval.compile(gpu(), &params, &[&y]).expect("a program");
    program.step(&[("x", Value::F32(values))]).expect("a run");
    assert_eq!(before, params.get("running_var").expect("a state"));
}

#[test]
fn dropout_scales_what_it_keeps() {
    let graph = Graph::new();
    let x = graph.full([10_000], 3.0);
    let layer = Dropout::new(0.25).expect("a layer");
    let values = evaluate(&[&layer.forward(&x, Mode::Train)], &Feed::default()).expect("values");
    let kept = values[0].data.iter().filter(|v| **v != 0.0).count();
    assert!((kept as f64 - 7500.0).abs() < 217.0, "{kept}");
    assert!(
        values[0]
            .data
            .iter()
            .all(|v| *v == 0.0 || (v - 4.0).abs() < 1e-6)
    );
    let same = evaluate(&[&layer.forward(&x, Mode::Eval)], &Feed::default()).expect("values");
    assert!(same[0].data.iter().all(|v| *v == 3.0));
    assert!(Dropout::new(1.0).is_err());
}

#[test]
fn wrong_inputs_tell_where() {
    let params = Params::new(4);
    let graph = Graph::new();
    let x = graph.input("x", [2, 3, 4, 4]);
    let linear = Linear::new(&params.scope("a"), 5, 6).expect("a layer");
    assert!(linear.forward(&x, Mode::Eval).check().is_err());
    let norm = BatchNorm2d::new(&params.scope("b"), 5).expect("a layer");
    assert!(norm.forward(&x, Mode::Train).check().is_err());
    assert!(norm.forward(&x, Mode::Eval).check().is_err());
}

#[test]
fn a_spectral_norm_is_one_and_zeros_stay_zeros() {
    let graph = Graph::new();
    let w = graph.input("w", [6, 5]);
    let (u, v) = (graph.full([6], 0.5), graph.full([5], 0.5));
    let normed = w.spectral_norm(&u, &v, 100, 1e-12);
    // Of what is normed already, the estimate is 1.
    let again = normed.weight.spectral_norm(&normed.u, &normed.v, 1, 1e-12);
    let zeros = w.zeros_like().spectral_norm(&u, &v, 1, 1e-12).weight;
    let grad = tape::backward(&normed.weight.sum(&[], false), &[&w]).expect("a gradient");
    let wanted = [&normed.sigma, &again.sigma, &zeros, &grad[0]];
    let data = Data::f32([6, 5], 1);
    let got = run_gpu(&[("w".into(), data.clone())], &wanted).expect("a run");
    let got: Vec<_> = got.iter().map(Data::array).collect();
    let frobenius = data.array().data.iter().map(|v| v * v).sum::<f64>().sqrt();
    assert!(got[0].data[0] < frobenius && got[0].data[0] > frobenius / 5f64.sqrt());
    assert!((got[1].data[0] - 1.0).abs() < 1e-5, "{}", got[1].data[0]);
    assert!(got[2].data.iter().all(|v| *v == 0.0));
    assert!(got[3].data.iter().all(|v| v.is_finite()));
    let error = w.spectral_norm(&v, &u, 1, 1e-12).sigma.check();
    assert!(
        error
            .expect_err("an error")
            .to_string()
            .contains("[6] and [5]")
    );
}

/// What a pixel's output says does not change with the pixels behind it, and with itself
/// only where the layer sees its centre.
#[test]
fn masked_convolutions_see_only_what_came_before() {
    use flowgrad::nn::{Centre, Colours, MaskedConv2d};
    let params = Params::new(5);
    let even = MaskedConv2d::new(&params.scope("e"), [1, 1], [2, 3], Centre::Seen, None);
    assert!(even.is_err());
    let colours = Colours {
        inputs: vec![0],
        outputs: vec![0, 1],
    };
    let wrong = params.scope("w");
    assert!(MaskedConv2d::new(&wrong, [2, 2], [3, 3], Centre::Seen, Some(&colours)).is_err());
    for (centre, own) in [(Centre::Hidden, false), (Centre::Seen, true)] {
        let scope = params.scope(format!("{centre:?}"));
        let layer = MaskedConv2d::new(&scope, [2, 3], [3, 5], centre, None).unwrap();
        let graph = Graph::new();
        let y = layer.forward(&graph.input("x", [1, 2, 5, 6]), Mode::Eval);
        assert_eq!(y.shape().dims(), [1, 3, 5, 6]);
        let mut program = graph.compile(gpu(), &params, &[&y]).unwrap();
        let mut run = |at: Option<usize>| {
            let mut x = vec![0.5f32; 60];
            if let Some(at) = at {
                x[at] = 2.0;
            }
            program
                .run(&[("x", Value::F32(&x))])
                .unwrap()
                .f32(0)
                .unwrap()
        };
        let base = run(None);
        // Row 2, column 3 of the second channel.
        let moved = run(Some(30 + 15));
        for (i, (a, b)) in base.iter().zip(&moved).enumerate() {
            let pixel = i % 30;
            // A kernel of three rows and five columns.
            let near = match pixel / 6 {
                2 => (15..=17).contains(&pixel) && (own || pixel > 15),
                3 => (19..=23).contains(&pixel),
                _ => false,
            };
            assert_eq!(a != b, near, "{centre:?}, pixel {pixel}: {a} and {b}");
        }
    }
}

/// Moments of a channel as PyTorch's running statistics take them: mean, unbiased variance.
fn moments(values: &[f32], channel: usize, channels: usize) -> (f64, f64) {
    let each = values.iter().skip(channel).step_by(channels);
    let all: Vec<f64> = each.map(|v| f64::from(*v)).collect();
    let n = all.len() as f64;
    let mean = all.iter().sum::<f64>() / n;
    let squares = all.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
    (mean, squares / (n - 1.0))
}

#[test]
fn batch_norm_used_twice_learns_from_both_in_order() {
    let params = Params::new(5);
    let layer = BatchNorm2d::new(&params, 3).expect("a layer").momentum(0.5);
    let graph = Graph::new();
    let batches = [
        Data::uniform([5, 3], 1, 1.0, 2.0),
        Data::uniform([7, 3], 2, -4.0, 4.0),
    ];
    let both = ["a", "b"].map(|name| {
        let batch = if name == "a" {
            &batches[0]
        } else {
            &batches[1]
        };
        layer.forward(&graph.input(name, batch.shape()), Mode::Train)
    });
    let mut program = graph
        .compile(gpu(), &params, &[&both[0], &both[1]])
        .expect("a program");
    let values = batches.each_ref().map(|d| match d {
        Data::F32 { values, .. } => values,
        Data::U32 { .. } => unreachable!(),
    });
    let feed = [("a", Value::F32(values[0])), ("b", Value::F32(values[1]))];
    program.step(&feed).expect("a run");
    let mut expected = [[0.0f64; 3], [1.0f64; 3]];
    for batch in values {
        let [means, vars] = &mut expected;
        for (c, (old_mean, old_var)) in means.iter_mut().zip(vars).enumerate() {
            let (mean, var) = moments(batch, c, 3);
            *old_mean = 0.5 * *old_mean + 0.5 * mean;
            *old_var = 0.5 * *old_var + 0.5 * var;
        }
    }
    for (name, expected) in ["running_mean", "running_var"].iter().zip(expected) {
        let expected = Array::new([3], expected.to_vec()).expect("three");
        assert_close(name, &params.get(name).expect(name), &expected, 1e-6);
    }
}

#[test]
fn frozen_statistics_stay_while_weights_get_gradients() {
    let params = Params::new(6);
    let layer = BatchNorm2d::new(&params, 2).expect("a layer");
    params.set("running_mean", &[1.0, -1.0]).expect("two");
    params.set("running_var", &[4.0, 0.25]).expect("two");
    let data = Data::f32([6, 2], 3);
    let graph = Graph::new();
    let y = layer.forward(&graph.input("x", data.shape()), Mode::Frozen);
    let weight = params.find("weight").expect("a weight").on(&graph);
    let grads = tape::backward(&y.square().sum(&[], false), &[&weight]).expect("a gradient");
    let mut program = graph
        .compile(gpu(), &params, &[&y, &grads[0]])
        .expect("a program");
    let Data::F32 { values, .. } = &data else {
        unreachable!()
    };
    let run = program.run(&[("x", Value::F32(values))]).expect("a run");
    let normed = |i: usize| {
        let (mean, var) = [(1.0, 4.0), (-1.0, 0.25)][i % 2];
        (f64::from(values[i]) - mean) / f64::sqrt(var + 1e-5)
    };
    let y = run.f32(0).expect("values");
    assert!((0..12).all(|i| (f64::from(y[i]) - normed(i)).abs() < 1e-5));
    let grad = run.f32(1).expect("values");
    for (c, grad) in grad.into_iter().enumerate() {
        let each = (0..6).map(|i| 2.0 * normed(2 * i + c).powi(2));
        assert!((f64::from(grad) - each.sum::<f64>()).abs() < 1e-3);
    }
    assert_eq!(params.get("running_mean").expect("a state"), [1.0, -1.0]);
    assert_eq!(params.get("running_var").expect("a state"), [4.0, 0.25]);
}

#[test]
fn a_spectral_norm_called_twice_iterates_twice() {
    let params = Params::new(7);
    let w = params
        .add(
            "w",
            [4, 3],
            Init::Normal {
                mean: 0.0,
                std: 1.0,
            },
        )
        .expect("a weight");
    let u = params.add_state("u", [4], Init::Ones).expect("a state");
    let v = params.add_state("v", [3], Init::Ones).expect("a state");
    let graph = Graph::new();
    let (w, u, v) = (w.on(&graph), u.on(&graph), v.on(&graph));
    for _ in 0..2 {
        let (old_u, old_v) = (graph.newest(&u), graph.newest(&v));
        let normed = w.spectral_norm(&old_u, &old_v, 1, 1e-12);
        graph.update(&u, |_| normed.u);
        graph.update(&v, |_| normed.v);
    }
    let twice = w.spectral_norm(&u, &v, 2, 1e-12);
    let mut program = graph
        .compile(gpu(), &params, &[&twice.u, &twice.v])
        .expect("a program");
    let run = program.run(&[]).expect("a run");
    assert_eq!(run.f32(0).expect("u"), params.get("u").expect("u"));
    assert_eq!(run.f32(1).expect("v"), params.get("v").expect("v"));
}

#[test]
fn a_model_is_built_twice_over_one_set() {
    let params = Params::new(8);
    let first = Linear::new(&params.scope("fc"), 3, 2).expect("a layer");
    let again = Linear::new(&params.reusing().scope("fc"), 3, 2)
        .expect("the same parameters")
        .activation(Activation::Relu);
    assert_eq!(params.names(), ["fc.bias", "fc.weight"]);
    assert_eq!(first.weight().index(), again.weight().index());
    let graph = Graph::new();
    let x = graph.input("x", [4, 3]);
    let y = first.forward(&x, Mode::Eval).relu();
    let z = again.forward(&x, Mode::Eval);
    let data = Data::f32([4, 3], 9);
    let values = reference(&params, &[("x", &data)], &[&y, &z]);
    assert_eq!(values[0].data, values[1].data);
    // What does not fit is told; without the choice a name stays taken.
    let wrong = |e: flowgrad::Result<Linear>| e.err().expect("an error").to_string();
    let other = wrong(Linear::new(&params.reusing().scope("fc"), 3, 5));
    assert!(other.contains("`fc.bias`") && other.contains("[2]") && other.contains("[5]"));
    assert!(
        params
            .reusing()
            .add_state("fc.bias", [2], Init::Zeros)
            .is_err()
    );
    assert!(wrong(Linear::new(&params.scope("fc"), 3, 2)).contains("reusing"));
    // What is missing is added.
    Linear::new(&params.reusing().scope("head"), 2, 2).expect("new parameters");
    assert_eq!(params.names().len(), 4);
}

#[test]
fn double_assignments_name_the_parameter_and_both_places() {
    let params = Params::new(9);
    let a = params.add("enc.a", [3], Init::Zeros).expect("new");
    let graph = Graph::new();
    let a = a.on(&graph);
    graph.assign(&a, &a.add_scalar(1.0));
    let first = line!() - 1;
    graph.assign(&a, &a.add_scalar(2.0));
    let error = graph.compile(gpu(), &params, &[]).expect_err("an error");
    let error = error.to_string();
    assert!(error.contains("`enc.a`"), "{error}");
    for line in [first, first + 2] {
        assert!(error.contains(&format!("nn.rs:{line}")), "{error}");
    }
}

/// TensorFlow's `SAME`: extents, and the odd zero behind.
#[test]
fn same_padding_follows_the_image() {
    for (image, kernel, stride, padding) in [
        ([6, 7], [3, 3], [2, 2], [0, 1, 1, 1]),
        ([6, 7], [2, 5], [1, 1], [0, 1, 2, 2]),
        ([5, 8], [1, 1], [2, 3], [0, 0, 0, 0]),
        ([7, 7], [7, 3], [2, 3], [3, 3, 1, 1]),
    ] {
        let options = ConvParams {
            stride,
            ..ConvParams::default()
        };
        assert_eq!(
            options.same(kernel, image).padding,
            padding,
            "{image:?} {kernel:?}"
        );
        let params = Params::new(1);
        let layer = Conv2d::new(&params, [2, 3], kernel, options)
            .unwrap()
            .same();
        let graph = Graph::new();
        let y = layer.forward(&graph.input("x", [1, 2, image[0], image[1]]), Mode::Eval);
        let expected = [0, 1].map(|a| usize::div_ceil(image[a], stride[a]));
        assert_eq!(y.shape().dims(), [1, 3, expected[0], expected[1]]);
    }
    let params = ConvTransposeParams {
        stride: [2, 3],
        ..Default::default()
    };
    // Keras keeps rows 0 to 2n - 1 of the 2n + 1 that a kernel of 3 gives.
    let same = params.same([3, 1]);
    assert_eq!(same.padding, [0, 1, 0, 0]);
    assert_eq!(same.output_padding, [0, 2]);
    let graph = Graph::new();
    let (x, w) = (
        graph.input("x", [1, 2, 4, 5]),
        graph.input("w", [2, 3, 3, 1]),
    );
    let y = x.conv_transpose2d(&w, None, &same);
    assert_eq!(y.shape().dims(), [1, 3, 8, 15]);
}
