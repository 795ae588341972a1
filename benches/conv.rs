//! Convolutions of ResNet, Glow and VQ models: forward, both gradients, strides,
//! groups, transposed.

mod common;

use common::{Unit, row, rows};
use criterion::{Criterion, criterion_group, criterion_main};
use flowgrad::ops::{ConvParams, ConvTransposeParams};
use flowgrad::tape;

fn padded(padding: usize, stride: usize) -> ConvParams {
    ConvParams {
        padding: [padding; 4],
        stride: [stride; 2],
        ..ConvParams::default()
    }
}

fn forward(c: &mut Criterion) {
    let mut conv = |name: &str, x: &[usize], w: &[usize], params: ConvParams| {
        row(c, "conv", name, Unit::Flops, &[x, w], |t| {
            t[0].conv2d(&t[1], None, &params)
        });
    };
    let same = padded(1, 1);
    conv(
        "3x3 8x64x32x32->64",
        &[8, 64, 32, 32],
        &[64, 64, 3, 3],
        same,
    );
    conv(
        "3x3 8x128x16x16->128",
        &[8, 128, 16, 16],
        &[128, 128, 3, 3],
        same,
    );
    conv(
        "3x3 1x64x56x56->64",
        &[1, 64, 56, 56],
        &[64, 64, 3, 3],
        same,
    );
    conv("3x3 16x3x32x32->64", &[16, 3, 32, 32], &[64, 3, 3, 3], same);
    conv(
        "3x3 stride 2 1x64x56x56->128",
        &[1, 64, 56, 56],
        &[128, 64, 3, 3],
        padded(1, 2),
    );
    conv(
        "5x5 1x32x28x28->64",
        &[1, 32, 28, 28],
        &[64, 32, 5, 5],
        padded(2, 1),
    );
    conv(
        "7x7 stride 2 1x3x224x224->64",
        &[1, 3, 224, 224],
        &[64, 3, 7, 7],
        padded(3, 2),
    );
    conv(
        "4x4 stride 2 16x32x28x28->64",
        &[16, 32, 28, 28],
        &[64, 32, 4, 4],
        padded(1, 2),
    );
    conv(
        "1x1 8x256x8x8->256",
        &[8, 256, 8, 8],
        &[256, 256, 1, 1],
        padded(0, 1),
    );
    conv(
        "1x1 glow 4x512x8x8->512",
        &[4, 512, 8, 8],
        &[512, 512, 1, 1],
        padded(0, 1),
    );
    let depthwise = ConvParams {
        groups: 128,
        ..same
    };
    conv(
        "3x3 depthwise 4x128x28x28",
        &[4, 128, 28, 28],
        &[128, 1, 3, 3],
        depthwise,
    );
}

fn backward(c: &mut Criterion) {
    let same = padded(1, 1);
    let shapes: [&[usize]; 2] = [&[8, 64, 32, 32], &[64, 64, 3, 3]];
    for (name, wrt) in [("by input", 0), ("by weight", 1)] {
        let name = format!("3x3 8x64x32x32->64 {name}");
        rows(c, "conv", &name, Unit::Flops, &shapes, |t| {
            let y = t[0].conv2d(&t[1], None, &same);
            let loss = y.sum(&[], false);
            tape::backward(&loss, &[&t[wrt]])
        });
    }
    let transposed = ConvTransposeParams {
        stride: [2; 2],
        padding: [1; 4],
        ..Default::default()
    };
    let shapes: [&[usize]; 2] = [&[16, 64, 14, 14], &[64, 32, 4, 4]];
    row(
        c,
        "conv",
        "transposed 4x4 stride 2 16x64x14x14->32",
        Unit::Flops,
        &shapes,
        |t| t[0].conv_transpose2d(&t[1], None, &transposed),
    );
}

criterion_group!(benches, forward, backward);
criterion_main!(benches);
