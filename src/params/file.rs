//! The safetensors file format: reading tensor by tensor, writing atomically.
//!
//! A file is not trusted: the header's length is checked against the file's before
//! anything is allocated, offsets and shapes by the `safetensors` crate, no name may
//! stand in it twice, and every value must be finite.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use safetensors::tensor::{Dtype, Metadata, TensorInfo, View};

use crate::{Error, Result};

/// Headers of real models have a few hundred kilobytes.
const MAX_HEADER: u64 = 100_000_000;

/// The element type in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// float32: exact.
    #[default]
    F32,
    /// IEEE float16: 11 significant bits, up to 65504.
    F16,
    /// bfloat16: 8 significant bits, the range of float32.
    BF16,
}

/// A safetensors file, open for reading.
#[derive(Debug)]
pub struct WeightsFile<R = BufReader<File>> {
    path: PathBuf,
    reader: R,
    header: Metadata,
    /// Where the data begins, in bytes.
    start: u64,
}

impl WeightsFile {
    /// Opens a file and checks its header. Errors: [`Error::Io`], or
    /// [`Error::Weights`] for anything that is not a whole safetensors file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        WeightsFile::parse(path, BufReader::new(file))
    }
}

impl<R: Read + Seek> WeightsFile<R> {
    /// The same for anything that can be read and sought, as bytes in memory
    /// (`std::io::Cursor`); `name` is for errors.
    pub fn parse(name: impl AsRef<Path>, mut reader: R) -> Result<Self> {
        let path = name.as_ref().to_path_buf();
        let io = |e| Error::io(&path, e);
        let wrong = |detail: String| weights(&path, "", detail);
        let length = reader.seek(SeekFrom::End(0)).map_err(io)?;
        if length < 8 {
            return Err(wrong(format!(
                "{length} bytes are too few for a safetensors file"
            )));
        }
        reader.seek(SeekFrom::Start(0)).map_err(io)?;
        let mut word = [0; 8];
        reader.read_exact(&mut word).map_err(io)?;
        let header = u64::from_le_bytes(word);
        if header > MAX_HEADER || header > length - 8 {
            return Err(wrong(format!(
                "the header claims {header} bytes, the file has {}: not a safetensors file, or truncated",
                length - 8
            )));
        }
        let mut text = vec![0; header as usize];
        reader.read_exact(&mut text).map_err(io)?;
        let header: Metadata = serde_json::from_slice(&text)
            .map_err(|e| wrong(format!("the header is not valid: {e}")))?;
        if let Some(name) = repeated_key(&text) {
            return Err(wrong(format!(
                "`{name}` stands in the header twice: which one is meant cannot be told"
            )));
        }
        let start = 8 + text.len() as u64;
        if header.data_len() as u64 != length - start {
            return Err(wrong(format!(
                "the header describes {} bytes of data, the file holds {}: truncated or extended",
                header.data_len(),
                length - start
            )));
        }
        Ok(WeightsFile {
            path,
            reader,
            header,
            start,
        })
    }

    /// Its path, or the name that it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of the tensors, in file order.
    pub fn names(&self) -> Vec<String> {
        self.header.offset_keys()
    }

    /// The strings beside the tensors.
    pub fn metadata(&self) -> HashMap<String, String> {
        self.header.metadata().clone().unwrap_or_default()
    }

    /// The shape of a tensor, or `None` where there is no such tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(&self.header.info(name)?.shape)
    }

    /// Whether a tensor holds floats that [`WeightsFile::read`] accepts.
    pub fn is_float(&self, name: &str) -> bool {
        let info = self.header.info(name);
        info.is_some_and(|i| float_bytes(i.dtype).is_some())
    }

    /// A tensor as float32, row-major. F32, F16, BF16 and F64 are accepted.
    /// Errors: no such tensor, another element type, a value that is not finite.
    pub fn read(&mut self, name: &str) -> Result<Vec<f32>> {
        let path = self.path.clone();
        let wrong = |detail: String| weights(&path, name, detail);
        let info = self.info(name)?;
        let Some(size) = float_bytes(info.dtype) else {
            return Err(wrong(format!(
                "its elements are {:?}; F32, F16, BF16 and F64 can be read",
                info.dtype
            )));
        };
        let (dtype, (from, to)) = (info.dtype, info.data_offsets);
        self.reader
            .seek(SeekFrom::Start(self.start + from as u64))
            .map_err(|e| Error::io(&path, e))?;
        // In pieces, so that nothing larger than the values themselves is held.
        let mut values = Vec::with_capacity((to - from) / size);
        let mut piece = vec![0; (1 << 16).min(to - from)];
        let mut left = to - from;
        while left > 0 {
            let piece = &mut piece[..left.min(1 << 16)];
            self.reader
                .read_exact(piece)
                .map_err(|e| Error::io(&path, e))?;
            values.extend(piece.chunks_exact(size).map(|b| decode(dtype, b)));
            left -= piece.len();
        }
        match values.iter().position(|v: &f32| !v.is_finite()) {
            Some(at) => Err(wrong(format!(
                "element {at} is {}, as float32; weights must be finite",
                values[at]
            ))),
            None => Ok(values),
        }
    }

    fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.header.info(name).ok_or_else(|| {
            weights(
                &self.path,
                name,
                format!(
                    "it is not among the file's {} tensors",
                    self.header.offset_keys().len()
                ),
            )
        })
    }
}

/// An [`Error::Weights`].
pub(crate) fn weights(path: &Path, tensor: &str, detail: impl Into<String>) -> Error {
    Error::Weights {
        file: path.display().to_string(),
        tensor: tensor.into(),
        detail: detail.into(),
    }
}

/// The first key that an object of `json`, which must be valid, has twice. Parsers
/// take the last of them, or the first: the same file would be two.
fn repeated_key(json: &[u8]) -> Option<String> {
    let mut objects: Vec<HashSet<String>> = Vec::new();
    let mut string = String::new();
    let mut at = 0;
    while let Some(byte) = json.get(at) {
        match byte {
            b'{' => objects.push(HashSet::new()),
            b'}' => drop(objects.pop()),
            b'"' => {
                let start = at;
                at += 1;
                while json.get(at).is_some_and(|b| *b != b'"') {
                    at += 1 + usize::from(json[at] == b'\\');
                }
                // Escapes resolved: one name can be written in many ways.
                string = serde_json::from_slice(json.get(start..=at)?).ok()?;
            }
            // Strings are skipped, so a colon follows a key.
            b':' => {
                let key = std::mem::take(&mut string);
                if !objects.last_mut()?.insert(key.clone()) {
                    return Some(key);
                }
            }
            _ => {}
        }
        at += 1;
    }
    None
}

fn float_bytes(dtype: Dtype) -> Option<usize> {
    match dtype {
        Dtype::F16 | Dtype::BF16 => Some(2),
        Dtype::F32 => Some(4),
        Dtype::F64 => Some(8),
        _ => None,
    }
}

fn decode(dtype: Dtype, b: &[u8]) -> f32 {
    match (dtype, b) {
        (Dtype::F16, &[a, b]) => half::f16::from_le_bytes([a, b]).to_f32(),
        (Dtype::BF16, &[a, b]) => half::bf16::from_le_bytes([a, b]).to_f32(),
        (Dtype::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
        (_, &[a, b, c, d, e, f, g, h]) => f64::from_le_bytes([a, b, c, d, e, f, g, h]) as f32,
        _ => f32::NAN,
    }
}

/// A tensor on its way into a file.
pub(crate) struct Record {
    pub name: String,
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

struct Encoded {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl View for Encoded {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }
    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

fn encode(record: &Record, precision: Precision) -> Encoded {
    let values = &record.values;
    let (dtype, bytes) = match precision {
        Precision::F32 => (
            Dtype::F32,
            values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        ),
        Precision::F16 => (
            Dtype::F16,
            values
                .iter()
                .flat_map(|v| half::f16::from_f32(*v).to_le_bytes())
                .collect(),
        ),
        Precision::BF16 => (
            Dtype::BF16,
            values
                .iter()
                .flat_map(|v| half::bf16::from_f32(*v).to_le_bytes())
                .collect(),
        ),
    };
    Encoded {
        dtype,
        shape: record.shape.clone(),
        bytes,
    }
}

/// Writes a file so that a crash leaves either the old one or the new one.
/// Errors: a value that is not finite or too large for the precision.
pub(crate) fn write(
    path: &Path,
    records: Vec<Record>,
    metadata: HashMap<String, String>,
    precision: Precision,
) -> Result<()> {
    let limit = match precision {
        Precision::F16 => half::f16::MAX.to_f32(),
        Precision::BF16 => half::bf16::MAX.to_f32(),
        Precision::F32 => f32::MAX,
    };
    let mut tensors = Vec::with_capacity(records.len());
    for record in records {
        // A diverged model must not replace the last good file.
        if let Some(at) = record
            .values
            .iter()
            .position(|v| v.is_nan() || v.abs() > limit)
        {
            let detail = format!(
                "element {at} is {}, which {precision:?} cannot hold or a file must not; nothing was written",
                record.values[at]
            );
            return Err(weights(path, &record.name, detail));
        }
        let encoded = encode(&record, precision);
        tensors.push((record.name, encoded));
    }
    let bytes = safetensors::serialize(tensors, Some(metadata))
        .map_err(|e| weights(path, "", e.to_string()))?;
    write_atomically(path, &bytes)
}

fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let Some(name) = path.file_name() else {
        return Err(Error::argument("save", "the path names no file"));
    };
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(
        ".{}-{}.tmp",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    ));
    // In the same folder: only there is a rename atomic.
    let temporary = path.with_file_name(temporary);
    let attempt = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    attempt().map_err(|e| {
        // The first error is the one to report; there may be nothing to remove.
        let _ = std::fs::remove_file(&temporary);
        Error::io(path, e)
    })
}
