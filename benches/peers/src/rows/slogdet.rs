//! Sign and logarithm of the absolute value of a determinant. burn's factorisation is
//! composed of tensor operations; its determinant would overflow, so the logarithms of
//! the diagonal are summed, without the sign.

use burn::tensor::linalg;

use crate::row::{Data, Row};
use crate::{ours::Ours, peer, peer::Peer};

pub fn rows() -> Vec<Row> {
    [12, 48, 96].map(row).into()
}

fn row(n: usize) -> Row {
    Row::new(format!("slogdet {n}"), move |gpu, device| {
        let data = [Data::random(1, &[n, n])];
        let ours = Ours::new(gpu, &data, |x| Ok(vec![x[0].slogdet().1]))?;
        let x = peer::tensor::<2>(&data[0], device);
        let peer = Peer::new(device, move || {
            let (_, _, u) = linalg::lu::<2, 1>(x.clone());
            let diagonal = linalg::diag::<2, 1, _>(u);
            vec![Box::new(diagonal.abs().log().sum())]
        });
        Ok((ours, peer))
    })
}
