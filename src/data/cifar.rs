//! The binary format of CIFAR-10: records of one label byte and 3x32x32 pixel bytes,
//! channels first.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::{ImageSet, Split};
use crate::{Error, Result};

/// Bytes of a record.
const RECORD: usize = 1 + 3 * 32 * 32;

/// Records a file may hold at most.
const MOST: usize = 1 << 20;

impl ImageSet {
    /// A folder with CIFAR-10's binary files: `data_batch_*.bin` for training, `test*.bin`
    /// for testing, in the order of their names, gzipped (`.gz`) or not. Errors: no such
    /// file, a file that is damaged or of another length, a label above 9.
    pub fn cifar10(folder: impl AsRef<Path>, split: Split) -> Result<Self> {
        let folder = folder.as_ref();
        let start = match split {
            Split::Train => "data_batch",
            Split::Test => "test",
        };
        let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
            .map_err(|e| Error::io(folder, e))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
                name.starts_with(start) && (name.ends_with(".bin") || name.ends_with(".bin.gz"))
            })
            .collect();
        files.sort();
        if files.is_empty() {
            return Err(Error::Data {
                file: folder.display().to_string(),
                detail: format!("no {start}*.bin or {start}*.bin.gz is there"),
            });
        }
        let (mut images, mut labels) = (Vec::new(), Vec::new());
        for path in &files {
            let file = std::fs::File::open(path).map_err(|e| Error::io(path, e))?;
            let part = parse_cifar10(&path.display().to_string(), file)?;
            images.extend(part.images);
            labels.extend(part.labels);
        }
        ImageSet::new([labels.len(), 3, 32, 32], images, labels)
    }
}

/// Parses the records that `reader` gives, gzipped or not (told by the first bytes: no
/// label is above 9); `name` is for errors.
pub fn parse_cifar10(name: &str, mut reader: impl Read) -> Result<ImageSet> {
    let wrong = |detail: String| Error::Data {
        file: name.into(),
        detail,
    };
    let mut magic = Vec::with_capacity(2);
    reader
        .by_ref()
        .take(2)
        .read_to_end(&mut magic)
        .map_err(|e| wrong(e.to_string()))?;
    let zipped = magic == [0x1f, 0x8b];
    let whole = std::io::Cursor::new(magic).chain(reader);
    let mut bytes = Vec::new();
    let most = (RECORD * MOST + 1) as u64;
    let read = match zipped {
        true => flate2::read::MultiGzDecoder::new(whole)
            .take(most)
            .read_to_end(&mut bytes),
        false => whole.take(most).read_to_end(&mut bytes),
    };
    read.map_err(|e| wrong(e.to_string()))?;
    if bytes.is_empty() || !bytes.len().is_multiple_of(RECORD) || bytes.len() > RECORD * MOST {
        return Err(wrong(format!(
            "{} bytes are no whole number of records of {RECORD} bytes (one label, 3x32x32 pixels)",
            bytes.len()
        )));
    }
    let mut images = Vec::with_capacity(bytes.len());
    let mut labels = Vec::with_capacity(bytes.len() / RECORD);
    for (i, record) in bytes.chunks(RECORD).enumerate() {
        if record[0] > 9 {
            return Err(wrong(format!(
                "image {i} has the label {}, labels are 0 to 9",
                record[0]
            )));
        }
        labels.push(record[0]);
        images.extend(&record[1..]);
    }
    ImageSet::new([labels.len(), 3, 32, 32], images, labels)
}
