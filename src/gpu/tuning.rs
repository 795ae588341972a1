//! Measured choices among the variants of kernels, kept between runs.
//!
//! A file that is missing, broken, or of another adapter, driver, wgpu or set of
//! kernels is ignored: then the table decides. Nothing is written unless it is asked for.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Gpu, cache};
use crate::device::Choices;
use crate::{Error, Result};

/// Where a [`Gpu`] looks for choices that were measured before.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum TuningFile {
    /// In the user's cache directory, where [`Gpu::store_choices`] puts them.
    #[default]
    UserCache,
    /// In this file.
    At(PathBuf),
    /// Nowhere: the table decides.
    Off,
}

/// Choices are a few kilobytes; a longer file is none.
const MAX_BYTES: u64 = 1 << 20;

/// The version of wgpu whose code generation was measured.
pub const WGPU_VERSION: &str = "30.0.1";

/// The kernels that have variants.
const KERNELS: &[&str] = &[
    include_str!("../../shaders/conv/register.wgsl"),
    include_str!("../../shaders/conv/columns.wgsl"),
    include_str!("../../shaders/conv/pack.wgsl"),
    include_str!("../../shaders/conv/pack_weight.wgsl"),
    include_str!("../../shaders/conv/rows.wgsl"),
    include_str!("../../shaders/conv/packed.wgsl"),
    include_str!("../../shaders/conv/tile.wgsl"),
    include_str!("../../shaders/product/register.wgsl"),
    include_str!("../../shaders/product/merge.wgsl"),
    include_str!("../../shaders/product/pack.wgsl"),
    include_str!("../../shaders/product/row.wgsl"),
    include_str!("../../shaders/product/shuffle.wgsl"),
    include_str!("../../shaders/product/tile.wgsl"),
    include_str!("../../shaders/lib/grid.wgsl"),
    include_str!("../../shaders/lib/wide.wgsl"),
];

impl TuningFile {
    fn path(&self, info: &wgpu::AdapterInfo) -> Option<PathBuf> {
        match self {
            TuningFile::Off => None,
            TuningFile::At(path) => Some(path.clone()),
            TuningFile::UserCache => {
                let adapter = hash(&[&info.name, &format!("{:?}", info.backend)]);
                Some(cache::directory()?.join(format!("tuning_{adapter:016x}.json")))
            }
        }
    }

    /// What was measured on this adapter; nothing where there is nothing that holds.
    pub(super) fn load(&self, info: &wgpu::AdapterInfo) -> Choices {
        let text = self.path(info).and_then(|path| read(&path));
        text.and_then(|text| parse_choices(&text, &key(info)))
            .unwrap_or_default()
    }
}

impl Gpu {
    /// Writes measured choices to `file`, where [`Gpu::with`] finds them for the same
    /// adapter, driver, wgpu and kernels, and returns its path. Errors: no cache
    /// directory, or a file that cannot be written.
    pub fn store_choices(&self, file: &TuningFile, choices: &Choices) -> Result<PathBuf> {
        let info = &self.0.info;
        let path = file.path(info).ok_or_else(|| Error::Io {
            path: "the user's cache directory".into(),
            detail: "there is none; set HOME or XDG_CACHE_HOME".into(),
        })?;
        let fail = |e| Error::io(&path, e);
        if let Some(parent) = path.parent().filter(|p| *p != Path::new("")) {
            std::fs::create_dir_all(parent).map_err(fail)?;
        }
        std::fs::write(&path, encode(choices, &key(info))).map_err(fail)?;
        Ok(path)
    }
}

/// What a measurement is valid for.
fn key(info: &wgpu::AdapterInfo) -> String {
    format!(
        "{} {:?} {:x}:{:x}, {} {}, wgpu {WGPU_VERSION}, kernels {:016x}",
        info.name,
        info.backend,
        info.vendor,
        info.device,
        info.driver,
        info.driver_info,
        hash(KERNELS),
    )
}

fn read(path: &Path) -> Option<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path).ok()?;
    file.take(MAX_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}

fn encode(choices: &Choices, key: &str) -> String {
    let rows: Vec<Value> = choices
        .iter()
        .map(|(kernel, shape, variant)| json!([kernel, shape, variant]))
        .collect();
    json!({ "measured on": key, "choices": rows }).to_string()
}

/// The choices in the text of a tuning file, if they were measured on `adapter`, the
/// adapter in the words of such files; nothing where they were not, or the text is broken.
pub fn parse_choices(text: &str, adapter: &str) -> Option<Choices> {
    let file: Value = serde_json::from_str(text).ok()?;
    if file["measured on"] != adapter {
        return None;
    }
    let mut choices = Choices::default();
    for row in file["choices"].as_array()? {
        let word = |i: usize| row.get(i)?.as_str();
        choices.set(word(0)?, word(1)?, word(2)?);
    }
    Some(choices)
}

/// FNV-1a.
fn hash(texts: &[&str]) -> u64 {
    let bytes = texts.iter().flat_map(|t| t.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    })
}
