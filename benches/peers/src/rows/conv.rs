//! Convolutions `N x C x H x W -> O`, without bias, padded to keep the extent.

use burn::tensor::{module::conv2d, ops::ConvOptions};
use flowgrad::ops::ConvParams;

use crate::row::{Data, Row};
use crate::{ours::Ours, peer, peer::Peer};

pub fn rows() -> Vec<Row> {
    [
        (3, [8, 64, 32, 32], 64),
        (3, [8, 128, 16, 16], 128),
        (3, [1, 64, 56, 56], 64),
        (3, [16, 3, 32, 32], 64),
        (1, [8, 256, 8, 8], 256),
    ]
    .map(|(kernel, x, out)| row(kernel, x, out))
    .into()
}

fn row(kernel: usize, x: [usize; 4], out: usize) -> Row {
    let [n, c, h, w] = x;
    let name = format!("conv {kernel}x{kernel} {n}x{c}x{h}x{w}->{out}");
    Row::new(name, move |gpu, device| {
        let data = [
            Data::random(1, &x),
            Data::random(2, &[out, c, kernel, kernel]),
        ];
        let pad = kernel / 2;
        let params = ConvParams {
            padding: [pad; 4],
            ..ConvParams::default()
        };
        let ours = Ours::new(gpu, &data, |t| Ok(vec![t[0].conv2d(&t[1], None, &params)]))?;
        let [input, weight] = data.map(|d| peer::tensor::<4>(&d, device));
        let peer = Peer::new(device, move || {
            let options = ConvOptions::new([1, 1], [pad, pad], [1, 1], 1);
            vec![Box::new(conv2d(
                input.clone(),
                weight.clone(),
                None,
                options,
            ))]
        });
        Ok((ours, peer))
    })
}
