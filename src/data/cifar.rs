//! The binary format of CIFAR-10: records of one label byte and 3x32x32 pixel bytes,
//! channels first.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::{ImageSet, Split};
use crate::{Error, Result};

/// Bytes of a record.
const RECORD: usize = 1 + 3 * 32 * 32;

/// Records that a set may hold at most, all its files together: CIFAR-10 has 60,000.
/// The format has no header that promises a number, and a small file can inflate to
/// gigabytes of records.
const MOST: usize = 1 << 16;

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
        let mut records = Records::default();
        for path in &files {
            let file = std::fs::File::open(path).map_err(|e| Error::io(path, e))?;
            records.read(&path.display().to_string(), file)?;
        }
        records.set()
    }
}

/// Parses the records that `reader` gives, gzipped or not (told by the first bytes: no
/// label is above 9); `name` is for errors. At most 65,536 are read.
pub fn parse_cifar10(name: &str, reader: impl Read) -> Result<ImageSet> {
    let mut records = Records::default();
    records.read(name, reader)?;
    records.set()
}

#[derive(Default)]
struct Records {
    images: Vec<u8>,
    labels: Vec<u8>,
}

impl Records {
    fn read(&mut self, name: &str, mut reader: impl Read) -> Result<()> {
        let mut magic = Vec::with_capacity(2);
        let read = reader.by_ref().take(2).read_to_end(&mut magic);
        read.map_err(|e| wrong(name, e.to_string()))?;
        let zipped = magic == [0x1f, 0x8b];
        let whole = std::io::Cursor::new(magic).chain(reader);
        match zipped {
            true => self.extend(name, flate2::read::MultiGzDecoder::new(whole)),
            false => self.extend(name, whole),
        }
    }

    /// Record by record: what is wrong is said before the rest is inflated.
    fn extend(&mut self, name: &str, mut reader: impl Read) -> Result<()> {
        let start = self.labels.len();
        let mut record = Vec::with_capacity(RECORD);
        loop {
            let i = self.labels.len() - start;
            record.clear();
            let read = reader.by_ref().take(RECORD as u64).read_to_end(&mut record);
            read.map_err(|e| wrong(name, e.to_string()))?;
            if record.len() < RECORD && (i == 0 || !record.is_empty()) {
                let bytes = i * RECORD + record.len();
                return Err(wrong(
                    name,
                    format!(
                        "{bytes} bytes are no whole number of records of {RECORD} bytes (one label, 3x32x32 pixels)"
                    ),
                ));
            }
            match record.first() {
                None => return Ok(()),
                Some(_) if self.labels.len() == MOST => {
                    return Err(wrong(
                        name,
                        format!("more than {MOST} records: this is not CIFAR-10"),
                    ));
                }
                Some(label @ 0..=9) => self.labels.push(*label),
                Some(label) => {
                    return Err(wrong(
                        name,
                        format!("image {i} has the label {label}, labels are 0 to 9"),
                    ));
                }
            }
            self.images.extend(&record[1..]);
        }
    }

    fn set(self) -> Result<ImageSet> {
        ImageSet::new([self.labels.len(), 3, 32, 32], self.images, self.labels)
    }
}

fn wrong(name: &str, detail: String) -> Error {
    Error::Data {
        file: name.into(),
        detail,
    }
}
