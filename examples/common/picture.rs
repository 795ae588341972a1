//! Pictures made of many small images, enlarged so that every pixel is seen.

use std::path::Path;

use image::{Rgb, RgbImage};

use super::Outcome;

/// Behind the images: neither black nor white, so that their edges show.
const GROUND: Rgb<u8> = Rgb([96, 104, 120]);

/// A batch of images as the library holds it: `[count, channels, height, width]`
/// with values from 0 to 1, one channel (grey) or three (RGB).
#[derive(Clone, Copy)]
pub struct Images<'a> {
    data: &'a [f32],
    count: usize,
    channels: usize,
    height: usize,
    width: usize,
}

impl<'a> Images<'a> {
    /// Images of the given shape; an error where the data do not fit it.
    pub fn new(data: &'a [f32], shape: [usize; 4]) -> Outcome<Self> {
        let [count, channels, height, width] = shape;
        if channels != 1 && channels != 3 {
            return Err(format!("a picture needs 1 or 3 channels, not {channels}").into());
        }
        if data.len() != shape.iter().product::<usize>() {
            return Err(format!("{} values given for images {shape:?}", data.len()).into());
        }
        Ok(Images {
            data,
            count,
            channels,
            height,
            width,
        })
    }

    /// How many images there are.
    pub fn count(&self) -> usize {
        self.count
    }

    fn pixel(&self, image: usize, y: usize, x: usize) -> Rgb<u8> {
        let plane = self.height * self.width;
        let at = |c: usize| {
            let value = self.data[(image * self.channels + c) * plane + y * self.width + x];
            // NaN becomes 0: a broken model still gives a picture.
            (value.clamp(0.0, 1.0) * 255.0).round() as u8
        };
        match self.channels {
            1 => Rgb([at(0); 3]),
            _ => Rgb([at(0), at(1), at(2)]),
        }
    }

    fn paint(&self, onto: &mut RgbImage, image: usize, left: usize, top: usize, scale: usize) {
        for y in 0..self.height * scale {
            for x in 0..self.width * scale {
                let pixel = self.pixel(image, y / scale, x / scale);
                onto.put_pixel((left + x) as u32, (top + y) as u32, pixel);
            }
        }
    }
}

/// Where cells of one size lie in a picture, with gaps between and around them.
struct Cells {
    width: usize,
    height: usize,
    gap: usize,
}

impl Cells {
    fn canvas(&self, rows: usize, cols: usize, extra: usize) -> RgbImage {
        let width = cols * (self.width + self.gap) + self.gap;
        let height = rows * (self.height + self.gap) + self.gap + extra;
        RgbImage::from_pixel(width as u32, height as u32, GROUND)
    }

    fn at(&self, row: usize, col: usize) -> (usize, usize) {
        (
            self.gap + col * (self.width + self.gap),
            self.gap + row * (self.height + self.gap),
        )
    }
}

/// The first `rows * cols` images in reading order, each pixel `scale` wide.
pub fn grid(images: &Images<'_>, rows: usize, cols: usize, scale: usize) -> RgbImage {
    let (cols, scale) = (cols.max(1), scale.max(1));
    let rows = rows.min(images.count.div_ceil(cols)).max(1);
    let cells = Cells {
        width: images.width * scale,
        height: images.height * scale,
        gap: (scale / 2).max(2),
    };
    let mut picture = cells.canvas(rows, cols, 0);
    for i in 0..images.count.min(rows * cols) {
        let (left, top) = cells.at(i / cols, i % cols);
        images.paint(&mut picture, i, left, top, scale);
    }
    picture
}

/// Pairs of rows: images above what a model made of them.
pub fn above(
    originals: &Images<'_>,
    made: &Images<'_>,
    pairs: usize,
    cols: usize,
    scale: usize,
) -> RgbImage {
    let (cols, scale) = (cols.max(1), scale.max(1));
    let count = originals.count.min(made.count);
    let pairs = pairs.min(count.div_ceil(cols)).max(1);
    let cells = Cells {
        width: originals.width.max(made.width) * scale,
        height: originals.height.max(made.height) * scale,
        gap: (scale / 2).max(2),
    };
    // A wider gap between pairs shows which rows belong together.
    let between = 2 * cells.gap;
    let mut picture = cells.canvas(2 * pairs, cols, between * (pairs - 1));
    for i in 0..count.min(pairs * cols) {
        for (k, images) in [originals, made].into_iter().enumerate() {
            let (left, top) = cells.at(2 * (i / cols) + k, i % cols);
            let top = top + between * (i / cols);
            images.paint(&mut picture, i, left, top, scale);
        }
    }
    picture
}

/// Maps of codes `[count, height, width]`, every code a colour of its own.
pub fn code_maps(
    codes: &[u32],
    [count, height, width]: [usize; 3],
    rows: usize,
    cols: usize,
    scale: usize,
) -> Outcome<RgbImage> {
    if codes.len() != count * height * width {
        return Err(format!(
            "{} codes given for {count} maps of {height} x {width}",
            codes.len()
        )
        .into());
    }
    let plane = height * width;
    let mut data = vec![0.0; count * 3 * plane];
    for (i, code) in codes.iter().enumerate() {
        for (c, value) in colour(*code).into_iter().enumerate() {
            data[(i / plane * 3 + c) * plane + i % plane] = value;
        }
    }
    let images = Images::new(&data, [count, 3, height, width])?;
    Ok(grid(&images, rows, cols, scale))
}

/// The colour of a code. Hues follow the golden ratio, so that neighbouring
/// numbers differ most; brightness changes in turns of three.
pub fn colour(code: u32) -> [f32; 3] {
    let hue = (f64::from(code) * 0.618_033_988_749_895).fract() as f32 * 6.0;
    let bright = [1.0, 0.78, 0.58][(code % 3) as usize];
    let saturation = [0.75, 0.95, 0.6][(code / 3 % 3) as usize];
    let ramp = |shift: f32| {
        let x = ((hue + shift).rem_euclid(6.0) - 3.0).abs() - 1.0;
        bright * (1.0 - saturation * (1.0 - x.clamp(0.0, 1.0)))
    };
    [ramp(0.0), ramp(4.0), ramp(2.0)]
}

/// Pictures that were written before, side by side.
pub fn beside(files: &[std::path::PathBuf]) -> Outcome<RgbImage> {
    let mut pictures = Vec::new();
    for file in files {
        let read = image::open(file).map_err(|e| format!("{}: {e}", file.display()))?;
        pictures.push(read.to_rgb8());
    }
    let width = pictures.iter().map(RgbImage::width).sum();
    let height = pictures.iter().map(RgbImage::height).max().unwrap_or(0);
    let mut whole = RgbImage::from_pixel(width, height, GROUND);
    let mut left = 0;
    for picture in &pictures {
        image::imageops::replace(&mut whole, picture, left, 0);
        left += i64::from(picture.width());
    }
    Ok(whole)
}

/// Pictures one below the other.
pub fn stacked(pictures: &[RgbImage]) -> RgbImage {
    let width = pictures.iter().map(RgbImage::width).max().unwrap_or(0);
    let height = pictures.iter().map(RgbImage::height).sum();
    let mut whole = RgbImage::from_pixel(width, height, GROUND);
    let mut top = 0;
    for picture in pictures {
        image::imageops::replace(&mut whole, picture, 0, top);
        top += i64::from(picture.height());
    }
    whole
}

/// Writes a picture as PNG, and its directory where that is missing.
pub fn save(picture: &RgbImage, file: &Path) -> Outcome {
    super::make_parent(file)?;
    picture
        .save_with_format(file, image::ImageFormat::Png)
        .map_err(|e| format!("{}: cannot be written: {e}", file.display()).into())
}
