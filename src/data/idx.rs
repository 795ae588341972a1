//! The IDX format of MNIST and its relatives, plain or gzipped.
//!
//! `0 0 type rank`, then `rank` big-endian u32 extents, then the elements. Files
//! are not trusted: sizes are checked before anything is allocated for them.

use std::io::Read;
use std::path::Path;

use crate::{Error, Result};

/// Elements a file may hold at most.
pub const MAX_IDX_BYTES: usize = 1 << 30;

/// How often deflate can shrink anything at most: 258 bytes are two bits.
const MAX_RATIO: u64 = 1032;

/// A parsed file of unsigned bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idx {
    /// The extents.
    pub dims: Vec<usize>,
    /// The elements, row-major.
    pub data: Vec<u8>,
}

/// Reads an IDX file of unsigned bytes, gzipped or not (told by its first bytes).
/// Errors: [`Error::Io`], or [`Error::Data`] with what is wrong.
pub fn read_idx(path: impl AsRef<Path>) -> Result<Idx> {
    let path = path.as_ref();
    let file = std::fs::File::open(path).map_err(|e| Error::io(path, e))?;
    // Pipes have no length.
    let known = file.metadata().ok().filter(|m| m.is_file());
    parse(&path.display().to_string(), file, known.map(|m| m.len()))
}

/// Parses what `reader` gives, gzipped or not; `name` is for errors. No more is read,
/// or inflated, than the header promises and one byte to see that this is the end.
pub fn parse_idx(name: &str, reader: impl Read) -> Result<Idx> {
    parse(name, reader, None)
}

/// With the bytes that there are to read, where that is known.
fn parse(name: &str, mut reader: impl Read, length: Option<u64>) -> Result<Idx> {
    let mut magic = Vec::with_capacity(2);
    reader
        .by_ref()
        .take(2)
        .read_to_end(&mut magic)
        .map_err(|e| wrong(name, e.to_string()))?;
    let zipped = magic == [0x1f, 0x8b];
    let whole = std::io::Cursor::new(magic).chain(reader);
    match zipped {
        true => {
            let most = length.map(|l| l.saturating_mul(MAX_RATIO));
            plain(name, flate2::read::MultiGzDecoder::new(whole), most)
        }
        false => plain(name, whole, length),
    }
}

fn wrong(name: &str, detail: impl Into<String>) -> Error {
    Error::Data {
        file: name.into(),
        detail: detail.into(),
    }
}

/// At most `most` bytes are there, where that is known.
fn plain(name: &str, mut reader: impl Read, most: Option<u64>) -> Result<Idx> {
    let truncated = |what: &str, e: std::io::Error| wrong(name, format!("{what}: {e}"));
    let mut head = [0; 4];
    reader
        .read_exact(&mut head)
        .map_err(|e| truncated("the header is incomplete", e))?;
    let [zero, zero2, kind, rank] = head;
    if (zero, zero2) != (0, 0) {
        return Err(wrong(
            name,
            format!("not an IDX file: it begins with {head:02x?}, expected 00 00"),
        ));
    }
    if kind != 0x08 {
        return Err(wrong(
            name,
            format!("element type {kind:#04x}, only unsigned bytes (0x08) are supported"),
        ));
    }
    if !(1..=4).contains(&rank) {
        return Err(wrong(name, format!("rank {rank}, expected 1 to 4")));
    }
    let mut dims = Vec::with_capacity(rank as usize);
    for _ in 0..rank {
        let mut word = [0; 4];
        reader
            .read_exact(&mut word)
            .map_err(|e| truncated("the extents are incomplete", e))?;
        dims.push(u32::from_be_bytes(word) as usize);
    }
    let elements = dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
    let elements = match elements {
        Some(0) => return Err(wrong(name, format!("empty: extents {dims:?}"))),
        Some(n) if n <= MAX_IDX_BYTES => n,
        _ => {
            return Err(wrong(
                name,
                format!("extents {dims:?} exceed the limit of {MAX_IDX_BYTES} elements"),
            ));
        }
    };
    if let Some(most) = most.filter(|most| *most < elements as u64) {
        return Err(wrong(
            name,
            format!("truncated: the header says {elements} elements, there are at most {most}"),
        ));
    }
    // Grows with what is there, not with what the header claims.
    let mut data = Vec::new();
    reader
        .by_ref()
        .take(elements as u64)
        .read_to_end(&mut data)
        .map_err(|e| truncated("the elements cannot be read", e))?;
    if data.len() != elements {
        return Err(wrong(
            name,
            format!(
                "truncated: {} elements, the header says {elements}",
                data.len()
            ),
        ));
    }
    let mut more = [0; 1];
    match reader.read(&mut more) {
        Ok(0) => Ok(Idx { dims, data }),
        Ok(_) => Err(wrong(
            name,
            format!("bytes follow the {elements} elements of the header"),
        )),
        Err(e) => Err(truncated("the end of the file is damaged", e)),
    }
}
