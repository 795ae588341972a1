//! Matrix products: squares, the shapes of Glow, ResNet and attention, a single row,
//! transposed operands, bias and activation in the kernel.

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

criterion_group!(benches, gemm);
criterion_main!(benches);
