//! Parameter sets: names, initial values, layout, files, checkpoints.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use flowgrad::optim::{Adam, Ema, Optimizer};
use flowgrad::params::{
    ALIGN, ARENA_FLOATS, ArenaInit, ArenaKind, LoadRules, Precision, Strict, WeightsFile,
};
use flowgrad::train::Checkpoint;
use flowgrad::{Error, Graph, Init, Params};
use proptest::prelude::*;

/// A folder of its own that goes away with the test.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("flowgrad-test-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a temporary folder");
        Folder(path)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn names(&self) -> Vec<String> {
        let files = std::fs::read_dir(&self.0).expect("the folder");
        files
            .map(|f| {
                f.expect("a file")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn model(seed: u64) -> Params {
    let params = Params::new(seed);
    let enc = params.scope("enc");
    enc.add("weight", [3, 2, 2, 2], Init::weight(&[3, 2, 2, 2]))
        .expect("new");
    enc.add("bias", [3], Init::bias(8)).expect("new");
    enc.add_state("running_var", [3], Init::Ones).expect("new");
    params.add("scale", [], Init::Constant(2.5)).expect("new");
    params
}

fn all_values(params: &Params) -> Vec<Vec<f32>> {
    let values = params.all();
    values.iter().map(|p| p.get().expect("values")).collect()
}

#[test]
fn names_are_hierarchical_and_unique() {
    let params = model(1);
    assert_eq!(
        params.names(),
        ["enc.weight", "enc.bias", "enc.running_var", "scale"]
    );
    assert_eq!(params.count(), 24 + 3 + 1);
    assert_eq!(params.scope("enc").count(), 27);
    assert_eq!(params.scope("enc").all().len(), 3);
    // The prefix is "enc.", not "enc".
    params.add("encoder", [1], Init::Zeros).expect("new");
    assert_eq!(params.scope("enc").all().len(), 3);
    let taken = params.scope("enc").add("bias", [9], Init::Zeros);
    assert!(matches!(taken, Err(Error::Argument { what, .. }) if what.contains("enc.bias")));
    for name in ["", ".", "a..b", "a/b", "a\n"] {
        assert!(params.add(name, [1], Init::Zeros).is_err(), "{name:?}");
    }
    assert!(params.add("empty", [3, 0], Init::Zeros).is_err());
    assert!(params.add("huge", [usize::MAX, 3], Init::Zeros).is_err());
    assert!(matches!(
        params.get("nowhere"),
        Err(Error::MissingParameter { .. })
    ));
    let short = params.add("short", [3], Init::Values(vec![1.0]));
    assert!(short.is_err());
    assert!(params.add("nan", [], Init::Constant(f32::NAN)).is_err());
    assert!(params.set("scale", &[1.0, 2.0]).is_err());
    assert!(matches!(
        params.set("scale", &[f32::INFINITY]),
        Err(Error::NonFinite { .. })
    ));
    params.set("scale", &[4.0]).expect("set");
    assert_eq!(params.get("scale").expect("get"), [4.0]);
    // The failed ones left nothing behind.
    assert_eq!(params.names().len(), 5);
}

#[test]
fn initial_values_depend_on_seed_and_name_only() {
    let params = Params::new(7);
    let shape = [64, 50];
    let a = params.add("a", shape, Init::weight(&shape)).expect("new");
    let b = params.add("b", shape, Init::weight(&shape)).expect("new");
    let other = Params::new(7);
    let b2 = other.add("b", shape, Init::weight(&shape)).expect("new");
    assert_eq!(b.get(), b2.get());
    assert_ne!(a.get(), b.get());
    let reseeded = Params::new(8);
    let b3 = reseeded.add("b", shape, Init::weight(&shape)).expect("new");
    assert_ne!(b.get(), b3.get());
}

#[test]
fn distributions() {
    let params = Params::new(11);
    let n = 20_000;
    let values = |name: &str, init: Init| -> Vec<f64> {
        let p = params.add(name, [n / 100, 100], init).expect("new");
        p.get()
            .expect("values")
            .into_iter()
            .map(f64::from)
            .collect()
    };
    let moments = |v: &[f64]| {
        let mean = v.iter().sum::<f64>() / n as f64;
        let var = v.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64;
        (mean, var.sqrt())
    };
    let normal = values(
        "normal",
        Init::Normal {
            mean: 3.0,
            std: 2.0,
        },
    );
    let (mean, std) = moments(&normal);
    // Five standard errors.
    assert!((mean - 3.0).abs() < 5.0 * 2.0 / (n as f64).sqrt(), "{mean}");
    assert!(
        (std - 2.0).abs() < 5.0 * 2.0 / (2.0 * n as f64).sqrt(),
        "{std}"
    );
    let beyond = normal.iter().filter(|x| (**x - 3.0).abs() > 4.0).count() as f64;
    assert!((beyond / n as f64 - 0.0455).abs() < 0.008, "{beyond}");
    // PyTorch: kaiming_uniform_(a=sqrt(5)) is +-1/sqrt(fan_in).
    let weight = values("weight", Init::weight(&[n / 100, 100]));
    let largest = weight.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    assert!(largest <= 0.1 + 1e-9 && largest > 0.0999, "{largest}");
    let (mean, std) = moments(&weight);
    assert!(mean.abs() < 5.0 * 0.0577 / (n as f64).sqrt(), "{mean}");
    assert!((std - 0.1 / 3f64.sqrt()).abs() < 1e-3, "{std}");
    let xavier = values("xavier", Init::XavierUniform);
    let bound = (6.0 / 300.0f64).sqrt();
    let largest = xavier.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    assert!(largest <= bound + 1e-9 && largest > 0.999 * bound);
}

#[test]
fn orthogonal_rows_are_orthonormal() {
    let params = Params::new(5);
    for (name, rows, columns) in [("wide", 7, 12), ("tall", 12, 7), ("square", 9, 9)] {
        let p = params
            .add(name, [rows, columns], Init::Orthogonal)
            .expect("new");
        let q = p.get().expect("values");
        let at = |i: usize, k: usize| match rows <= columns {
            true => q[i * columns + k] as f64,
            false => q[k * columns + i] as f64,
        };
        for i in 0..rows.min(columns) {
            for j in 0..rows.min(columns) {
                let dot: f64 = (0..rows.max(columns)).map(|k| at(i, k) * at(j, k)).sum();
                let expected = if i == j { 1.0 } else { 0.0 };
                assert!((dot - expected).abs() < 1e-6, "{name} {i} {j}: {dot}");
            }
        }
    }
}

#[test]
fn layout_only_grows() {
    let params = model(1);
    let before = params.layout();
    assert_eq!(before.arenas.len(), 2);
    assert_eq!(before.arenas[0].kind, ArenaKind::Trainable);
    assert_eq!(before.arenas[1].kind, ArenaKind::State);
    params.add("later", [10], Init::Zeros).expect("new");
    let after = params.layout();
    assert_eq!(after.params[..4], before.params[..]);
    assert_eq!(after.arenas[..2], before.arenas[..]);
    assert_eq!(after.params[4].arena, 2);
    let moments = params
        .add_arena("optim.m", 0, ArenaInit::Zeros)
        .expect("new");
    assert_eq!(
        params.add_arena("optim.m", 0, ArenaInit::Zeros),
        Ok(moments)
    );
    assert!(params.add_arena("optim.m", 1, ArenaInit::Zeros).is_err());
    assert!(params.add_arena("optim.v", 99, ArenaInit::Zeros).is_err());
    let graph = Graph::new();
    let arena = params.arena_tensor(&graph, moments);
    assert_eq!(arena.numel(), after.arenas[0].len);
    assert!(params.arena_tensor(&graph, 99).check().is_err());
}

proptest! {
    #[test]
    fn places_do_not_overlap(lens in prop::collection::vec((1usize..200_000, any::<bool>()), 1..40)) {
        let params = Params::new(0);
        for (i, (len, trainable)) in lens.iter().enumerate() {
            // A few large ones, so that several arenas are needed.
            let len = if i % 13 == 12 { len * 100 } else { *len };
            let name = format!("p{i}");
            let _ = match trainable {
                true => params.add(&name, [len], Init::Zeros),
                false => params.add_state(&name, [len], Init::Zeros),
            }.expect("new");
        }
        let layout = params.layout();
        let all = params.all();
        let mut ends = vec![0; layout.arenas.len()];
        for (param, place) in all.iter().zip(&layout.params) {
            prop_assert_eq!(place.offset % ALIGN, 0);
            prop_assert_eq!(place.len, param.shape().numel());
            // In order, so no overlap.
            prop_assert!(place.offset >= ends[place.arena]);
            ends[place.arena] = place.offset + place.len;
            let kind = layout.arenas[place.arena].kind;
            prop_assert_eq!(kind == ArenaKind::Trainable, param.is_trainable());
        }
        for (i, arena) in layout.arenas.iter().enumerate() {
            prop_assert!(ends[i] <= arena.len && arena.len - ends[i] < ALIGN);
            let inside = layout.params.iter().filter(|p| p.arena == i).count();
            prop_assert!(arena.len <= ARENA_FLOATS || inside == 1);
        }
    }
}

#[test]
fn weights_round_trip() {
    let folder = Folder::new();
    let path = folder.file("w.safetensors");
    let (from, to) = (model(1), model(2));
    from.layout();
    for (precision, step) in [
        (Precision::F32, 0.0),
        (Precision::F16, 1.0 / 2048.0),
        (Precision::BF16, 1.0 / 256.0),
    ] {
        from.save(&path, precision).expect("saved");
        let report = to.load(&path, Strict::Yes).expect("loaded");
        assert_eq!(report.loaded.len(), 4);
        for (a, b) in all_values(&from).iter().zip(&all_values(&to)) {
            for (a, b) in a.iter().zip(b) {
                assert!((a - b).abs() <= step * a.abs(), "{precision:?}: {a} {b}");
            }
        }
    }
    assert_eq!(folder.names(), ["w.safetensors"], "no temporary file stays");
    // A scope's file has relative names.
    from.scope("enc")
        .save(&path, Precision::F32)
        .expect("saved");
    let file = WeightsFile::open(&path).expect("open");
    let mut names = file.names();
    names.sort();
    assert_eq!(names, ["bias", "running_var", "weight"]);
    assert!(to.load(&path, Strict::Yes).is_err());
    to.scope("enc").load(&path, Strict::Yes).expect("loaded");
    assert_eq!(to.get("enc.weight"), from.get("enc.weight"));
}

#[test]
fn what_does_not_fit_is_reported() {
    let folder = Folder::new();
    let path = folder.file("w.safetensors");
    let from = Params::new(0);
    from.scope("enc")
        .add("weight", [3, 2, 2, 2], Init::Ones)
        .expect("new");
    from.scope("enc").add("bias", [4], Init::Ones).expect("new");
    from.add("extra", [1], Init::Ones).expect("new");
    from.save(&path, Precision::F32).expect("saved");
    let to = model(1);
    let before = all_values(&to);
    match to.load(&path, Strict::Yes) {
        Err(Error::Weights { tensor, detail, .. }) => {
            assert_eq!(tensor, "enc.bias");
            assert!(detail.contains("2 missing, 1 unexpected, 1 of another shape"));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(all_values(&to), before, "a strict failure changes nothing");
    let report = to.load(&path, Strict::No).expect("loaded");
    assert_eq!(report.loaded, ["enc.weight"]);
    assert_eq!(report.missing, ["enc.running_var", "scale"]);
    assert_eq!(report.unexpected, ["extra"]);
    assert_eq!(report.mismatched[0].0, "enc.bias");
    assert_eq!(to.get("enc.weight").expect("values"), [1.0; 24]);
}

#[test]
fn rules_find_what_others_named() {
    let folder = Folder::new();
    let path = folder.file("theirs.safetensors");
    let theirs = Params::new(0).scope("module.net");
    for (name, shape) in [("conv.kernel", vec![4, 3, 1, 1]), ("bn.mask", vec![2])] {
        theirs.add(name, shape, Init::Ones).expect("new");
    }
    let count = theirs.add_state("bn.num_batches_tracked", [1], Init::Ones);
    count.expect("new");
    theirs.root().save(&path, Precision::F32).expect("saved");

    let ours = Params::new(0);
    ours.add("conv.weight", [4, 3], Init::Zeros).expect("new");
    ours.add("head.weight", [2], Init::Zeros).expect("new");
    let load = |rules: &LoadRules| ours.load_by(WeightsFile::open(&path)?, rules);
    let rules = LoadRules::default()
        .strip("module.")
        .strip("net.")
        .rename(".kernel", ".weight")
        .skip_ending(&[".mask"]);
    let failed = |rules: &LoadRules| load(rules).expect_err("it does not fit").to_string();
    let error = failed(&rules);
    assert!(error.contains("[4, 3, 1, 1] in the file"), "{error}");
    let rules = rules.any_ones();
    let error = failed(&rules);
    assert!(error.contains("head.weight"), "{error}");
    assert_eq!(ours.get("conv.weight").expect("values"), [0.0; 12]);
    let rules = rules.may_miss(&["head."]);
    assert_eq!(load(&rules).expect("loaded").loaded, ["conv.weight"]);
    assert_eq!(ours.get("conv.weight").expect("values"), [1.0; 12]);
    // Two tensors that become one.
    let error = failed(&rules.rename("bn.num_batches_tracked", "conv.weight"));
    assert!(error.contains("both called `conv.weight`"), "{error}");
}

/// A file with one tensor `scale` of the given type and bytes.
fn one_tensor(dtype: &str, shape: &str, bytes: &[u8]) -> Vec<u8> {
    let header = format!(
        r#"{{"scale":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{}]}}}}"#,
        bytes.len()
    );
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(bytes);
    file
}

#[test]
fn bad_files_are_errors() {
    let folder = Folder::new();
    let path = folder.file("w.safetensors");
    let params = Params::new(0);
    params.add("scale", [], Init::Ones).expect("new");
    let good = one_tensor("F32", "[]", &2f32.to_le_bytes());
    let mut huge_header = good.clone();
    huge_header[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let mut long = good.clone();
    long.push(0);
    let overflow = one_tensor("F32", "[4294967296,4294967296,4294967296]", &[0; 4]);
    let deep = {
        let header = "[".repeat(100_000);
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty", vec![]),
        ("short", vec![1, 2, 3]),
        ("garbage", vec![b'x'; 1000]),
        ("huge header", huge_header),
        ("truncated", good[..good.len() - 1].to_vec()),
        ("trailing", long),
        ("overflow", overflow),
        ("nested", deep),
        ("nan", one_tensor("F32", "[]", &f32::NAN.to_le_bytes())),
        (
            "f64 beyond f32",
            one_tensor("F64", "[]", &1e300f64.to_le_bytes()),
        ),
        ("f16 infinity", one_tensor("F16", "[]", &[0x00, 0x7c])),
        ("integers", one_tensor("I32", "[]", &[0; 4])),
        ("unknown type", one_tensor("X99", "[]", &[0; 4])),
        ("size", one_tensor("F32", "[2]", &[0; 4])),
        ("no tensor", {
            let mut file = 2u64.to_le_bytes().to_vec();
            file.extend(b"{}");
            file
        }),
    ];
    for (name, bytes) in cases {
        std::fs::write(&path, bytes).expect("written");
        let result = params.load(&path, Strict::Yes);
        assert!(
            matches!(result, Err(Error::Weights { .. })),
            "{name}: {result:?}"
        );
    }
    assert_eq!(params.get("scale").expect("values"), [1.0]);
    for (bytes, value) in [
        (good, 2.0),
        (one_tensor("F64", "[]", &3f64.to_le_bytes()), 3.0),
        (one_tensor("F16", "[]", &[0x00, 0x3c]), 1.0),
        (one_tensor("BF16", "[]", &[0x80, 0x3f]), 1.0),
    ] {
        std::fs::write(&path, bytes).expect("written");
        params.load(&path, Strict::Yes).expect("loaded");
        assert_eq!(params.get("scale").expect("values"), [value]);
    }
    let missing = params.load(folder.file("nowhere"), Strict::No);
    assert!(matches!(missing, Err(Error::Io { .. })));
    let nowhere = params.save(folder.file("no/folder"), Precision::F32);
    assert!(matches!(nowhere, Err(Error::Io { .. })));
}

#[test]
fn a_bad_value_leaves_the_old_file() {
    let folder = Folder::new();
    let path = folder.file("w.safetensors");
    let params = Params::new(0);
    params.add("w", [2], Init::Ones).expect("new");
    params.save(&path, Precision::F16).expect("saved");
    params.set("w", &[1.0, 1e6]).expect("set");
    assert!(matches!(
        params.save(&path, Precision::F16),
        Err(Error::Weights { .. })
    ));
    params.load(&path, Strict::Yes).expect("the old file");
    assert_eq!(params.get("w").expect("values"), [1.0, 1.0]);
    // A diverged arena does not get into a file either.
    params.layout();
    let arena = vec![f32::NAN; params.layout().arenas[0].len];
    params.set_arena_values(0, &arena).expect("set");
    assert!(params.save(&path, Precision::F32).is_err());
    assert_eq!(folder.names(), ["w.safetensors"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn damaged_files_never_panic(
        position in any::<prop::sample::Index>(),
        value in any::<u8>(),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let folder = Folder::new();
        let path = folder.file("w.safetensors");
        let params = model(1);
        params.save(&path, Precision::F16).expect("saved");
        let mut bytes = std::fs::read(&path).expect("read");
        let at = position.index(bytes.len());
        bytes[at] = value;
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        std::fs::write(&path, bytes).expect("written");
        // Either it loads, or it says why not.
        if let Err(e) = params.load(&path, Strict::Yes) {
            prop_assert!(matches!(e, Error::Weights { .. }), "{e:?}");
        }
        prop_assert!(all_values(&params).iter().flatten().all(|v| v.is_finite()));
    }

    #[test]
    fn garbage_never_panics(header in prop::collection::vec(any::<u8>(), 0..200), honest in any::<bool>()) {
        let folder = Folder::new();
        let path = folder.file("w.safetensors");
        let mut bytes = Vec::new();
        if honest {
            bytes.extend((header.len() as u64).to_le_bytes());
        }
        bytes.extend(header);
        std::fs::write(&path, bytes).expect("written");
        prop_assert!(model(1).load(&path, Strict::Yes).is_err());
    }
}

/// A model with an optimiser whose arenas hold recognisable numbers.
fn trained(seed: u64) -> (Params, Optimizer) {
    let params = model(seed);
    let optimizer = Optimizer::new(&params, Adam::default())
        .expect("an optimiser")
        .ema(Ema {
            decay: 0.99,
            warmup: false,
        });
    let graph = Graph::new();
    let loss = params
        .find("enc.weight")
        .expect("there")
        .on(&graph)
        .square()
        .sum(&[], false);
    optimizer.minimize(&loss).expect("a step");
    for (i, arena) in params.layout().arenas.iter().enumerate() {
        if arena.kind == ArenaKind::Standalone {
            let values: Vec<f32> = (0..arena.len)
                .map(|k| seed as f32 + i as f32 + k as f32 / 1024.0)
                .collect();
            params.set_arena_values(i, &values).expect("set");
        }
    }
    (params, optimizer)
}

#[test]
fn checkpoints_restore_everything() {
    let folder = Folder::new();
    let path = folder.file("run.safetensors");
    let (from, _) = trained(1);
    let checkpoint = Checkpoint {
        step: u64::MAX - 1,
        seed: 12,
        random_step: 34,
        extra: [("best".to_string(), "0.5".to_string())].into(),
    };
    checkpoint.save(&path, &from).expect("saved");
    let (to, _) = trained(2);
    assert_eq!(Checkpoint::load(&path, &to), Ok(checkpoint));
    assert_eq!(all_values(&from), all_values(&to));
    let layout = to.layout();
    for (i, arena) in layout.arenas.iter().enumerate() {
        let Some(of) = arena.mirrors else { continue };
        let (a, b) = (
            from.arena_values(i).expect("a"),
            to.arena_values(i).expect("b"),
        );
        for p in layout.params.iter().filter(|p| p.arena == of) {
            let range = p.offset..p.offset + p.len;
            assert_eq!(a[range.clone()], b[range], "{}", arena.name);
        }
    }
    // Its parameters are weights too.
    let (weights, _) = trained(3);
    weights.load(&path, Strict::Yes).expect("weights");
    assert_eq!(all_values(&weights), all_values(&from));
}

#[test]
fn wrong_checkpoints_are_errors() {
    let folder = Folder::new();
    let path = folder.file("run.safetensors");
    let (params, _) = trained(1);
    let wrong = |params: &Params, words: &str| match Checkpoint::load(&path, params) {
        Err(Error::Weights { detail, .. }) => assert!(detail.contains(words), "{detail}"),
        other => panic!("{other:?}"),
    };
    params.save(&path, Precision::F32).expect("saved");
    wrong(&params, "not a checkpoint");
    Checkpoint::default().save(&path, &params).expect("saved");
    wrong(&model(1), "build the same optimiser");
    let bytes = std::fs::read(&path).expect("read");
    // The lowest bit of the last value: only the checksum sees it.
    let mut damaged = bytes.clone();
    let at = damaged.len() - 4;
    damaged[at] ^= 1;
    std::fs::write(&path, damaged).expect("written");
    wrong(&params, "checksum");
    // A counter: its digits are text that stays valid.
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let at = text.find(r#""step":"0""#).expect("a step") + 8;
    let mut damaged = bytes.clone();
    damaged[at] ^= 1;
    std::fs::write(&path, damaged).expect("written");
    wrong(&params, "checksum");
    std::fs::write(&path, &bytes[..bytes.len() - 8]).expect("written");
    wrong(&params, "truncated");
    std::fs::remove_file(&path).expect("removed");
    Checkpoint::default().save(&path, &model(1)).expect("saved");
    wrong(&params, "it is not in the file");
}

#[test]
fn no_flipped_bit_of_a_checkpoint_goes_unseen() {
    let folder = Folder::new();
    let path = folder.file("run.safetensors");
    let (params, _) = trained(1);
    let checkpoint = Checkpoint {
        step: 1234,
        seed: 99,
        random_step: 17,
        extra: [("best".to_string(), "0.5 at \"12\"".to_string())].into(),
    };
    checkpoint.save(&path, &params).expect("saved");
    let good = std::fs::read(&path).expect("read");
    let header = u64::from_le_bytes(good[..8].try_into().expect("a length")) as usize;
    let values = all_values(&params);
    for bit in 0..8 * (8 + header + 16) {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let file = WeightsFile::parse("memory", std::io::Cursor::new(bytes));
        // A space may become another one; then nothing has changed.
        match file.and_then(|f| Checkpoint::load_from(f, &params)) {
            Ok(read) => assert_eq!(read, checkpoint, "bit {bit}"),
            Err(e) => assert!(matches!(e, Error::Weights { .. }), "bit {bit}: {e:?}"),
        }
        assert_eq!(all_values(&params), values, "bit {bit}");
    }
}

#[test]
fn a_checkpoint_of_the_first_format_is_read() {
    let params = Params::new(0);
    params.add("w", [1], Init::Zeros).expect("new");
    let mut crc = flate2::Crc::new();
    crc.update(b"w");
    crc.update(&2f32.to_le_bytes());
    let header = format!(
        r#"{{"__metadata__":{{"format":"flowgrad checkpoint 1","step":"5","seed":"6","random_step":"7","crc32":"{}"}},"w":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}}}"#,
        crc.sum()
    );
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(2f32.to_le_bytes());
    let load = |bytes: Vec<u8>| {
        let file = WeightsFile::parse("memory", std::io::Cursor::new(bytes))?;
        Checkpoint::load_from(file, &params)
    };
    let read = load(bytes.clone()).expect("the old format");
    assert_eq!((read.step, read.seed, read.random_step), (5, 6, 7));
    assert_eq!(params.get("w").expect("values"), [2.0]);
    *bytes.last_mut().expect("a byte") ^= 1;
    assert!(load(bytes).is_err());
}

#[test]
fn keys_that_stand_twice_are_refused() {
    let tensor = r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    let twice = [
        ("w", format!(r#"{{"w":{tensor},"w":{tensor}}}"#)),
        // The same name, written in another way.
        ("w", format!(r#"{{"w":{tensor},"\u0077":{tensor}}}"#)),
        (
            "__metadata__",
            format!(r#"{{"__metadata__":{{}},"w":{tensor},"__metadata__":{{}}}}"#),
        ),
        (
            "step",
            format!(r#"{{"__metadata__":{{"step":"1","a":"b","step":"2"}},"w":{tensor}}}"#),
        ),
        (
            "dtype",
            r#"{"w":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#.into(),
        ),
        (
            "x",
            r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"more":[{"x":1,"x":2}]}}"#
                .into(),
        ),
    ];
    let open = |header: &str| {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend([0; 4]);
        WeightsFile::parse("memory", std::io::Cursor::new(bytes))
    };
    for (key, header) in twice {
        match open(&header) {
            Err(Error::Weights { detail, .. }) => assert!(detail.contains(key), "{detail}"),
            other => panic!("{header}: {other:?}"),
        }
    }
    // Values may say what keys say, objects may share keys, strings may hold anything.
    let fine = format!(r#"{{"__metadata__":{{"w":"w","a:":"{{\"w\":1,","b":"\\"}},"w":{tensor}}}"#);
    let file = open(&fine).expect("no key twice");
    assert_eq!(file.metadata()["a:"], "{\"w\":1,");
}
