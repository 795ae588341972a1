//! The same work by flowgrad and by burn's wgpu backend, on the same adapter.
//!
//! Both sides of a row get the same numbers, are warmed up (burn tunes itself in its
//! first runs) and are then timed in turns, so that whatever else the machine does
//! falls on both. A run is timed from its submission to the device being done with
//! it; results stay where they are. Before that, the results of a first run are
//! compared. burn is built with autotune and fusion, its default and its fastest.

mod measure;
mod ours;
mod peer;
mod row;
mod rows;

use clap::Parser;
use flowgrad::{Gpu, GpuOptions};

/// Compares flowgrad with burn on this machine's adapter.
#[derive(Parser)]
struct Args {
    /// Only rows whose names contain one of these.
    filter: Vec<String>,
    /// Timed runs of either side; of short rows there are more.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
    repeats: u32,
    /// Print one JSON object instead of the table.
    #[arg(long)]
    json: bool,
    /// Time flowgrad by itself: what `ort_webgpu.py` compares with.
    #[arg(long, requires = "json")]
    alone: bool,
    /// Print the names of all rows and measure nothing.
    #[arg(long)]
    list: bool,
    /// Only adapters whose name contains this.
    #[arg(long)]
    adapter: Option<String>,
}

fn main() -> std::process::ExitCode {
    match run(Args::parse()) {
        Ok(true) => std::process::ExitCode::SUCCESS,
        Ok(false) => std::process::ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

/// Whether all rows agreed.
fn run(args: Args) -> Result<bool, Box<dyn std::error::Error>> {
    let rows: Vec<row::Row> = rows::all()
        .into_iter()
        .filter(|r| args.filter.is_empty() || args.filter.iter().any(|f| r.name.contains(f)))
        .collect();
    if rows.is_empty() {
        return Err(format!("no row's name contains {}", args.filter.join(" or ")).into());
    }
    if args.list {
        rows.iter().for_each(|r| println!("{}", r.name));
        return Ok(true);
    }
    let gpu = Gpu::with(GpuOptions {
        adapter: args.adapter,
        ..GpuOptions::default()
    })?;
    let device = peer::open(&gpu)?;
    eprintln!("{}", gpu.summary());
    if args.alone {
        let alone = |row| measure::alone(row, &gpu, &device, args.repeats as usize);
        let rows: Vec<serde_json::Value> = rows.iter().map(alone).collect::<Result<_, _>>()?;
        println!("{}", serde_json::json!({ "rows": rows }));
        return Ok(true);
    }
    eprintln!("flowgrad against burn 0.22.1 (wgpu, autotune, fusion); times in ms");
    let mut measured = Vec::new();
    let mut agree = true;
    for row in &rows {
        let m = measure::measure(row, &gpu, &device, args.repeats as usize)?;
        if m.max_abs_diff.is_nan() || m.max_abs_diff > m.tolerance {
            agree = false;
            eprintln!(
                "{}: results differ by {:.3e}, at most {:.3e} was expected",
                row.name, m.max_abs_diff, m.tolerance
            );
        }
        if !args.json {
            if measured.is_empty() {
                println!("{}", measure::HEADER);
            }
            println!("{m}");
        }
        measured.push(m);
    }
    if args.json {
        let rows: Vec<serde_json::Value> = measured.iter().map(|m| m.json()).collect();
        println!("{}", serde_json::json!({ "rows": rows }));
    }
    Ok(agree)
}
