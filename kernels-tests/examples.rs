//! The kit that the examples share: what is refused before training, and what an
//! interrupt leaves behind.

#[path = "../examples/common/mod.rs"]
mod common;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use clap::Parser;
use common::networks::{self, Model};
use common::tokenize::{Coder, Picture};
use common::vqvae::{Digits, Setup, run};
use common::{CommonArgs, Outcome, Progress, Report, Run, every, never};
use flowgrad::data::ImageSet;
use flowgrad::exec::Storage;
use flowgrad::models::{DvaeConfig, Inference, ResNet, ResNetConfig, Tiling, VqVae};
use flowgrad::nn::{Layer, Linear, Mode};
use flowgrad::optim::{Adam, Optimizer};
use flowgrad::params::Precision;
use flowgrad::{Gpu, Graph, Init, Params, Program};

#[derive(Parser)]
struct Args {
    #[command(flatten)]
    common: CommonArgs,
}

/// Arguments behind those that have no default of their own.
fn args(folder: &Path, more: &[&str]) -> Result<CommonArgs, String> {
    steps(1_000_000_000, folder, more)
}

fn steps(steps: usize, folder: &Path, more: &[&str]) -> Result<CommonArgs, String> {
    let steps = steps.to_string();
    let out = folder.join("out");
    let out = out.to_str().expect("a plain path");
    let all = ["x", "--steps", &steps, "--lr", "0.001", "--out", out];
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
    train_and_edit(args, false)
}

fn train_and_edit(args: &CommonArgs, edit: bool) -> Outcome<Report> {
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
        edit,
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

#[test]
fn every_edit_leaves_a_picture() {
    let folder = Folder::new("edits");
    let args = steps(1, &folder.0, &["--batch", "4"]).expect("arguments");
    train_and_edit(&args, true).expect("a run");
    let names = "shift_rows shift_columns rotate90 flip_rows flip_columns invert_codes \
        invert_latents splice_halves splice_mask transplant interpolate_codes \
        interpolate_latents";
    let mut pictures = std::collections::HashSet::new();
    for name in names.split_whitespace() {
        let file = folder.0.join(format!("out/edit_{name}.png"));
        pictures.insert(std::fs::read(&file).expect(name));
    }
    assert!(pictures.len() > 6, "edits that leave images as they are");
}

/// What a finished run leaves: weights, and the CSVs of losses and evaluations.
fn left(folder: &Path) -> [Vec<u8>; 3] {
    ["out/model.safetensors", "losses.csv", "out/evaluations.csv"]
        .map(|name| std::fs::read(folder.join(name)).unwrap_or_default())
}

/// Trains for 3 and then, from the checkpoint, for 4 further steps; and in another folder
/// for 7 at once. Both must leave the same.
fn resumed_and_whole(name: &str, train: impl Fn(&CommonArgs) -> Outcome<Report>) -> [Folder; 2] {
    let folders = [Folder::new(name), Folder::new(&format!("{name}-whole"))];
    let run = |folder: &Folder, n: usize, more: &[&str]| {
        let losses = folder.0.join("losses.csv");
        let losses = losses.to_str().expect("a plain path");
        let all = ["--batch", "4", "--eval-every", "2", "--losses", losses];
        let args = steps(n, &folder.0, &[&all, more].concat());
        train(&args.expect("arguments")).expect("trained")
    };
    run(&folders[0], 3, &["--checkpoint-every", "2"]);
    let checkpoint = folders[0].0.join("out/checkpoint.safetensors");
    let checkpoint = checkpoint.to_str().expect("a plain path");
    let stopped = left(&folders[0].0);
    let report = run(&folders[0], 7, &["--resume", checkpoint]);
    assert!(report.json().contains("\"steps\":7"), "{}", report.json());
    run(&folders[1], 7, &[]);
    let [resumed, whole] = [&folders[0], &folders[1]].map(|f| left(&f.0));
    assert_ne!(stopped[0], resumed[0]);
    assert_eq!(whole[1].split(|b| *b == b'\n').count(), 9);
    for (i, what) in ["weights", "losses", "evaluations"].into_iter().enumerate() {
        assert!(!whole[i].is_empty(), "{name}: no {what}");
        assert!(resumed[i] == whole[i], "{name}: {what} differ");
    }
    folders
}

#[test]
fn a_resumed_run_gives_the_bits_of_a_whole_one() {
    let [folder, _] = resumed_and_whole("resumed", train);
    let out = folder.0.join("out");
    let file = |name: &str| {
        let path = out.join(name);
        path.to_str().expect("a plain path").to_string()
    };
    let (checkpoint, weights) = (file("checkpoint.safetensors"), file("model.safetensors"));
    let cases: [(&[&str], &str); 4] = [
        (&["--resume", &checkpoint, "--seed", "3"], "give --seed 0"),
        (&["--resume", &weights], "not a checkpoint"),
        (&["--resume", &file("nothing")], "cannot be read"),
        (
            &["--resume", &checkpoint, "--load", &weights],
            "cannot be used with",
        ),
    ];
    for (more, words) in cases {
        let all = [&["--batch", "4"], more].concat();
        let refused = match steps(9, &folder.0, &all) {
            Ok(args) => train(&args).map(drop).expect_err("refused").to_string(),
            Err(usage) => usage,
        };
        assert!(refused.contains(words), "{more:?}: {refused}");
    }
    let args = steps(9, &folder.0, &["--batch", "4", "--resume", &checkpoint]);
    let other = two_programs(&args.expect("arguments")).map(drop);
    assert!(other.is_err());
}

/// Two programs over one set that take turns, each drawing random numbers.
fn two_programs(args: &CommonArgs) -> Outcome<Report> {
    let mut run = Run::start(args, "a test", &["first", "second"])?;
    let (gpu, params) = (run.gpu.clone(), run.params.clone());
    let rule = Adam {
        lr: f64::from(args.lr),
        ..Default::default()
    };
    let make = |name: &str| -> Outcome<(Linear, Optimizer)> {
        let scope = params.scope(name);
        let layer = Linear::new(&scope, 3, 1)?;
        Ok((layer, Optimizer::new(&scope, rule)?.named(name)))
    };
    let ((one, first), (two, second)) = (make("a")?, make("b")?);
    let compile = |layer: &Linear, optimizer: &Optimizer| -> Outcome<Program> {
        let graph = Graph::new();
        let noise = graph.normal([args.batch, 3]);
        let loss = layer.forward(&noise, Mode::Train).add_scalar(-1.0);
        let loss = loss.square().mean(&[], false);
        optimizer.minimize(&loss)?;
        Ok(graph.compile(&gpu, &params, &[&loss])?)
    };
    let (a, b) = (compile(&one, &first)?, compile(&two, &second)?);
    let mut programs = [a, b];
    let step = |[a, b]: &mut [Program; 2], step: u64| {
        a.set_scalars(&first.inputs(step))?;
        // Twice as often as the other: its random numbers run ahead.
        for i in 0..2 {
            b.set_scalars(&second.inputs(2 * step + i))?;
            b.step(&[])?;
        }
        Ok(vec![a.run(&[])?.scalar(0)?, b.run(&[])?.scalar(0)?])
    };
    let judged = every(1, |_| {
        let weight = params.get("a.weight")?;
        Ok(vec![("weight", f64::from(weight[0]))])
    });
    run.train_with(&mut programs, step, judged)?;
    Ok(run.report())
}

#[test]
fn several_programs_are_resumed_with_their_random_numbers() {
    let [_, whole] = resumed_and_whole("programs", two_programs);
    let evaluations = std::fs::read_to_string(whole.0.join("out/evaluations.csv"));
    let steps: Vec<String> = evaluations
        .expect("evaluations")
        .lines()
        .filter_map(|l| Some(l.split_once(',')?.0.to_string()))
        .collect();
    assert_eq!(steps, ["step", "2", "4", "6", "7"]);
}

/// A loss that is not finite ends a run, and the losses before it are kept.
#[test]
fn what_was_before_a_loss_that_is_not_finite_is_kept() {
    let folder = Folder::new("not-finite");
    let losses = folder.0.join("losses.csv");
    let name = losses.to_str().expect("a plain path");
    let args = steps(9, &folder.0, &["--batch", "4", "--losses", name]).expect("arguments");
    let mut run = Run::start(&args, "a test", &["loss"]).expect("started");
    let params = run.params.clone();
    params.add("x", [1], Init::Zeros).expect("added");
    let step = |_: &mut [Program; 0], step| Ok(vec![if step == 4 { f32::NAN } else { 1.5 }]);
    let error = run
        .train_with(&mut [], step, never())
        .expect_err("not finite");
    assert_eq!(error.to_string(), "loss at step 4 is NaN");
    let kept = std::fs::read_to_string(&losses).expect("losses");
    assert_eq!(kept.lines().count(), 5, "{kept}");
    assert!(folder.0.join("out/loss.png").is_file());
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

    // What it left is gone on from.
    let checkpoint = out.join("checkpoint.safetensors");
    let longer = folder.0.join("longer.csv");
    let names = [&checkpoint, &longer].map(|f| f.to_str().expect("a plain path"));
    let more = ["--batch", "4", "--resume", names[0], "--losses", names[1]];
    let args = steps(rows + 2, &folder.0, &more).expect("arguments");
    train(&args).expect("trained");
    let all = std::fs::read_to_string(&longer).expect("losses");
    assert!(all.starts_with(&losses), "{losses}\n{all}");
    assert_eq!(all.lines().count() - 1, rows + 2);

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

/// Waves, so that neither codes nor pixels are all alike.
fn waves(size: [usize; 2]) -> Picture {
    let at = |i: usize| {
        let (line, x) = (i / size[1], i % size[1]);
        0.5 + 0.45 * ((x * (1 + line / size[0])) as f32 * 0.11 + line as f32 * 0.07).sin()
    };
    Picture {
        data: (0..3 * size[0] * size[1]).map(at).collect(),
        size,
    }
}

#[test]
fn tiles_of_pictures_are_parts_of_the_whole() {
    let gpu = Gpu::new().expect("an adapter");
    let params = Params::new(2);
    let config = DvaeConfig {
        channels: 3,
        hidden: 8,
        start: 6,
        blocks: 1,
        codes: 24,
    };
    let coder = Coder::dvae(&params, config).expect("a model");
    // Sides that are no multiples of what a code stands for.
    let picture = waves([27, 171]);
    let padded = picture.padded(coder.factor());
    assert_eq!(padded.size, [32, 176]);
    let at = |y: usize, x: usize| padded.data[(2 * 32 + y) * 176 + x];
    assert_eq!(at(31, 175), picture.data[(2 * 27 + 26) * 171 + 170]);
    let run = |tiling: &Tiling, weights: Storage| {
        let extents = tiling.extents([4, 22]);
        let programs = coder.programs(&gpu, &params, extents, weights);
        let mut programs = programs.expect("programs");
        let codes = programs.encode(&padded, tiling).expect("codes");
        let decoded = programs.decode(&codes, tiling).expect("a picture");
        let mut wrong = codes.clone();
        wrong.data[5] = 24;
        let refused = programs.decode(&wrong, tiling).err().expect("an error");
        assert!(refused.to_string().contains("code 24"), "{refused}");
        (codes, decoded, programs.weight_bytes())
    };
    // In the coarsest group three convolutions see a code each, in finer ones half of it
    // and so on: 7 codes are enough.
    let tiling = Tiling::new(20, 7).expect("a tiling");
    assert_eq!(tiling.tiles([4, 22]).len(), 2);
    let (codes, decoded, bytes) = run(&tiling, Storage::F32);
    let whole = Tiling::new(22, 0).expect("a tiling");
    let (all, expected, _) = run(&whole, Storage::F32);
    assert_eq!(codes.data, all.data);
    let farthest = decoded.farthest(&expected);
    assert!(farthest < 1e-5, "{farthest}");
    assert!(codes.variety().0 > 3, "{:?}", codes.variety());
    // Without a margin the seams show.
    let (_, seams, _) = run(&Tiling::new(10, 0).expect("a tiling"), Storage::F32);
    assert!(seams.farthest(&expected) > 1e-3);

    let (_, halves, half_bytes) = run(&tiling, Storage::F16);
    assert!(
        half_bytes * 10 < bytes * 7,
        "{half_bytes} of {bytes}: biases of so small a network stay 32-bit"
    );
    assert!(halves.farthest(&expected) > 0.0);

    let npy = codes.npy();
    assert_eq!(&npy[..8], b"\x93NUMPY\x01\x00");
    let head = u16::from_le_bytes([npy[8], npy[9]]) as usize;
    assert!((10 + head).is_multiple_of(64));
    assert_eq!(npy.len(), 10 + head + 4 * 4 * 22);
    assert!(String::from_utf8_lossy(&npy[10..10 + head]).contains("'shape': (4, 22)"));
}

/// A file of a network whose names begin with `module.`, and a picture: what the example
/// makes of them is what the network gives.
#[test]
fn pictures_are_classified_by_somebodys_weights() {
    let folder = Folder::new("classify");
    let (file, weights) = (folder.0.join("x.png"), folder.0.join("w.safetensors"));
    let colours: Vec<u8> = (0..3 * 32 * 32u32).map(|i| (i * 97 % 251) as u8).collect();
    let picture = image::RgbImage::from_raw(32, 32, colours.clone()).expect("a picture");
    common::picture::save(&picture, &file).expect("a file");
    let gpu = Gpu::new().expect("an adapter");
    let params = Params::new(3);
    let config = ResNetConfig {
        classes: 7,
        ..ResNetConfig::cifar(20).expect("a shape")
    };
    let net = ResNet::new(&params.scope("module"), config).expect("a network");
    params.save(&weights, Precision::F32).expect("a file");
    let load = |model| networks::loaded(&gpu, model, &weights, &file, |format| format);
    let mut ready = load(Model::Cifar20).expect("a network");
    assert_eq!(ready.picture, colours);
    let got = ready.inference.run(&ready.picture).expect("logits");
    let format = ready.inference.format().clone();
    let direct = Inference::new(&gpu, &params, format, move |x| net.forward(x, Mode::Eval));
    assert_eq!(got.len(), 7);
    assert_eq!(got, direct.expect("it").run(&colours).expect("logits"));
    // Weights of another network.
    assert!(load(Model::Preact18).is_err());
}

#[test]
fn digits_are_learnt_where_there_are_no_weights() {
    let gpu = Gpu::new().expect("an adapter");
    let mut ready = networks::learnt(&gpu, 0, 30, None).expect("a network");
    // A tenth would be chance.
    let accuracy = ready.accuracy.expect("a share");
    assert!(accuracy > 0.5, "{accuracy}");
    assert_eq!(
        ready.inference.run(&ready.picture).expect("logits").len(),
        10
    );
}

#[test]
fn principal_components_are_those_of_the_variance() {
    // Around (1, 2, 3, 4): a wide axis, a narrower one, and a little of a third.
    let axes = [
        [0.5, 0.5, 0.5, 0.5f32],
        [0.5, -0.5, 0.5, -0.5],
        [0.5, 0.5, -0.5, -0.5],
    ];
    let rows: Vec<f32> = (0..64)
        .flat_map(|n| {
            let t = n as f32 * 0.7;
            let along = [5.0 * t.sin(), 2.0 * (1.7 * t).cos(), 0.01 * (2.3 * t).sin()];
            (0..4).map(move |i| {
                let moved: f32 = along.iter().zip(&axes).map(|(a, axis)| a * axis[i]).sum();
                (i + 1) as f32 + moved
            })
        })
        .collect();
    let error = |count: usize| -> f64 {
        let made = common::pca::Pca::new(&rows, 4, count).reconstruct(&rows);
        let squares = made
            .iter()
            .zip(&rows)
            .map(|(a, b)| f64::from(a - b).powi(2));
        squares.sum::<f64>() / rows.len() as f64
    };
    // What the first leaves is the second's variance, 2^2 / 2 over 4 numbers.
    assert!((error(1) - 0.5).abs() < 0.05, "{}", error(1));
    assert!(error(2) < 2e-5 && error(2) > 1e-6, "{}", error(2));
    assert!(error(4) < 1e-10, "{}", error(4));
}
