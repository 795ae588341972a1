//! Residual networks: counts, names, and batch norm folded into the convolutions.

use flowgrad::models::{ResNet, ResNetConfig, ResNetStem};
use flowgrad::nn::{Layer, Mode};
use flowgrad::ops::fold_batch_norms;
use flowgrad::{Error, Graph, Params, Program, Value};

use crate::support::{Numbers, gpu};

#[test]
fn published_counts_and_names() {
    for (config, count) in [
        (ResNetConfig::resnet18(), 11_689_512),
        (ResNetConfig::resnet18_cifar(), 11_173_962),
    ] {
        let params = Params::new(0);
        ResNet::new(&params, config).unwrap();
        assert_eq!(params.count(), count);
        let names = params.names();
        for name in [
            "conv1.weight",
            "bn1.running_var",
            "layer1.1.conv2.weight",
            "layer2.0.downsample.0.weight",
            "layer4.0.downsample.1.running_mean",
            "fc.bias",
        ] {
            assert!(names.iter().any(|n| n == name), "{name} of {names:?}");
        }
        assert!(!names.iter().any(|n| n.starts_with("layer1.0.downsample")));
    }
}

fn small(stem: ResNetStem) -> ResNetConfig {
    ResNetConfig {
        stem,
        channels: 2,
        width: 4,
        blocks: [1; 4],
        classes: 3,
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
    let config = ResNetConfig {
        blocks: [1, 0, 1, 1],
        ..small(ResNetStem::Cifar)
    };
    let error = ResNet::new(&Params::new(0), config).err();
    assert!(matches!(error, Some(Error::Argument { .. })), "{error:?}");
    let params = Params::new(0);
    let net = ResNet::new(&params, small(ResNetStem::Cifar)).unwrap();
    let graph = Graph::new();
    let x = graph.input("x", [1, 3, 8, 8]);
    assert!(net.forward(&x, Mode::Eval).check().is_err());
}
