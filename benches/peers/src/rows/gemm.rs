//! Products of matrices, `m x n x k`: squares, and what Glow and ResNet need.

use crate::row::{Data, Row};
use crate::{ours::Ours, peer, peer::Peer};

pub fn rows() -> Vec<Row> {
    [
        ("gemm 256", [256, 256, 256]),
        ("gemm 512", [512, 512, 512]),
        ("gemm 1024", [1024, 1024, 1024]),
        ("gemm glow 1x1 16384x12x12", [16384, 12, 12]),
        ("gemm glow hidden 1024x512x512", [1024, 512, 512]),
        ("gemm resnet 3136x64x576", [3136, 64, 576]),
        ("gemm resnet fc 16x1000x512", [16, 1000, 512]),
    ]
    .map(|(name, extents)| row(name, extents))
    .into()
}

fn row(name: &str, [m, n, k]: [usize; 3]) -> Row {
    Row::new(name, move |gpu, device| {
        let data = [Data::random(1, &[m, k]), Data::random(2, &[k, n])];
        let ours = Ours::new(gpu, &data, |x| Ok(vec![x[0].matmul(&x[1])]))?;
        let [a, b] = data.map(|d| peer::tensor::<2>(&d, device));
        let peer = Peer::new(device, move || vec![Box::new(a.clone().matmul(b.clone()))]);
        Ok((ours, peer))
    })
}
