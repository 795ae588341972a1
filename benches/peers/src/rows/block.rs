//! Forward and backward of one convolution with batch norm and ReLU: the gradients
//! of `sum(y * r)` by input, kernel, scale and shift.

use burn::tensor::{module, ops::ConvOptions};
use flowgrad::{ops::ConvParams, tape};

use crate::peer::Output;
use crate::row::{Data, Row};
use crate::{ours::Ours, peer, peer::Peer};

const EPS: f32 = 1e-5;

pub fn rows() -> Vec<Row> {
    vec![row([8, 64, 32, 32], 64), row([16, 3, 32, 32], 64)]
}

fn row(x: [usize; 4], out: usize) -> Row {
    let [n, c, h, w] = x;
    let name = format!("conv block train 3x3 {n}x{c}x{h}x{w}->{out}");
    let mut row = Row::new(name, move |gpu, device| {
        let data = [
            Data::random(1, &x),
            Data::random(2, &[out, c, 3, 3]),
            Data::random(3, &[out]),
            Data::random(4, &[out]),
            Data::random(5, &[n, out, h, w]),
        ];
        let same = ConvParams {
            padding: [1; 4],
            ..ConvParams::default()
        };
        let ours = Ours::new(gpu, &data, |t| {
            let y = t[0].conv2d(&t[1], None, &same);
            let (y, _, _) = y.batch_norm_train(Some(&t[2]), Some(&t[3]), EPS);
            let loss = y.relu().mul(&t[4]).sum(&[], false);
            let wrt: Vec<_> = t[..4].iter().collect();
            let mut outputs = tape::backward(&loss, &wrt)?;
            outputs.push(loss);
            Ok(outputs)
        })?;

        let device = device.clone().autodiff();
        let [x, weight, gamma, beta, r] = data;
        let x = peer::tensor::<4>(&x, &device).require_grad();
        let weight = peer::tensor::<4>(&weight, &device).require_grad();
        let gamma = peer::tensor::<1>(&gamma, &device).require_grad();
        let beta = peer::tensor::<1>(&beta, &device).require_grad();
        let r = peer::tensor::<4>(&r, &device);
        let peer = Peer::new(&device, move || {
            let options = ConvOptions::new([1, 1], [1, 1], [1, 1], 1);
            let y = module::conv2d(x.clone(), weight.clone(), None, options);
            let (gamma, beta) = (gamma.clone(), beta.clone());
            let y = module::batch_norm_train(y, gamma.clone(), beta.clone(), EPS.into()).output;
            let loss = (burn::tensor::activation::relu(y) * r.clone()).sum();
            let mut grads = loss.backward();
            // Every one of them got a gradient: the loss depends on all.
            let mut outputs: Vec<Box<dyn Output>> = Vec::new();
            outputs.extend(x.grad_remove(&mut grads).map(|g| Box::new(g) as _));
            outputs.extend(weight.grad_remove(&mut grads).map(|g| Box::new(g) as _));
            outputs.extend(gamma.grad_remove(&mut grads).map(|g| Box::new(g) as _));
            outputs.extend(beta.grad_remove(&mut grads).map(|g| Box::new(g) as _));
            outputs.push(Box::new(loss));
            outputs
        });
        Ok((ours, peer))
    });
    // Gradients are sums of thousands of terms of both signs.
    row.tolerance = 1e-3;
    row
}
