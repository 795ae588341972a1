//! A small classifier that reads what a model made.

use flowgrad::nn::{Conv2d, Flatten, Layer, Linear, Mode, Sequential};
use flowgrad::ops::{Activation, ConvParams, CrossEntropy};
use flowgrad::optim::{Adam, Optimizer};
use flowgrad::{Gpu, Graph, Params, Program};

use super::{Busy, ImageSets, Outcome, stopped};

/// Images in a batch.
const BATCH: usize = 50;

/// Reads the classes of images with pixels in 0..1.
pub struct Classifier {
    program: Program,
    pixels: usize,
}

impl Classifier {
    /// Two convolutions and a linear layer, trained on the sets' training images.
    pub fn train(gpu: &Gpu, sets: &ImageSets, steps: u64, seed: u64) -> Outcome<Self> {
        let busy = Busy::new("training a classifier");
        let [channels, height, width] = sets.image();
        let classes = sets.train.classes();
        let params = Params::new(seed);
        let conv = |name: usize, io: [usize; 2]| {
            let options = ConvParams {
                stride: [2; 2],
                padding: [1; 4],
                activation: Activation::Relu,
                ..Default::default()
            };
            Conv2d::new(&params.scope(name), io, [3; 2], options)
        };
        let map = height.div_ceil(2).div_ceil(2) * width.div_ceil(2).div_ceil(2);
        let net = Sequential::new()
            .with(conv(0, [channels, 32])?)
            .with(conv(1, [32, 64])?)
            .with(Flatten)
            .with(Linear::new(&params.scope(2), 64 * map, classes)?);
        let graph = Graph::new();
        let labels = graph.input_u32("labels", [BATCH]);
        let x = graph.input("x", [BATCH, channels, height, width]);
        let logits = net.forward(&x, Mode::Train);
        let loss = logits.cross_entropy(&labels, &CrossEntropy::default());
        let optimizer = Optimizer::new(&params, Adam::default())?;
        optimizer.minimize(&loss)?;
        let mut program = graph.compile(gpu, &params, &[&loss])?;
        for step in 0..steps {
            if stopped() {
                break;
            }
            // Strides that share no factor with the number of images go through all of them.
            let n = sets.train.len();
            let items: Vec<usize> = (0..BATCH)
                .map(|i| ((step as usize * BATCH + i) * 7919) % n)
                .collect();
            program.set_scalars(&optimizer.inputs(step))?;
            program.step(&[
                ("x", (&sets.scaled(&sets.train, &items)?).into()),
                ("labels", (&sets.train.labels(&items)?).into()),
            ])?;
        }
        let graph = Graph::new();
        let x = graph.input("x", [BATCH, channels, height, width]);
        let found = net.forward(&x, Mode::Eval).argmax(Some(1));
        drop(busy);
        Ok(Classifier {
            program: graph.compile_pure(gpu, &params, &[&found])?,
            pixels: channels * height * width,
        })
    }

    /// The classes of images.
    pub fn read(&mut self, images: &[f32]) -> Outcome<Vec<u32>> {
        let mut all = Vec::new();
        for chunk in images.chunks(BATCH * self.pixels) {
            let mut x = chunk.to_vec();
            x.resize(BATCH * self.pixels, 0.0);
            let found = self.program.run(&[("x", (&x).into())])?.u32(0)?;
            all.extend_from_slice(&found[..chunk.len() / self.pixels]);
        }
        Ok(all)
    }

    /// The share of images that are read as their label.
    pub fn agreement(&mut self, images: &[f32], labels: &[u32]) -> Outcome<f64> {
        let found = self.read(images)?;
        let right = found.iter().zip(labels).filter(|(a, b)| a == b).count();
        Ok(right as f64 / labels.len().max(1) as f64)
    }
}
