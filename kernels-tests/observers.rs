//! What layers and steps of flows tell observers, by name and by value.

use flowgrad::flow::{
    ActNorm, Bijector, Chain, Context, Coupling, Memory, MultiScale, Split, Squeeze,
};
use flowgrad::graph::Observed;
use flowgrad::nn::{Apply, Conv2d, Dropout, Flatten, Layer, Linear, Mode, Nystrom, Sequential};
use flowgrad::ops::{Activation, ConvParams, CouplingMask, CouplingParams};
use flowgrad::{Graph, Params, Tensor, Value, tape};

use crate::flow::{floats, reference};
use crate::support::{Data, assert_close, gpu};

fn network(params: &Params, seen: usize, raw: usize) -> Sequential {
    let same = ConvParams {
        padding: [1; 4],
        ..Default::default()
    };
    let conv = |name: &str, channels| Conv2d::new(&params.scope(name), channels, [3, 3], same);
    Sequential::new()
        .with(conv("in", [seen, 3]).unwrap())
        .with(Apply(|x: &Tensor| x.relu()))
        .with(conv("out", [3, raw]).unwrap())
}

fn step(params: &Params, channels: usize) -> Chain {
    let coupling = CouplingParams::glow(CouplingMask::After(channels / 2));
    let seen = Coupling::seen_channels(coupling.mask, channels);
    let raw = coupling.raw_channels(channels);
    let net = network(&params.scope("net"), seen, raw);
    let actnorm = ActNorm::new(&params.scope("actnorm"), channels).unwrap();
    Chain::new("step")
        .with(actnorm)
        .with(Coupling::new(coupling, net))
}

/// Two scales of 2 channels, the second of 4.
fn flow(params: &Params, memory: Memory) -> Chain {
    let params = params.reusing();
    let level = Chain::new("level 0")
        .with(Squeeze)
        .with(step(&params.scope("0"), 8).memory(memory));
    let top = Chain::new("level 1").with(step(&params.scope("1"), 4));
    let scales = MultiScale::new(top, [4, 2, 2]).level(level, Split::plain(4), [4, 2, 2]);
    Chain::new("flow").with(scales)
}

fn names(seen: &[Observed]) -> Vec<(&str, &str)> {
    let each = seen.iter().map(|s| (s.name.as_str(), s.kind.as_str()));
    each.collect()
}

#[test]
fn steps_of_a_flow_are_observed_with_their_log_determinants() {
    let params = Params::new(5);
    let data = Data::f32([3, 2, 4, 4], 9);
    let mut first: Option<Vec<Vec<f32>>> = None;
    for memory in [Memory::Store, Memory::Rebuild] {
        let chain = flow(&params, memory);
        params
            .find("0.actnorm.log_scale")
            .and_then(|p| p.set(&[0.1, -0.2, 0.3, 0.2, 0.0, 0.4, -0.1, 0.2]))
            .unwrap();
        let graph = Graph::new();
        let x = graph.input("x", data.shape());
        let z = chain.forward(&x, &Context::eval());
        let seen = graph.observed();
        assert_eq!(
            names(&seen),
            [
                ("flow.0 multi-scale level 0.0 squeeze", "squeeze"),
                ("flow.0 multi-scale level 0.1 step.0 actnorm", "actnorm"),
                ("0.net.in", "conv2d"),
                ("flow.0 multi-scale level 0.1 step.1 network 1", "function"),
                ("0.net.out", "conv2d"),
                ("flow.0 multi-scale level 0.1 step.1 coupling", "coupling"),
                ("flow.0 multi-scale level 0.1 step", "step"),
                ("flow.0 multi-scale level 0 split", "split"),
                ("flow.0 multi-scale level 1.0 step.0 actnorm", "actnorm"),
                ("1.net.in", "conv2d"),
                ("flow.0 multi-scale level 1.0 step.1 network 1", "function"),
                ("1.net.out", "conv2d"),
                ("flow.0 multi-scale level 1.0 step.1 coupling", "coupling"),
                ("flow.0 multi-scale level 1.0 step", "step"),
                ("flow.0 multi-scale", "multi-scale"),
            ]
        );
        // What one step gave the next one took, and the parts of log-determinants are whole.
        let of = |name: &str| {
            let found = seen.iter().find(|s| s.name.ends_with(name));
            found.unwrap_or_else(|| panic!("{name}: {:?}", names(&seen)))
        };
        let log_det = |name: &str| of(name).log_det.clone().unwrap();
        assert!(of("0.net.in").log_det.is_none());
        let parts = [
            "level 0.0 squeeze",
            "level 0.1 step",
            "level 0 split",
            "level 1.0 step",
        ];
        let total = parts.iter().map(|n| log_det(n));
        let total = total.reduce(|a, b| a.add(&b)).unwrap();
        let wanted = [
            &of("level 0.1 step.0 actnorm").output,
            &of("level 0.1 step.1 coupling").input,
            &log_det("level 0.1 step.0 actnorm"),
            &log_det("level 0.1 step.1 coupling"),
            &log_det("level 0.1 step"),
            &total,
            &z.log_det,
            &of("0.net.out").output,
            &of("level 0 split").output,
            &z.out,
        ];
        let mut program = graph.compile(gpu(), &params, &wanted).unwrap();
        let run = program.run(&[("x", Value::F32(floats(&data)))]).unwrap();
        let exact = reference(&params, &data.array(), &wanted);
        let got: Vec<Vec<f32>> = (0..wanted.len()).map(|i| run.f32(i).unwrap()).collect();
        for (i, exact) in exact.iter().enumerate() {
            assert_close(&format!("{memory:?}: value {i}"), &got[i], exact, 1e-5);
        }
        assert_eq!(got[0], got[1]);
        // Four pixels, and the sum of the logarithms of the scales is 0.9.
        assert!(
            got[2].iter().all(|v| (v - 3.6).abs() < 1e-5),
            "{:?}",
            got[2]
        );
        for n in 0..3 {
            assert!((got[2][n] + got[3][n] - got[4][n]).abs() < 1e-5);
            assert!((got[5][n] - got[6][n]).abs() < 1e-5);
            assert!(got[3][n].abs() > 1e-3, "{}", got[3][n]);
            // The factored half of the channels are the sample's first latents.
            assert_eq!(got[8][16 * n..16 * (n + 1)], got[9][32 * n..32 * n + 16]);
        }
        match &first {
            Some(first) => assert_eq!(*first, got),
            None => first = Some(got),
        }

        // Gradients record layers again, and tell nobody; the way back tells.
        let loss = z
            .log_det
            .sum(&[], false)
            .add(&z.out.square().sum(&[], false));
        tape::backward(&loss, &[&x]).unwrap();
        assert_eq!(graph.observed().len(), seen.len(), "{memory:?}");
        chain.inverse(&z.out, &Context::eval());
        let back = graph.observed().split_off(seen.len());
        let told = names(&back);
        assert_eq!(told[0].0, "1.net.in");
        assert!(told.contains(&(
            "flow.0 multi-scale level 0.1 step.1 coupling",
            "inverse coupling"
        )));
        let splits: Vec<_> = back.iter().filter(|s| s.kind == "inverse split").collect();
        assert_eq!(splits.len(), 1);
        assert_eq!(splits[0].output.shape().dims(), [3, 8, 2, 2]);
        assert_eq!(told.len(), seen.len());
    }
}

/// Losses on what is observed inside of a rebuilt chain have right gradients.
#[test]
fn a_loss_inside_a_rebuilt_chain_has_the_gradient_of_a_stored_one() {
    let params = Params::new(5);
    let data = Data::f32([3, 2, 4, 4], 9);
    let grads = [Memory::Store, Memory::Rebuild].map(|memory| {
        let graph = Graph::new();
        let x = graph.input("x", data.shape());
        let z = flow(&params, memory).forward(&x, &Context::eval());
        let seen = graph.observed();
        let inner = seen.iter().find(|s| s.name == "0.net.in").unwrap();
        let loss = inner
            .output
            .square()
            .sum(&[], false)
            .add(&z.log_det.sum(&[], false));
        let wrt = [
            x.clone(),
            params.find("0.actnorm.log_scale").unwrap().on(&graph),
        ];
        let grads = tape::backward(&loss, &wrt.iter().collect::<Vec<_>>()).unwrap();
        let grads: Vec<&Tensor> = grads.iter().collect();
        reference(&params, &data.array(), &grads)
    });
    for (stored, rebuilt) in grads[0].iter().zip(&grads[1]) {
        assert!(stored.data.iter().any(|v| v.abs() > 0.1));
        for (a, b) in stored.data.iter().zip(&rebuilt.data) {
            assert!((a - b).abs() < 1e-9, "{a} {b}");
        }
    }
}

#[test]
fn layers_without_parameters_are_observed_at_their_places() {
    let params = Params::new(2);
    let inner = Sequential::new()
        .with(Flatten)
        .with(Apply(|x: &Tensor| x.mul_scalar(2.0)));
    let net = Sequential::new()
        .with(Dropout::new(0.5).unwrap())
        .with(inner)
        .with(Activation::Relu)
        .with(Linear::new(&params.scope("fc"), 6, 2).unwrap());
    let data = Data::f32([3, 2, 3], 4);
    for mode in [Mode::Eval, Mode::Train] {
        let graph = Graph::new();
        let x = graph.input("x", data.shape());
        net.forward(&x, mode);
        let seen = graph.observed();
        let expected = [
            ("0", "dropout"),
            ("1.0", "flatten"),
            ("1.1", "function"),
            ("2", "activation"),
            ("fc", "linear"),
        ];
        assert_eq!(names(&seen), expected);
        let outputs: Vec<&Tensor> = seen.iter().map(|s| &s.output).collect();
        let mut program = graph.compile(gpu(), &params, &outputs).unwrap();
        let run = program.run(&[("x", Value::F32(floats(&data)))]).unwrap();
        let got: Vec<Vec<f32>> = (0..4).map(|i| run.f32(i).unwrap()).collect();
        assert_eq!(seen[1].output.shape().dims(), [3, 6]);
        for (i, v) in floats(&data).iter().enumerate() {
            let kept = match mode {
                Mode::Train => got[0][i] == 0.0 || got[0][i] == 2.0 * v,
                _ => got[0][i] == *v,
            };
            assert!(kept, "{mode:?}: {} of {v}", got[0][i]);
            assert_eq!(got[1][i], got[0][i]);
            assert_eq!(got[2][i], 2.0 * got[1][i]);
            assert_eq!(got[3][i], got[2][i].max(0.0));
        }
    }
}

#[test]
fn attention_and_spectral_norm_are_observed() {
    let (q, w) = (Data::f32([4, 3], 1), Data::f32([3, 2], 2));
    let graph = Graph::new();
    let x = graph.input("q", q.shape());
    let y = x.attention(&x, &x, 0.5, false);
    let landmarks = x.nystrom_attention(&x, &x, 0.5, Nystrom::new(2));
    let weight = graph.input("w", w.shape());
    let (u, v) = (graph.full([3], 1.0), graph.full([2], 1.0));
    let normed = weight.spectral_norm(&u, &v, 3, 1e-12);
    let seen = graph.observed();
    let expected = [
        ("", "attention"),
        ("", "nystrom attention"),
        ("", "spectral norm"),
    ];
    assert_eq!(names(&seen), expected);
    let results = [&y, &landmarks.out, &normed.weight];
    let mut wanted: Vec<&Tensor> = seen.iter().flat_map(|s| [&s.input, &s.output]).collect();
    wanted.extend(results);
    let mut program = graph.compile(gpu(), &Params::new(0), &wanted).unwrap();
    let run = program
        .run(&[("q", Value::F32(floats(&q))), ("w", Value::F32(floats(&w)))])
        .unwrap();
    let inputs = [&q, &q, &w];
    for (i, input) in inputs.into_iter().enumerate() {
        assert_eq!(run.f32(2 * i).unwrap(), floats(input), "{i}");
        assert_eq!(run.f32(2 * i + 1).unwrap(), run.f32(6 + i).unwrap(), "{i}");
    }
    let weight = run.f32(5).unwrap();
    assert!(
        weight
            .iter()
            .zip(floats(&w))
            .any(|(a, b)| (a - b).abs() > 1e-3)
    );
}
