//! The kit that the examples share: what is refused before training, and what an
//! interrupt leaves behind.

#[path = "../examples/common/mod.rs"]
mod common;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use clap::Parser;
use common::vqvae::{Digits, Setup, run};
use common::{CommonArgs, Outcome, Progress, Report};
use flowgrad::data::ImageSet;
use flowgrad::models::VqVae;

#[derive(Parser)]
struct Args {
    #[command(flatten)]
    common: CommonArgs,
}

/// Arguments behind those that have no default of their own.
fn args(folder: &Path, more: &[&str]) -> Result<CommonArgs, String> {
    let out = folder.join("out");
    let out = out.to_str().expect("a plain path");
    let all = ["x", "--steps", "1000000000", "--lr", "0.001", "--out", out];
    let parsed = Args::try_parse_from(all.iter().chain(more));
    parsed.map(|a| a.common).map_err(|e| e.to_string())
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("flowgrad-examples-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a temporary folder");
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The VQ-VAE of the demo on a handful of images.
fn train(args: &CommonArgs) -> Outcome<Report> {
    let set = |n: usize| {
        let pixels = (0..n * 64).map(|i| (i * 7 % 17) as u8).collect();
        ImageSet::new([n, 1, 8, 8], pixels, vec![0; n])
    };
    let data = Digits {
        train: set(12)?,
        test: set(4)?,
        white: 16.0,
    };
    let setup = Setup {
        k_means: true,
        title: "a test",
    };
    run(args, &data, &setup, VqVae::digits)
}

#[test]
fn what_cannot_work_is_said_before_training() {
    let folder = Folder::new("refused");
    let file = folder.0.join("file");
    std::fs::write(&file, "kept").expect("written");
    let name = |path: &Path| path.to_str().expect("a plain path").to_string();
    let (taken, below) = (name(&folder.0), name(&file.join("x")));
    // With as many steps as these have, anything else than a refusal would not end.
    let cases: [(&[&str], &str); 7] = [
        (&["--batch", "4", "--losses", &taken], "this is a directory"),
        (&["--batch", "4", "--save", &taken], "this is a directory"),
        (&["--batch", "4", "--save", &below], "cannot"),
        (&["--batch", "4", "--losses", &below], "cannot"),
        (&["--batch", "1"], "use --batch 4 or more"),
        (&["--batch", "13"], "--batch 13 is more than 12"),
        (&["--batch", "1000000000000"], "from 1 to"),
    ];
    for (more, words) in cases {
        let refused = match args(&folder.0, more) {
            Ok(args) => train(&args).map(drop).expect_err("refused").to_string(),
            Err(usage) => usage,
        };
        assert!(refused.contains(words), "{more:?}: {refused}");
        assert!(!refused.contains("k-means"), "{more:?}: {refused}");
    }
    assert!(common::try_dir(&file.join("x")).is_err());
    // Trying leaves what is there, and nothing else.
    let new = folder.0.join("new/loss.csv");
    common::try_file(&new).expect("can be written");
    assert!(!new.exists());
    common::try_file(&file).expect("can be written");
    assert_eq!(std::fs::read_to_string(&file).expect("read"), "kept");
    let left = std::fs::read_dir(folder.0.join("new")).expect("made");
    assert_eq!(left.count(), 0);
}

/// Runs a test of this file in a process of its own, as `role`.
fn child(role: &str, folder: &Path) -> Child {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "a_process_that_is_interrupted", "--nocapture"])
        .env("FLOWGRAD_EXAMPLE", role)
        .env("FLOWGRAD_FOLDER", folder)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a process")
}

fn interrupt(child: &Child) {
    let id = child.id().to_string();
    let sent = Command::new("kill").args(["-INT", &id]).status();
    assert!(sent.expect("kill").success());
}

/// Reads lines until one holds `words`.
fn read_until(from: &mut impl BufRead, words: &str) -> String {
    let mut all = String::new();
    while from.read_line(&mut all).expect("its messages") > 0 {
        if all.contains(words) {
            return all;
        }
    }
    panic!("it ended without `{words}`: {all}");
}

#[test]
#[cfg(unix)]
fn an_interrupt_writes_what_there_is_and_a_second_one_ends() {
    let folder = Folder::new("interrupted");
    let mut trained = child("train", &folder.0);
    let mut messages = BufReader::new(trained.stderr.take().expect("piped"));
    read_until(&mut messages, "training 1/");
    interrupt(&trained);
    let mut rest = String::new();
    messages.read_to_string(&mut rest).expect("its messages");
    assert!(trained.wait().expect("an end").success(), "{rest}");
    assert!(rest.contains("once more ends at once"), "{rest}");
    let out = folder.0.join("out");
    let pictures = ["reconstructions.png", "codes.png"];
    let weights = ["model.safetensors", "checkpoint.safetensors"];
    for name in pictures.iter().chain(&weights) {
        assert!(out.join(name).is_file(), "{name}");
    }
    let losses = std::fs::read_to_string(folder.0.join("losses.csv")).expect("losses");
    let rows = losses.lines().count() - 1;
    assert!((1..1000).contains(&rows), "{rows}");

    // One that does not heed the first.
    let mut deaf = child("deaf", &folder.0);
    let mut messages = BufReader::new(deaf.stderr.take().expect("piped"));
    read_until(&mut messages, "deaf 1/");
    interrupt(&deaf);
    read_until(&mut messages, "once more ends at once");
    let asked = Instant::now();
    interrupt(&deaf);
    assert_eq!(deaf.wait().expect("an end").code(), Some(130));
    assert!(asked.elapsed().as_secs() < 20, "{:?}", asked.elapsed());
}

/// Does nothing unless it was started by the test above.
#[test]
fn a_process_that_is_interrupted() {
    let folder = std::env::var_os("FLOWGRAD_FOLDER").map(PathBuf::from);
    let Some(folder) = folder else { return };
    match std::env::var("FLOWGRAD_EXAMPLE").as_deref() {
        Ok("train") => {
            let losses = folder.join("losses.csv");
            let losses = losses.to_str().expect("a plain path");
            let args = args(&folder, &["--batch", "4", "--losses", losses]);
            let report = train(&args.expect("arguments")).expect("trained");
            assert!(report.table().contains("of 1000000000 steps"));
        }
        _ => {
            let mut progress = Progress::new("deaf", 9000);
            for step in 1..9000 {
                progress.step(step, None);
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        }
    }
}
