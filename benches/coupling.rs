//! Affine coupling and activation normalisation at four million elements: forward with
//! the log-determinant, inverse, and both ways. Bound by memory: forward moves four
//! halves of the tensor, backward seven.

mod common;

use common::{Unit, rows};
use criterion::{Criterion, criterion_group, criterion_main};
use flowgrad::ops::{CouplingMask, CouplingParams};
use flowgrad::tape;

const SHAPE: &[usize] = &[16, 64, 64, 64];

fn coupling(c: &mut Criterion) {
    let masks = [
        ("glow halves", CouplingParams::glow(CouplingMask::After(32))),
        (
            "checkerboard",
            CouplingParams::new(CouplingMask::Checkerboard { parity: 0 }),
        ),
    ];
    for (name, params) in masks {
        let raw = [16, params.raw_channels(64), 64, 64];
        let shapes = [SHAPE, &raw];
        rows(
            c,
            "coupling",
            &format!("{name} forward 4M"),
            Unit::Bytes,
            &shapes,
            |x| {
                let (y, log_det) = x[0].coupling(&x[1], &params);
                Ok(vec![y, log_det])
            },
        );
    }
    let params = CouplingParams::glow(CouplingMask::After(32));
    let shapes: [&[usize]; 2] = [SHAPE, SHAPE];
    rows(
        c,
        "coupling",
        "glow halves inverse 4M",
        Unit::Bytes,
        &shapes,
        |x| {
            let (y, log_det) = x[0].coupling_inverse(&x[1], &params);
            Ok(vec![y, log_det])
        },
    );
    rows(
        c,
        "coupling",
        "glow halves forward and backward 4M",
        Unit::Bytes,
        &shapes,
        |x| {
            let (y, log_det) = x[0].coupling(&x[1], &params);
            let loss = y.square().sum(&[], false).sub(&log_det.sum(&[], false));
            tape::backward(&loss, &[&x[0], &x[1]])
        },
    );
    let shapes: [&[usize]; 3] = [SHAPE, &[64], &[64]];
    rows(
        c,
        "coupling",
        "actnorm forward 4M",
        Unit::Bytes,
        &shapes,
        |x| {
            let (y, log_det) = x[0].actnorm(&x[1], &x[2]);
            Ok(vec![y, log_det])
        },
    );
}

criterion_group!(benches, coupling);
criterion_main!(benches);
