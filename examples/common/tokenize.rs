//! Pictures to codes and back by a network of fixed size, tile by tile.

use std::path::Path;
use std::time::Instant;

use flowgrad::exec::{FreezeOptions, Storage};
use flowgrad::models::{Dvae, DvaeConfig, Tiling, VqGan, VqGanConfig};
use flowgrad::nn::Mode;
use flowgrad::params::LoadRules;
use flowgrad::{Gpu, Graph, Params, Program, Tensor, Value};
use image::RgbImage;

use super::{Outcome, Progress};

/// A network between pictures and codes.
pub enum Coder {
    Dvae(Box<Dvae>),
    VqGan(Box<VqGan>),
}

impl Coder {
    pub fn dvae(params: &Params, config: DvaeConfig) -> Outcome<Self> {
        Ok(Coder::Dvae(Box::new(Dvae::new(params, config)?)))
    }

    pub fn vqgan(params: &Params, config: VqGanConfig) -> Outcome<Self> {
        Ok(Coder::VqGan(Box::new(VqGan::new(params, config)?)))
    }

    /// Pixels of a side of what a code stands for.
    pub fn factor(&self) -> usize {
        match self {
            Coder::Dvae(_) => 8,
            Coder::VqGan(model) => model.config().factor(),
        }
    }

    /// How many codes there are.
    pub fn codes(&self) -> usize {
        match self {
            Coder::Dvae(model) => model.config().codes,
            Coder::VqGan(model) => model.config().codes[0],
        }
    }

    /// How the names of the published files become the network's.
    pub fn rules(&self) -> LoadRules {
        match self {
            Coder::Dvae(_) => LoadRules::default(),
            Coder::VqGan(_) => VqGan::load_rules(),
        }
    }

    /// Codes `[1, h, w]` of pixels `[1, 3, H, W]` in 0..1.
    fn encode(&self, pixels: &Tensor) -> Tensor {
        match self {
            Coder::Dvae(model) => model.codes(pixels),
            Coder::VqGan(model) => {
                model.codes(&pixels.mul_scalar(2.0).add_scalar(-1.0), Mode::Eval)
            }
        }
    }

    /// Pixels `[1, 3, H, W]` in 0..1 of codes `[1, h, w]`.
    fn decode(&self, codes: &Tensor) -> Tensor {
        match self {
            Coder::Dvae(model) => model.decode(codes),
            Coder::VqGan(model) => {
                let pixels = model.decode_codes(codes, Mode::Eval);
                pixels.add_scalar(1.0).mul_scalar(0.5).clamp(0.0, 1.0)
            }
        }
    }

    /// Programs for one tile of `grid` codes.
    pub fn programs(
        &self,
        gpu: &Gpu,
        params: &Params,
        [h, w]: [usize; 2],
        weights: Storage,
    ) -> Outcome<Programs> {
        let (start, factor) = (Instant::now(), self.factor());
        let options = FreezeOptions { weights };
        let graph = Graph::new();
        let pixels = graph.input("pixels", [1, 3, h * factor, w * factor]);
        let codes = self.encode(&pixels);
        let encode = graph.compile_frozen_with(gpu, params, &[&codes], &options)?;
        let graph = Graph::new();
        let codes = graph.input_u32("codes", [1, h, w]);
        let pixels = self.decode(&codes);
        let decode = graph.compile_frozen_with(gpu, params, &[&pixels], &options)?;
        Ok(Programs {
            encode,
            decode,
            factor,
            codes: self.codes(),
            compile_seconds: start.elapsed().as_secs_f64(),
        })
    }
}

/// A [`Coder`] for tiles of one size.
pub struct Programs {
    pub encode: Program,
    pub decode: Program,
    factor: usize,
    codes: usize,
    pub compile_seconds: f64,
}

impl Programs {
    /// Bytes of the weights of both networks.
    pub fn weight_bytes(&self) -> u64 {
        let bytes = |program: &Program| program.plan().memory().arenas;
        bytes(&self.encode) + bytes(&self.decode)
    }

    /// Bytes of the activations of the larger one.
    pub fn activation_bytes(&self) -> u64 {
        let bytes = |program: &Program| program.plan().memory().temporary;
        bytes(&self.encode).max(bytes(&self.decode))
    }

    /// The codes of a picture.
    pub fn encode(&mut self, picture: &Picture, tiling: &Tiling) -> Outcome<Codes> {
        let grid = picture.grid(self.factor);
        let tiles = tiling.tiles(grid);
        let mut all = vec![0; grid[0] * grid[1]];
        let mut progress = Progress::new("encode", tiles.len());
        for (i, tile) in tiles.iter().enumerate() {
            let pixels = tile.cut(&picture.data, picture.shape(), self.factor)?;
            let out = self.encode.run(&[("pixels", Value::F32(&pixels))])?;
            tile.put(&out.u32(0)?, &mut all, [1, grid[0], grid[1]], 1)?;
            progress.step(i + 1, None);
            if progress.stopped() {
                return Err("stopped".into());
            }
        }
        progress.finish();
        Codes::new(all, grid)
    }

    /// The picture of codes. Error: a code that does not exist.
    pub fn decode(&mut self, codes: &Codes, tiling: &Tiling) -> Outcome<Picture> {
        let [rows, columns] = codes.grid;
        if let Some(wrong) = codes.data.iter().find(|c| **c as usize >= self.codes) {
            let most = self.codes - 1;
            return Err(format!("code {wrong} does not exist, the last one is {most}").into());
        }
        let mut picture = Picture::black([rows * self.factor, columns * self.factor]);
        let (shape, tiles) = (picture.shape(), tiling.tiles(codes.grid));
        let mut progress = Progress::new("decode", tiles.len());
        for (i, tile) in tiles.iter().enumerate() {
            let part = tile.cut(&codes.data, [1, rows, columns], 1)?;
            let out = self.decode.run(&[("codes", Value::U32(&part))])?;
            out.check_finite(&["pixels"])?;
            tile.put(&out.f32(0)?, &mut picture.data, shape, self.factor)?;
            progress.step(i + 1, None);
            if progress.stopped() {
                return Err("stopped".into());
            }
        }
        progress.finish();
        Ok(picture)
    }
}

/// Pixels `[3, height, width]` in 0..1.
#[derive(Clone)]
pub struct Picture {
    pub data: Vec<f32>,
    pub size: [usize; 2],
}

/// What is decoded at once on paper: four bytes of each of its numbers stay below 2 GiB.
const MAX_PIXELS: usize = 1 << 27;

impl Picture {
    fn black(size: [usize; 2]) -> Self {
        Picture {
            data: vec![0.0; 3 * size[0] * size[1]],
            size,
        }
    }

    /// A PNG or JPEG.
    pub fn open(file: &Path) -> Outcome<Self> {
        let wrong = |e: &dyn std::fmt::Display| format!("{}: {e}", file.display());
        let reader = image::ImageReader::open(file).map_err(|e| wrong(&e))?;
        let reader = reader.with_guessed_format().map_err(|e| wrong(&e))?;
        let picture = reader.decode().map_err(|e| wrong(&e))?.to_rgb8();
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        if width * height > MAX_PIXELS {
            return Err(wrong(&"larger than 128 megapixels").into());
        }
        let mut all = Picture::black([height, width]);
        for (x, y, pixel) in picture.enumerate_pixels() {
            for (c, v) in pixel.0.into_iter().enumerate() {
                let at = (c * height + y as usize) * width + x as usize;
                all.data[at] = f32::from(v) / 255.0;
            }
        }
        Ok(all)
    }

    /// As `[3, height, width]`.
    pub fn shape(&self) -> [usize; 3] {
        [3, self.size[0], self.size[1]]
    }

    /// Rows and columns of codes.
    fn grid(&self, factor: usize) -> [usize; 2] {
        self.size.map(|extent| extent / factor)
    }

    fn moved(&self, size: [usize; 2], from: impl Fn(usize, usize) -> [usize; 2]) -> Self {
        let mut other = Picture::black(size);
        for c in 0..3 {
            for y in 0..size[0] {
                for x in 0..size[1] {
                    let [v, u] = from(y, x);
                    let at = (c * self.size[0] + v) * self.size[1] + u;
                    other.data[(c * size[0] + y) * size[1] + x] = self.data[at];
                }
            }
        }
        other
    }

    /// Its last row and column repeated until the sides are multiples of `factor`.
    pub fn padded(&self, factor: usize) -> Self {
        let [h, w] = self.size;
        let size = self.size.map(|extent| extent.next_multiple_of(factor));
        self.moved(size, |y, x| [y.min(h - 1), x.min(w - 1)])
    }

    /// Its upper left part.
    pub fn cropped(&self, size: [usize; 2]) -> Self {
        let size = [0, 1].map(|i| size[i].min(self.size[i]));
        self.moved(size, |y, x| [y, x])
    }

    /// Another one at its right.
    pub fn beside(&self, other: &Picture) -> Self {
        let [h, w] = self.size;
        let mut both = Picture::black([h.max(other.size[0]), w + other.size[1]]);
        let width = both.size[1];
        for (picture, left) in [(self, 0), (other, w)] {
            for (i, v) in picture.data.iter().enumerate() {
                let (line, x) = (i / picture.size[1], i % picture.size[1]);
                let (c, y) = (line / picture.size[0], line % picture.size[0]);
                both.data[(c * both.size[0] + y) * width + left + x] = *v;
            }
        }
        both
    }

    /// The mean of the squared differences.
    pub fn mse(&self, other: &Picture) -> f64 {
        let pairs = self.data.iter().zip(&other.data);
        let sum: f64 = pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum();
        sum / self.data.len().max(1) as f64
    }

    /// The largest difference of a channel.
    pub fn farthest(&self, other: &Picture) -> f32 {
        let pairs = self.data.iter().zip(&other.data);
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    pub fn rgb(&self) -> RgbImage {
        let [h, w] = self.size;
        RgbImage::from_fn(w as u32, h as u32, |x, y| {
            let at = |c: usize| self.data[(c * h + y as usize) * w + x as usize];
            image::Rgb([0, 1, 2].map(|c| (at(c).clamp(0.0, 1.0) * 255.0).round() as u8))
        })
    }
}

/// Codes of a picture, row by row.
#[derive(Clone)]
pub struct Codes {
    pub data: Vec<u32>,
    pub grid: [usize; 2],
}

impl Codes {
    pub fn new(data: Vec<u32>, grid: [usize; 2]) -> Outcome<Self> {
        match data.len() == grid[0] * grid[1] && !data.is_empty() {
            true => Ok(Codes { data, grid }),
            false => Err(format!("{} codes for a grid of {grid:?}", data.len()).into()),
        }
    }

    /// How many different ones there are, and `2^entropy` of their frequencies.
    pub fn variety(&self) -> (usize, f64) {
        let mut sorted = self.data.clone();
        sorted.sort_unstable();
        let groups = sorted.chunk_by(|a, b| a == b);
        let shares: Vec<f64> = groups
            .map(|g| g.len() as f64 / self.data.len() as f64)
            .collect();
        let entropy: f64 = shares.iter().map(|p| -p * p.log2()).sum();
        (shares.len(), entropy.exp2())
    }

    /// As a NumPy file of little-endian 32-bit integers.
    pub fn npy(&self) -> Vec<u8> {
        let [rows, columns] = self.grid;
        let mut head =
            format!("{{'descr': '<u4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
        // The head ends in a line break at a multiple of 64.
        let width = (10 + head.len() + 1).next_multiple_of(64) - 10 - 1;
        head = format!("{head:<width$}\n");
        let mut file = b"\x93NUMPY\x01\x00".to_vec();
        file.extend((head.len() as u16).to_le_bytes());
        file.extend(head.as_bytes());
        file.extend(self.data.iter().flat_map(|c| c.to_le_bytes()));
        file
    }
}
