//! Every variant of a kernel, not only the one an adapter gets by default, computes
//! the same; and choices are data.

use flowgrad::device::Choices;

use flowgrad::gpu::GpuOptions;
use flowgrad::ops;
use flowgrad::ops::{Activation, ConvParams, ConvTransposeParams};
use flowgrad::{Gpu, Graph, Tensor, tape};

use crate::support::{Case, Data, Tol, build_case, compare, run_on};

/// Products with ragged edges, bias and activation, and a long inner axis.
fn products() -> Vec<Case> {
    let mut cases = Vec::new();
    // (44, 72, 36) takes eight columns a lane where that is possible.
    for (ta, tb) in [(false, false), (true, true), (false, true), (true, false)] {
        for (m, n, k) in [(37, 70, 45), (68, 36, 300), (44, 72, 36)] {
            if ta != tb && m != 44 {
                continue;
            }
            let a = if ta { [k, m] } else { [m, k] };
            let b = if tb { [n, k] } else { [k, n] };
            cases.push(build_case(
                &format!("matmul {m}x{n}x{k} {ta} {tb}"),
                &[Data::f32(a, 1), Data::f32(b, 2)],
                |_, x| vec![x[0].matmul_with(&x[1], ta, tb)],
                false,
            ));
        }
    }
    // Few columns: rows take their place where lanes share reads.
    for (m, n, k) in [(36, 4, 20), (72, 12, 300), (40, 16, 8)] {
        for (ta, tb) in [(false, false), (true, true), (false, true), (true, false)] {
            let a = if ta { [k, m] } else { [m, k] };
            let b = if tb { [2, n, k] } else { [2, k, n] };
            cases.push(build_case(
                &format!("few columns {m}x{n}x{k} {ta} {tb}"),
                &[Data::f32(a, 1), Data::f32(b, 2), Data::f32([2, m, k], 3)],
                |_, x| {
                    let one = x[1].slice(0, 1, 1).reshape(&x[1].shape().dims()[1..]);
                    vec![
                        x[0].matmul_with(&one, ta, tb),
                        // One of the matrices serves all samples, or none does.
                        x[0].matmul_with(&x[1], ta, tb),
                        x[2].matmul_with(&x[1], false, tb),
                    ]
                },
                false,
            ));
        }
    }
    // (80, 24, 12): the few columns of a batch end within a tile.
    for (n, batch) in [(4, 5), (24, 3), (80, 2)] {
        cases.push(build_case(
            &format!("side by side {batch} of {n}"),
            &[Data::f32([20, 12], 1), Data::f32([batch, 12, n], 2)],
            |_, x| vec![x[0].matmul(&x[1])],
            false,
        ));
    }
    for (m, k, n) in [(6, 5, 7), (12, 512, 40), (20, 12, 72), (72, 20, 12)] {
        cases.push(build_case(
            &format!("linear {m}x{k}x{n}"),
            &[
                Data::f32([m, k], 1),
                Data::f32([n, k], 2),
                Data::f32([n], 3),
            ],
            |_, x| vec![x[0].linear(&x[1], Some(&x[2]), Activation::LeakyRelu(0.3))],
            false,
        ));
    }
    cases.push(build_case(
        "batched matmul",
        &[Data::f32([3, 9, 8], 1), Data::f32([3, 8, 12], 2)],
        |_, x| vec![x[0].matmul(&x[1])],
        false,
    ));
    // One row: long, and with columns or an inner axis that end within a vec4.
    for (n, k, tb) in [
        (70, 300, true),
        (1, 8, true),
        (72, 45, false),
        (4, 1, false),
    ] {
        for batch in [1, 3] {
            let a = Data::f32([batch, 1, k], 1);
            let b = Data::f32(if tb { [batch, n, k] } else { [batch, k, n] }, 2);
            cases.push(build_case(
                &format!("one row {batch}x{n}x{k} {tb}"),
                &[a.clone(), b.clone()],
                |graph, x| {
                    vec![
                        x[0].matmul_with(&x[1], false, tb),
                        x[0].matmul_with(&b.half(graph), false, tb),
                        a.half(graph).matmul_with(&x[1], false, tb),
                    ]
                },
                false,
            ));
        }
    }
    cases.push(build_case(
        "one row, linear",
        &[
            Data::f32([1, 40], 1),
            Data::f32([10, 40], 2),
            Data::f32([10], 3),
        ],
        |_, x| vec![x[0].linear(&x[1], Some(&x[2]), Activation::LeakyRelu(0.3))],
        false,
    ));
    for (m, n, k, ta, tb) in [(37, 70, 45, false, false), (40, 72, 300, true, true)] {
        let a = Data::f32(if ta { [k, m] } else { [m, k] }, 1);
        let b = Data::f32(if tb { [n, k] } else { [k, n] }, 2);
        cases.push(build_case(
            "stored in halves",
            &[a.clone(), b.clone()],
            |graph, x| {
                vec![
                    x[0].matmul_with(&b.half(graph), ta, tb),
                    a.half(graph).matmul_with(&x[1], ta, tb),
                ]
            },
            false,
        ));
    }
    cases
}

fn convolutions() -> Vec<Case> {
    let case = |name: &str, c: usize, o: usize, k: usize, params: ConvParams| {
        let inputs = [
            Data::f32([2, c, 9, 8], 1),
            Data::f32([o, c / params.groups, k, k], 2),
            Data::f32([o], 3),
        ];
        let build = |x: &[Tensor]| vec![x[0].conv2d(&x[1], Some(&x[2]), &params)];
        build_case(name, &inputs, |_, x| build(x), true)
    };
    let same = ConvParams {
        padding: [1; 4],
        activation: Activation::Tanh,
        ..ConvParams::default()
    };
    let residual = |[n, h, w]: [usize; 3], o: usize, k: usize| {
        let params = ConvParams {
            padding: [k / 2; 4],
            activation: Activation::LeakyRelu(0.3),
            ..ConvParams::default()
        };
        let inputs = [
            Data::f32([n, 8, h, w], 1),
            Data::f32([o, 8, k, k], 2),
            Data::f32([o], 3),
            Data::f32([n, o, h, w], 4),
        ];
        let build =
            |x: &[Tensor]| vec![x[0].conv2d_residual(&x[1], Some(&x[2]), Some(&x[3]), &params)];
        build_case("residual", &inputs, |_, x| build(x), true)
    };
    let halves = |c: usize, o: usize, k: usize, params: ConvParams| {
        let inputs = [Data::f32([2, c, 9, 8], 1), Data::f32([o], 3)];
        let weight = Data::f32([o, c / params.groups, k, k], 2);
        build_case(
            "weight in halves",
            &inputs,
            |graph, x| vec![x[0].conv2d(&weight.half(graph), Some(&x[1]), &params)],
            true,
        )
    };
    let stride = [2, 2];
    let apart = ConvParams {
        stride,
        dilation: [2, 1],
        groups: 2,
        ..same
    };
    let transposed = ConvTransposeParams {
        stride: [2, 2],
        padding: [1; 4],
        ..Default::default()
    };
    vec![
        halves(8, 36, 1, ConvParams::default()),
        halves(5, 37, 3, same),
        halves(4, 6, 3, ConvParams { groups: 2, ..same }),
        halves(5, 5, 3, ConvParams { groups: 5, ..same }),
        residual([2, 9, 8], 36, 1),
        residual([2, 9, 8], 36, 3),
        // Few columns of a product: by themselves, and side by side.
        residual([1, 4, 4], 40, 3),
        residual([1, 2, 4], 36, 1),
        residual([3, 6, 6], 36, 1),
        residual([5, 2, 2], 40, 3),
        case("1x1", 8, 36, 1, ConvParams::default()),
        case("3x3", 5, 37, 3, same),
        case("3x3, strided", 4, 6, 3, ConvParams { stride, ..same }),
        case("3x3, groups", 4, 6, 3, ConvParams { groups: 2, ..same }),
        case("3x3, depthwise", 5, 5, 3, ConvParams { groups: 5, ..same }),
        // More than one tile of channels, and of pixels that do not end with a sample.
        case("3x3, many channels", 9, 70, 3, same),
        case("3x3, many channels, groups", 10, 140, 3, apart),
        build_case(
            "transposed",
            &[
                Data::f32([2, 4, 5, 6], 1),
                Data::f32([4, 3, 4, 4], 2),
                Data::f32([3], 3),
            ],
            |_, x| vec![x[0].conv_transpose2d(&x[1], Some(&x[2]), &transposed)],
            false,
        ),
    ]
}

/// Gradients by the weight: rows and channels that fill no tile, taps in several registers
/// and too many for them, groups, strides, images of one kernel's size.
fn weight_gradients() -> Vec<Case> {
    let same = ConvParams {
        padding: [1; 4],
        ..Default::default()
    };
    let plain = ConvParams::default;
    let case = |name: &str, x: [usize; 4], o: usize, [kh, kw]: [usize; 2], params: ConvParams| {
        let weight = [o, x[1] / params.groups, kh, kw];
        let zeros = Graph::new();
        let y = zeros
            .full(x, 0.0)
            .conv2d(&zeros.full(weight, 0.0), None, &params);
        build_case(
            name,
            &[Data::f32(x, 1), Data::f32(y.shape(), 2)],
            |graph, given| {
                let weight = graph.full(weight, 0.0);
                let y = given[0].conv2d(&weight, None, &params);
                let seeds = [(y, given[1].clone())];
                tape::backward_from(&seeds, &[&weight]).unwrap()
            },
            false,
        )
    };
    vec![
        case("1x1, as products", [3, 36, 2, 6], 9, [1, 1], plain()),
        case("1x1, few channels", [2, 4, 4, 5], 3, [1, 1], plain()),
        case("1x1, odd pixels", [2, 8, 3, 5], 5, [1, 1], plain()),
        case("3x3", [2, 5, 7, 6], 6, [3, 3], same),
        case("3x3, many channels", [2, 9, 5, 7], 70, [3, 3], same),
        case("3x3, few outputs", [2, 40, 5, 4], 2, [3, 3], same),
        case(
            "3x3, groups",
            [2, 12, 6, 5],
            18,
            [3, 3],
            ConvParams { groups: 3, ..same },
        ),
        case(
            "3x3, depthwise",
            [2, 6, 6, 8],
            6,
            [3, 3],
            ConvParams { groups: 6, ..same },
        ),
        case(
            "2x4, stride 2, dilation 2",
            [2, 6, 9, 11],
            8,
            [2, 4],
            ConvParams {
                stride: [2; 2],
                dilation: [2; 2],
                ..same
            },
        ),
        case("1x7", [2, 3, 2, 19], 4, [1, 7], plain()),
        case("7x7, three channels", [1, 3, 12, 13], 8, [7, 7], same),
    ]
}

/// Runs the cases with each variant forced; `kernel_of` tells what then must have run.
fn every_variant(kernel: &str, cases: &[Case], kernel_of: impl Fn(&str) -> &'static str) {
    let expected: Vec<_> = cases.iter().map(Case::reference).collect();
    for variant in ops::variants(kernel) {
        let mut choices = Choices::default();
        choices.set(kernel, "*", variant);
        let gpu = Gpu::with(GpuOptions {
            choices,
            ..Default::default()
        })
        .unwrap();
        let mut ran = false;
        for (case, expected) in cases.iter().zip(&expected) {
            let (got, kernels) = run_on(&gpu, &case.inputs, &case.wanted())
                .unwrap_or_else(|e| panic!("{variant}, {}: {e}", case.name));
            ran |= kernels.iter().any(|name| name == kernel_of(variant));
            compare(case, &got, expected, &Tol::default());
        }
        let possible = !["shuffle", "packed", "rows"].contains(&variant)
            && (kernel, variant) != ("conv2d_weight", "product");
        assert!(
            ran || (!possible && gpu.profile().subgroup_size.is_none()),
            "{kernel}: {variant} was forced and never ran"
        );
    }
}

#[test]
fn every_variant_of_products() {
    every_variant("matmul", &products(), |variant| match variant {
        "shuffle" => "matmul_shuffle",
        "packed" => "matmul_packed",
        "register" => "matmul",
        "row" => "matmul_row",
        _ => "matmul_tiled",
    });
}

#[test]
fn every_variant_of_weight_gradients() {
    every_variant(
        "conv2d_weight",
        &weight_gradients(),
        |variant| match variant {
            "product" => "matmul_shuffle",
            "packed" => "conv2d_weight_shuffle",
            _ => "conv2d_weight",
        },
    );
}

#[test]
fn every_variant_of_convolutions() {
    every_variant("conv2d", &convolutions(), |variant| match variant {
        "product" => "matmul_shuffle",
        "packed" => "conv2d_shuffle",
        "rows" => "conv2d_rows",
        "columns" => "conv2d_columns",
        "depthwise" => "conv2d_depthwise",
        "register" => "conv2d",
        _ => "conv2d_tiled",
    });
}
