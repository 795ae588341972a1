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
