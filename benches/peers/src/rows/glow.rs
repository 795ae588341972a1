//! Forward and backward of one step of Glow at 64x12x16x16: activation normalisation,
//! invertible 1x1 convolution by factors, affine coupling whose network has 128 hidden
//! channels (3x3, 1x1, 3x3 convolutions with ReLU). The loss is the negative
//! log-likelihood under a standard normal, but for its constant, divided by the batch;
//! what is compared are loss and gradients by all parameters.

use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor, TensorData, module, ops::ConvOptions};
use flowgrad::flow::{Bijector, Context, Inv1x1};
use flowgrad::ops::{Activation, ConvParams, CouplingMask, CouplingParams};
use flowgrad::{Graph, Init, Params, tape};

use super::coupling::coupling;
use crate::peer::Output;
use crate::row::{Data, Row};
use crate::{ours::Ours, peer, peer::Peer};

const SHAPE: [usize; 4] = [64, 12, 16, 16];
const HIDDEN: usize = 128;

/// Names and shapes of the parameters beside those of the 1x1 convolution.
const PARAMS: [(&str, &[usize]); 8] = [
    ("bias", &[SHAPE[1]]),
    ("log_scale", &[SHAPE[1]]),
    ("0.weight", &[HIDDEN, SHAPE[1] / 2, 3, 3]),
    ("0.bias", &[HIDDEN]),
    ("1.weight", &[HIDDEN, HIDDEN, 1, 1]),
    ("1.bias", &[HIDDEN]),
    ("2.weight", &[SHAPE[1], HIDDEN, 3, 3]),
    ("2.bias", &[SHAPE[1]]),
];
/// The trained parameters of the 1x1 convolution.
const FACTORS: [&str; 3] = ["w_l", "w_u", "w_s"];

pub fn rows() -> Vec<Row> {
    let mut row = Row::new("glow step train 64x12x16x16 hidden 128", |gpu, device| {
        let params = Params::new(7);
        let mixing = Inv1x1::plu(&params, SHAPE[1])?;
        let mut data = Vec::new();
        for (i, (name, shape)) in PARAMS.into_iter().enumerate() {
            let values = Data::random(10 + i as u64, shape).scaled(0.1);
            params.add(name, shape, Init::Values(values.values.clone()))?;
            data.push(values);
        }
        let x = Data::random(1, &SHAPE);
        params.add_state("x", SHAPE, Init::Values(x.values.clone()))?;

        let graph = Graph::new();
        let on = |name: &str| -> flowgrad::Result<_> { Ok(params.find(name)?.on(&graph)) };
        let (y, first) = on("x")?.actnorm(&on("bias")?, &on("log_scale")?);
        let mixed = mixing.forward(&y, &Context::train());
        let conv = |x: &flowgrad::Tensor, i: usize, padding: usize| -> flowgrad::Result<_> {
            let params = ConvParams {
                padding: [padding; 4],
                activation: if i < 2 {
                    Activation::Relu
                } else {
                    Activation::None
                },
                ..ConvParams::default()
            };
            let (weight, bias) = (on(&format!("{i}.weight"))?, on(&format!("{i}.bias"))?);
            Ok(x.conv2d(&weight, Some(&bias), &params))
        };
        let half = SHAPE[1] / 2;
        let h = conv(&mixed.out.slice(1, 0, half), 0, 1)?;
        let raw = conv(&conv(&h, 1, 0)?, 2, 1)?;
        let glow = CouplingParams::glow(CouplingMask::After(half));
        let (z, last) = mixed.out.coupling(&raw, &glow);
        let log_det = first.add(&mixed.log_det).add(&last).sum(&[], false);
        let energy = z.square().sum(&[], false).mul_scalar(0.5);
        let loss = energy.sub(&log_det).mul_scalar(1.0 / SHAPE[0] as f32);
        let names: Vec<&str> = PARAMS.iter().map(|p| p.0).chain(FACTORS).collect();
        let wrt: Vec<_> = names.iter().map(|n| on(n)).collect::<Result<_, _>>()?;
        let mut outputs = tape::backward(&loss, &wrt.iter().collect::<Vec<_>>())?;
        outputs.push(loss);
        let ours = Ours::compile(gpu, &graph, &params, &outputs)?;

        let device = device.clone().autodiff();
        let step = Step::new(&params, &data, &x, &device)?;
        Ok((ours, Peer::new(&device, move || step.run())))
    });
    row.tolerance = 1e-3;
    vec![row]
}

/// The same step in burn's terms.
struct Step {
    x: Tensor<4>,
    /// Bias and log-scale of the normalisation, the networks' biases, log |s|.
    vectors: Vec<Tensor<1>>,
    kernels: Vec<Tensor<4>>,
    /// L and U as stored, then P, both masks and the identity.
    matrices: Vec<Tensor<2>>,
    sign: Tensor<1>,
}

impl Step {
    fn new(params: &Params, data: &[Data], x: &Data, device: &Device) -> flowgrad::Result<Self> {
        let n = SHAPE[1];
        let stored = |name: &str| -> flowgrad::Result<Data> {
            let param = params.find(name)?;
            Ok(Data {
                shape: param.shape().dims().to_vec(),
                values: param.get()?,
            })
        };
        let trained = |d: &Data| peer::tensor::<1>(d, device).require_grad();
        let constant = |of: fn(usize, usize) -> bool| -> Tensor<2> {
            let values: Vec<f32> = (0..n * n).map(|i| of(i / n, i % n) as u32 as f32).collect();
            Tensor::from_data(TensorData::new(values, [n, n]), device)
        };
        let kernels = [2, 4, 6].map(|i| peer::tensor::<4>(&data[i], device).require_grad());
        let mut vectors: Vec<_> = [0, 1, 3, 5, 7].map(|i| trained(&data[i])).into();
        vectors.push(trained(&stored("w_s")?));
        Ok(Step {
            x: peer::tensor(x, device),
            vectors,
            kernels: kernels.into(),
            matrices: vec![
                peer::tensor::<2>(&stored("w_l")?, device).require_grad(),
                peer::tensor::<2>(&stored("w_u")?, device).require_grad(),
                peer::tensor(&stored("w_p")?, device),
                constant(|i, j| i > j),
                constant(|i, j| i < j),
                constant(|i, j| i == j),
            ],
            sign: peer::tensor(&stored("s_sign")?, device),
        })
    }

    fn run(&self) -> Vec<Box<dyn Output>> {
        let [n, c, h, w] = SHAPE;
        let row = |t: &Tensor<1>| t.clone().reshape([1, c, 1, 1]);
        let (bias, log_scale, log_s) = (&self.vectors[0], &self.vectors[1], &self.vectors[5]);
        let y = (self.x.clone() + row(bias)) * row(log_scale).exp();
        let [l, u, p, below, above, one] = [0, 1, 2, 3, 4, 5].map(|i| self.matrices[i].clone());
        let s = (log_s.clone().exp() * self.sign.clone()).reshape([c, 1]);
        let lower = l * below + one.clone();
        let upper = u * above + one * s;
        let weight = p.matmul(lower.matmul(upper)).reshape([c, c, 1, 1]);
        let conv = |x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>, pad: usize| {
            let options = ConvOptions::new([1, 1], [pad, pad], [1, 1], 1);
            module::conv2d(x, weight, bias, options)
        };
        let y = conv(y, weight, None, 0);
        let net = |x: Tensor<4>, i: usize, pad: usize| {
            let bias = self.vectors[2 + i].clone();
            conv(x, self.kernels[i].clone(), Some(bias), pad)
        };
        let hidden = relu(net(y.clone().narrow(1, 0, c / 2), 0, 1));
        let raw = net(relu(net(hidden, 1, 0)), 2, 1);
        let (z, last) = coupling(y, raw);
        let pixels = (n * h * w) as f32;
        let fixed = (log_scale.clone().sum() + log_s.clone().sum()).mul_scalar(pixels);
        let energy = z.square().sum().mul_scalar(0.5);
        let loss = (energy - last.sum() - fixed).div_scalar(n as f32);

        let mut grads = loss.backward();
        let mut outputs: Vec<Box<dyn Output>> = Vec::new();
        let mut vector = |i: usize| -> Option<Box<dyn Output>> {
            Some(Box::new(self.vectors[i].grad_remove(&mut grads)?))
        };
        let [bias, log_scale, b0, b1, b2, log_s] = [0, 1, 2, 3, 4, 5].map(&mut vector);
        let mut kernel = |i: usize| -> Option<Box<dyn Output>> {
            Some(Box::new(self.kernels[i].grad_remove(&mut grads)?))
        };
        let [w0, w1, w2] = [0, 1, 2].map(&mut kernel);
        let mut matrix = |i: usize| -> Option<Box<dyn Output>> {
            Some(Box::new(self.matrices[i].grad_remove(&mut grads)?))
        };
        let [l, u] = [0, 1].map(&mut matrix);
        // In the order of PARAMS and FACTORS.
        let all = [bias, log_scale, w0, b0, w1, b1, w2, b2, l, u, log_s];
        outputs.extend(all.into_iter().flatten());
        outputs.push(Box::new(loss));
        outputs
    }
}
