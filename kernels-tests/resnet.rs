//! Residual networks and discriminators: counts, names, every layer against float64, files,
//! and batch norm folded into the convolutions.

use flowgrad::graph::{Array, Feed, evaluate};
use flowgrad::models::{
    DcganConfig, DcganDiscriminator, ResNet, ResNetBlock, ResNetConfig, ResNetNames,
    ResNetShortcut, ResNetStem, WideResNet, WideResNetConfig,
};
use flowgrad::nn::{Layer, Mode};
use flowgrad::ops::fold_batch_norms;
use flowgrad::params::{Precision, Strict};
use flowgrad::{Error, Graph, Params, Program, Tensor, Value};

use crate::support::{Data, Numbers, assert_close, gpu};

/// Parameters of a network, and the names of all its tensors.
fn counted(build: impl FnOnce(&Params)) -> (usize, Vec<String>) {
    let params = Params::new(0);
    build(&params);
    (params.count(), params.names())
}

#[test]
fn published_counts_and_names() {
    let cifar = |depth| ResNetConfig::cifar(depth).unwrap();
    let table = [
        (
            ResNetConfig::resnet18(),
            11_689_512,
            "layer2.0.downsample.0.weight fc.bias",
        ),
        (
            ResNetConfig::resnet34(),
            21_797_672,
            "layer3.5.bn2.running_var fc.weight",
        ),
        (
            ResNetConfig::resnet50(),
            25_557_032,
            "layer1.0.downsample.1.running_mean layer4.2.conv3.weight layer1.0.bn3.bias fc.weight",
        ),
        (
            ResNetConfig::resnet18_cifar(),
            11_173_962,
            "bn1.running_var layer1.1.conv2.weight layer4.0.downsample.1.running_mean fc.bias",
        ),
        (
            ResNetConfig::resnet18_openood(),
            11_173_962,
            "layer2.0.shortcut.0.weight layer4.0.shortcut.1.running_var fc.weight",
        ),
        (
            ResNetConfig::resnet18_kuangliu(),
            11_173_962,
            "layer2.0.shortcut.0.weight layer3.0.shortcut.1.bias linear.weight",
        ),
        (
            ResNetConfig::preact18(),
            11_171_146,
            "conv1.weight layer1.0.bn1.weight layer2.0.shortcut.0.weight linear.bias",
        ),
        (
            ResNetConfig::resnet18_discriminator(),
            11_169_345,
            "layer2.0.shortcut.0.weight linear.bias",
        ),
        (cifar(20), 269_722, "layer3.2.conv2.weight linear.bias"),
        (cifar(32), 464_154, "layer3.4.conv2.weight"),
        (cifar(44), 658_586, "layer3.6.conv2.weight"),
        (cifar(56), 853_018, "layer3.8.conv2.weight"),
        (
            cifar(110),
            1_727_962,
            "layer1.17.bn2.running_mean layer3.17.conv2.weight",
        ),
    ];
    for (config, count, expected) in table {
        let plain = config.names == ResNetNames::Torchvision;
        let basic = config.block == ResNetBlock::Basic;
        let pre = config.block == ResNetBlock::PreActivation;
        let padded = config.shortcut == ResNetShortcut::Padded;
        let what = format!("{config:?}");
        let (found, names) = counted(|params| {
            ResNet::new(params, config).unwrap();
        });
        assert_eq!(found, count, "{what}");
        for name in expected.split(' ') {
            assert!(names.iter().any(|n| n == name), "{name} of {names:?}");
        }
        let has = |part: &str| names.iter().any(|n| n.contains(part));
        assert_eq!(has("downsample"), plain, "{what}");
        assert_eq!(has("shortcut"), !plain && !padded, "{what}");
        assert!(!(basic && has("layer1.0.downsample")), "{what}");
        assert!(!(pre && (has("shortcut.1") || names.iter().any(|n| n.starts_with("bn")))));
    }
    for (config, count) in [
        (WideResNetConfig::wrn28_10(), 36_489_290),
        (WideResNetConfig::jem(), 36_471_338),
    ] {
        let norm = config.norm;
        let (found, names) = counted(|params| {
            WideResNet::new(params, config).unwrap();
        });
        assert_eq!(found, count);
        for name in [
            "conv1.bias",
            "layer1.0.shortcut.0.bias",
            "layer3.3.conv2.bias",
            "linear.weight",
        ] {
            assert!(names.iter().any(|n| n == name), "{name} of {names:?}");
        }
        for name in ["bn1.weight", "layer2.1.bn2.running_var"] {
            assert_eq!(names.iter().any(|n| n == name), norm, "{name} of {names:?}");
        }
    }
    for (config, count, last) in [
        (DcganConfig::small(), 167_808, "main.8.weight"),
        (DcganConfig::reference(), 2_765_568, "main.11.weight"),
    ] {
        let side = config.side();
        let params = Params::new(0);
        let net = DcganDiscriminator::new(&params, config).unwrap();
        assert_eq!(params.count(), count);
        let names = params.names();
        for name in [
            "main.0.weight",
            "main.2.weight",
            "main.3.running_var",
            "main.5.weight",
            last,
        ] {
            assert!(names.iter().any(|n| n == name), "{name} of {names:?}");
        }
        assert!(
            !names
                .iter()
                .any(|n| n == "main.0.bias" || n.starts_with("main.1."))
        );
        let graph = Graph::new();
        let y = net.forward(&graph.input("x", [2, 3, side, side]), Mode::Train);
        assert_eq!(y.shape().dims(), [2, 1]);
        // The reference's first values.
        let scales = params.get("main.3.weight").unwrap();
        let mean = scales.iter().sum::<f32>() / scales.len() as f32;
        let far = scales.iter().map(|v| (v - 1.0).abs()).fold(0.0, f32::max);
        assert!(
            (mean - 1.0).abs() < 0.02 && far > 0.01 && far < 0.12,
            "{mean} {far}"
        );
    }
}

/// Thin networks of every family with the extents of their images.
fn families(params: &Params) -> Vec<(&'static str, Box<dyn Layer>, usize)> {
    let thin = |config: ResNetConfig| ResNetConfig {
        channels: 2,
        width: 4,
        blocks: vec![1, 2],
        classes: 3,
        ..config
    };
    let net = |name: &'static str, config: ResNetConfig, side: usize| {
        let net = ResNet::new(&params.scope(name), thin(config)).unwrap();
        (name, Box::new(net) as Box<dyn Layer>, side)
    };
    let mut all = vec![
        net("resnet18", ResNetConfig::resnet18(), 17),
        net("resnet50", ResNetConfig::resnet50(), 13),
        net("kuangliu", ResNetConfig::resnet18_kuangliu(), 7),
        net("openood", ResNetConfig::resnet18_openood(), 6),
        net("preact18", ResNetConfig::preact18(), 7),
        net("cifar20", ResNetConfig::cifar(20).unwrap(), 9),
        (
            "smooth",
            Box::new(
                ResNet::new(
                    &params.scope("smooth"),
                    ResNetConfig {
                        last_relu: false,
                        ..thin(ResNetConfig::resnet18_cifar())
                    },
                )
                .unwrap(),
            ),
            6,
        ),
    ];
    for (name, config) in [
        ("wrn", WideResNetConfig::wrn28_10()),
        ("jem", WideResNetConfig::jem()),
    ] {
        let config = WideResNetConfig {
            channels: 2,
            depth: 10,
            widen: 1,
            classes: 3,
            ..config
        };
        let net = WideResNet::new(&params.scope(name), config).unwrap();
        all.push((name, Box::new(net), 7));
    }
    let config = DcganConfig {
        channels: 2,
        widths: vec![3, 5],
    };
    let net = DcganDiscriminator::new(&params.scope("dcgan"), config).unwrap();
    all.push(("dcgan", Box::new(net), 18));
    all
}

/// Statistics and scales that are not those of fresh networks.
fn shake(params: &Params, seed: u64) {
    let mut numbers = Numbers::new(seed);
    for param in params.all().iter().filter(|p| p.shape().rank() == 1) {
        let n = param.shape().numel();
        let values: Vec<f32> = (0..n).map(|_| numbers.uniform(0.5, 1.5)).collect();
        param.set(&values).unwrap();
    }
}

#[test]
fn every_layer_agrees_with_float64() {
    let params = Params::new(7);
    let nets = families(&params);
    shake(&params, 3);
    let all = params.all();
    let value = |_: u64, i: usize| {
        let param = all.iter().find(|p| p.index() == i)?;
        let values = param.get().ok()?.into_iter().map(f64::from).collect();
        Array::new(param.shape(), values).ok()
    };
    for (name, net, side) in nets {
        let graph = Graph::new();
        let data = Data::f32([2, 2, side, side], 5);
        let x = graph.input("x", [2, 2, side, side]);
        let y = net.forward(&x, Mode::Eval);
        let mut wanted: Vec<Tensor> = graph.observed().into_iter().map(|s| s.output).collect();
        assert!(wanted.len() >= 4, "{name}");
        wanted.push(y);
        let wanted: Vec<&Tensor> = wanted.iter().collect();
        let feed = Feed {
            inputs: [("x".to_string(), data.array())].into(),
            param: Some(&value),
            ..Feed::default()
        };
        let expected = evaluate(&wanted, &feed).unwrap();
        let mut program = graph.compile_pure(gpu(), &params, &wanted).unwrap();
        let Data::F32 { values, .. } = &data else {
            unreachable!()
        };
        let got = program.run(&[("x", Value::F32(values))]).unwrap();
        for (i, expected) in expected.iter().enumerate() {
            let what = format!("{name}: layer {i}");
            assert_close(&what, &got.f32(i).unwrap(), expected, 2e-5);
        }
    }
}

#[test]
fn saved_networks_give_the_same_bits_again() {
    let file = std::env::temp_dir().join(format!("flowgrad-families-{}", std::process::id()));
    let logits = |params: &Params, nets: Vec<(&'static str, Box<dyn Layer>, usize)>| {
        let each = nets.into_iter().map(|(_, net, side)| {
            let graph = Graph::new();
            let y = net.forward(&graph.input("x", [2, 2, side, side]), Mode::Eval);
            let Data::F32 { values, .. } = Data::f32([2, 2, side, side], 5) else {
                unreachable!()
            };
            let mut program = graph.compile_pure(gpu(), params, &[&y]).unwrap();
            let run = program.run(&[("x", Value::F32(&values))]).unwrap();
            run.bits(0).to_vec()
        });
        each.collect::<Vec<Vec<u32>>>()
    };
    let params = Params::new(7);
    let nets = families(&params);
    shake(&params, 4);
    params.save(&file, Precision::F32).unwrap();
    let first = logits(&params, nets);
    let other = Params::new(8);
    let nets = families(&other);
    let report = other.load(&file, Strict::Yes).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert_eq!(report.loaded.len(), params.names().len());
    assert_eq!(first, logits(&other, nets));
}

/// Option A, by hand: a second stage that adds nothing gives every other pixel of the first,
/// between channels of zeros.
#[test]
fn padded_shortcuts_take_every_other_pixel() {
    let config = |stages: usize| ResNetConfig {
        channels: 2,
        width: 4,
        blocks: vec![1; stages],
        ..ResNetConfig::cifar(20).unwrap()
    };
    let params = Params::new(3);
    let two = ResNet::new(&params, config(2)).unwrap();
    for name in ["layer2.0.bn2.weight", "layer2.0.bn2.bias"] {
        let all = params.all();
        let param = all.iter().find(|p| p.name() == name).unwrap();
        param.set(&[0.0; 8]).unwrap();
    }
    let fewer = Params::new(3);
    let one = ResNet::new(&fewer, config(1)).unwrap();
    let Data::F32 { values, .. } = Data::f32([1, 2, 5, 7], 1) else {
        unreachable!()
    };
    let maps = |net: &ResNet, params: &Params| {
        let graph = Graph::new();
        let y = net.maps(&graph.input("x", [1, 2, 5, 7]), Mode::Eval);
        let mut program = graph.compile_pure(gpu(), params, &[&y]).unwrap();
        let run = program.run(&[("x", Value::F32(&values))]).unwrap();
        run.f32(0).unwrap()
    };
    let (before, after) = (maps(&one, &fewer), maps(&two, &params));
    assert_eq!(after.len(), 8 * 3 * 4);
    for (i, v) in after.iter().enumerate() {
        let (c, y, x) = (i / 12, i / 4 % 3, i % 4);
        let expected = match c {
            2..6 => before[((c - 2) * 5 + 2 * y) * 7 + 2 * x],
            _ => 0.0,
        };
        assert_eq!(*v, expected, "channel {c}, pixel {y}, {x}");
    }
}

fn small(stem: ResNetStem) -> ResNetConfig {
    ResNetConfig {
        stem,
        channels: 2,
        width: 4,
        blocks: vec![1; 4],
        classes: 3,
        ..ResNetConfig::resnet18()
    }
}

#[test]
fn folded_networks_give_the_same_logits() {
    for (stem, side) in [(ResNetStem::Cifar, 9), (ResNetStem::ImageNet, 33)] {
        let params = Params::new(5);
        let net = ResNet::new(&params, small(stem)).unwrap();
        // Statistics and scales that are not those of a fresh network.
        let mut numbers = Numbers::new(1);
        for param in params.all() {
            if param.shape().rank() == 1 {
                let n = param.shape().numel();
                let values: Vec<f32> = (0..n).map(|_| numbers.uniform(0.5, 1.5)).collect();
                param.set(&values).unwrap();
            }
        }
        let count = 4 * side * side;
        let x: Vec<f32> = (0..count).map(|_| numbers.uniform(-1.0, 1.0)).collect();
        let graph = Graph::new();
        let input = graph.input("x", [2, 2, side, side]);
        let y = net.forward(&input, Mode::Eval);
        let folded = fold_batch_norms(&[&y]).unwrap();
        let mut plain = graph.compile(gpu(), &params, &[&y]).unwrap();
        let mut frozen = graph.compile_frozen(gpu(), &params, &[&folded[0]]).unwrap();
        let steps = |p: &Program| p.plan().steps.len();
        assert!(
            steps(&frozen) < steps(&plain),
            "{} of {}",
            steps(&frozen),
            steps(&plain)
        );
        let names = frozen.plan().to_string();
        assert!(!names.contains("normalize"), "{names}");
        let [a, b] = [&mut plain, &mut frozen]
            .map(|p| p.run(&[("x", Value::F32(&x))]).unwrap().f32(0).unwrap());
        let size = a.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        assert!(size > 0.1, "{a:?}");
        for (a, b) in a.iter().zip(&b) {
            assert!((a - b).abs() < 1e-5 * size, "{a} and {b}");
        }
    }
}

#[test]
fn absurd_shapes_are_errors() {
    let thin = || small(ResNetStem::Cifar);
    for config in [
        ResNetConfig {
            blocks: vec![1, 0, 1, 1],
            ..thin()
        },
        ResNetConfig {
            blocks: Vec::new(),
            ..thin()
        },
        ResNetConfig {
            blocks: vec![1; 80],
            ..thin()
        },
        ResNetConfig {
            shortcut: ResNetShortcut::Padded,
            block: ResNetBlock::Bottleneck,
            ..thin()
        },
        ResNetConfig {
            shortcut: ResNetShortcut::Padded,
            width: 3,
            ..thin()
        },
    ] {
        let error = ResNet::new(&Params::new(0), config).err();
        assert!(matches!(error, Some(Error::Argument { .. })), "{error:?}");
    }
    assert!(ResNetConfig::cifar(18).is_err() && ResNetConfig::cifar(0).is_err());
    for config in [
        WideResNetConfig {
            depth: 27,
            ..WideResNetConfig::jem()
        },
        WideResNetConfig {
            slope: -0.1,
            ..WideResNetConfig::jem()
        },
        WideResNetConfig {
            widen: 0,
            ..WideResNetConfig::jem()
        },
    ] {
        assert!(WideResNet::new(&Params::new(0), config).is_err());
    }
    let none = DcganConfig {
        channels: 3,
        widths: Vec::new(),
    };
    assert!(DcganDiscriminator::new(&Params::new(0), none).is_err());
    let params = Params::new(0);
    let net = ResNet::new(&params, small(ResNetStem::Cifar)).unwrap();
    let graph = Graph::new();
    let x = graph.input("x", [1, 3, 8, 8]);
    assert!(net.forward(&x, Mode::Eval).check().is_err());
}

/// What DeepInversion needs: the statistics of all inputs of batch norms, differentiable
/// by the image, from a network that knows nothing of it.
#[test]
fn batch_norms_of_a_whole_network_are_observed() {
    let params = Params::new(6);
    let net = ResNet::new(&params, small(ResNetStem::Cifar)).unwrap();
    let graph = Graph::new();
    let x = graph.input("x", [3, 2, 8, 8]);
    let y = net.forward(&x, Mode::Eval);
    let seen = graph.observed();
    let norms: Vec<_> = seen.iter().filter(|s| s.kind == "batch norm").collect();
    let names: Vec<&str> = norms.iter().map(|s| s.name.as_str()).collect();
    let states = params.names().into_iter();
    let states: Vec<String> = states
        .filter_map(|n| Some(n.strip_suffix(".running_var")?.into()))
        .collect();
    assert_eq!(names.len(), states.len());
    assert!(
        states.iter().all(|s| names.contains(&s.as_str())),
        "{names:?}"
    );
    assert_eq!(names[0], "bn1");
    let last = seen.last().unwrap();
    assert_eq!((last.name.as_str(), last.kind.as_str()), ("fc", "linear"));
    assert_eq!(last.output.shape(), y.shape());
    // Losses on them reach the image.
    let mut loss = y.mean(&[], false);
    for norm in &norms {
        let (mean, var) = norm.batch_statistics();
        loss = loss
            .add(&mean.square().sum(&[], false))
            .add(&var.sum(&[], false));
    }
    let grad = flowgrad::tape::backward(&loss, &[&x])
        .unwrap()
        .swap_remove(0);
    let (mean, var) = norms[1].batch_statistics();
    let wanted = [&grad, &norms[1].input, &mean, &var];
    let mut program = graph.compile(gpu(), &params, &wanted).unwrap();
    let mut numbers = Numbers::new(2);
    let image: Vec<f32> = (0..3 * 2 * 64)
        .map(|_| numbers.uniform(-1.0, 1.0))
        .collect();
    let run = program.run(&[("x", Value::F32(&image))]).unwrap();
    assert!(run.f32(0).unwrap().iter().any(|g| g.abs() > 1e-3));
    let (input, channels) = (run.f32(1).unwrap(), norms[1].input.dim(1));
    let area = norms[1].input.dim(2) * norms[1].input.dim(3);
    for c in 0..channels {
        let inside = |i: usize| (i / area) % channels == c;
        let each = input.iter().enumerate().filter(|(i, _)| inside(*i));
        let each: Vec<f64> = each.map(|(_, v)| f64::from(*v)).collect();
        let mean = each.iter().sum::<f64>() / each.len() as f64;
        let var = each.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / each.len() as f64;
        assert!((f64::from(run.f32(2).unwrap()[c]) - mean).abs() < 1e-5);
        assert!((f64::from(run.f32(3).unwrap()[c]) - var).abs() < 1e-5);
    }
}
