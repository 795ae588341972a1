//! Glow's affine coupling with its log-determinant per sample, of four million elements,
//! raw scales and shifts given; and the same with all gradients.

use burn::tensor::activation::sigmoid;
use burn::tensor::{Device, Tensor};
use flowgrad::ops::{CouplingMask, CouplingParams};
use flowgrad::tape;

use crate::peer::Output;
use crate::row::largest_difference;
use crate::row::{Data, Row};
use crate::{ours::Ours, peer, peer::Peer};

const SHAPE: [usize; 4] = [16, 64, 64, 64];
const HALF: usize = SHAPE[1] / 2;

pub fn rows() -> Vec<Row> {
    let name = |what: &str| format!("coupling {what} 16x64x64x64");
    let mut rows = vec![
        Row::new(name("forward"), |gpu, device| {
            let params = CouplingParams::glow(CouplingMask::After(HALF));
            let ours = Ours::new(gpu, &data(), |t| {
                let (y, log_det) = t[0].coupling(&t[1], &params);
                Ok(vec![y, log_det])
            })?;
            let [x, raw] = tensors(device);
            let peer = Peer::new(device, move || {
                let (y, log_det) = coupling(x.clone(), raw.clone());
                vec![Box::new(y), Box::new(log_det)]
            });
            Ok((ours, peer))
        }),
        Row::new(name("train"), |gpu, device| {
            let params = CouplingParams::glow(CouplingMask::After(HALF));
            let ours = Ours::new(gpu, &data(), |t| {
                let (y, log_det) = t[0].coupling(&t[1], &params);
                let loss = y.square().sum(&[], false).sub(&log_det.sum(&[], false));
                tape::backward(&loss, &[&t[0], &t[1]])
            })?;
            let device = device.clone().autodiff();
            let [x, raw] = tensors(&device).map(Tensor::require_grad);
            let peer = Peer::new(&device, move || {
                let (y, log_det) = coupling(x.clone(), raw.clone());
                let loss = y.square().sum() - log_det.sum();
                let mut grads = loss.backward();
                let mut outputs: Vec<Box<dyn Output>> = Vec::new();
                outputs.extend(x.grad_remove(&mut grads).map(|g| Box::new(g) as _));
                outputs.extend(raw.grad_remove(&mut grads).map(|g| Box::new(g) as _));
                outputs
            });
            Ok((ours, peer))
        }),
    ];
    // A log-determinant sums 131,072 logarithms: per element it is as large as the rest.
    rows[0].compare = Box::new(|ours, peer| {
        let per_element = |results: &[Vec<f32>]| -> Vec<Vec<f32>> {
            let elements = (SHAPE[1] * SHAPE[2] * SHAPE[3] / 2) as f32;
            let mut results = results.to_vec();
            if let Some(log_det) = results.get_mut(1) {
                log_det.iter_mut().for_each(|v| *v /= elements);
            }
            results
        };
        largest_difference(&per_element(ours), &per_element(peer))
    });
    rows
}

fn data() -> [Data; 2] {
    [Data::random(1, &SHAPE), Data::random(2, &SHAPE)]
}

fn tensors(device: &Device) -> [Tensor<4>; 2] {
    data().map(|d| peer::tensor(&d, device))
}

/// `y = (x + t) sigmoid(s + 2)` of the last half of the channels, `raw` all scales
/// before all shifts.
pub fn coupling(x: Tensor<4>, raw: Tensor<4>) -> (Tensor<4>, Tensor<1>) {
    let half = x.dims()[1] / 2;
    let channels = |t: &Tensor<4>, from: usize| t.clone().narrow(1, from, half);
    let scale = sigmoid(channels(&raw, 0).add_scalar(2.0));
    let moved = (channels(&x, half) + channels(&raw, half)) * scale.clone();
    let log_det = scale.log().sum_dims_squeeze::<1, _>(&[1, 2, 3]);
    (Tensor::cat(vec![channels(&x, 0), moved], 1), log_det)
}
