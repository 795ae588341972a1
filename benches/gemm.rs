//! Matrix products: squares, the shapes of Glow, ResNet and attention, a single row,
//! transposed operands, bias and activation in the kernel, and rows times weights that
//! are stored as 16-bit floats.

mod common;

use common::{Unit, row};
use criterion::{Criterion, criterion_group, criterion_main};
use flowgrad::ops::Activation;

fn gemm(c: &mut Criterion) {
    let mut product = |name: &str, a: &[usize], b: &[usize], ta: bool, tb: bool| {
        row(c, "gemm", name, Unit::Flops, &[a, b], |x| {
            x[0].matmul_with(&x[1], ta, tb)
        });
    };
    for n in [128, 256, 512, 1024] {
        product(&format!("{n}x{n}x{n}"), &[n, n], &[n, n], false, false);
    }
    let (m, n, k) = (512, 512, 512);
    product("a transposed 512", &[k, m], &[k, n], true, false);
    product("b transposed 512", &[m, k], &[n, k], false, true);
    product(
        "batched 16x128x128x128",
        &[16, 128, 128],
        &[16, 128, 128],
        false,
        false,
    );
    product("resnet 3136x64x576", &[3136, 576], &[576, 64], false, false);
    product("one row 1x1000x512", &[1, 512], &[512, 1000], false, false);
    product(
        "attention scores 8x256x256x64",
        &[8, 256, 64],
        &[8, 256, 64],
        false,
        true,
    );

    // The 1x1 convolutions of Glow's networks, 16 images of 8x8 pixels, width 512.
    let shapes: [&[usize]; 3] = [&[1024, 512], &[512, 512], &[512]];
    row(
        c,
        "gemm",
        "glow linear relu 1024x512x512",
        Unit::Flops,
        &shapes,
        |x| x[0].linear(&x[1], Some(&x[2]), Activation::Relu),
    );
}

/// One row and many weights: what is read decides, and weights in halves are half of it.
fn weights(c: &mut Criterion) {
    for (n, k) in [(1000, 512), (4096, 4096)] {
        let data: Vec<f32> = (0..n * k).map(|i| (i % 251) as f32 / 251.0 - 0.5).collect();
        for half in [false, true] {
            let name = format!("row 1x{n}x{k}, weights f{}", if half { 16 } else { 32 });
            row(c, "gemm", &name, Unit::Bytes, &[&[1, k]], |x| {
                let graph = x[0].graph();
                let weight = match half {
                    true => graph.constant_f16([n, k], &data),
                    false => graph.constant([n, k], &data),
                };
                x[0].linear(&weight, None, Activation::None)
            });
        }
    }
}

criterion_group!(benches, gemm, weights);
criterion_main!(benches);
