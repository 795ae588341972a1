//! Activation memory and time of a Glow's training step, by depth and by what is kept for
//! the gradient. Prints a table; `cargo bench --bench flow_memory`.
//!
//! The first column counts steps per scale (K), two scales, hidden width 32, batches of 32
//! images of 1x16x16. Times are the least of several runs, the variants taking turns, so
//! that a machine that slows down slows all of them.

use std::time::Instant;

use flowgrad::flow::{Context, Memory};
use flowgrad::models::{Glow, GlowConfig};
use flowgrad::optim::{Adam, Optimizer};
use flowgrad::{Gpu, Graph, Params, Program, Result};

const BATCH: usize = 32;
const IMAGE: [usize; 3] = [1, 16, 16];

struct Row {
    depth: usize,
    memory: Memory,
    program: Program,
    activations: u64,
    dispatches: usize,
    seconds: f64,
}

fn main() {
    // `cargo test --benches` asks only whether it starts; words choose benches by name.
    let mut words = std::env::args().skip(1).filter(|a| !a.starts_with('-'));
    let first = words.next();
    let chosen = |word: &String| "flow_memory".contains(word.as_str());
    let others = first.is_some_and(|f| !chosen(&f) && !words.any(|w| chosen(&w)));
    if others || std::env::args().any(|a| a == "--test") {
        return;
    }
    if let Err(error) = run() {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

fn run() -> Result<()> {
    let quick = std::env::args().any(|a| a == "--quick");
    let gpu = Gpu::new()?;
    let depths: &[usize] = if quick { &[4, 8] } else { &[4, 8, 16, 32] };
    let mut rows = Vec::new();
    for depth in depths {
        for memory in [Memory::Store, Memory::Checkpoint(8), Memory::Rebuild] {
            rows.push(prepare(&gpu, *depth, memory)?);
        }
    }
    for _ in 0..if quick { 3 } else { 7 } {
        for row in &mut rows {
            let start = Instant::now();
            row.program.step(&[])?;
            gpu.wait()?;
            row.seconds = row.seconds.min(start.elapsed().as_secs_f64());
        }
    }
    println!("{}", gpu.summary());
    println!("| K | kept | activations, MiB | dispatches | step, ms | time, of store |");
    println!("|---|---|---|---|---|---|");
    for row in &rows {
        let stored = rows
            .iter()
            .find(|r| r.depth == row.depth && r.memory == Memory::Store);
        let ratio = stored.map_or(1.0, |s| row.seconds / s.seconds);
        println!(
            "| {} | {} | {:.2} | {} | {:.0} | {ratio:.2} |",
            row.depth,
            match row.memory {
                Memory::Store => "all (`Store`)".into(),
                Memory::Rebuild => "nothing (`Rebuild`)".into(),
                Memory::Checkpoint(k) => format!("every {k}th (`Checkpoint({k})`)"),
            },
            row.activations as f64 / (1 << 20) as f64,
            row.dispatches,
            1e3 * row.seconds,
        );
    }
    Ok(())
}

/// A training step on random pixels, run once so that its pipelines are compiled.
fn prepare(gpu: &Gpu, depth: usize, memory: Memory) -> Result<Row> {
    let params = Params::new(1);
    let config = GlowConfig {
        image: IMAGE,
        depth,
        hidden: 32,
        memory,
        ..GlowConfig::digits()
    };
    let glow = Glow::new(&params, config)?;
    let graph = Graph::new();
    let [c, h, w] = IMAGE;
    let pixels = graph.uniform([BATCH, c, h, w]).mul_scalar(16.0);
    let loss = glow.loss(&pixels, true, &Context::train());
    let optimizer = Optimizer::new(&params, Adam::default())?;
    optimizer.minimize(&loss)?;
    let mut program = graph.compile(gpu, &params, &[&loss])?;
    program.set_scalars(&optimizer.inputs(0))?;
    program.step(&[])?;
    gpu.wait()?;
    Ok(Row {
        depth,
        memory,
        activations: program.plan().memory().temporary,
        dispatches: program.plan().steps.len(),
        program,
        seconds: f64::INFINITY,
    })
}
