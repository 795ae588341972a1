//! The parsers, with good inputs for each, words that mean something to it, and the
//! memory that an input of some length may take.

use std::io::{Cursor, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use flowgrad::data::{parse_cifar10, parse_idx};
use flowgrad::gpu::parse_choices;
use flowgrad::gpu::preprocess::{ArgsIn, preprocess};
use flowgrad::models::{Glow, GlowConfig};
use flowgrad::optim::{Adam, Optimizer};
use flowgrad::params::{Precision, Strict, WeightsFile};
use flowgrad::train::Checkpoint;
use flowgrad::{Graph, Init, Params};

pub type Parse = Box<dyn FnMut(&[u8]) -> Result<(), String>>;

pub struct Parser {
    pub name: &'static str,
    pub seeds: Vec<Vec<u8>>,
    pub words: &'static [&'static str],
    /// The error as text.
    pub parse: Parse,
    /// Bytes that may be allocated for an input of this length.
    pub memory: fn(usize) -> usize,
}

/// Errors repeat parts of an input, maps and strings cost more than their text.
fn some_copies(len: usize) -> usize {
    (64 << 10) + 64 * len
}

/// 1032 times is the most that deflate can shrink anything; vectors grow by doubling,
/// and the inflater has tables of its own.
fn inflated(len: usize) -> usize {
    (512 << 10) + 3 * 1032 * len
}

fn text(e: flowgrad::Error) -> String {
    e.to_string()
}

const JSON: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\"",
    "\\",
    "\\u0000",
    "\\ud800",
    "null",
    "-1",
    "1e999",
    "\"__metadata__\"",
    "\"shape\"",
    "\"dtype\"",
    "\"data_offsets\"",
    "\"F16\"",
    "\"BF16\"",
    "\"F64\"",
    "\"I32\"",
    "\"F8_E4M3\"",
    "[0,0]",
    "[1,1]",
    "{}",
    "    ",
];

fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    file
}

fn open(bytes: &[u8]) -> flowgrad::Result<WeightsFile<Cursor<&[u8]>>> {
    WeightsFile::parse("fuzz", Cursor::new(bytes))
}

pub fn weights() -> Parser {
    let small = r#"{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},"b":{"dtype":"BF16","shape":[1,1],"data_offsets":[4,6]}}"#;
    let wide = r#"{"__metadata__":{"format":"pt"},"x.y":{"dtype":"F64","shape":[1],"data_offsets":[0,8]},"x.z":{"dtype":"I32","shape":[],"data_offsets":[8,12]}}   "#;
    let empty = r#"{"__metadata__":{},"none":{"dtype":"F32","shape":[0,7],"data_offsets":[0,0]}}"#;
    Parser {
        name: "weights",
        seeds: vec![
            safetensors(small, &[0, 0x3c, 0, 0x40, 0x80, 0x3f]),
            safetensors(wide, &[0; 12]),
            safetensors(empty, &[]),
        ],
        words: JSON,
        parse: Box::new(|bytes| {
            let mut file = open(bytes).map_err(text)?;
            let mut first = Ok(());
            for name in file.names() {
                let wanted = file.is_float(&name);
                match file.read(&name) {
                    Ok(values) => {
                        let shape = file.shape(&name).expect("a tensor of the file");
                        assert_eq!(values.len(), shape.iter().product::<usize>());
                        assert!(wanted && values.iter().all(|v| v.is_finite()));
                    }
                    Err(e) if wanted => first = first.and(Err(text(e))),
                    Err(_) => {}
                }
            }
            drop(file.metadata());
            first
        }),
        memory: |len| some_copies(len) + (128 << 10),
    }
}

/// A file as `save` writes it.
fn saved(save: impl FnOnce(&std::path::Path)) -> Vec<u8> {
    let name = format!(
        "flowgrad-fuzz-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    );
    let path = std::env::temp_dir().join(name);
    save(&path);
    let bytes = std::fs::read(&path).expect("just written");
    let _ = std::fs::remove_file(&path);
    bytes
}

fn model() -> Params {
    let params = Params::new(1);
    params.add("enc.weight", [2, 3], Init::Ones).expect("new");
    params.add_state("mean", [], Init::Zeros).expect("new");
    params
}

pub fn weights_into_parameters() -> Parser {
    let params = model();
    let seeds = [Precision::F32, Precision::F16, Precision::BF16]
        .map(|p| saved(|path| params.save(path, p).expect("saved")));
    Parser {
        name: "weights into parameters",
        seeds: seeds.to_vec(),
        words: JSON,
        parse: Box::new(move |bytes| {
            open(bytes)
                .and_then(|file| params.load_from(file, Strict::Yes))
                .map_err(text)?;
            let weight = params.get("enc.weight").map_err(text)?;
            assert!(weight.iter().all(|v| v.is_finite()));
            Ok(())
        }),
        memory: |len| some_copies(len) + (128 << 10),
    }
}

pub fn checkpoints() -> Parser {
    let params = model();
    let optimizer = Optimizer::new(&params, Adam::default()).expect("an optimiser");
    let graph = Graph::new();
    let weight = params.find("enc.weight").expect("there").on(&graph);
    optimizer
        .minimize(&weight.square().sum(&[], false))
        .expect("a step");
    let checkpoint = Checkpoint {
        step: 1234,
        seed: 7,
        random_step: 99,
        extra: [("best".to_string(), "0.25".to_string())].into(),
    };
    let good = saved(|path| checkpoint.save(path, &params).expect("saved"));
    Parser {
        name: "checkpoints",
        seeds: vec![good],
        words: JSON,
        parse: Box::new(move |bytes| {
            let read = open(bytes)
                .and_then(|file| Checkpoint::load_from(file, &params))
                .map_err(text)?;
            // What is taken for whole is what was saved.
            assert_eq!(read, checkpoint);
            Ok(())
        }),
        memory: |len| some_copies(len) + (256 << 10),
    }
}

pub fn glow_weights() -> Parser {
    let params = Params::new(0);
    let config = GlowConfig {
        image: [1, 2, 2],
        levels: 1,
        depth: 1,
        hidden: 2,
        ..GlowConfig::digits()
    };
    let glow = Glow::new(&params, config).expect("a model");
    let seed = saved(|path| params.save(path, Precision::F16).expect("saved"));
    Parser {
        name: "Glow weights",
        seeds: vec![seed],
        words: JSON,
        parse: Box::new(move |bytes| {
            open(bytes)
                .and_then(|file| glow.load_from(&params, file))
                .map_err(text)
        }),
        memory: |len| some_copies(len) + (256 << 10),
    }
}

fn idx_file(dims: &[u32], data: &[u8]) -> Vec<u8> {
    let mut file = vec![0, 0, 8, dims.len() as u8];
    file.extend(dims.iter().flat_map(|d| d.to_be_bytes()));
    file.extend(data);
    file
}

fn idx_files() -> Vec<Vec<u8>> {
    vec![
        idx_file(&[3], &[1, 2, 3]),
        idx_file(&[2, 3, 4], &[7; 24]),
        idx_file(&[1, 3, 2, 2], &[9; 12]),
    ]
}

fn zipped(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("zipped");
    encoder.finish().expect("zipped")
}

fn parse_any_idx(bytes: &[u8]) -> Result<(), String> {
    let idx = parse_idx("fuzz", bytes).map_err(text)?;
    assert_eq!(idx.data.len(), idx.dims.iter().product::<usize>());
    Ok(())
}

pub fn idx() -> Parser {
    Parser {
        name: "IDX",
        seeds: idx_files(),
        words: &["\0\0\u{8}\u{1}", "\0\0\u{8}\u{4}"],
        parse: Box::new(parse_any_idx),
        memory: some_copies,
    }
}

pub fn idx_gzipped() -> Parser {
    let mut seeds: Vec<Vec<u8>> = idx_files().iter().map(|f| zipped(f)).collect();
    seeds.push(zipped(&idx_file(&[50, 50], &[0; 2500])));
    // Two members, one after the other, are one file.
    let halves = idx_files()[1].clone();
    seeds.push([zipped(&halves[..10]), zipped(&halves[10..])].concat());
    Parser {
        name: "gzipped IDX",
        seeds,
        words: &[],
        parse: Box::new(parse_any_idx),
        memory: inflated,
    }
}

fn cifar_files() -> Vec<Vec<u8>> {
    let record = |label: u8| [vec![label], (0..3072).map(|i| (i % 7) as u8).collect()].concat();
    vec![record(3), [record(0), record(9)].concat()]
}

fn parse_any_cifar(bytes: &[u8]) -> Result<(), String> {
    let set = parse_cifar10("fuzz", bytes).map_err(text)?;
    assert_eq!(set.images.len(), 3072 * set.len());
    assert!(set.labels.iter().all(|l| *l <= 9));
    Ok(())
}

pub fn cifar() -> Parser {
    Parser {
        name: "CIFAR-10",
        seeds: cifar_files(),
        words: &[],
        parse: Box::new(parse_any_cifar),
        memory: some_copies,
    }
}

pub fn cifar_gzipped() -> Parser {
    Parser {
        name: "gzipped CIFAR-10",
        seeds: cifar_files().iter().map(|f| zipped(f)).collect(),
        words: &[],
        parse: Box::new(parse_any_cifar),
        memory: inflated,
    }
}

pub fn tuning() -> Parser {
    let good =
        r#"{"choices":[["conv2d","thin","rows"],["matmul","*","tile 64"]],"measured on":"here"}"#;
    Parser {
        name: "tuning",
        seeds: vec![
            good.into(),
            br#"{"measured on":"here","choices":[]}"#.to_vec(),
        ],
        words: JSON,
        parse: Box::new(|bytes| {
            let text = String::from_utf8_lossy(bytes);
            let choices = parse_choices(&text, "here").ok_or("ignored")?;
            for (kernel, shape, variant) in choices.iter() {
                assert_eq!(choices.get(kernel, shape), Some(variant));
            }
            Ok(())
        }),
        memory: some_copies,
    }
}

pub fn shaders() -> Parser {
    let seeds = [
        "#import grid\nstruct Args {\n    n: u32,\n}\n#args\n@compute @workgroup_size(64)\nfn main() {\n    let x = ${(N >> 1) + 2 * N % 3}u;\n}\n",
        "#if A == x\n1\n#elif B != 2\n#repeat i N/2\n#repeat j 2\na${i*2+j} ${T}\n#end\n#end\n#else\n3\n#endif\n",
        "#import math\n#repeat e 8\nlet v${e} = exp_f32(x[${e}]);\n#end\n",
    ];
    Parser {
        name: "shaders",
        seeds: seeds.iter().map(|s| s.as_bytes().to_vec()).collect(),
        words: &[
            "#if ",
            "#elif ",
            "#else\n",
            "#endif\n",
            "#repeat i 9\n",
            "#repeat j N\n",
            "#end\n",
            "#import ",
            "#args\n",
            "${",
            "}",
            "(",
            ")",
            "((((((((",
            ">>",
            "%",
            "/0",
            "N",
            "T",
            "\n",
            "grid",
            "coupling",
            "999999999",
            "{",
            "é",
            "@compute",
        ],
        parse: Box::new(|bytes| {
            let source = String::from_utf8_lossy(bytes);
            let defines = [("N", "6"), ("T", "f32"), ("B", "3u")]
                .map(|(a, b)| (a.to_string(), b.to_string()));
            preprocess("fuzz", &source, &defines, ArgsIn::Immediates)
                .map(drop)
                .map_err(text)
        }),
        // Repetition is what it is there for: as much as a kernel may be long.
        memory: |len| (16 << 20) + 64 * len,
    }
}
