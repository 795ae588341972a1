//! `--data`, for examples that learn images.

use std::path::PathBuf;

use clap::Args;
use flowgrad::data::{ImageSet, Split};

use super::{Outcome, digits_dir};

/// Flags of examples that learn images; put into their arguments by `#[command(flatten)]`.
#[derive(Args, Debug, Clone)]
pub struct ImageArgs {
    /// Folder with images under MNIST's or CIFAR-10's (binary) file names; the shipped
    /// digits without it
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Evaluate on the first N held-out images only
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub test_images: usize,
}

/// Training and held-out images.
pub struct ImageSets {
    pub train: ImageSet,
    pub test: ImageSet,
    /// The levels that a pixel has; white is `bins - 1`.
    pub bins: usize,
}

impl ImageArgs {
    /// The images, padded with zeros until height and width are divisible by `multiple`.
    pub fn sets(&self, multiple: usize) -> Outcome<ImageSets> {
        let (folder, bins) = match &self.data {
            Some(folder) => (folder.clone(), 256),
            None => (digits_dir(), 17),
        };
        let cifar = std::fs::read_dir(&folder)
            .map_err(|e| format!("{}: {e}", folder.display()))?
            .filter_map(Result::ok)
            .any(|f| f.file_name().to_string_lossy().starts_with("data_batch"));
        let read = |split: Split| -> flowgrad::Result<ImageSet> {
            let set = match cifar {
                true => ImageSet::cifar10(&folder, split)?,
                false => ImageSet::mnist(&folder, split)?,
            };
            let [_, _, h, w] = set.shape;
            let (height, width) = (h.next_multiple_of(multiple), w.next_multiple_of(multiple));
            match (height, width) == (h, w) {
                true => Ok(set),
                false => set.padded(height, width),
            }
        };
        Ok(ImageSets {
            train: read(Split::Train)?,
            test: read(Split::Test)?.take(self.test_images.max(1)),
            bins,
        })
    }
}

impl ImageSets {
    /// Channels, height and width.
    pub fn image(&self) -> [usize; 3] {
        let [_, channels, height, width] = self.train.shape;
        [channels, height, width]
    }

    /// Images of `set` with pixels scaled from `0..=bins - 1` to `0..=1`.
    pub fn scaled(&self, set: &ImageSet, items: &[usize]) -> flowgrad::Result<Vec<f32>> {
        let white = self.bins as f32 - 1.0;
        Ok(set.pixels(items)?.iter().map(|v| v / white).collect())
    }
}
