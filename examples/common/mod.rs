//! What all examples share: arguments, progress, pictures, plots, tables.
//!
//! Not part of the library: it draws and prints, and knows nothing of models.

// Every example is a program of its own and uses its part of this kit.
#![allow(dead_code, unused_imports)]

pub mod args;
pub mod classes;
pub mod codes;
pub mod edits;
pub mod evaluation;
pub mod flows;
pub mod images;
pub mod interrupt;
pub mod networks;
pub mod pca;
pub mod picture;
pub mod plot;
pub mod progress;
pub mod report;
pub mod resume;
pub mod tokenize;
pub mod train;
pub mod vae;
pub mod vqvae;

use std::path::Path;
use std::process::ExitCode;

pub use args::{CommonArgs, Defaults, parse};
pub use evaluation::{Figures, every, never};
pub use images::{ImageArgs, ImageSets};
pub use interrupt::stopped;
pub use picture::Images;
pub use progress::{Busy, Losses, Progress};
pub use report::Report;
pub use train::Run;

/// A result whose error is told to the user as it stands.
pub type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// Runs an example and tells its error in plain words, with exit code 1; 130 where it was
/// interrupted and has written what there was.
pub fn main(run: impl FnOnce() -> Outcome) -> ExitCode {
    match run() {
        Ok(()) if stopped() => ExitCode::from(interrupt::EXIT_CODE),
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            let mut cause = error.source();
            while let Some(inner) = cause {
                eprintln!("  because: {inner}");
                cause = inner.source();
            }
            ExitCode::FAILURE
        }
    }
}

/// Makes the directory in which `file` is to lie.
pub fn make_parent(file: &Path) -> Outcome {
    match file.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => make_dir(dir),
        _ => Ok(()),
    }
}

/// Makes a directory and those above it.
pub fn make_dir(dir: &Path) -> Outcome {
    std::fs::create_dir_all(dir)
        .map_err(|e| format!("{}: cannot make this directory: {e}", dir.display()).into())
}

/// Makes a directory and tries to write into it: training may take hours, and what
/// cannot be kept should be known before.
pub fn try_dir(dir: &Path) -> Outcome {
    make_dir(dir)?;
    let probe = dir.join(format!(".flowgrad-{}.tmp", std::process::id()));
    std::fs::write(&probe, b"")
        .and_then(|()| std::fs::remove_file(&probe))
        .map_err(|e| format!("{}: cannot write into this directory: {e}", dir.display()).into())
}

/// Tries whether `file` can be written, and leaves it as it is.
pub fn try_file(file: &Path) -> Outcome {
    if file.is_dir() {
        return Err(format!("{}: this is a directory, not a file", file.display()).into());
    }
    if file.file_name().is_none() {
        return Err(format!("{}: this names no file", file.display()).into());
    }
    match file.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => try_dir(dir)?,
        _ => try_dir(Path::new("."))?,
    }
    // Pipes and devices are opened once only.
    if !file.is_file() {
        return Ok(());
    }
    let open = std::fs::OpenOptions::new().append(true).open(file);
    open.map(drop)
        .map_err(|e| format!("{}: cannot be written: {e}", file.display()).into())
}

/// Writes a whole file, and its directory where that is missing.
pub fn write_file(file: &Path, bytes: &[u8]) -> Outcome {
    make_parent(file)?;
    std::fs::write(file, bytes)
        .map_err(|e| format!("{}: cannot be written: {e}", file.display()).into())
}

/// The directory with the digits that the project ships, wherever the example
/// was started.
pub fn digits_dir() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data")
}
