//! Time of the heavy op families, and the CPU's cost of a replay.
//!
//! A measured run is one program with one op (and its inputs already on the
//! device): encode, submit, wait, without reading anything big back. Throughput is
//! in floating-point operations where the op is bound by arithmetic, else in bytes.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use flowgrad::ops::ConvParams;
use flowgrad::{Gpu, Graph, Init, Params, Program, Tensor};

/// What a program's throughput is counted in.
#[derive(Clone, Copy)]
enum Unit {
    Flops,
    Bytes,
}

/// A program that computes `build` of parameters of these shapes, so that no
/// input has to be uploaded at a run.
fn program(
    gpu: &Gpu,
    shapes: &[&[usize]],
    build: impl Fn(&[Tensor]) -> Tensor,
) -> flowgrad::Result<Program> {
    let params = Params::new(1);
    let graph = Graph::new();
    let mut inputs = Vec::new();
    for (i, shape) in shapes.iter().enumerate() {
        let param = params.add(
            &format!("x{i}"),
            *shape,
            Init::Normal {
                mean: 0.0,
                std: 1.0,
            },
        )?;
        inputs.push(param.on(&graph));
    }
    let output = build(&inputs);
    let mut program = graph.compile(gpu, &params, &[&output])?;
    // What fails once fails always: better told here than measured.
    program.step(&[])?;
    gpu.wait()?;
    Ok(program)
}

/// The device, or nothing where there is none: then there is nothing to measure.
fn open() -> Option<Gpu> {
    match Gpu::new() {
        Ok(gpu) => Some(gpu),
        Err(error) => {
            eprintln!("nothing is measured: {error}");
            None
        }
    }
}

/// One row: compiles, warms up and measures.
fn row(
    criterion: &mut Criterion,
    group: &str,
    name: &str,
    unit: Unit,
    shapes: &[&[usize]],
    build: impl Fn(&[Tensor]) -> Tensor,
) {
    let Some(gpu) = open() else { return };
    let mut program = match program(&gpu, shapes, build) {
        Ok(program) => program,
        Err(error) => {
            eprintln!("{group}/{name}: {error}");
            return;
        }
    };
    let plan = program.plan();
    let amount = match unit {
        Unit::Flops => plan.flops(),
        Unit::Bytes => plan.steps.iter().map(|s| s.bytes).sum(),
    };
    let mut group = criterion.benchmark_group(group);
    group.throughput(match unit {
        Unit::Flops => Throughput::Elements(amount),
        Unit::Bytes => Throughput::Bytes(amount),
    });
    group.bench_function(name, |b| {
        b.iter(|| program.step(&[]).and_then(|()| gpu.wait()))
    });
    group.finish();
}

fn gemm(c: &mut Criterion) {
    for n in [128, 256, 512] {
        let name = format!("{n}x{n}x{n}");
        let shapes: [&[usize]; 2] = [&[n, n], &[n, n]];
        row(c, "gemm", &name, Unit::Flops, &shapes, |x| {
            x[0].matmul(&x[1])
        });
    }
}

fn conv(c: &mut Criterion) {
    let same = ConvParams {
        padding: [1; 4],
        ..ConvParams::default()
    };
    let shapes: [&[usize]; 2] = [&[8, 64, 32, 32], &[64, 64, 3, 3]];
    row(c, "conv", "3x3 8x64x32x32->64", Unit::Flops, &shapes, |x| {
        x[0].conv2d(&x[1], None, &same)
    });
    let shapes: [&[usize]; 2] = [&[16, 3, 32, 32], &[64, 3, 3, 3]];
    row(c, "conv", "3x3 16x3x32x32->64", Unit::Flops, &shapes, |x| {
        x[0].conv2d(&x[1], None, &same)
    });
    let shapes: [&[usize]; 2] = [&[8, 256, 8, 8], &[256, 256, 1, 1]];
    row(c, "conv", "1x1 8x256x8x8->256", Unit::Flops, &shapes, |x| {
        x[0].conv2d(&x[1], None, &ConvParams::default())
    });
}

fn reduce(c: &mut Criterion) {
    let shapes: [&[usize]; 1] = [&[1024, 1024]];
    row(
        c,
        "reduce",
        "sum rows 1024x1024",
        Unit::Bytes,
        &shapes,
        |x| x[0].sum(&[1], false),
    );
    row(
        c,
        "reduce",
        "sum columns 1024x1024",
        Unit::Bytes,
        &shapes,
        |x| x[0].sum(&[0], false),
    );
    row(
        c,
        "reduce",
        "sum all 1024x1024",
        Unit::Bytes,
        &shapes,
        |x| x[0].sum(&[], false),
    );
}

fn softmax(c: &mut Criterion) {
    for (rows, columns) in [(4096, 64), (256, 1000)] {
        let name = format!("{rows}x{columns}");
        let shapes: [&[usize]; 1] = [&[rows, columns]];
        row(c, "softmax", &name, Unit::Bytes, &shapes, |x| {
            x[0].softmax(-1)
        });
    }
}

fn codebook(c: &mut Criterion) {
    for (n, d, k) in [(4096, 64, 512), (16384, 16, 64)] {
        let name = format!("n{n} d{d} k{k}");
        let shapes: [&[usize]; 2] = [&[n, d], &[k, d]];
        row(c, "code search", &name, Unit::Flops, &shapes, |x| {
            x[0].codebook_nearest(&x[1])
        });
    }
}

/// The CPU's time to encode and submit a program of many small dispatches; the
/// throughput is dispatches a second, its inverse the cost of one.
fn replay(c: &mut Criterion) {
    let Some(gpu) = open() else { return };
    let mut group = c.benchmark_group("replay");
    for chain in [16, 256] {
        // Sums cannot be fused: every link is a dispatch of its own.
        let compiled = program(&gpu, &[&[1, 64]], |x| {
            (0..chain).fold(x[0].clone(), |y, _| y.sum(&[0], true).add(&x[0]))
        });
        let mut program = match compiled {
            Ok(program) => program,
            Err(error) => {
                eprintln!("replay: {error}");
                continue;
            }
        };
        let dispatches = program.plan().steps.len();
        group.throughput(Throughput::Elements(dispatches as u64));
        group.bench_function(BenchmarkId::new("encode", dispatches), |b| {
            b.iter_custom(|runs| {
                let mut spent = std::time::Duration::ZERO;
                for _ in 0..runs {
                    let start = std::time::Instant::now();
                    let mut encoder = gpu.device().create_command_encoder(&Default::default());
                    let encoded = program.encode(&mut encoder);
                    let commands = encoder.finish();
                    spent += start.elapsed();
                    gpu.queue().submit([commands]);
                    let _ = black_box(encoded.and_then(|()| gpu.wait()));
                }
                spent
            })
        });
        group.bench_function(BenchmarkId::new("run", dispatches), |b| {
            b.iter(|| program.step(&[]).and_then(|()| gpu.wait()))
        });
    }
    group.finish();
}

criterion_group!(ops, gemm, conv, reduce, softmax, codebook, replay);
criterion_main!(ops);
