//! One step of an optimiser over a million parameters in 64 tensors, their gradients
//! written by 64 small kernels before it. Adam moves 28 bytes per parameter.

mod common;

use common::{Unit, gpu, measure};
use criterion::{Criterion, criterion_group, criterion_main};
use flowgrad::optim::{Adam, Optimizer, Rule, Sgd};
use flowgrad::{Gpu, Graph, Init, Params, Program};

fn program(gpu: &Gpu, rule: impl Rule + 'static) -> flowgrad::Result<(Program, Optimizer)> {
    let params = Params::new(1);
    let graph = Graph::new();
    let mut grads = Vec::new();
    for i in 0..32 {
        for (name, shape) in [("weight", vec![128, 256]), ("bias", vec![256])] {
            let param = params.add(&format!("{i}.{name}"), shape, Init::Ones)?;
            // As of the loss w^2 / 4.
            let grad = param.on(&graph).mul_scalar(0.5);
            grads.push((param, grad));
        }
    }
    let optimizer = Optimizer::new(&params, rule)?;
    optimizer.step(&graph, &grads)?;
    Ok((graph.compile(gpu, &params, &[])?, optimizer))
}

fn row(c: &mut Criterion, name: &str, rule: impl Rule + 'static) {
    let Some(gpu) = gpu() else { return };
    match program(gpu, rule) {
        Ok((program, optimizer)) => {
            let mut step = 0;
            measure(c, "optimizer", name, Unit::Bytes, program, |p| {
                p.set_scalars(&optimizer.inputs(step))?;
                step += 1;
                p.step(&[])
            });
        }
        Err(error) => eprintln!("optimizer/{name}: {error}"),
    }
}

fn optimizer(c: &mut Criterion) {
    row(c, "adam 1.06 M in 64 tensors", Adam::default());
    row(c, "sgd 1.06 M in 64 tensors", Sgd::default());
}

criterion_group!(benches, optimizer);
criterion_main!(benches);
