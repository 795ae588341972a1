//! Pictures in bytes, and networks that are ready to run.

use flowgrad::models::{Inference, ResNet, ResNetConfig};
use flowgrad::nn::{Layer, Linear, Mode};
use flowgrad::ops::PixelFormat;
use flowgrad::{Error, Graph, Params, Storage, Value};

use crate::support::{Data, Numbers, Tol, check_op, gpu};

fn bytes(count: usize, seed: u64) -> Vec<u8> {
    let mut numbers = Numbers::new(seed);
    (0..count).map(|_| numbers.below(256) as u8).collect()
}

/// The definition, in float64: `(byte / 255 - mean) / std` as `[n, C, H, W]`.
fn floats(format: &PixelFormat, bytes: &[u8]) -> Vec<f64> {
    let [h, w] = format.size;
    let mut all = Vec::new();
    for picture in bytes.chunks(format.picture_bytes()) {
        for (c, (mean, std)) in format.mean.iter().zip(&format.std).enumerate() {
            let pixels = (0..h * w).map(|p| f64::from(picture[p * format.bytes + c]));
            all.extend(pixels.map(|v| (v / 255.0 - f64::from(*mean)) / f64::from(*std)));
        }
    }
    all
}

#[test]
fn bytes_become_normalised_floats() {
    let lopsided = PixelFormat {
        bytes: 2,
        ..PixelFormat::grey([3, 5])
    };
    for (n, format) in [
        (2, PixelFormat::rgb([5, 3]).imagenet()),
        (3, PixelFormat::rgb([1, 1])),
        (1, PixelFormat::rgba([7, 9]).cifar10()),
        (3, PixelFormat::grey([3, 3]).normalized(&[0.13], &[0.31])),
        (2, lopsided),
    ] {
        let bytes = bytes(n * format.picture_bytes(), 5);
        let words = PixelFormat::pack(&bytes);
        assert_eq!(words.len(), format.words(n));
        let data = Data::u32([words.len()], &words);
        check_op(
            &format!("{n} pictures {format:?}"),
            std::slice::from_ref(&data),
            |_, x| vec![x[0].pixels(n, &format)],
            Tol::default().no_grad(),
        );
        let build = |_: &Graph, x: &[flowgrad::Tensor]| vec![x[0].pixels(n, &format)];
        let case = crate::support::build_case("bytes", &[data], build, false);
        let got = case.reference().remove(0);
        let shape = [n, format.mean.len(), format.size[0], format.size[1]];
        assert_eq!(got.shape.dims(), shape);
        for (a, b) in got.data.iter().zip(floats(&format, &bytes)) {
            assert!((a - b).abs() < 1e-6, "{format:?}: {a} is not {b}");
        }
    }
    let graph = Graph::new();
    let x = graph.input_u32("x", [12]);
    let good = PixelFormat::rgb([4, 4]);
    assert!(x.pixels(1, &good).check().is_ok());
    assert!(x.pixels(2, &good).check().is_err());
    assert!(x.to_f32().pixels(1, &good).check().is_err());
    for bad in [
        good.clone().normalized(&[0.0; 3], &[1.0, 0.0, 1.0]),
        good.clone().normalized(&[0.0; 3], &[1.0; 2]),
        good.clone().normalized(&[f32::NAN; 3], &[1.0; 3]),
        good.clone().normalized(&[0.0; 4], &[1.0; 4]),
        PixelFormat {
            bytes: 5,
            ..good.clone()
        },
        PixelFormat::rgb([0, 4]),
        PixelFormat::rgb([usize::MAX, 4]),
    ] {
        let y = x.pixels(1, &bad);
        assert!(matches!(y.check(), Err(Error::Argument { .. })), "{bad:?}");
        let built = Inference::new(gpu(), &Params::new(0), bad, |x| x.clone());
        assert!(built.is_err());
    }
}

/// Thin, but with all that a folded network has.
fn network(params: &Params) -> ResNet {
    let config = ResNetConfig {
        width: 4,
        blocks: vec![1, 1],
        classes: 5,
        ..ResNetConfig::resnet18_cifar()
    };
    let net = ResNet::new(params, config).unwrap();
    let mut numbers = Numbers::new(1);
    for param in params.all().iter().filter(|p| p.shape().rank() == 1) {
        let n = param.shape().numel();
        let values: Vec<f32> = (0..n).map(|_| numbers.uniform(0.5, 1.5)).collect();
        param.set(&values).unwrap();
    }
    net
}

#[test]
fn pictures_in_any_number_give_what_the_network_gives() {
    let params = Params::new(2);
    let net = network(&params);
    let format = PixelFormat::rgba([8, 6]).cifar10();
    let bytes = bytes(9 * format.picture_bytes(), 3);
    let x: Vec<f32> = floats(&format, &bytes).iter().map(|v| *v as f32).collect();
    let graph = Graph::new();
    let y = net.forward(&graph.input("x", [9, 3, 8, 6]), Mode::Eval);
    let mut plain = graph.compile_pure(gpu(), &params, &[&y]).unwrap();
    let expected = plain.run(&[("x", Value::F32(&x))]).unwrap().f32(0).unwrap();
    let size = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    assert!(size > 0.1);
    for (storage, limit) in [(Storage::F32, 2e-5), (Storage::F16, 5e-3)] {
        let other = ResNet::new(&params.reusing(), net.config().clone()).unwrap();
        let ready = Inference::new(gpu(), &params, format.clone(), move |x| {
            other.forward(x, Mode::Eval)
        });
        let mut ready = ready.unwrap().batches(&[4, 1]).unwrap().weights(storage);
        assert!(ready.compiled().is_empty() && ready.memory() == 0);
        // One; three, filled up to four; nine as twice four and one.
        for (n, compiled) in [(0, vec![]), (1, vec![1]), (3, vec![1, 4]), (9, vec![1, 4])] {
            let got = ready.run(&bytes[..n * format.picture_bytes()]).unwrap();
            assert_eq!(ready.compiled(), compiled);
            assert_eq!(got.len(), 5 * n);
            for (a, b) in got.iter().zip(&expected) {
                assert!((a - b).abs() < limit * size, "{n} pictures: {a} and {b}");
            }
            let again = ready.run(&bytes[..n * format.picture_bytes()]).unwrap();
            assert_eq!(got, again);
        }
        assert!(ready.memory() > 0);
        let steps = &ready.program(4).unwrap().plan().steps;
        assert!(steps.iter().all(|s| !s.op.contains("normalize")));
        let error = ready.run(&bytes[1..]).unwrap_err().to_string();
        assert!(error.contains("whole pictures"), "{error}");
    }
    let ready = Inference::new(gpu(), &params, format.clone(), |x| x.clone()).unwrap();
    assert!(ready.batches(&[]).is_err());
    let mut ready = Inference::new(gpu(), &params, format, |x| x.mean(&[], false)).unwrap();
    assert!(matches!(ready.program(1), Err(Error::Shape { .. })));
}

#[test]
fn several_sets_run_together() {
    let (body, head) = (Params::new(2), Params::new(3));
    let net = network(&body);
    let last = Linear::new(&head, 8, 2).unwrap();
    let format = PixelFormat::rgb([6, 6]);
    let mut ready = Inference::new(gpu(), &[&body, &head], format, move |x| {
        last.forward(&net.features(x, Mode::Eval), Mode::Eval)
    })
    .unwrap();
    let got = ready.run(&bytes(2 * 108, 4)).unwrap();
    assert_eq!(got.len(), 4);
    assert_eq!(ready.compiled(), [1]);
}
