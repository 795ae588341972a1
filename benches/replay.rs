//! The CPU's cost of a replay: encoding a program of many small dispatches, running
//! it, and the GPU objects that runs create, which must be none.

mod common;

use std::hint::black_box;
use std::time::{Duration, Instant};

use common::{gpu, program};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn replay(c: &mut Criterion) {
    let Some(gpu) = gpu() else { return };
    let mut group = c.benchmark_group("replay");
    for chain in [16, 256] {
        // Sums cannot be fused: every link is a dispatch of its own, and a fused sum
        // of two tensors after it.
        let compiled = program(gpu, &[&[1, 64]], |x| {
            let link = |y, _| flowgrad::Tensor::sum(&y, &[0], true).add(&x[0]);
            Ok(vec![(0..chain).fold(x[0].clone(), link)])
        });
        let mut program = match compiled.and_then(|mut p| p.run(&[]).map(|_| p)) {
            Ok(program) => program,
            Err(error) => {
                eprintln!("replay: {error}");
                continue;
            }
        };
        let dispatches = program.plan().steps.len();
        group.throughput(Throughput::Elements(dispatches as u64));
        let mut times = Vec::new();
        group.bench_function(BenchmarkId::new("encode", dispatches), |b| {
            b.iter_custom(|runs| {
                let mut spent = Duration::ZERO;
                for _ in 0..runs {
                    let start = Instant::now();
                    let mut encoder = gpu.device().create_command_encoder(&Default::default());
                    let encoded = program.encode(&mut encoder);
                    let commands = encoder.finish();
                    let time = start.elapsed();
                    times.push(time.as_secs_f64());
                    spent += time;
                    gpu.queue().submit([commands]);
                    let _ = black_box(encoded.and_then(|()| gpu.wait()));
                }
                spent
            })
        });
        times.sort_by(f64::total_cmp);
        if let Some(median) = times.get(times.len() / 2) {
            let each = median / dispatches as f64 * 1e6;
            println!("replay/encode/{dispatches}: {each:.2} us of CPU time per dispatch");
        }
        let before = gpu.stats().objects_created;
        let mut runs = 0;
        group.bench_function(BenchmarkId::new("run", dispatches), |b| {
            b.iter(|| {
                runs += 1;
                program.step(&[]).and_then(|()| gpu.wait())
            })
        });
        let created = gpu.stats().objects_created - before;
        println!("replay/run/{dispatches}: {created} GPU objects created in {runs} runs");
    }
    group.finish();
}

criterion_group!(benches, replay);
criterion_main!(benches);
