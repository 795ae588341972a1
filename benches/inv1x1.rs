//! Time of invertible 1x1 convolutions at the shapes of a Glow for 32x32 images, batch
//! 64: encoding, decoding, and a training step's share (encoding and all gradients).
//!
//! A measured run is one program with its inputs already on the device: encode, submit,
//! wait, without reading anything back.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
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
    let mut program = graph.compile(gpu, &params, &wanted.iter().collect::<Vec<_>>())?;
    // What fails once fails always: better told here than measured.
    program.step(&[])?;
    gpu.wait()?;
    Ok(program)
}

fn inv1x1(criterion: &mut Criterion) {
    let gpu = match Gpu::new() {
        Ok(gpu) => gpu,
        Err(error) => return eprintln!("nothing is measured: {error}"),
    };
    let work: [(&str, Build); 3] = [("encode", encode), ("decode", decode), ("train", train)];
    for (name, build) in work {
        let mut group = criterion.benchmark_group(format!("inv1x1 {name}"));
        for (kind, plu) in [("plu", true), ("full", false)] {
            for shape in [[64, 12, 16, 16], [64, 24, 8, 8], [64, 48, 4, 4]] {
                let row = format!("{kind} {}x{}x{}x{}", shape[0], shape[1], shape[2], shape[3]);
                let mut program = match program(&gpu, shape, plu, build) {
                    Ok(program) => program,
                    Err(error) => {
                        eprintln!("inv1x1 {name}, {row}: {error}");
                        continue;
                    }
                };
                group.throughput(Throughput::Elements(program.plan().flops()));
                group.bench_function(row, |b| {
                    b.iter(|| program.step(&[]).and_then(|()| gpu.wait()))
                });
            }
        }
        group.finish();
    }
}

criterion_group!(flows, inv1x1);
criterion_main!(flows);
