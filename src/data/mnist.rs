//! Image sets, and the MNIST folder layout.

use std::path::Path;

use super::idx::{Idx, read_idx};
use crate::{Error, Result};

/// Labelled images in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSet {
    /// `[n, c, h, w]`
    pub shape: [usize; 4],
    /// The pixels, row-major.
    pub images: Vec<u8>,
    /// One label per image.
    pub labels: Vec<u8>,
}

/// Which part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// `train-*`
    Train,
    /// `t10k-*`
    Test,
}

impl ImageSet {
    /// A set of `[n, c, h, w]` pixels with one label per image. Errors: the
    /// numbers do not fit together.
    pub fn new(shape: [usize; 4], images: Vec<u8>, labels: Vec<u8>) -> Result<Self> {
        let elements = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        if elements != Some(images.len()) || labels.len() != shape[0] || images.is_empty() {
            return Err(Error::Data {
                file: "image set".into(),
                detail: format!(
                    "{} pixels and {} labels for shape {shape:?}",
                    images.len(),
                    labels.len()
                ),
            });
        }
        Ok(ImageSet {
            shape,
            images,
            labels,
        })
    }

    /// A folder with MNIST's file names (also Fashion-MNIST, KMNIST):
    /// `train-images-idx3-ubyte` and so on, gzipped (`.gz`) or not. Files of rank 4
    /// are read as `[n, c, h, w]`. Errors: files that are missing, damaged, or do
    /// not belong together.
    pub fn mnist(folder: impl AsRef<Path>, split: Split) -> Result<Self> {
        let folder = folder.as_ref();
        let start = match split {
            Split::Train => "train",
            Split::Test => "t10k",
        };
        let images = find(folder, start, "images", &["idx3", "idx4"])?;
        let labels = find(folder, start, "labels", &["idx1"])?;
        let wrong = |detail: String| Error::Data {
            file: folder.display().to_string(),
            detail,
        };
        let shape = match images.dims[..] {
            [n, h, w] => [n, 1, h, w],
            [n, c, h, w] => [n, c, h, w],
            _ => return Err(wrong(format!("images have extents {:?}", images.dims))),
        };
        if labels.dims != [shape[0]] {
            return Err(wrong(format!(
                "{} images, but labels have extents {:?}",
                shape[0], labels.dims
            )));
        }
        ImageSet::new(shape, images.data, labels.data)
    }

    /// The number of images.
    pub fn len(&self) -> usize {
        self.shape[0]
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Elements of one image.
    pub fn image_len(&self) -> usize {
        self.shape[1] * self.shape[2] * self.shape[3]
    }

    /// The largest label plus one.
    pub fn classes(&self) -> usize {
        self.labels.iter().max().map_or(0, |l| *l as usize + 1)
    }

    /// The pixels of image `i`, or `None` behind the last.
    pub fn image(&self, i: usize) -> Option<&[u8]> {
        let n = self.image_len();
        let end = i.checked_add(1)?.checked_mul(n)?;
        self.images.get(end - n..end)
    }

    /// The first `n` images.
    pub fn take(mut self, n: usize) -> Self {
        let n = n.min(self.len());
        self.images.truncate(n * self.image_len());
        self.labels.truncate(n);
        self.shape[0] = n;
        self
    }

    /// The images with a border of zeros, so that they have `height` and `width`; an odd
    /// row or column more goes below or to the right. Error: they are larger already.
    pub fn padded(&self, height: usize, width: usize) -> Result<Self> {
        let [n, c, h, w] = self.shape;
        let size = [n, c, height, width]
            .iter()
            .try_fold(1usize, |n, d| n.checked_mul(*d));
        if height < h || width < w || size.is_none_or(|n| n > 1 << 32) {
            return Err(Error::Data {
                file: "image set".into(),
                detail: format!("images of {h}x{w} cannot be padded to {height}x{width}"),
            });
        }
        let (top, left) = ((height - h) / 2, (width - w) / 2);
        let mut images = vec![0; n * c * height * width];
        for (i, row) in self.images.chunks(w).enumerate() {
            let at = (i / h * height + top + i % h) * width + left;
            images[at..at + w].copy_from_slice(row);
        }
        ImageSet::new([n, c, height, width], images, self.labels.clone())
    }

    /// The images at `indices` as floats `0..=255`, `[indices, c, h, w]`. Indices
    /// behind the last image are an error.
    pub fn pixels(&self, indices: &[usize]) -> Result<Vec<f32>> {
        let mut out = Vec::with_capacity(indices.len() * self.image_len());
        for i in indices {
            let image = self.image(*i).ok_or_else(|| self.no_image(*i))?;
            out.extend(image.iter().map(|v| *v as f32));
        }
        Ok(out)
    }

    /// The labels at `indices`.
    pub fn labels(&self, indices: &[usize]) -> Result<Vec<u32>> {
        let label = |i: &usize| self.labels.get(*i).map(|l| *l as u32);
        indices
            .iter()
            .map(|i| label(i).ok_or_else(|| self.no_image(*i)))
            .collect()
    }

    fn no_image(&self, i: usize) -> Error {
        Error::Data {
            file: "image set".into(),
            detail: format!("image {i} was asked for, there are {}", self.len()),
        }
    }
}

fn find(folder: &Path, start: &str, what: &str, kinds: &[&str]) -> Result<Idx> {
    let names = kinds.iter().flat_map(|kind| {
        let name = format!("{start}-{what}-{kind}-ubyte");
        [name.clone(), format!("{name}.gz")]
    });
    let names: Vec<String> = names.collect();
    match names.iter().map(|n| folder.join(n)).find(|p| p.is_file()) {
        Some(path) => read_idx(path),
        None => Err(Error::Data {
            file: folder.display().to_string(),
            detail: format!("none of {} is there", names.join(", ")),
        }),
    }
}
