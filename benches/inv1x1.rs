//! Time of invertible 1x1 convolutions at the shapes of a Glow for 32x32 images, batch
//! 64: encoding, decoding, and a training step's share (encoding and all gradients).

mod common;

use common::{Unit, gpu, measure};
use criterion::{Criterion, criterion_group, criterion_main};
use flowgrad::flow::{Bijector, Context, Inv1x1};
use flowgrad::{Gpu, Graph, Init, Params, Program, Result, Tensor, tape};

/// What is measured, as wanted outputs from the layer and its input.
type Build = fn(&Inv1x1, &Params, &Tensor) -> Result<Vec<Tensor>>;

fn encode(layer: &Inv1x1, _: &Params, x: &Tensor) -> Result<Vec<Tensor>> {
    let z = layer.forward(x, &Context::train());
    Ok(vec![z.out, z.log_det])
}

fn decode(layer: &Inv1x1, _: &Params, x: &Tensor) -> Result<Vec<Tensor>> {
    Ok(vec![layer.inverse(x, &Context::eval()).out])
}

fn train(layer: &Inv1x1, params: &Params, x: &Tensor) -> Result<Vec<Tensor>> {
    let z = layer.forward(x, &Context::train());
    let seeds = [z.out, z.log_det].map(|t| (t.clone(), t.ones_like()));
    let mut wrt = vec![x.clone()];
    wrt.extend(params.trainable().iter().map(|p| p.on(x.graph())));
    tape::backward_from(&seeds, &wrt.iter().collect::<Vec<_>>())
}

fn program(gpu: &Gpu, shape: [usize; 4], plu: bool, build: Build) -> Result<Program> {
    let params = Params::new(1);
    let scope = params.scope("invconv");
    let layer = match plu {
        true => Inv1x1::plu(&scope, shape[1])?,
        false => Inv1x1::full(&scope, shape[1])?,
    };
    let init = Init::Normal {
        mean: 0.0,
        std: 1.0,
    };
    let graph = Graph::new();
    let x = params.add_state("x", shape, init)?.on(&graph);
    let wanted = build(&layer, &scope, &x)?;
    graph.compile(gpu, &params, &wanted.iter().collect::<Vec<_>>())
}

fn inv1x1(criterion: &mut Criterion) {
    let Some(gpu) = gpu() else { return };
    let work: [(&str, Build); 3] = [("encode", encode), ("decode", decode), ("train", train)];
    for (name, build) in work {
        let group = format!("inv1x1 {name}");
        for (kind, plu) in [("plu", true), ("full", false)] {
            for shape in [[64, 12, 16, 16], [64, 24, 8, 8], [64, 48, 4, 4]] {
                let row = format!("{kind} {}x{}x{}x{}", shape[0], shape[1], shape[2], shape[3]);
                match program(gpu, shape, plu, build) {
                    Ok(program) => {
                        measure(criterion, &group, &row, Unit::Flops, program, |p| {
                            p.step(&[])
                        });
                    }
                    Err(error) => eprintln!("{group}, {row}: {error}"),
                }
            }
        }
    }
}

criterion_group!(flows, inv1x1);
criterion_main!(flows);
