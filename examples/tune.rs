//! Measures every variant of the kernels that have some on this adapter, and keeps
//! what beats the table in the user's cache directory, where every later start finds it.
//!
//! `cargo run --release --example tune`. Nothing else writes that file, and deleting it
//! brings the table back.

mod common;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use common::{Outcome, Report};
use flowgrad::gpu::TuningFile;
use flowgrad::{Gpu, GpuOptions, tune};

/// Measures the variants of kernels on this adapter and keeps the best.
#[derive(Parser)]
struct Args {
    /// Use the adapter whose name contains this (see the example `doctor`)
    #[arg(long, value_name = "NAME")]
    adapter: Option<String>,
    /// Measure, but write nothing
    #[arg(long)]
    dry_run: bool,
    /// Write the choices here instead of to the user's cache directory
    #[arg(long, value_name = "FILE.json")]
    file: Option<PathBuf>,
    /// Print all figures as one JSON object in the last line
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    common::main(run)
}

fn run() -> Outcome {
    let args = Args::parse();
    if let (Some(file), false) = (&args.file, args.dry_run) {
        common::try_file(file)?;
    }
    let gpu = Gpu::with(GpuOptions {
        adapter: args.adapter,
        tuning: TuningFile::Off,
        ..GpuOptions::default()
    })?;
    common::report::print(&format!("{}\n", gpu.summary()));
    let tuning = tune::tune_with(&gpu, |kernel, shape, [done, all]| {
        eprintln!("{}/{all} {kernel}, {shape} problems", done + 1);
    })?;
    common::report::print(&format!("{tuning}\n"));
    let mut report = Report::new();
    let choices: Vec<String> = tuning
        .choices
        .iter()
        .map(|(kernel, shape, variant)| format!("{kernel}, {shape}: {variant}"))
        .collect();
    report
        .figure("measured", tuning.timings.len())
        .figure("choices", choices);
    if !args.dry_run {
        let file = args.file.map_or(TuningFile::UserCache, TuningFile::At);
        let path = gpu.store_choices(&file, &tuning.choices)?;
        report
            .row("kept in", path.display())
            .figure("file", path.display().to_string());
    }
    report.print_with(args.json);
    Ok(())
}
