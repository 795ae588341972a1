//! Losses through the inverse of a chain: gradients and memory where activations are
//! rebuilt.

use flowgrad::flow::{Bijector, Chain, Context, Coupling, Mapped, Memory, SplineCoupling};
use flowgrad::nn::{Linear, Sequential};
use flowgrad::ops::{Activation, CouplingMask, CouplingParams, SplineParams};
use flowgrad::{Graph, Params, Tensor, Value, tape};

use crate::flow::{deep, floats, reference};
use crate::support::{Data, assert_close, gpu};

/// A loss of samples and their log-determinants.
fn loss(x: &Tensor, log_det: &Tensor) -> Tensor {
    let graph = x.graph();
    let weights = graph.constant(x.shape(), floats(&Data::f32(x.shape(), 71)));
    let by_sample = graph.constant(log_det.shape(), floats(&Data::f32(log_det.shape(), 72)));
    let samples = x.square().mul(&weights).sum(&[], false);
    samples.add(&log_det.mul(&by_sample).sum(&[], false))
}

#[test]
fn a_loss_of_samples_has_the_gradients_of_stored_activations() {
    let params = Params::new(3);
    let chain = deep(&params, 3, 4);
    let data = Data::f32([2, 4, 3, 2], 8);
    let mut stored: Vec<Vec<f64>> = Vec::new();
    for memory in [Memory::Store, Memory::Rebuild, Memory::Checkpoint(2)] {
        let graph = Graph::new();
        let z = graph.input("x", data.shape());
        let x = chain.clone().memory(memory).inverse(&z, &Context::eval());
        let mut wrt = vec![z.clone()];
        wrt.extend(params.trainable().iter().map(|p| p.on(&graph)));
        let wrt: Vec<&Tensor> = wrt.iter().collect();
        let mut grads = tape::backward(&loss(&x.out, &x.log_det), &wrt).expect("gradients");
        let slope = grads[0].square().sum(&[], false);
        grads.extend(tape::backward(&slope, &wrt).expect("second derivatives"));
        let wanted: Vec<&Tensor> = grads.iter().collect();
        let exact = reference(&params, &data.array(), &wanted);
        let mut program = graph.compile(gpu(), &params, &wanted).expect("a program");
        let got = program.run(&[("x", Value::F32(floats(&data)))]);
        let got = got.expect("a run");
        for (i, exact) in exact.iter().enumerate() {
            let name = format!("{memory:?}: gradient {i} of {}", wanted.len());
            assert_close(&name, &got.f32(i).expect("floats"), exact, 4e-5);
            if let Some(stored) = stored.get(i) {
                let largest = stored.iter().fold(1.0f64, |m, v| m.max(v.abs()));
                for (a, b) in exact.data.iter().zip(stored) {
                    assert!((a - b).abs() < 1e-8 * largest, "{name}: {a}, stored {b}");
                }
            }
        }
        if stored.is_empty() {
            stored = exact.into_iter().map(|e| e.data).collect();
        }
    }
}

#[test]
fn memory_of_a_loss_of_samples_does_not_grow_with_depth() {
    let peak = |depth: usize, memory: Memory| {
        let params = Params::new(3);
        let chain = deep(&params, depth, 8).memory(memory);
        let graph = Graph::new();
        let z = graph.input("x", [16, 8, 8, 8]);
        let x = chain.inverse(&z, &Context::train());
        let mut wrt = vec![z.clone()];
        wrt.extend(params.trainable().iter().map(|p| p.on(&graph)));
        let wrt: Vec<&Tensor> = wrt.iter().collect();
        let grads = tape::backward(&loss(&x.out, &x.log_det), &wrt).expect("gradients");
        // One number of each, so that results do not count as activations.
        let sums: Vec<Tensor> = grads.iter().map(|g| g.sum(&[], false)).collect();
        let wanted: Vec<&Tensor> = sums.iter().collect();
        let program = graph.compile(gpu(), &params, &wanted).expect("a program");
        println!("{depth} {memory:?} {:?}", program.plan().memory());
        program.plan().memory().temporary
    };
    let (shallow, deep) = (peak(8, Memory::Rebuild), peak(32, Memory::Rebuild));
    assert!(deep as f64 <= 1.2 * shallow as f64, "{deep} of {shallow}");
    let checkpointed = peak(32, Memory::Checkpoint(8));
    let stored = peak(32, Memory::Store);
    assert!(deep < checkpointed && checkpointed < stored);
}

/// A layer that knows its two directions and nothing else.
struct Plain<B>(B);

impl<B: Bijector> Bijector for Plain<B> {
    fn name(&self) -> &str {
        self.0.name()
    }
    fn forward(&self, x: &Tensor, cx: &Context<'_>) -> Mapped {
        self.0.forward(x, cx)
    }
    fn inverse(&self, z: &Tensor, cx: &Context<'_>) -> Mapped {
        self.0.inverse(z, cx)
    }
}

/// Couplings run their networks once on the way back through their inverse, and give what
/// replaying the inverse gives.
#[test]
fn couplings_rebuild_latents_with_one_run_of_the_network() {
    let params = Params::new(8);
    let data = Data::f32([3, 4], 5);
    let network = |mask, raw: usize| {
        let seen = Coupling::seen_channels(mask, 4);
        let scope = params.reusing();
        let first = Linear::new(&scope.scope(format!("{mask:?}.{raw}.0")), seen, 7);
        let last = Linear::new(&scope.scope(format!("{mask:?}.{raw}.1")), 7, raw);
        Sequential::new()
            .with(first.unwrap().activation(Activation::Tanh))
            .with(last.unwrap())
    };
    let spline = SplineParams {
        bins: 4,
        bound: 3.0,
    };
    let masks = [CouplingMask::After(2), CouplingMask::Even];
    let couplings = || {
        masks.map(|mask| {
            let affine = CouplingParams::glow(mask);
            let net = network(mask, affine.raw_channels(4));
            let raw = SplineCoupling::raw_channels(mask, &spline, 4);
            let splines = SplineCoupling::new(mask, spline, network(mask, raw));
            (Coupling::new(affine, net), splines)
        })
    };
    let mut chains = [Chain::new("own"), Chain::new("plain"), Chain::new("stored")];
    for (affine, splines) in couplings() {
        chains[0].push(affine);
        chains[0].push(splines);
    }
    for (affine, splines) in couplings() {
        chains[1].push(Plain(affine));
        chains[1].push(Plain(splines));
    }
    for (affine, splines) in couplings() {
        chains[2].push(affine);
        chains[2].push(splines);
    }
    let [own, plain, stored] = chains;
    let chains = [
        own.memory(Memory::Rebuild),
        plain.memory(Memory::Rebuild),
        stored,
    ];
    let results = chains.map(|chain| {
        let graph = Graph::new();
        let z = graph.input("x", data.shape());
        let x = chain.inverse(&z, &Context::eval());
        let mut wrt = vec![z.clone()];
        wrt.extend(params.trainable().iter().map(|p| p.on(&graph)));
        let wrt: Vec<&Tensor> = wrt.iter().collect();
        let grads = tape::backward(&loss(&x.out, &x.log_det), &wrt).expect("gradients");
        let wanted: Vec<&Tensor> = grads.iter().collect();
        let exact = reference(&params, &data.array(), &wanted);
        let mut program = graph.compile(gpu(), &params, &wanted).expect("a program");
        let run = program.run(&[("x", Value::F32(floats(&data)))]);
        let run = run.expect("a run");
        for (i, exact) in exact.iter().enumerate() {
            let name = format!("gradient {i}");
            assert_close(&name, &run.f32(i).expect("floats"), exact, 4e-5);
        }
        let steps = &program.plan().steps;
        let products = steps.iter().filter(|s| s.op.contains("matmul"));
        (exact, products.count(), steps.len())
    });
    for other in [&results[1], &results[2]] {
        for (a, b) in results[0].0.iter().zip(&other.0) {
            for (a, b) in a.data.iter().zip(&b.data) {
                assert!((a - b).abs() < 1e-7 * (1.0 + b.abs()), "{a} {b}");
            }
        }
    }
    let counts: Vec<_> = results.iter().map(|r| (r.1, r.2)).collect();
    // Four networks of two layers: once there, and once more on the way back.
    assert_eq!(counts[0].0, counts[2].0 + 8, "{counts:?}");
    assert_eq!(counts[1].0, counts[2].0 + 16, "{counts:?}");
    assert!(counts[0].1 < counts[1].1, "{counts:?}");
}
