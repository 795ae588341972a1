//! Measuring what an adapter can do at most.

use std::time::{Duration, Instant};

use crate::device::Roof;
use crate::gpu::Gpu;
use crate::{Graph, Init, Params, Program, Result, Tensor};

/// Elements of the buffers that are copied: larger than caches, smaller than bindings.
const COPIED: usize = 8 << 20;
/// Invocations and loop trips of the arithmetic.
const INVOCATIONS: [usize; 3] = [1 << 14, 1 << 18, 1 << 22];
const TRIPS: usize = 64;
/// Dispatches in the chain of empty ones.
const CHAIN: usize = 64;
/// How long every measurement is repeated at least.
const SPEND: Duration = Duration::from_millis(100);

impl Roof {
    /// Measures `gpu` for a few tenths of a second. Errors: whatever the device reports.
    pub fn measure(gpu: &Gpu) -> Result<Roof> {
        let mut flops = 0.0f64;
        for n in INVOCATIONS {
            let (program, seconds) = timed(gpu, n, |x| x.roof_arithmetic(TRIPS))?;
            flops = flops.max(program.plan().flops() as f64 / seconds);
            // Wide devices need the larger grids, on others those take too long.
            if seconds > SPEND.as_secs_f64() / 16.0 {
                break;
            }
        }
        // Some devices copy faster by a kernel, some by a command of their own.
        let (_, by_kernel) = timed(gpu, COPIED, Tensor::roof_copy)?;
        let copied = by_kernel.min(time_copy(gpu)?);
        let (_, chain) = timed(gpu, 4, |x| (0..CHAIN).fold(x.clone(), |x, _| x.roof_copy()))?;
        Ok(Roof {
            flops,
            bytes: (2 * 4 * COPIED) as f64 / copied,
            dispatch: chain / CHAIN as f64,
        })
    }
}

/// The least seconds of a copy of [`COPIED`] elements by the device's own command.
fn time_copy(gpu: &Gpu) -> Result<f64> {
    let [from, to] = ["copied from", "copied to"].map(|name| gpu.buffer(name, 4 * COPIED as u64));
    let (from, to) = (from?, to?);
    // The first touches memory that was never there.
    gpu.time_copy(&from, &to)?;
    let mut least = f64::INFINITY;
    let start = Instant::now();
    while least.is_infinite() || start.elapsed() < SPEND {
        least = least.min(gpu.time_copy(&from, &to)?);
    }
    Ok(least)
}

/// A program of `build` over `n` elements, and the least seconds of a run.
fn timed(gpu: &Gpu, n: usize, build: impl Fn(&Tensor) -> Tensor) -> Result<(Program, f64)> {
    let params = Params::new(0);
    let graph = Graph::new();
    let x = params.add_state("x", [n], Init::Ones)?.on(&graph);
    // A few elements of the result, so that no large buffer is made to read it.
    let y = build(&x).slice(0, 0, 4);
    let mut program = graph.compile(gpu, &params, &[&y])?;
    program.step(&[])?;
    gpu.wait()?;
    let mut least = f64::INFINITY;
    let start = Instant::now();
    while least.is_infinite() || start.elapsed() < SPEND {
        let start = Instant::now();
        program.step(&[])?;
        gpu.wait()?;
        least = least.min(start.elapsed().as_secs_f64());
    }
    Ok((program, least))
}
