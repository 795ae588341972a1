//! Flows: every layer's round trip, log-determinant and gradients, chains with and
//! without stored activations, first values from data.

use flowgrad::flow::{
    ActNorm, ActNormScale, Bijector, Chain, Context, Coupling, FirstValues, Flatten, Inv1x1,
    Memory, Network, Permutation, Squeeze,
};
use flowgrad::graph::{Array, Feed, evaluate};
use flowgrad::nn::{Conv2d, Linear, Sequential};
use flowgrad::ops::{
    Activation, ConvParams, CouplingMask, CouplingParams, CouplingScale, RawLayout,
};
use flowgrad::optim::{Adam, Optimizer};
use flowgrad::{Error, Graph, Params, Tensor, Value, tape};

use crate::support::{Data, assert_close, gpu};

/// `outputs` in float64 with the parameters' own values.
pub fn reference(params: &Params, x: &Array, outputs: &[&Tensor]) -> Vec<Array> {
    let all = params.all();
    let value = |_: u64, i: usize| {
        let param = all.iter().find(|p| p.index() == i)?;
        let data = param.get().ok()?.iter().map(|v| *v as f64).collect();
        Array::new(param.shape(), data).ok()
    };
    let feed = Feed {
        inputs: [("x".to_string(), x.clone())].into(),
        param: Some(&value),
        ..Feed::default()
    };
    evaluate(outputs, &feed).unwrap_or_else(|e| panic!("{e}"))
}

/// The values of `data`, which must be floats.
pub fn floats(data: &Data) -> &[f32] {
    match data {
        Data::F32 { values, .. } => values,
        Data::U32 { .. } => panic!("floats are needed"),
    }
}

/// Tests everything that holds for every bijector at the inputs `data` (`[N, ..]`, at
/// most 64 elements per sample for the Jacobian): the round trip on the GPU within
/// `tolerance` relative, log-determinants that cancel, the log-determinant of the
/// float64 Jacobian, the GPU against float64, and gradients that are the same with
/// stored and with rebuilt activations.
pub fn check_bijector(
    name: &str,
    params: &Params,
    layer: impl Bijector + 'static,
    data: &Data,
    tolerance: f64,
) {
    let chain = Chain::new("test").with(layer);
    let graph = Graph::new();
    let x = graph.input("x", data.shape());
    let cx = Context::eval();
    let z = chain.forward(&x, &cx);
    let back = chain.inverse(&z.out, &cx);
    let wanted = [&z.out, &z.log_det, &back.out, &back.log_det];
    for w in wanted {
        w.check().unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    assert_eq!(z.log_det.shape().dims(), [data.shape()[0]], "{name}");
    let exact = reference(params, &data.array(), &wanted);
    let mut program = graph.compile_pure(gpu(), params, &wanted).expect(name);
    let got = program.run(&[("x", Value::F32(floats(data)))]).expect(name);
    let float = |i: usize| got.f32(i).expect(name);
    assert_close(&format!("{name}: z"), &float(0), &exact[0], tolerance);
    assert_close(
        &format!("{name}: round trip"),
        &float(2),
        &data.array(),
        tolerance,
    );
    let largest = exact[1].data.iter().fold(1.0f64, |m, v| m.max(v.abs()));
    for (i, (there, back)) in float(1).iter().zip(float(3)).enumerate() {
        let (there, back) = (*there as f64, back as f64);
        assert!(
            (there - exact[1].data[i]).abs() <= 1e-5 * largest,
            "{name}: log-determinant {i} is {there}, expected {}",
            exact[1].data[i]
        );
        assert!(
            (there + back).abs() <= 1e-5 * largest,
            "{name}: log-determinants {there} and {back} of sample {i}"
        );
    }
    let jacobian = jacobian_log_det(params, data, &z.out);
    for (i, (analytic, numeric)) in exact[1].data.iter().zip(&jacobian).enumerate() {
        assert!(
            (analytic - numeric).abs() <= 1e-4 * numeric.abs().max(1.0),
            "{name}: the log-determinant of sample {i} is {analytic}, that of the Jacobian {numeric}"
        );
    }
    let stored = gradients(params, &chain.clone().memory(Memory::Store), data, true);
    let rebuilt = gradients(params, &chain.memory(Memory::Rebuild), data, false);
    for ((what, exact, got), (_, _, rebuilt)) in stored.iter().zip(&rebuilt) {
        let exact = exact.as_ref().expect("a reference");
        assert_close(&format!("{name}: d{what}"), got, exact, 4.0 * tolerance);
        assert_close(
            &format!("{name}: d{what}, rebuilt"),
            rebuilt,
            exact,
            8.0 * tolerance,
        );
    }
}

/// Name, float64 and GPU value of the gradients by x and all parameters of a loss that
/// depends on every output.
pub fn gradients(
    params: &Params,
    chain: &Chain,
    data: &Data,
    exact: bool,
) -> Vec<(String, Option<Array>, Vec<f32>)> {
    let graph = Graph::new();
    let x = graph.input("x", data.shape());
    let z = chain.forward(&x, &Context::eval());
    let weights = Data::f32(z.out.shape(), 71);
    let by_sample = Data::f32(z.log_det.shape(), 72);
    let loss = z
        .out
        .mul(&graph.constant(z.out.shape(), floats(&weights)))
        .sum(&[], false)
        .add(
            &z.log_det
                .mul(&graph.constant(z.log_det.shape(), floats(&by_sample)))
                .sum(&[], false),
        );
    let trainable = params.trainable();
    let mut wrt = vec![x.clone()];
    wrt.extend(trainable.iter().map(|p| p.on(&graph)));
    let grads = tape::backward(&loss, &wrt.iter().collect::<Vec<_>>()).expect("gradients");
    let wanted: Vec<&Tensor> = grads.iter().collect();
    let references = exact.then(|| reference(params, &data.array(), &wanted));
    let mut program = graph.compile_pure(gpu(), params, &wanted).expect("compile");
    let inputs: Vec<(&str, Value<'_>)> = match program.has_input("x") {
        true => vec![("x", Value::F32(floats(data)))],
        false => Vec::new(),
    };
    let got = program.run(&inputs).expect("a run");
    let names = std::iter::once("x".to_string()).chain(trainable.iter().map(|p| p.name().into()));
    names
        .enumerate()
        .map(|(i, name)| {
            let exact = references.as_ref().map(|r| r[i].clone());
            (name, exact, got.f32(i).expect("floats"))
        })
        .collect()
}

/// `log |det|` of the Jacobian of every sample by central differences in float64. All
/// samples are moved along the same axis at once: they do not see one another.
fn jacobian_log_det(params: &Params, data: &Data, z: &Tensor) -> Vec<f64> {
    let x = data.array();
    let samples = x.shape[0];
    let d = x.numel() / samples;
    assert!(d <= 64, "a Jacobian of {d} dimensions");
    let mut jacobians = vec![vec![0.0; d * d]; samples];
    let h = 1e-6;
    for column in 0..d {
        let moved = |sign: f64| {
            let mut x = x.clone();
            for n in 0..samples {
                x.data[n * d + column] += sign * h;
            }
            reference(params, &x, &[z]).swap_remove(0)
        };
        let (up, down) = (moved(1.0), moved(-1.0));
        for (n, jacobian) in jacobians.iter_mut().enumerate() {
            for row in 0..d {
                let at = n * d + row;
                jacobian[row * d + column] = (up.data[at] - down.data[at]) / (2.0 * h);
            }
        }
    }
    jacobians.into_iter().map(|j| log_det(j, d)).collect()
}

/// By Gaussian elimination with partial pivoting.
fn log_det(mut a: Vec<f64>, n: usize) -> f64 {
    let mut total = 0.0;
    for k in 0..n {
        let pivot = (k..n)
            .max_by(|i, j| a[i * n + k].abs().total_cmp(&a[j * n + k].abs()))
            .expect("a row");
        for c in 0..n {
            a.swap(k * n + c, pivot * n + c);
        }
        total += a[k * n + k].abs().ln();
        for r in k + 1..n {
            let f = a[r * n + k] / a[k * n + k];
            for c in k..n {
                a[r * n + c] -= f * a[k * n + c];
            }
        }
    }
    total
}

/// Sets every trainable parameter to numbers in `lo..hi`.
pub fn scatter(params: &Params, seed: u64, lo: f32, hi: f32) {
    for (i, param) in params.trainable().iter().enumerate() {
        let values = Data::uniform(param.shape(), seed + i as u64, lo, hi);
        param.set(floats(&values)).expect("values");
    }
}

#[test]
fn actnorm_and_maps_that_move_elements() {
    let kinds = [
        ActNormScale::Log { factor: 3.0 },
        ActNormScale::Multiplicative,
    ];
    for (i, kind) in kinds.into_iter().enumerate() {
        let params = Params::new(1);
        let layer = ActNorm::with(&params, 3, kind).expect("a layer");
        scatter(&params, 5 + i as u64, 0.2, 0.9);
        if kind == ActNormScale::Multiplicative {
            params.set("scale", &[-0.5, 2.0, 0.25]).expect("values");
        }
        check_bijector("actnorm", &params, layer, &Data::f32([2, 3, 3, 2], 3), 1e-5);
    }
    let params = Params::new(1);
    let layer = ActNorm::new(&params, 5).expect("a layer");
    check_bijector("actnorm", &params, layer, &Data::f32([1, 5], 3), 1e-5);
    let params = Params::new(2);
    let image = Data::f32([2, 3, 2, 2], 4);
    let order = Permutation::new(&[1, 2, 0]).expect("a permutation");
    check_bijector("permutation", &params, order, &image, 1e-7);
    check_bijector("reverse", &params, Permutation::reverse(3), &image, 1e-7);
    let vectors = Data::f32([3, 7], 4);
    let order = Permutation::shuffle(7, 9);
    check_bijector("shuffle", &params, order, &vectors, 1e-7);
    check_bijector("squeeze", &params, Squeeze, &image, 1e-7);
    assert!(Permutation::new(&[0, 0, 1]).is_err());
    let graph = Graph::new();
    let odd = graph.input("x", [1, 2, 3, 4]);
    let squeezed = Squeeze.forward(&odd, &Context::eval());
    assert!(matches!(squeezed.out.check(), Err(Error::Shape { .. })));
    let params = Params::new(1);
    let wrong = ActNorm::new(&params, 5).expect("a layer");
    assert!(wrong.forward(&odd, &Context::eval()).out.check().is_err());
}

#[test]
fn first_values_normalise_and_constant_channels_are_an_error() {
    for kind in [
        ActNormScale::Log { factor: 3.0 },
        ActNormScale::Multiplicative,
    ] {
        let params = Params::new(1);
        // Two layers: the second one sees what the first one's new values give.
        let chain = Chain::new("flow")
            .with(ActNorm::with(&params.scope("0"), 2, kind).expect("a layer"))
            .with(ActNorm::with(&params.scope("1"), 2, kind).expect("a layer"));
        let mut values = floats(&Data::uniform([4, 2, 3, 3], 3, 2.0, 5.0)).to_vec();
        let graph = Graph::new();
        let x = graph.input("x", [4, 2, 3, 3]);
        let first = FirstValues::new();
        chain.forward(&x, &Context::train().computing(&first));
        let fed = [("x", Value::F32(&values))];
        first.set(gpu(), &params, &fed).expect("first values");
        let z = chain.forward(&x, &Context::eval()).out;
        let (mean, var) = z.moments(&[0, 2, 3], true);
        let mut program = graph.compile(gpu(), &params, &[&mean, &var]).expect("ok");
        let got = program.run(&fed).expect("a run");
        let (mean, var) = (got.f32(0).expect("mean"), got.f32(1).expect("var"));
        assert!(mean.iter().all(|m| m.abs() < 1e-5), "{mean:?}");
        assert!(var.iter().all(|v| (v - 1.0).abs() < 1e-4), "{var:?}");
        let name = match kind {
            ActNormScale::Log { .. } => "1.log_scale",
            ActNormScale::Multiplicative => "1.scale",
        };
        let second = params.get(name).expect("a scale");
        let one = if name == "1.scale" { 1.0 } else { 0.0 };
        assert!(second.iter().all(|s| (s - one).abs() < 1e-4), "{second:?}");
        // A constant channel.
        for image in values.chunks_mut(18) {
            image[9..].fill(0.3);
        }
        let fed = [("x", Value::F32(&values))];
        let before = params.get(name).expect("a scale");
        let error = first.set(gpu(), &params, &fed).expect_err("no variance");
        assert!(
            matches!(&error, Error::Data { file, .. } if file.contains("0.")),
            "{error}"
        );
        assert!(error.to_string().contains("channel 1"), "{error}");
        assert_eq!(before, params.get(name).expect("a scale"));
    }
    let params = Params::new(2);
    let layer = ActNorm::new(&params, 1).expect("a layer").min_std(0.5);
    let graph = Graph::new();
    let x = graph.input("x", [3, 1, 2, 2]);
    let first = FirstValues::new();
    layer.forward(&x, &Context::train().computing(&first));
    first
        .set(gpu(), &params, &[("x", Value::F32(&[0.25; 12]))])
        .expect("a constant channel is allowed");
    assert!((params.get("log_scale").expect("scale")[0] - 2f32.ln()).abs() < 1e-4);
}

/// A small network whose last layer is far from zero.
fn network(params: &Params, inputs: usize, outputs: usize) -> Sequential {
    let options = ConvParams {
        padding: [1; 4],
        ..Default::default()
    };
    let first = ConvParams {
        activation: Activation::Tanh,
        ..options
    };
    let [a, b] = [params.scope("0"), params.scope("1")];
    Sequential::new()
        .with(Conv2d::new(&a, [inputs, 4], [3, 3], first).expect("a layer"))
        .with(Conv2d::new(&b, [4, outputs], [3, 3], options).expect("a layer"))
}

#[test]
fn couplings_of_every_kind() {
    let masks = [
        (
            CouplingMask::After(1),
            CouplingScale::Exp,
            RawLayout::ShiftScaleInterleaved,
        ),
        (
            CouplingMask::Before(2),
            CouplingScale::Sigmoid { offset: 2.0 },
            RawLayout::ScaleShift,
        ),
        (
            CouplingMask::Checkerboard { parity: 1 },
            CouplingScale::Tanh { clamp: 2.0 },
            RawLayout::ScaleShift,
        ),
        (
            CouplingMask::Even,
            CouplingScale::None,
            RawLayout::ScaleShift,
        ),
    ];
    for (i, (mask, scale, layout)) in masks.into_iter().enumerate() {
        let convention = CouplingParams {
            scale,
            layout,
            shift_first: i == 1,
            minimum: if i == 2 { 0.1 } else { 0.0 },
            ..CouplingParams::new(mask)
        };
        let params = Params::new(7);
        let net = network(
            &params,
            Coupling::seen_channels(mask, 3),
            convention.raw_channels(3),
        );
        let layer = Coupling::new(convention, net);
        let name = format!("coupling {mask:?}");
        check_bijector(&name, &params, layer, &Data::f32([2, 3, 3, 2], 3), 1e-5);
        // What the pixels contribute adds up to the whole.
        let params = Params::new(7);
        let net = network(
            &params,
            Coupling::seen_channels(mask, 3),
            convention.raw_channels(3),
        );
        let chain = Chain::new("test").with(Coupling::new(convention, net));
        let data = Data::f32([2, 3, 4, 2], 3);
        let graph = Graph::new();
        let x = graph.input("x", data.shape());
        let cx = Context::eval();
        let map = chain.pixel_log_det(&x, &cx);
        assert_eq!(map.shape().dims(), [2, 4, 2]);
        let whole = chain.forward(&x, &cx).log_det;
        let sums = reference(&params, &data.array(), &[&map.sum(&[1, 2], false), &whole]);
        for (a, b) in sums[0].data.iter().zip(&sums[1].data) {
            assert!((a - b).abs() < 1e-6 * b.abs().max(1.0), "{name}: {a} {b}");
        }
    }
    let params = Params::new(7);
    let linear = Linear::new(&params, 2, 6).expect("a layer");
    let convention = CouplingParams::glow(CouplingMask::After(2));
    let layer = Coupling::new(convention, linear);
    check_bijector(
        "coupling of vectors",
        &params,
        layer,
        &Data::f32([1, 5], 3),
        1e-5,
    );
}

/// A chain of `depth` steps of actnorm, permutation and coupling over `channels`.
pub fn deep(params: &Params, depth: usize, channels: usize) -> Chain {
    let mut chain = Chain::new("deep");
    for k in 0..depth {
        let scope = params.scope(k);
        let half = channels / 2;
        let net = network(&scope.scope("net"), half, 2 * (channels - half));
        chain.push(
            Chain::new("step")
                .with(ActNorm::new(&scope.scope("actnorm"), channels).expect("a layer"))
                .with(Permutation::shuffle(channels, k as u64))
                .with(Coupling::new(
                    CouplingParams::glow(CouplingMask::After(half)),
                    net,
                )),
        );
    }
    chain
}

#[test]
fn rebuilt_and_stored_activations_give_the_same_gradients() {
    let params = Params::new(3);
    let chain = deep(&params, 5, 4);
    let data = Data::f32([3, 4, 4, 4], 8);
    let exact = gradients(&params, &chain, &data, true);
    for memory in [Memory::Rebuild, Memory::Checkpoint(2)] {
        let rebuilt = gradients(&params, &chain.clone().memory(memory), &data, false);
        for ((name, exact, stored), (_, _, rebuilt)) in exact.iter().zip(&rebuilt) {
            let exact = exact.as_ref().expect("a reference");
            assert_close(&format!("d{name}, stored"), stored, exact, 2e-5);
            assert_close(&format!("d{name}, {memory:?}"), rebuilt, exact, 4e-5);
        }
    }
}

#[test]
fn memory_does_not_grow_with_depth_where_activations_are_rebuilt() {
    let peak = |depth: usize, memory: Memory| {
        let params = Params::new(3);
        let chain = deep(&params, depth, 8).memory(memory);
        let graph = Graph::new();
        let x = graph.input("x", [16, 8, 8, 8]);
        let z = chain.forward(&x, &Context::train());
        let loss = z
            .out
            .square()
            .mean(&[], false)
            .sub(&z.log_det.mean(&[], false));
        let optimizer = Optimizer::new(&params, Adam::default()).expect("an optimiser");
        optimizer.minimize(&loss).expect("a step");
        let started = std::time::Instant::now();
        let program = graph.compile(gpu(), &params, &[&loss]).expect("a program");
        println!(
            "{depth} {memory:?} {:?} {:?} {:?}",
            program.plan().memory(),
            program.plan().steps.len(),
            started.elapsed()
        );
        program.plan().memory().temporary
    };
    let (shallow, deep) = (peak(4, Memory::Rebuild), peak(32, Memory::Rebuild));
    assert!(deep as f64 <= 1.15 * shallow as f64, "{deep} of {shallow}");
    let (stored, stored_deep) = (peak(4, Memory::Store), peak(32, Memory::Store));
    assert!(stored_deep > 4 * stored, "{stored_deep} of {stored}");
    assert!(shallow < stored);
    let checkpointed = peak(32, Memory::Checkpoint(8));
    assert!(deep < checkpointed && checkpointed < stored_deep);
}

/// A network of the image and of the condition `[N, F]`.
struct Conditioned(Linear, Conv2d);

impl Network for Conditioned {
    fn apply(&self, x: &Tensor, cx: &Context<'_>) -> Tensor {
        let condition = cx.condition().expect("a condition");
        let shift = Network::apply(&self.0, condition, cx);
        let shift = shift.reshape([x.dim(0), shift.dim(1), 1, 1]);
        Network::apply(&self.1, x, cx).add(&shift).tanh()
    }
}

#[test]
fn conditions_get_gradients_through_rebuilt_activations() {
    let params = Params::new(5);
    let mut chain = Chain::new("conditional");
    for k in 0..2 {
        let scope = params.scope(k);
        let options = ConvParams {
            padding: [1; 4],
            ..Default::default()
        };
        let conv = Conv2d::new(&scope.scope("conv"), [1, 4], [3, 3], options);
        let net = Conditioned(
            Linear::new(&scope.scope("linear"), 3, 4).expect("a layer"),
            conv.expect("a layer"),
        );
        let mask = [CouplingMask::After(1), CouplingMask::Before(2)][k];
        chain.push(Coupling::new(CouplingParams::new(mask), net));
        chain.push(Permutation::reverse(3));
    }
    let data = Data::f32([2, 3, 3, 4], 3);
    let features = Data::f32([2, 3], 4);
    let mut results = Vec::new();
    for memory in [Memory::Store, Memory::Rebuild] {
        let chain = chain.clone().memory(memory);
        let graph = Graph::new();
        let x = graph.constant(data.shape(), floats(&data));
        let condition = graph.input("x", features.shape());
        let cx = Context::eval().with_condition(&condition);
        let z = chain.forward(&x, &cx);
        let back = chain.inverse(&z.out, &cx).out;
        let loss = z
            .out
            .square()
            .sum(&[], false)
            .add(&z.log_det.sum(&[], false));
        let grad = tape::backward(&loss, &[&condition]).expect("a gradient");
        let wanted = [&grad[0], &back];
        let exact = reference(&params, &features.array(), &wanted);
        let mut program = graph.compile(gpu(), &params, &wanted).expect("a program");
        let fed = [("x", Value::F32(floats(&features)))];
        let got = program.run(&fed).expect("a run");
        let name = format!("{memory:?}");
        assert_close(&name, &got.f32(0).expect("floats"), &exact[0], 1e-5);
        assert_close(&name, &got.f32(1).expect("floats"), &data.array(), 1e-5);
        results.push(exact[0].data.clone());
    }
    for (a, b) in results[0].iter().zip(&results[1]) {
        assert!((a - b).abs() < 1e-9 * a.abs().max(1.0), "{a} {b}");
    }
    assert!(results[0].iter().all(|g| g.abs() > 1e-6));
}

#[test]
fn pixels_share_the_log_determinant_behind_a_squeeze() {
    let params = Params::new(6);
    let net = network(&params.scope("net"), 2, 4);
    let mask = CouplingMask::After(2);
    let chain = Chain::new("test")
        .with(ActNorm::new(&params.scope("a"), 1).expect("a layer"))
        .with(Squeeze)
        .with(Inv1x1::plu(&params.scope("w"), 4).expect("a layer"))
        .with(Coupling::new(CouplingParams::glow(mask), net));
    scatter(&params, 4, -0.4, 0.4);
    let data = Data::f32([2, 1, 4, 6], 3);
    let graph = Graph::new();
    let x = graph.input("x", data.shape());
    let cx = Context::eval();
    let map = chain.pixel_log_det(&x, &cx);
    let whole = chain.forward(&x, &cx).log_det;
    let got = reference(&params, &data.array(), &[&map, &whole]);
    assert_eq!(got[0].shape.dims(), [2, 4, 6]);
    for (pixels, whole) in got[0].data.chunks(24).zip(&got[1].data) {
        let sum: f64 = pixels.iter().sum();
        assert!((sum - whole).abs() < 1e-9 * whole.abs().max(1.0));
        assert_eq!(pixels[0], pixels[7], "one block of 2x2");
        assert!((pixels[0] - pixels[2]).abs() > 1e-6, "another block");
    }
    let flat = graph.input("flat", [2, 5]);
    let vectors = Flatten::new([5, 1, 1]);
    assert!(vectors.pixel_log_det(&flat, &cx).check().is_err());
}
