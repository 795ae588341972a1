//! One training step of the MNIST VQ-VAE (`flowgrad::models::VqVae::mnist`), batch 64:
//! upload of the batch, forward, backward, Adam. The first steps' losses must agree.

use burn::module::{Module, Param};
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::activation::relu;
use burn::tensor::module::{conv_transpose2d, conv2d};
use burn::tensor::ops::{ConvOptions, ConvTransposeOptions};
use burn::tensor::{Device, Int, Tensor};
use flowgrad::models::VqVae;
use flowgrad::nn::Mode;
use flowgrad::optim::{Adam, Optimizer};
use flowgrad::{Graph, Params};

use crate::ours::Training;
use crate::row::{Data, Row};
use crate::{peer, peer::Peer};

const BATCH: usize = 64;
/// Of the pixels of MNIST.
const VARIANCE: f32 = 0.0949;
const RATE: f64 = 1e-3;

pub fn rows() -> Vec<Row> {
    let mut row = Row::new("vq-vae train mnist batch 64", |gpu, device| {
        let images = Data::random(1, &[BATCH, 1, 28, 28]).scaled(0.5);
        let params = Params::new(3);
        let model = VqVae::mnist(&params, VARIANCE)?;
        let device = device.clone().autodiff();
        let mut net = Net::new(&params, &device)?;

        let graph = Graph::new();
        let x = graph.input("x", images.shape.as_slice());
        let loss = model.forward(&x, Mode::Train).loss;
        let adam = Adam {
            lr: RATE,
            ..Adam::default()
        };
        let optimizer = Optimizer::new(&params, adam)?;
        optimizer.minimize(&loss)?;
        let ours = Training {
            program: graph.compile(gpu, &params, &[&loss])?,
            gpu: gpu.clone(),
            optimizer,
            batch: ("x", images.values.clone()),
            step: 0,
        };

        let mut adam = AdamConfig::new().with_epsilon(1e-8).init();
        let on = device.clone();
        let peer = Peer::training(&device, move || {
            let x = peer::tensor::<4>(&images, &on);
            let loss = net.loss(x);
            let grads = GradientsParams::from_grads(loss.backward(), &net);
            net = adam.step(RATE, net.clone(), grads);
            vec![Box::new(loss)]
        });
        Ok((Box::new(ours), peer))
    });
    row.tolerance = 1e-3;
    vec![row]
}

/// The same model in burn's terms.
#[derive(Module, Debug)]
struct Net {
    weights: Vec<Param<Tensor<4>>>,
    biases: Vec<Param<Tensor<1>>>,
    codes: Param<Tensor<2>>,
}

const LAYERS: [&str; 6] = [
    "encoder.0",
    "encoder.1",
    "encoder.2",
    "decoder.0",
    "decoder.1",
    "decoder.2",
];

impl Net {
    /// With the values that `params` has now.
    fn new(params: &Params, device: &Device) -> flowgrad::Result<Self> {
        let data = |name: &str| -> flowgrad::Result<Data> {
            let param = params.find(name)?;
            Ok(Data {
                shape: param.shape().dims().to_vec(),
                values: param.get()?,
            })
        };
        let mut net = Net {
            weights: Vec::new(),
            biases: Vec::new(),
            codes: Param::from_tensor(peer::tensor(&data("quantizer.embedding.weight")?, device)),
        };
        for layer in LAYERS {
            let weight = data(&format!("{layer}.weight"))?;
            let bias = data(&format!("{layer}.bias"))?;
            net.weights
                .push(Param::from_tensor(peer::tensor(&weight, device)));
            net.biases
                .push(Param::from_tensor(peer::tensor(&bias, device)));
        }
        Ok(net)
    }

    fn layer(&self, i: usize) -> (Tensor<4>, Option<Tensor<1>>) {
        (self.weights[i].val(), Some(self.biases[i].val()))
    }

    fn loss(&self, x: Tensor<4>) -> Tensor<1> {
        let same = || ConvOptions::new_with_padding([2, 2], [(0, 1), (0, 1)], [1, 1], 1);
        let (weight, bias) = self.layer(0);
        let h = relu(conv2d(x.clone(), weight, bias, same()));
        let (weight, bias) = self.layer(1);
        let h = relu(conv2d(h, weight, bias, same()));
        let (weight, bias) = self.layer(2);
        let z = conv2d(h, weight, bias, ConvOptions::new([1, 1], [0, 0], [1, 1], 1));

        let [n, d, height, width] = z.dims();
        let rows = z.permute([0, 2, 3, 1]).reshape([-1, d as i64]);
        let codes = self.codes.val();
        let norms = codes
            .clone()
            .square()
            .sum_dim(1)
            .transpose()
            .mul_scalar(0.5);
        let scores = norms - rows.clone().matmul(codes.clone().transpose());
        let nearest: Tensor<1, Int> = scores.detach().argmin(1).squeeze_dim(1);
        let picked = codes.select(0, nearest);
        let codebook = (picked.clone() - rows.clone().detach()).square().mean();
        let commitment = (rows.clone() - picked.clone().detach()).square().mean();
        let through = rows.clone() + (picked - rows).detach();
        let h = through.reshape([n, height, width, d]).permute([0, 3, 1, 2]);

        let up = |h: Tensor<4>, i: usize, crop: usize| {
            let (weight, bias) = self.layer(i);
            let options = ConvTransposeOptions::new([2, 2], [0, 0], [0, 0], [1, 1], 1);
            let h = relu(conv_transpose2d(h, weight, bias, options));
            h.slice([0..n, 0..h_channels(i), 0..crop, 0..crop])
        };
        let h = up(up(h, 3, 14), 4, 28);
        let (weight, bias) = self.layer(5);
        let options = ConvTransposeOptions::new([1, 1], [1, 1], [0, 0], [1, 1], 1);
        let y = conv_transpose2d(h, weight, bias, options);
        let mse = (y - x).square().mean();
        mse.div_scalar(VARIANCE) + codebook + commitment.mul_scalar(0.25)
    }
}

/// Channels that layer `i` gives.
fn h_channels(i: usize) -> usize {
    if i == 3 { 64 } else { 32 }
}
