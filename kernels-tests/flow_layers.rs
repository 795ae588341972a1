//! Layers around the couplings: preprocessing, dequantisation, scalings, splines.

use flowgrad::flow::{
    Affine, BatchNorm, Bijector, Chain, Context, Dequantize, DiagonalScaling, Logit, Mapped,
    Sigmoid, SplineCoupling, VariationalDequantize,
};
use flowgrad::nn::{Conv2d, Linear};
use flowgrad::ops::{ConvParams, CouplingMask, SplineParams};
use flowgrad::{Graph, Params, Tensor, Value};

use crate::flow::check_bijector;
use crate::support::{Data, gpu};

#[test]
fn fixed_and_diagonal_maps() {
    let none = Params::new(0);
    for shape in [&[3, 5][..], &[1, 1, 1, 1], &[2, 3, 2, 3]] {
        let line = Data::uniform(shape, 1, -3.0, 3.0);
        let unit = Data::uniform(shape, 2, 0.01, 0.99);
        let affine = Affine::new(-2.5, 0.75).unwrap();
        check_bijector("affine", &none, affine, &line, 1e-5);
        check_bijector("sigmoid", &none, Sigmoid, &line, 1e-5);
        check_bijector("logit", &none, Logit::new(0.05).unwrap(), &unit, 1e-5);
        let one_sided = Logit::between(0.05, 1.0).unwrap();
        check_bijector("logit 0.05 .. 1", &none, one_sided, &unit, 1e-5);
        let params = Params::new(0);
        let scaling = DiagonalScaling::new(&params, &shape[1..]).unwrap();
        let scales = Data::f32(&shape[1..], 3).array().to_f32();
        params.set("log_scale", &scales).unwrap();
        check_bijector("diagonal scaling", &params, scaling, &line, 1e-5);
    }
}

#[test]
fn log_determinants_per_pixel_add_up() {
    let shape = [2, 3, 2, 5];
    let params = Params::new(0);
    let spline = SplineParams {
        bins: 4,
        bound: 2.0,
    };
    let coupling = |name: &str, mask| {
        let kept = flowgrad::flow::Coupling::seen_channels(mask, 3);
        let raw = SplineCoupling::raw_channels(mask, &spline, 3);
        let options = ConvParams::default();
        let net = Conv2d::new(&params.scope(name), [kept, raw], [1, 1], options).unwrap();
        SplineCoupling::new(mask, spline, net)
    };
    let checker = CouplingMask::Checkerboard { parity: 1 };
    let layers: [(&dyn Bijector, Context<'_>); 9] = [
        (&Affine::centred(17).unwrap(), Context::eval()),
        (&Logit::new(0.05).unwrap(), Context::eval()),
        (&Sigmoid, Context::eval()),
        (&Dequantize::new(4).unwrap(), Context::eval()),
        (
            &DiagonalScaling::new(&params.scope("scaling"), &shape[1..]).unwrap(),
            Context::eval(),
        ),
        (&coupling("a", CouplingMask::Odd), Context::eval()),
        (&coupling("b", checker), Context::eval()),
        (
            &BatchNorm::new(&params.scope("c"), 3).unwrap(),
            Context::eval(),
        ),
        (
            &BatchNorm::new(&params.scope("d"), 3).unwrap(),
            Context::train(),
        ),
    ];
    for (i, p) in params.all().iter().enumerate() {
        let values = Data::uniform(p.shape(), 40 + i as u64, 0.1, 0.8);
        p.set(&values.array().to_f32()).unwrap();
    }
    let graph = Graph::new();
    let data = Data::uniform(shape, 1, 0.1, 0.9);
    let x = data.input(&graph, "x");
    let mut wanted = Vec::new();
    for (layer, cx) in &layers {
        let pixels = layer.pixel_log_det(&x, cx);
        assert_eq!(pixels.check(), Ok(()), "{}", layer.name());
        assert_eq!(pixels.shape().dims(), [2, 2, 5], "{}", layer.name());
        wanted.push(layer.forward(&x, cx).log_det);
        wanted.push(pixels.sum(&[1, 2], false));
    }
    let wanted: Vec<&Tensor> = wanted.iter().collect();
    let mut program = graph.compile_pure(gpu(), &params, &wanted).unwrap();
    let values = data.array().to_f32();
    let out = program.run(&[("x", Value::F32(&values))]).unwrap();
    for (i, (layer, _)) in layers.iter().enumerate() {
        let (whole, parts) = (out.f32(2 * i).unwrap(), out.f32(2 * i + 1).unwrap());
        for (a, b) in whole.iter().zip(&parts) {
            let name = layer.name();
            assert!(a.abs() > 0.1, "{name}: {a} tells nothing");
            assert!((a - b).abs() < 1e-4 * a.abs(), "{name}: {a} {b}");
        }
    }
    let flat = graph.input("flat", [2, 3]);
    for (layer, cx) in &layers {
        assert!(
            layer.pixel_log_det(&flat, cx).check().is_err(),
            "{}",
            layer.name()
        );
    }
}

#[test]
fn batch_norm_as_a_layer() {
    let set_up = |channels: usize| {
        let params = Params::new(0);
        let layer = BatchNorm::new(&params, channels).unwrap();
        for (i, name) in ["log_gamma", "beta", "running_mean"].iter().enumerate() {
            let values = Data::f32([channels], 5 + i as u64).array().to_f32();
            params.set(name, &values).unwrap();
        }
        let var = Data::uniform([channels], 9, 0.3, 2.0).array().to_f32();
        params.set("running_var", &var).unwrap();
        (params, layer)
    };
    for shape in [&[3, 5][..], &[1, 1, 1, 1], &[2, 3, 2, 3]] {
        let (params, layer) = set_up(shape[1]);
        let x = Data::uniform(shape, 1, -2.0, 2.0);
        check_bijector("batch norm", &params, layer, &x, 1e-5);
    }

    // In training the batch's own statistics count, and are remembered.
    let (params, layer) = set_up(2);
    let before = (
        params.get("running_mean").unwrap(),
        params.get("running_var").unwrap(),
    );
    let gamma = params.get("log_gamma").unwrap();
    let values = [1.0, -1.0, 3.0, 0.5, -2.0, 0.0f32];
    let graph = Graph::new();
    let x = graph.constant([3, 2], &values);
    let mapped = layer.forward(&x, &Context::train());
    let spread = mapped.out.var(&[0], false, false);
    let mut program = graph
        .compile(gpu(), &params, &[&mapped.log_det, &spread])
        .unwrap();
    let out = program.run(&[]).unwrap();
    let (mut log_det, mut after) = (0.0f64, Vec::new());
    for c in 0..2 {
        let column: Vec<f64> = values[c..].iter().step_by(2).map(|v| *v as f64).collect();
        let mean = column.iter().sum::<f64>() / 3.0;
        let var = column.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 3.0;
        log_det += gamma[c] as f64 - 0.5 * (var + 1e-5).ln();
        let moved = |old: f32, new: f64| 0.9 * old as f64 + 0.1 * new;
        after.push((moved(before.0[c], mean), moved(before.1[c], var)));
        let got = out.f32(1).unwrap()[c] as f64;
        assert!(
            (got - (2.0 * gamma[c] as f64).exp()).abs() < 1e-3,
            "variance {got}"
        );
    }
    for got in out.f32(0).unwrap() {
        assert!(
            (got as f64 - log_det).abs() < 1e-5,
            "{got}, expected {log_det}"
        );
    }
    let (mean, var) = (
        params.get("running_mean").unwrap(),
        params.get("running_var").unwrap(),
    );
    for c in 0..2 {
        assert!((mean[c] as f64 - after[c].0).abs() < 1e-6);
        assert!((var[c] as f64 - after[c].1).abs() < 1e-6);
    }
    let error = layer
        .inverse(&x, &Context::train())
        .out
        .check()
        .unwrap_err();
    assert!(error.to_string().contains("Context::eval()"), "{error}");
    let wrong = layer.forward(&graph.input("w", [2, 3]), &Context::eval());
    assert!(
        wrong
            .out
            .check()
            .unwrap_err()
            .to_string()
            .contains("[N, 2, ..]")
    );
}

#[test]
fn spline_couplings() {
    let spline = SplineParams {
        bins: 5,
        bound: 2.0,
    };
    let vectors = [
        CouplingMask::After(2),
        CouplingMask::Before(1),
        CouplingMask::Even,
        CouplingMask::Odd,
    ];
    for mask in vectors {
        let params = Params::new(3);
        let raw = SplineCoupling::raw_channels(mask, &spline, 5);
        let kept = flowgrad::flow::Coupling::seen_channels(mask, 5);
        let net = Linear::new(&params.scope("net"), kept, raw).unwrap();
        let layer = SplineCoupling::new(mask, spline, net);
        let x = Data::uniform([3, 5], 1, -2.5, 2.5);
        check_bijector(&format!("{mask:?}"), &params, layer, &x, 2e-5);
    }
    let images = [
        (CouplingMask::Checkerboard { parity: 0 }, [2, 1, 3, 4]),
        (CouplingMask::Checkerboard { parity: 1 }, [1, 2, 1, 1]),
        (CouplingMask::After(1), [2, 3, 1, 1]),
    ];
    for (mask, shape) in images {
        let params = Params::new(4);
        let raw = SplineCoupling::raw_channels(mask, &spline, shape[1]);
        let kept = flowgrad::flow::Coupling::seen_channels(mask, shape[1]);
        let net = Conv2d::new(
            &params.scope("net"),
            [kept, raw],
            [1, 1],
            ConvParams::default(),
        )
        .unwrap();
        let layer = SplineCoupling::new(mask, spline, net);
        let x = Data::uniform(shape, 1, -2.5, 2.5);
        check_bijector(&format!("{mask:?}"), &params, layer, &x, 2e-5);
    }
    // Zeros from the network: the identity.
    let params = Params::new(0);
    let raw = SplineCoupling::raw_channels(CouplingMask::After(1), &spline, 2);
    let net = Linear::new(&params.scope("net"), 1, raw).unwrap();
    params.set("net.weight", &vec![0.0; raw]).unwrap();
    params.set("net.bias", &vec![0.0; raw]).unwrap();
    let layer = SplineCoupling::new(CouplingMask::After(1), spline, net);
    let graph = Graph::new();
    let values = [0.5, -1.5, -0.1, 0.7, 3.0, 1.99f32];
    let Mapped { out, log_det } = layer.forward(&graph.constant([3, 2], &values), &Context::eval());
    let mut program = graph.compile(gpu(), &params, &[&out, &log_det]).unwrap();
    let got = program.run(&[]).unwrap();
    for (a, b) in got.f32(0).unwrap().iter().zip(&values) {
        assert!((a - b).abs() < 1e-6, "{a} {b}");
    }
    assert!(got.f32(1).unwrap().iter().all(|l| l.abs() < 1e-5));

    let small = graph.input("small", [2, 1]);
    let said = layer
        .forward(&small, &Context::eval())
        .out
        .check()
        .unwrap_err();
    assert!(
        said.to_string().contains("spline") || said.to_string().contains("slice"),
        "{said}"
    );
}

/// Every level comes back from every noise, and the noise fills the level evenly.
#[test]
fn dequantised_levels_come_back() {
    for levels in [2usize, 17, 256, 65_536] {
        let layer = Dequantize::new(levels).unwrap();
        let n = 4096;
        let graph = Graph::new();
        let pixels: Vec<u32> = (0..2 * n)
            .map(|i| (i * 37 + i / levels) as u32 % levels as u32)
            .collect();
        let x = graph.input_u32("x", [n, 2]);
        let cx = Context::eval();
        let v = layer.forward(&x, &cx);
        let back = layer.inverse(&v.out, &cx);
        let wanted = [&v.out, &v.log_det, &back.out, &back.log_det];
        let mut program = graph.compile(gpu(), &Params::new(0), &wanted).unwrap();
        let out = program.run(&[("x", Value::U32(&pixels))]).unwrap();
        let (v, back) = (out.f32(0).unwrap(), out.f32(2).unwrap());
        let mut noise = 0.0;
        for (i, p) in pixels.iter().enumerate() {
            assert_eq!(back[i], *p as f32, "{levels} levels");
            noise += v[i] as f64 * levels as f64 - *p as f64;
        }
        let mean = noise / (2 * n) as f64;
        assert!(
            (mean - 0.5).abs() < 0.02,
            "{levels} levels: mean noise {mean}"
        );
        let exact = -2.0 * (levels as f64).ln();
        for (there, back) in out.f32(1).unwrap().iter().zip(out.f32(3).unwrap()) {
            assert!((*there as f64 - exact).abs() < 0.04, "{levels}: {there}");
            assert_eq!(*there, -back);
        }
    }
    // The noise that comes nearest to the next level.
    let graph = Graph::new();
    let x = graph.constant([256, 1], &(0..256).map(|i| i as f32).collect::<Vec<_>>());
    let quiet = Dequantize::new(256).unwrap().without_noise();
    let v = quiet.forward(&x, &Context::eval());
    let highest = v.out.add_scalar((1.0 - 256.0 * 0.5f32.powi(22)) / 256.0);
    let back = quiet.inverse(&highest, &Context::eval()).out;
    let mut program = graph
        .compile(gpu(), &Params::new(0), &[&v.out, &back])
        .unwrap();
    let out = program.run(&[]).unwrap();
    for i in 0..256 {
        assert_eq!(out.f32(0).unwrap()[i], i as f32 / 256.0);
        assert_eq!(out.f32(1).unwrap()[i], i as f32);
    }
    assert!(Dequantize::new(1).is_err() && Dequantize::new(65_537).is_err());
}

/// Moves everything by twice the condition: `z = s x + 2 c`.
struct Follow(DiagonalScaling);

impl Bijector for Follow {
    fn name(&self) -> &str {
        "follow"
    }
    fn forward(&self, x: &Tensor, cx: &Context<'_>) -> Mapped {
        let mapped = self.0.forward(x, cx);
        let moved = mapped
            .out
            .add(&cx.condition().expect("pixels").mul_scalar(2.0));
        Mapped {
            out: moved,
            ..mapped
        }
    }
    fn inverse(&self, _: &Tensor, _: &Context<'_>) -> Mapped {
        panic!("dequantisation needs one direction only")
    }
}

/// `1 / q(u)` averages to 1 over noise drawn from q, whatever q is: the measure of the
/// unit interval. And the noise follows the pixels it belongs to.
#[test]
fn variational_dequantisation_is_an_importance_sampler() {
    let params = Params::new(0);
    let scaling = DiagonalScaling::new(&params, [1]).unwrap();
    params.set("log_scale", &[2f32.ln()]).unwrap();
    let layer = VariationalDequantize::new(5, Follow(scaling)).unwrap();
    let n = 8192;
    let pixels: Vec<u32> = (0..n as u32).map(|i| i % 5).collect();
    let graph = Graph::new();
    let x = graph.input_u32("x", [n, 1]);
    let v = layer.forward(&x, &Context::eval());
    let back = layer.inverse(&v.out, &Context::eval());
    let loss = v.log_det.mean(&[], false);
    let log_scale = params.find("log_scale").unwrap().on(&graph);
    let grad = flowgrad::tape::backward(&loss, &[&log_scale])
        .unwrap()
        .swap_remove(0);
    let wanted = [&v.out, &v.log_det, &back.out, &grad];
    let mut program = graph.compile(gpu(), &params, &wanted).unwrap();
    let out = program.run(&[("x", Value::U32(&pixels))]).unwrap();
    let (values, log_det) = (out.f32(0).unwrap(), out.f32(1).unwrap());
    let measure = log_det.iter().map(|l| 5.0 * (*l as f64).exp()).sum::<f64>() / n as f64;
    assert!(
        (measure - 1.0).abs() < 0.08,
        "the unit interval measures {measure}"
    );
    let mut noise = [0.0f64; 5];
    for (i, p) in pixels.iter().enumerate() {
        assert_eq!(out.f32(2).unwrap()[i], *p as f32);
        noise[*p as usize] += (values[i] as f64 * 5.0 - *p as f64) * 5.0 / n as f64;
    }
    assert!(
        noise[0] < 0.3 && noise[4] > 0.7 && (noise[2] - 0.5).abs() < 0.05,
        "{noise:?}"
    );
    assert!(out.f32(3).unwrap()[0].abs() > 1e-3);
    let chain = Chain::new("flow")
        .with(VariationalDequantize::new(5, Affine::new(1.0, 0.0).unwrap()).unwrap());
    assert!(!chain.is_reversible());
}

#[test]
fn bad_arguments_are_told() {
    assert!(Affine::new(0.0, 1.0).is_err() && Affine::new(f32::NAN, 0.0).is_err());
    assert!(Affine::centred(0).is_err());
    assert!(
        Logit::new(0.5).is_err() && Logit::new(-0.1).is_err() && Logit::between(0.0, 1.5).is_err()
    );
    let params = Params::new(0);
    let scaling = DiagonalScaling::new(&params, [3]).unwrap();
    let graph = Graph::new();
    let x = graph.input("x", [2, 4]);
    let said = scaling
        .forward(&x, &Context::eval())
        .out
        .check()
        .unwrap_err();
    assert!(said.to_string().contains("[2, 4]"), "{said}");
}
