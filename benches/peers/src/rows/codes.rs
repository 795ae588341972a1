//! The nearest of K codes for each of N rows of width D.
//!
//! burn has no such op: `|e|^2 / 2 - x e^T`, then the index of the least, which is
//! the fastest way to say it there.

use crate::row::{Data, Row};
use crate::{ours::Ours, peer, peer::Peer};

pub fn rows() -> Vec<Row> {
    [(4096, 64, 512), (16384, 16, 64), (4096, 256, 1024)]
        .map(|(n, d, k)| row(n, d, k))
        .into()
}

fn row(n: usize, d: usize, k: usize) -> Row {
    let name = format!("code search n{n} d{d} k{k}");
    let inputs = move || [Data::random(1, &[n, d]), Data::random(2, &[k, d])];
    let mut row = Row::new(name, move |gpu, device| {
        let data = inputs();
        let ours = Ours::new(gpu, &data, |x| Ok(vec![x[0].codebook_nearest(&x[1])]))?;
        let [x, codes] = data.map(|d| peer::tensor::<2>(&d, device));
        let peer = Peer::new(device, move || {
            let norms = codes
                .clone()
                .square()
                .sum_dim(1)
                .transpose()
                .mul_scalar(0.5);
            let scores = norms - x.clone().matmul(codes.clone().transpose());
            vec![Box::new(scores.argmin(1))]
        });
        Ok((ours, peer))
    });
    // Two codes that are equally far within rounding may be taken for each other: what
    // must agree is the distance, here in float64.
    row.compare = Box::new(move |ours, peer| {
        let [x, codes] = inputs();
        let distance = |row: usize, code: f32| -> f64 {
            let x = &x.values[row * d..][..d];
            let e = &codes.values[code as usize * d..][..d];
            let square = |(a, b): (&f32, &f32)| (f64::from(*a) - f64::from(*b)).powi(2);
            x.iter().zip(e).map(square).sum()
        };
        let pairs = ours[0].iter().zip(&peer[0]).enumerate();
        let differences = pairs.map(|(i, (a, b))| (distance(i, *a) - distance(i, *b)).abs());
        (differences.fold(0.0, f64::max), 1.0)
    });
    row
}
