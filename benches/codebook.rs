//! Code search of VQ-VAE and VQGAN codebooks, and the statistics of moving averages.

mod common;

use common::{Unit, row};
use criterion::{Criterion, criterion_group, criterion_main};
use flowgrad::quantize::{Metric, vector_quantize};

fn search(c: &mut Criterion) {
    let shapes = [
        ("vq-vae", 4096, 64, 512),
        ("mnist", 16384, 16, 64),
        ("", 4096, 256, 1024),
        ("vqgan", 256, 256, 16384),
    ];
    for (model, n, d, k) in shapes {
        let name = format!("{model} n{n} d{d} k{k}");
        row(
            c,
            "codebook",
            name.trim(),
            Unit::Flops,
            &[&[n, d], &[k, d]],
            |x| x[0].codebook_nearest(&x[1]),
        );
    }
}

fn statistics(c: &mut Criterion) {
    let shapes: [&[usize]; 2] = [&[16384, 64], &[512, 64]];
    row(
        c,
        "codebook",
        "search and segment sum n16384 d64 k512",
        Unit::Bytes,
        &shapes,
        |x| {
            let nearest = x[0].codebook_nearest(&x[1]);
            x[0].segment_sum(&nearest, 512)
        },
    );
    row(
        c,
        "codebook",
        "quantise n16384 d64 k512",
        Unit::Bytes,
        &shapes,
        |x| vector_quantize(&x[0], &x[1], Metric::Euclidean, 0.25).loss,
    );
}

criterion_group!(benches, search, statistics);
criterion_main!(benches);
