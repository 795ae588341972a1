//! Everything a training run needs to go on exactly where it stopped, in one
//! safetensors file: parameters, states, optimiser moments, averages, and the
//! counters as metadata.
//!
//! Moments are stored parameter by parameter (`arena/optim.m/enc.weight`), not as
//! the arenas lie in memory, so a checkpoint does not depend on the layout. A
//! checksum over everything (counters and strings, names, shapes, values) guards
//! against damaged files.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Seek};
use std::path::Path;
use std::str::FromStr;

use crate::params::{
    ArenaKind, COMPANION, Layout, LoadRules, Params, Precision, Record, WeightsFile, weights_error,
    write_weights,
};
use crate::{Error, Result};

const FORMAT: &str = "flowgrad checkpoint 2";

/// The format before, whose checksum left out the counters; it can still be read.
const FORMAT_1: &str = "flowgrad checkpoint 1";

/// The metadata that holds the checksum over all the rest.
const CHECKSUM: &str = "crc32";

/// The counters of a run; what the tensors of a checkpoint come with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checkpoint {
    /// Steps done.
    pub step: u64,
    /// The seed of the random state and of the batches.
    pub seed: u64,
    /// The step of the program's random state.
    pub random_step: u32,
    /// Anything else worth keeping: the configuration, the best score.
    pub extra: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Writes a checkpoint; an older file at `path` is replaced atomically. Errors:
    /// a value that is not finite (the old file stays), or writing fails.
    pub fn save(&self, path: impl AsRef<Path>, params: &Params) -> Result<()> {
        let mut records = params.root().records("")?;
        records.extend(companions(params)?);
        records.sort_by(|a, b| a.name.cmp(&b.name));
        let mut metadata = HashMap::from([
            ("format".to_string(), FORMAT.to_string()),
            ("step".to_string(), self.step.to_string()),
            ("seed".to_string(), self.seed.to_string()),
            ("random_step".to_string(), self.random_step.to_string()),
        ]);
        for (key, value) in &self.extra {
            metadata.insert(format!("extra/{key}"), value.clone());
        }
        let sum = checksum(&metadata, &records);
        metadata.insert(CHECKSUM.into(), sum.to_string());
        write_weights(path.as_ref(), records, metadata, Precision::F32)
    }

    /// Restores a checkpoint. Build (or compile) the programs first: the set must
    /// have the same parameters and the same optimisers as when it was saved.
    /// Nothing changes unless the whole file is good. Errors: no checkpoint,
    /// truncated or damaged; parameters or moments that are missing, unexpected or
    /// of another shape.
    pub fn load(path: impl AsRef<Path>, params: &Params) -> Result<Self> {
        Self::load_from(WeightsFile::open(path)?, params)
    }

    /// The same from a file that is open already, or that lies in memory.
    pub fn load_from<R: Read + Seek>(mut file: WeightsFile<R>, params: &Params) -> Result<Self> {
        let path = &file.path().to_path_buf();
        let metadata = file.metadata();
        let format = metadata.get("format").map(String::as_str);
        if format != Some(FORMAT) && format != Some(FORMAT_1) {
            return Err(weights_error(
                path,
                "",
                format!(
                    "not a checkpoint: its format is {format:?}, expected {FORMAT:?}; weights are loaded with `Params::load`"
                ),
            ));
        }
        let checkpoint = Checkpoint {
            step: number(path, &metadata, "step")?,
            seed: number(path, &metadata, "seed")?,
            random_step: number(path, &metadata, "random_step")?,
            extra: metadata
                .iter()
                .filter_map(|(k, v)| Some((k.strip_prefix("extra/")?.to_string(), v.clone())))
                .collect(),
        };
        let root = params.root();
        let (report, _) = root.match_file(&file, &LoadRules::default())?;
        report.demand_all(path)?;
        let expected = companion_shapes(&root);
        check_companions(path, &file, &expected)?;
        let names = file.names();
        let mut records = Vec::with_capacity(names.len());
        for name in names {
            records.push(Record {
                shape: file.shape(&name).unwrap_or_default().to_vec(),
                values: file.read(&name)?,
                name,
            });
        }
        records.sort_by(|a, b| a.name.cmp(&b.name));
        let sum = match format == Some(FORMAT) {
            true => checksum(&metadata, &records),
            false => checksum_1(&records),
        };
        if sum != number::<u32>(path, &metadata, CHECKSUM)? {
            return Err(weights_error(
                path,
                "",
                "the checksum does not match: the file is damaged",
            ));
        }
        restore(&root, records)?;
        Ok(checkpoint)
    }
}

fn number<T: FromStr>(path: &Path, metadata: &HashMap<String, String>, key: &str) -> Result<T> {
    let text = metadata.get(key);
    text.and_then(|t| t.parse().ok()).ok_or_else(|| {
        weights_error(
            path,
            "",
            format!("the checkpoint's `{key}` is {text:?}, expected a number"),
        )
    })
}

/// CRC-32 over the metadata but for the checksum itself, then over names, shapes and
/// values in the order given; every text and list after its length, so that no two
/// contents are one sequence of bytes.
fn checksum(metadata: &HashMap<String, String>, records: &[Record]) -> u32 {
    let mut crc = flate2::Crc::new();
    let mut put = |bytes: &[u8]| {
        crc.update(&(bytes.len() as u64).to_le_bytes());
        crc.update(bytes);
    };
    let sorted: BTreeMap<&String, &String> = metadata.iter().collect();
    for (key, value) in sorted.into_iter().filter(|(k, _)| *k != CHECKSUM) {
        put(key.as_bytes());
        put(value.as_bytes());
    }
    for record in records {
        put(record.name.as_bytes());
        let shape: Vec<u8> = record
            .shape
            .iter()
            .flat_map(|d| (*d as u64).to_le_bytes())
            .collect();
        put(&shape);
        put(bytemuck::cast_slice(&record.values));
    }
    crc.sum()
}

/// That of the format before: over names and values only.
fn checksum_1(records: &[Record]) -> u32 {
    let mut crc = flate2::Crc::new();
    for record in records {
        crc.update(record.name.as_bytes());
        crc.update(bytemuck::cast_slice(&record.values));
    }
    crc.sum()
}

/// A parameter's part of a standalone arena.
struct Companion {
    name: String,
    arena: usize,
    param: usize,
}

/// All parts of all standalone arenas that accompany parameters.
fn parts(params: &Params, layout: &Layout) -> Vec<Companion> {
    let names = params.names();
    let mut parts = Vec::new();
    for (arena, info) in layout.arenas.iter().enumerate() {
        let (ArenaKind::Standalone, Some(of)) = (info.kind, info.mirrors) else {
            continue;
        };
        // `optim.m.params.0` beside `params.0` is `optim.m`, wherever it lies.
        let suffix = format!(".{}", layout.arenas[of].name);
        let role = info.name.strip_suffix(&suffix).unwrap_or(&info.name);
        for (param, name) in names.iter().enumerate() {
            if layout.params[param].arena == of {
                parts.push(Companion {
                    name: format!("{COMPANION}{role}/{name}"),
                    arena,
                    param,
                });
            }
        }
    }
    parts
}

fn companions(params: &Params) -> Result<Vec<Record>> {
    let layout = params.layout();
    let all = params.root().all();
    let mut records = Vec::new();
    let mut current: Option<(usize, Vec<f32>)> = None;
    for part in parts(params, &layout) {
        let (_, values) = match current.take().filter(|(a, _)| *a == part.arena) {
            Some(same) => current.insert(same),
            None => current.insert((part.arena, params.arena_values(part.arena)?)),
        };
        let place = layout.params[part.param];
        records.push(Record {
            name: part.name,
            shape: all[part.param].shape().dims().to_vec(),
            values: values[place.offset..place.offset + place.len].to_vec(),
        });
    }
    Ok(records)
}

fn companion_shapes(params: &Params) -> HashMap<String, Vec<usize>> {
    let layout = params.layout();
    let all = params.all();
    parts(params, &layout)
        .into_iter()
        .map(|part| (part.name, all[part.param].shape().dims().to_vec()))
        .collect()
}

fn check_companions<R: Read + Seek>(
    path: &Path,
    file: &WeightsFile<R>,
    expected: &HashMap<String, Vec<usize>>,
) -> Result<()> {
    for (name, shape) in expected {
        match file.shape(name) {
            Some(found) if found == shape.as_slice() && file.is_float(name) => {}
            Some(found) => {
                return Err(weights_error(
                    path,
                    name,
                    format!("{found:?} in the file, {shape:?} here"),
                ));
            }
            None => {
                return Err(weights_error(
                    path,
                    name,
                    "it is not in the file: saved with another optimiser, or before its first step was built",
                ));
            }
        }
    }
    let names = file.names();
    let unknown = names
        .iter()
        .find(|n| n.starts_with(COMPANION) && !expected.contains_key(*n));
    match unknown {
        Some(name) => Err(weights_error(
            path,
            name,
            "nothing here goes with it: build the same optimiser before loading",
        )),
        None => Ok(()),
    }
}

fn restore(params: &Params, records: Vec<Record>) -> Result<()> {
    let layout = params.layout();
    let records: HashMap<String, Vec<f32>> =
        records.into_iter().map(|r| (r.name, r.values)).collect();
    let missing = |name: &str| Error::MissingParameter {
        name: name.into(),
        detail: "the set changed while a checkpoint was loaded".into(),
    };
    for param in params.all() {
        let values = records.get(param.name());
        param.set(values.ok_or_else(|| missing(param.name()))?)?;
    }
    let mut arenas: BTreeMap<usize, Vec<f32>> = BTreeMap::new();
    for part in parts(params, &layout) {
        let values = records.get(&part.name).ok_or_else(|| missing(&part.name))?;
        let len = layout.arenas[part.arena].len;
        let place = layout.params[part.param];
        let arena = arenas.entry(part.arena).or_insert_with(|| vec![0.0; len]);
        arena[place.offset..place.offset + place.len].copy_from_slice(values);
    }
    for (arena, values) in arenas {
        params.set_arena_values(arena, &values)?;
    }
    Ok(())
}
