//! What all benches share: the adapter and its roof, and rows that are measured and
//! told against it.
//!
//! A measured run is one program whose inputs lie on the device already: encode,
//! submit, wait, nothing big read back. Beside criterion's line every row prints
//! GFLOP/s, GB/s and the fraction of the roof: the least time that its operations,
//! bytes and dispatches could take here over the time they took. The roof (arithmetic
//! in registers, a device copy, an empty dispatch) is measured in the same process.

#![allow(dead_code)] // Every bench uses a part of it.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use flowgrad::device::Roof;
use flowgrad::{Gpu, Graph, Init, Params, Program, Tensor};

/// What a row's throughput is counted in.
#[derive(Clone, Copy)]
pub enum Unit {
    /// Of the plan: floating-point operations.
    Flops,
    /// Of the plan: bytes that must be moved.
    Bytes,
    /// Dispatches.
    Dispatches,
}

/// The device, or nothing where there is none: then there is nothing to measure.
pub fn gpu() -> Option<&'static Gpu> {
    static GPU: OnceLock<Option<Gpu>> = OnceLock::new();
    let open = || match Gpu::new() {
        Ok(gpu) => Some(gpu),
        Err(error) => {
            eprintln!("nothing is measured: {error}");
            None
        }
    };
    GPU.get_or_init(open).as_ref()
}

/// What the device can do at most, measured once.
pub fn roof() -> Option<&'static Roof> {
    static ROOF: OnceLock<Option<Roof>> = OnceLock::new();
    let measure = || match Roof::measure(gpu()?) {
        Ok(roof) => {
            println!("roof: {roof}");
            Some(roof)
        }
        Err(error) => {
            eprintln!("the roof was not measured: {error}");
            None
        }
    };
    ROOF.get_or_init(measure).as_ref()
}

/// A program that computes `build` of parameters of these shapes, so that no input
/// has to be uploaded at a run.
pub fn program(
    gpu: &Gpu,
    shapes: &[&[usize]],
    build: impl Fn(&[Tensor]) -> flowgrad::Result<Vec<Tensor>>,
) -> flowgrad::Result<Program> {
    let params = Params::new(1);
    let graph = Graph::new();
    let mut inputs = Vec::new();
    for (i, shape) in shapes.iter().enumerate() {
        let normal = Init::Normal {
            mean: 0.0,
            std: 1.0,
        };
        inputs.push(params.add(&format!("x{i}"), *shape, normal)?.on(&graph));
    }
    let outputs = build(&inputs)?;
    let outputs: Vec<&Tensor> = outputs.iter().collect();
    graph.compile(gpu, &params, &outputs)
}

/// One row of one tensor.
pub fn row(
    criterion: &mut Criterion,
    group: &str,
    name: &str,
    unit: Unit,
    shapes: &[&[usize]],
    build: impl Fn(&[Tensor]) -> Tensor,
) {
    rows(criterion, group, name, unit, shapes, |x| Ok(vec![build(x)]));
}

/// One row of several tensors: compiles, warms up and measures.
pub fn rows(
    criterion: &mut Criterion,
    group: &str,
    name: &str,
    unit: Unit,
    shapes: &[&[usize]],
    build: impl Fn(&[Tensor]) -> flowgrad::Result<Vec<Tensor>>,
) {
    let Some(gpu) = gpu() else { return };
    match program(gpu, shapes, build) {
        Ok(program) => measure(criterion, group, name, unit, program, |p| p.step(&[])),
        Err(error) => eprintln!("{group}/{name}: {error}"),
    }
}

/// Measures a program; `run` starts one run of it.
pub fn measure(
    criterion: &mut Criterion,
    group: &str,
    name: &str,
    unit: Unit,
    mut program: Program,
    mut run: impl FnMut(&mut Program) -> flowgrad::Result<()>,
) {
    let Some((gpu, roof)) = gpu().zip(roof()) else {
        return;
    };
    let steps = &program.plan().steps;
    let work = Work {
        flops: steps.iter().map(|s| s.flops).sum(),
        bytes: steps.iter().map(|s| s.bytes).sum(),
        dispatches: steps.len(),
    };
    let mut once = || -> flowgrad::Result<Duration> {
        let start = Instant::now();
        run(&mut program)?;
        gpu.wait()?;
        Ok(start.elapsed())
    };
    // What fails once fails always: better told here than measured.
    if let Err(error) = once() {
        eprintln!("{group}/{name}: {error}");
        return;
    }
    let mut times = Vec::new();
    let mut benches = criterion.benchmark_group(group);
    benches.throughput(match unit {
        Unit::Flops => Throughput::Elements(work.flops),
        Unit::Bytes => Throughput::Bytes(work.bytes),
        Unit::Dispatches => Throughput::Elements(work.dispatches as u64),
    });
    benches.bench_function(name, |b| {
        b.iter_custom(|runs| {
            let spent: Vec<Duration> = (0..runs).filter_map(|_| once().ok()).collect();
            times.extend(spent.iter().map(Duration::as_secs_f64));
            spent.iter().sum()
        })
    });
    benches.finish();
    work.print(&format!("{group}/{name}"), times, roof);
}

/// What a run of a program does at least.
struct Work {
    flops: u64,
    bytes: u64,
    dispatches: usize,
}

impl Work {
    /// The line that holds a row against the roof.
    fn print(&self, name: &str, mut times: Vec<f64>, roof: &Roof) {
        if times.is_empty() {
            return;
        }
        times.sort_by(f64::total_cmp);
        let seconds = times[times.len() / 2];
        let least = roof.seconds(self.flops, self.bytes, self.dispatches);
        println!(
            "{name}: {:.3} ms, {:.2} GFLOP/s, {:.2} GB/s, {:.0} % of the roof, {} dispatches",
            seconds * 1e3,
            self.flops as f64 / seconds / 1e9,
            self.bytes as f64 / seconds / 1e9,
            100.0 * least / seconds,
            self.dispatches,
        );
    }
}
