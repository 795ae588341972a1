//! From nothing to the first result of the demo's inference program: device, kernels,
//! weights, one reconstruction of a digit. Cold: nothing compiled before; warm: the
//! caches of an earlier start are there.
//!
//! Every start is a process of its own: this program calls itself.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group};
use flowgrad::models::VqVae;
use flowgrad::nn::Mode;
use flowgrad::{Gpu, Graph, Params, Value};

/// Set in the processes that are measured.
const CHILD: &str = "FLOWGRAD_STARTUP";

/// One start; prints its time in microseconds.
fn start() -> flowgrad::Result<()> {
    let start = Instant::now();
    let gpu = Gpu::new()?;
    let params = Params::new(0);
    let model = VqVae::digits(&params)?;
    let graph = Graph::new();
    let x = graph.input("x", [1, 1, 8, 8]);
    let y = model.forward(&x, Mode::Eval).reconstruction;
    let mut program = graph.compile(&gpu, &params, &[&y])?;
    let digit = [0.25; 64];
    program.run(&[("x", Value::F32(&digit))])?;
    println!("{}", start.elapsed().as_micros());
    Ok(())
}

/// The time of a start in a process whose caches lie in `caches`.
fn child(caches: &Path) -> Result<Duration, String> {
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    let output = Command::new(program)
        .env(CHILD, "1")
        // flowgrad's own cache, and Mesa's of compiled shaders.
        .env("XDG_CACHE_HOME", caches)
        .env("LOCALAPPDATA", caches)
        .output()
        .map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.trim().parse() {
        Ok(micros) if output.status.success() => Ok(Duration::from_micros(micros)),
        _ => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

fn startup(c: &mut Criterion) {
    let caches = std::env::temp_dir().join(format!("flowgrad-startup-{}", std::process::id()));
    let mut group = c.benchmark_group("startup");
    group.sample_size(10);
    for warm in [false, true] {
        // Tried once: what fails here fails always. It also fills the caches.
        if let Err(error) = child(&caches) {
            eprintln!("startup: {error}");
            break;
        }
        let mut times = Vec::new();
        let name = if warm { "warm" } else { "cold" };
        group.bench_function(name, |b| {
            b.iter_custom(|runs| {
                let mut spent = Duration::ZERO;
                for _ in 0..runs {
                    if !warm {
                        let _ = std::fs::remove_dir_all(&caches);
                    }
                    let time = child(&caches).unwrap_or_default();
                    times.push(time);
                    spent += time;
                }
                spent
            })
        });
        times.sort();
        if let Some(median) = times.get(times.len() / 2) {
            println!("startup/{name}: {} ms", median.as_millis());
        }
    }
    group.finish();
    let _ = std::fs::remove_dir_all(&caches);
}

criterion_group!(benches, startup);

fn main() -> std::process::ExitCode {
    if std::env::var_os(CHILD).is_some() {
        return match start() {
            Ok(()) => std::process::ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                std::process::ExitCode::FAILURE
            }
        };
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
    std::process::ExitCode::SUCCESS
}
