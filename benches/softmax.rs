//! Softmax, logsumexp, reductions and random numbers: bound by memory.

mod common;

use common::{Unit, row};
use criterion::{Criterion, criterion_group, criterion_main};

fn softmax(c: &mut Criterion) {
    for (rows, columns) in [(4096, 64), (256, 1000), (64, 16384)] {
        let shape: [&[usize]; 1] = [&[rows, columns]];
        let name = format!("softmax {rows}x{columns}");
        row(c, "softmax", &name, Unit::Bytes, &shape, |x| {
            x[0].softmax(-1)
        });
    }
    let shape: [&[usize]; 1] = [&[256, 1000]];
    row(
        c,
        "softmax",
        "logsumexp 256x1000",
        Unit::Bytes,
        &shape,
        |x| x[0].logsumexp(&[-1], false),
    );
}

fn reduce(c: &mut Criterion) {
    let shape: [&[usize]; 1] = [&[1024, 1024]];
    let axes: [(&str, &[isize]); 3] = [("rows", &[1]), ("columns", &[0]), ("all", &[])];
    for (name, axes) in axes {
        let name = format!("sum {name} 1024x1024");
        row(c, "reduce", &name, Unit::Bytes, &shape, |x| {
            x[0].sum(axes, false)
        });
    }
    row(
        c,
        "reduce",
        "sum channels 8x64x56x56",
        Unit::Bytes,
        &[&[8, 64, 56, 56]],
        |x| x[0].sum(&[0, 2, 3], false),
    );
    row(c, "random", "normal 1024x1024", Unit::Bytes, &[&[1]], |x| {
        x[0].graph().normal([1024, 1024])
    });
}

criterion_group!(benches, softmax, reduce);
criterion_main!(benches);
