//! Batch norm in training, forward and backward, and in evaluation; layer norm; pooling.
//! All of them are bound by memory.

mod common;

use common::{Unit, row, rows};
use criterion::{Criterion, criterion_group, criterion_main};
use flowgrad::ops::PoolParams;
use flowgrad::tape;

const EPS: f32 = 1e-5;

fn norm(c: &mut Criterion) {
    let (x, stats): (&[usize], &[usize]) = (&[8, 64, 56, 56], &[64]);
    let shapes = [x, stats, stats];
    row(
        c,
        "norm",
        "batch norm train 8x64x56x56",
        Unit::Bytes,
        &shapes,
        |t| t[0].batch_norm_train(Some(&t[1]), Some(&t[2]), EPS).0,
    );
    rows(
        c,
        "norm",
        "batch norm forward and backward 8x64x56x56",
        Unit::Bytes,
        &shapes,
        |t| {
            let (y, _, _) = t[0].batch_norm_train(Some(&t[1]), Some(&t[2]), EPS);
            let loss = y.square().sum(&[], false);
            tape::backward(&loss, &[&t[0], &t[1], &t[2]])
        },
    );
    let shapes = [x, stats, stats, stats, stats];
    row(
        c,
        "norm",
        "batch norm eval 8x64x56x56",
        Unit::Bytes,
        &shapes,
        |t| {
            let var = t[2].square();
            t[0].batch_norm_eval(&t[1], &var, Some(&t[3]), Some(&t[4]), EPS)
        },
    );
    let shapes: [&[usize]; 3] = [&[1024, 512], &[512], &[512]];
    row(
        c,
        "norm",
        "layer norm 1024x512",
        Unit::Bytes,
        &shapes,
        |t| t[0].layer_norm(&[512], Some(&t[1]), Some(&t[2]), EPS),
    );
    let pool = PoolParams::new([3, 3], [2, 2]).padding([1, 1]);
    row(
        c,
        "norm",
        "max pool 3x3 stride 2 4x64x112x112",
        Unit::Bytes,
        &[&[4, 64, 112, 112]],
        |t| t[0].max_pool2d(&pool),
    );
    row(
        c,
        "norm",
        "average pool 8x512x8x8",
        Unit::Bytes,
        &[&[8, 512, 8, 8]],
        |t| t[0].mean(&[2, 3], false),
    );
}

criterion_group!(benches, norm);
criterion_main!(benches);
