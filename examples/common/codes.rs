//! Images as grids of numbers: the levels of their pixels, or the codes of a saved VQ-VAE.

use std::path::Path;

use flowgrad::data::ImageSet;
use flowgrad::models::{PixelCnn, PixelCnnConfig, VqVae};
use flowgrad::nn::Mode;
use flowgrad::params::{LoadRules, WeightsFile};
use flowgrad::{Gpu, Graph, Params, Tensor};

use super::{Busy, ImageSets, Outcome};

/// Training and held-out images as numbers, and the way back.
pub struct Coded {
    pub train: Vec<u32>,
    pub test: Vec<u32>,
    /// Rows and columns of a grid.
    pub grid: [usize; 2],
    /// Numbers there are.
    pub levels: usize,
    autoencoder: Option<(Gpu, Params, VqVae)>,
}

impl Coded {
    /// Without a VQ-VAE's weights the numbers are pixels. Error: those are of no VQ-VAE for
    /// such images, or the images have colours.
    pub fn new(gpu: &Gpu, sets: &ImageSets, vqvae: Option<&Path>) -> Outcome<Self> {
        let [channels, height, width] = sets.image();
        if channels != 1 {
            return Err(
                format!("these images have {channels} channels, expected grey ones").into(),
            );
        }
        let Some(file) = vqvae else {
            let pixels = |set: &ImageSet| set.images.iter().map(|v| u32::from(*v)).collect();
            return Ok(Coded {
                train: pixels(&sets.train),
                test: pixels(&sets.test),
                grid: [height, width],
                levels: sets.bins,
                autoencoder: None,
            });
        };
        let params = Params::new(0);
        let (model, rules) = match [height, width] {
            [8, 8] => (VqVae::digits(&params)?, LoadRules::default()),
            // The codebook itself is all that is needed, however it was learnt.
            [28, 28] => (
                VqVae::mnist(&params, 1.0)?,
                LoadRules::default().skip_ending(&["ema_cluster_size", "ema_w"]),
            ),
            _ => return Err(format!("there is no VQ-VAE for images of {height}x{width}").into()),
        };
        params.load_by(WeightsFile::open(file)?, &rules)?;
        let busy = Busy::new("encoding all images");
        let encode = |set: &ImageSet| encode(gpu, &params, &model, sets, set);
        let (train, test) = (encode(&sets.train)?, encode(&sets.test)?);
        drop(busy);
        Ok(Coded {
            train,
            test,
            grid: model.codes_shape(),
            levels: model.quantizer.config().codes,
            autoencoder: Some((gpu.clone(), params, model)),
        })
    }

    /// Numbers of the grids `items`.
    pub fn of(&self, numbers: &[u32], items: &[usize]) -> Vec<u32> {
        let each = self.grid[0] * self.grid[1];
        let grids = items.iter().map(|i| &numbers[i * each..][..each]);
        grids.flatten().copied().collect()
    }

    /// Ties a prior to the codebook. Error: it learnt the codes of another.
    pub fn expect(&self, prior: &PixelCnn) -> flowgrad::Result<()> {
        match &self.autoencoder {
            Some((_, _, model)) => prior.expect_codebook(model.quantizer.codebook()),
            None => Ok(()),
        }
    }

    /// Images with pixels in 0..1.
    pub fn decode(&self, numbers: &[u32]) -> Outcome<Vec<f32>> {
        let Some((gpu, params, model)) = &self.autoencoder else {
            let white = self.levels as f32 - 1.0;
            return Ok(numbers.iter().map(|v| *v as f32 / white).collect());
        };
        let [rows, cols] = self.grid;
        let graph = Graph::new();
        let codes = graph.input_u32("codes", [numbers.len() / (rows * cols), rows, cols]);
        let vectors = model.quantizer.codebook().on(&graph).gather_rows(&codes);
        let made = model.decode(&vectors.permute(&[0, 3, 1, 2]), Mode::Eval);
        let made = made.add_scalar(0.5).clamp(0.0, 1.0);
        let mut program = graph.compile_pure(gpu, params, &[&made])?;
        Ok(program.run(&[("codes", numbers.into())])?.f32(0)?)
    }
}

/// The inputs `codes` and `labels` of `n` grids.
pub fn inputs(graph: &Graph, config: &PixelCnnConfig, n: usize) -> (Tensor, Tensor) {
    let codes = graph.input_u32("codes", config.shape(n));
    (codes, graph.input_u32("labels", [n]))
}

fn encode(
    gpu: &Gpu,
    params: &Params,
    model: &VqVae,
    sets: &ImageSets,
    set: &ImageSet,
) -> Outcome<Vec<u32>> {
    let [_, height, width] = sets.image();
    let batch = set.len().min(200);
    let graph = Graph::new();
    let x = graph.input("x", [batch, 1, height, width]);
    let codes = model.forward(&x, Mode::Eval).quantized.indices;
    let mut program = graph.compile_pure(gpu, params, &[&codes])?;
    let each = codes.numel() / batch;
    let mut all = Vec::new();
    for at in (0..set.len()).step_by(batch) {
        let count = batch.min(set.len() - at);
        let items: Vec<usize> = (0..batch).map(|i| at + i % count).collect();
        let pixels = sets.scaled(set, &items)?;
        let x: Vec<f32> = pixels.iter().map(|v| v - 0.5).collect();
        let found = program.run(&[("x", (&x).into())])?.u32(0)?;
        all.extend_from_slice(&found[..count * each]);
    }
    Ok(all)
}
