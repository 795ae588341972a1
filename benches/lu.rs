//! Time of factorisations, determinants, inverses and triangular systems, at the sizes
//! of the channels of flows and beyond.
//!
//! A measured run is one program with its inputs already on the device: encode, submit,
//! wait, without reading anything back.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use flowgrad::ops::Triangular;
use flowgrad::{Gpu, Graph, Init, Params, Program, Tensor};

/// A program that computes `build` of normal random matrices `[batch, n, n]`.
fn program(
    gpu: &Gpu,
    batch: usize,
    n: usize,
    build: impl Fn(&Tensor) -> Tensor,
) -> flowgrad::Result<Program> {
    let params = Params::new(1);
    let graph = Graph::new();
    let init = Init::Normal {
        mean: 0.0,
        std: 1.0,
    };
    let x = params.add("x", [batch, n, n], init)?.on(&graph);
    let mut program = graph.compile(gpu, &params, &[&build(&x)])?;
    // What fails once fails always: better told here than measured.
    program.step(&[])?;
    gpu.wait()?;
    Ok(program)
}

type Build = fn(&Tensor) -> Tensor;

fn lu(criterion: &mut Criterion) {
    let gpu = match Gpu::new() {
        Ok(gpu) => gpu,
        Err(error) => return eprintln!("nothing is measured: {error}"),
    };
    let ops: [(&str, Build); 4] = [
        ("slogdet", |x| x.slogdet().1),
        ("inverse", |x| x.inverse()),
        ("solve_triangular", |x| {
            x.solve_triangular(x, Triangular::upper())
        }),
        ("slogdet and gradient", |x| {
            let log_det = x.slogdet().1.sum(&[], false);
            match flowgrad::tape::backward(&log_det, &[x]) {
                Ok(mut grads) => grads.swap_remove(0),
                Err(error) => x.graph().poisoned(error),
            }
        }),
    ];
    for (name, build) in ops {
        let mut group = criterion.benchmark_group(name);
        for (batch, n) in [(1, 12), (1, 48), (1, 96), (64, 12), (64, 48), (1, 512)] {
            let mut program = match program(&gpu, batch, n, build) {
                Ok(program) => program,
                Err(error) => {
                    eprintln!("{name} {batch}x{n}: {error}");
                    continue;
                }
            };
            group.throughput(Throughput::Elements(program.plan().flops()));
            group.bench_function(format!("{batch}x{n}x{n}"), |b| {
                b.iter(|| program.step(&[]).and_then(|()| gpu.wait()))
            });
        }
        group.finish();
    }
}

criterion_group!(matrices, lu);
criterion_main!(matrices);
