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
        for file in &files {
            read(file, &mut images, &mut labels)?;
        }
        ImageSet::new([labels.len(), 3, 32, 32], images, labels)
    }
}

fn read(path: &Path, images: &mut Vec<u8>, labels: &mut Vec<u8>) -> Result<()> {
    let wrong = |detail: String| Error::Data {
        file: path.display().to_string(),
        detail,
    };
    let file = std::fs::File::open(path).map_err(|e| Error::io(path, e))?;
    let zipped = path.extension().is_some_and(|e| e == "gz");
    let reader: Box<dyn Read> = match zipped {
        true => Box::new(flate2::read::MultiGzDecoder::new(file)),
        false => Box::new(file),
    };
    let mut bytes = Vec::new();
    reader
        .take((RECORD * MOST + 1) as u64)
        .read_to_end(&mut bytes)
        .map_err(|e| wrong(e.to_string()))?;
    if bytes.is_empty() || !bytes.len().is_multiple_of(RECORD) || bytes.len() > RECORD * MOST {
        return Err(wrong(format!(
            "{} bytes are no whole number of records of {RECORD} bytes (one label, 3x32x32 pixels)",
            bytes.len()
        )));
    }
    for (i, record) in bytes.chunks(RECORD).enumerate() {
        if record[0] > 9 {
            return Err(wrong(format!("image {i} has the label {}", record[0])));
        }
        labels.push(record[0]);
        images.extend(&record[1..]);
    }
    Ok(())
}
