//! Memory and time of attention, forward and with its gradients, by the number of queries
//! and keys: in one kernel, and composed of products and a softmax, whose scores are
//! stored. Prints a table; `cargo bench --bench attention`.
//!
//! Four heads 64 wide. Times are the least of several runs, the two taking turns, so that a
//! machine that slows down slows both.

use std::time::Instant;

use flowgrad::{Gpu, Graph, Init, Params, Program, Result, Tensor, tape};

const HEADS: usize = 4;
const WIDTH: usize = 64;

struct Row {
    rows: usize,
    gradients: bool,
    fused: bool,
    program: Program,
    temporary: u64,
    seconds: f64,
}

fn main() {
    // `cargo test --benches` asks only whether it starts; words choose benches by name.
    let mut words = std::env::args().skip(1).filter(|a| !a.starts_with('-'));
    let first = words.next();
    let chosen = |word: &String| "attention".contains(word.as_str());
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
    let sizes: &[usize] = if quick {
        &[256, 512]
    } else {
        &[256, 1024, 2048]
    };
    let mut table = Vec::new();
    for rows in sizes {
        for gradients in [false, true] {
            for fused in [true, false] {
                table.push(prepare(&gpu, *rows, gradients, fused)?);
            }
        }
    }
    for _ in 0..if quick { 3 } else { 5 } {
        for row in &mut table {
            let start = Instant::now();
            row.program.step(&[])?;
            gpu.wait()?;
            row.seconds = row.seconds.min(start.elapsed().as_secs_f64());
        }
    }
    println!("{}", gpu.summary());
    println!("| rows | | memory, MiB | composed | time, ms | composed |");
    println!("|---|---|---|---|---|---|");
    for pair in table.chunks(2) {
        let [fused, composed] = pair else { continue };
        assert!(fused.fused && !composed.fused);
        let mib = |bytes: u64| bytes as f64 / (1 << 20) as f64;
        println!(
            "| {} | {} | {:.2} | {:.2} | {:.1} | {:.1} |",
            fused.rows,
            if fused.gradients {
                "with gradients"
            } else {
                "forward"
            },
            mib(fused.temporary),
            mib(composed.temporary),
            1e3 * fused.seconds,
            1e3 * composed.seconds,
        );
    }
    Ok(())
}

/// A program of one kind, run once so that its pipelines are compiled.
fn prepare(gpu: &Gpu, rows: usize, gradients: bool, fused: bool) -> Result<Row> {
    let params = Params::new(1);
    let graph = Graph::new();
    let normal = Init::Normal {
        mean: 0.0,
        std: 1.0,
    };
    let x: Vec<Tensor> = ["q", "k", "v"]
        .iter()
        .map(|name| {
            Ok(params
                .add(name, [HEADS, rows, WIDTH], normal.clone())?
                .on(&graph))
        })
        .collect::<Result<_>>()?;
    let scale = (WIDTH as f32).powf(-0.5);
    let y = match fused {
        true => x[0].attention(&x[1], &x[2], scale, false),
        false => {
            let scores = x[0].matmul_with(&x[1], false, true).mul_scalar(scale);
            scores.softmax(-1).matmul(&x[2])
        }
    };
    let mut outputs = vec![y.clone()];
    if gradients {
        let wrt: Vec<&Tensor> = x.iter().collect();
        outputs = tape::backward(&y.square().sum(&[], false), &wrt)?;
    }
    let wanted: Vec<&Tensor> = outputs.iter().collect();
    let mut program = graph.compile(gpu, &params, &wanted)?;
    program.step(&[])?;
    gpu.wait()?;
    Ok(Row {
        rows,
        gradients,
        fused,
        temporary: program.plan().memory().temporary,
        program,
        seconds: f64::INFINITY,
    })
}
