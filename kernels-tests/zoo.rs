//! One small graph per op and per kernel variant: what all kernels are checked on.

use flowgrad::ops::{
    Activation, Categorical, ConvParams, ConvTransposeParams, CouplingMask, CouplingParams,
    CouplingScale, CrossEntropy, GridPadding, PixelFormat, Plu, PoolParams, SplineParams,
};
use flowgrad::{Graph, Tensor, tape};

use crate::support::{Case, Data, build_case};

fn images(shape: [usize; 4]) -> Data {
    Data::distinct(shape, 1)
}

/// Every op, with gradients where there are any.
pub fn zoo() -> Vec<Case> {
    let mut cases = Vec::new();
    roofs(&mut cases);
    products(&mut cases);
    matrices(&mut cases);
    factored(&mut cases);
    convolutions(&mut cases);
    residuals(&mut cases);
    pools(&mut cases);
    reductions(&mut cases);
    norms(&mut cases);
    couplings(&mut cases);
    pictures(&mut cases);
    views(&mut cases);
    packs(&mut cases);
    codes(&mut cases);
    pointwise(&mut cases);
    random(&mut cases);
    halves(&mut cases);
    cases
}

/// Weights stored as 16-bit floats.
fn halves(cases: &mut Vec<Case>) {
    for (m, n, k) in [(5, 7, 3), (64, 48, 40)] {
        for (ta, tb) in [(false, false), (true, true)] {
            let a = Data::f32(if ta { [k, m] } else { [m, k] }, 1);
            let b = Data::f32(if tb { [n, k] } else { [k, n] }, 2);
            cases.push(build_case(
                &format!("matmul in halves {m}x{n}x{k}"),
                &[a.clone(), b.clone()],
                |graph, x| {
                    vec![
                        x[0].matmul_with(&b.half(graph), ta, tb),
                        a.half(graph).matmul_with(&x[1], ta, tb),
                    ]
                },
                true,
            ));
        }
    }
    let params = ConvParams {
        padding: [1; 4],
        ..Default::default()
    };
    for (c, o) in [(5, 7), (8, 32)] {
        let weight = Data::f32([o, c, 3, 3], 2);
        cases.push(build_case(
            &format!("conv 3x3 in halves, {c} to {o}"),
            &[images([2, c, 9, 8])],
            |graph, x| vec![x[0].conv2d(&weight.half(graph), None, &params)],
            true,
        ));
    }
    for width in [3, 8] {
        let table = Data::f32([9, width], 2);
        cases.push(build_case(
            &format!("gather in halves {width}"),
            &[Data::below([7], 1, 9)],
            |graph, x| vec![table.half(graph).gather_rows(&x[0])],
            false,
        ));
    }
}

/// Kernels that show what an adapter can do at most.
fn roofs(cases: &mut Vec<Case>) {
    let x = [Data::f32([72], 1)];
    cases.push(build_case(
        "roof",
        &x,
        |_, x| vec![x[0].roof_arithmetic(3), x[0].roof_copy()],
        false,
    ));
}

fn products(cases: &mut Vec<Case>) {
    for (m, n, k) in [(1, 1, 1), (5, 7, 3), (64, 48, 40), (130, 20, 17)] {
        for (ta, tb) in [(false, false), (true, false), (false, true), (true, true)] {
            let a = if ta { [k, m] } else { [m, k] };
            let b = if tb { [n, k] } else { [k, n] };
            cases.push(build_case(
                &format!("matmul {m}x{n}x{k}"),
                &[Data::f32(a, 1), Data::f32(b, 2)],
                |_, x| vec![x[0].matmul_with(&x[1], ta, tb)],
                true,
            ));
        }
    }
    for (t, s, d, e, causal) in [(7, 9, 5, 3, false), (40, 33, 8, 132, true)] {
        cases.push(build_case(
            &format!("attention {t}x{s}x{d}x{e}"),
            &[
                Data::f32([2, t, d], 1),
                Data::f32([2, s, d], 2),
                Data::f32([2, s, e], 3),
            ],
            |_, x| vec![x[0].attention(&x[1], &x[2], 0.4, causal)],
            true,
        ));
    }
    for tb in [false, true] {
        let b = Data::f32(if tb { [44, 20] } else { [20, 44] }, 2);
        cases.push(build_case(
            "matmul of one row",
            &[Data::f32([1, 20], 1), b.clone()],
            |graph, x| {
                vec![
                    x[0].matmul_with(&x[1], false, tb),
                    x[0].matmul_with(&b.half(graph), false, tb),
                ]
            },
            true,
        ));
    }
    for activation in [
        Activation::None,
        Activation::Relu,
        Activation::LeakyRelu(0.1),
        Activation::Sigmoid,
        Activation::Tanh,
    ] {
        cases.push(build_case(
            &format!("linear {activation:?}"),
            &[
                Data::f32([6, 5], 1),
                Data::f32([7, 5], 2),
                Data::f32([7], 3),
            ],
            |_, x| vec![x[0].linear(&x[1], Some(&x[2]), activation)],
            true,
        ));
    }
    cases.push(build_case(
        "linear, long inner axis",
        &[
            Data::f32([6, 520], 1),
            Data::f32([40, 520], 2),
            Data::f32([40], 3),
        ],
        |_, x| vec![x[0].linear(&x[1], Some(&x[2]), Activation::LeakyRelu(0.1))],
        true,
    ));
    cases.push(build_case(
        "batched matmul",
        &[Data::f32([2, 3, 4, 5], 1), Data::f32([3, 5, 6], 2)],
        |_, x| vec![x[0].matmul(&x[1])],
        true,
    ));
}

fn matrices(cases: &mut Vec<Case>) {
    for n in [5, 20, 56, 131, 200] {
        cases.push(build_case(
            &format!("matrices {n}"),
            &[Data::f32([2, n, n], 1)],
            |_, x| {
                let f = x[0].lu();
                vec![
                    x[0].inverse(),
                    f.lu,
                    f.pivots,
                    f.sign.stop_gradient(),
                    f.log_det,
                ]
            },
            true,
        ));
    }
}

fn factored(cases: &mut Vec<Case>) {
    for n in [7, 8] {
        let shapes: [&[usize]; 5] = [&[n, n], &[n, n], &[n, n], &[n], &[n]];
        let inputs: Vec<Data> = (1..).zip(shapes).map(|(i, s)| Data::f32(s, i)).collect();
        cases.push(build_case(
            &format!("plu {n}"),
            &inputs,
            |_, x| {
                let plu = Plu {
                    p: &x[0].stop_gradient(),
                    l: &x[1],
                    u: &x[2],
                    sign: &x[3].stop_gradient(),
                    log_s: &x[4],
                };
                vec![plu.assemble(), plu.inverse()]
            },
            true,
        ));
    }
}

fn convolutions(cases: &mut Vec<Case>) {
    let mut conv = |name: &str, c: usize, o: usize, k: usize, params: ConvParams| {
        let weight = Data::f32([o, c / params.groups, k, k], 2);
        cases.push(build_case(
            name,
            &[images([2, c, 9, 8]), weight, Data::f32([o], 3)],
            |_, x| vec![x[0].conv2d(&x[1], Some(&x[2]), &params)],
            true,
        ));
    };
    let plain = ConvParams::default();
    let same = ConvParams {
        padding: [1; 4],
        ..plain
    };
    conv("conv 1x1", 5, 7, 1, plain);
    conv("conv 3x3", 8, 16, 3, same);
    conv("conv 3x3, one channel", 1, 1, 3, same);
    let stride = [2, 2];
    conv("strided", 4, 6, 3, ConvParams { stride, ..same });
    let dilation = [2, 2];
    conv("dilated", 4, 6, 3, ConvParams { dilation, ..same });
    conv("grouped", 4, 6, 3, ConvParams { groups: 2, ..same });
    conv("depthwise", 4, 4, 3, ConvParams { groups: 4, ..same });
    let padding = [2, 1, 0, 3];
    conv("lopsided", 3, 5, 3, ConvParams { padding, ..plain });
    let activation = Activation::LeakyRelu(0.1);
    conv("conv leaky", 3, 5, 3, ConvParams { activation, ..same });
    let params = ConvTransposeParams {
        stride: [2, 2],
        padding: [1; 4],
        ..Default::default()
    };
    cases.push(build_case(
        "conv_transpose",
        &[
            images([2, 4, 5, 6]),
            Data::f32([4, 3, 4, 4], 2),
            Data::f32([3], 3),
        ],
        |_, x| vec![x[0].conv_transpose2d(&x[1], Some(&x[2]), &params)],
        true,
    ));
}

fn residuals(cases: &mut Vec<Case>) {
    for k in [1, 3] {
        let params = ConvParams {
            padding: [k / 2; 4],
            activation: Activation::Relu,
            ..ConvParams::default()
        };
        cases.push(build_case(
            &format!("conv {k}x{k} with a residual"),
            &[
                images([2, 8, 9, 8]),
                Data::f32([16, 8, k, k], 2),
                Data::f32([2, 16, 9, 8], 3),
            ],
            |_, x| vec![x[0].conv2d_residual(&x[1], None, Some(&x[2]), &params)],
            true,
        ));
    }
}

fn pools(cases: &mut Vec<Case>) {
    let windows = [
        PoolParams::new([2, 2], [2, 2]).ceil_mode(),
        PoolParams::new([3, 3], [2, 2]).padding([1, 1]),
        PoolParams {
            count_include_pad: false,
            ..PoolParams::new([3, 2], [1, 2]).padding([1, 0])
        },
    ];
    // Software adapters read rows of sixteen and of four in pieces.
    for (params, width) in windows.iter().flat_map(|p| [7, 16, 4].map(|w| (*p, w))) {
        cases.push(build_case(
            &format!("pool {params:?} of {width} columns"),
            &[images([2, 3, 8, width])],
            |_, x| {
                let (y, idx) = x[0].max_pool2d_with_indices(&params);
                vec![y, idx, x[0].avg_pool2d(&params)]
            },
            true,
        ));
    }
    cases.push(build_case(
        "second derivative of a maximum",
        &[images([2, 3, 8, 7])],
        |_, x| {
            let y = x[0].max_pool2d(&windows[1]).exp().sum(&[], false);
            tape::backward(&y, &[&x[0]]).expect("a gradient")
        },
        true,
    ));
    cases.push(build_case(
        "parts",
        &[images([2, 3, 7, 5])],
        |_, x| vec![x[0].adaptive_avg_pool2d([3, 2])],
        true,
    ));
    cases.push(build_case(
        "scaling",
        &[images([2, 3, 4, 5])],
        |_, x| vec![x[0].global_avg_pool2d(), x[0].upsample_nearest2d([2, 3])],
        true,
    ));
}

fn reductions(cases: &mut Vec<Case>) {
    let shapes: [(&[usize], &[isize]); 5] = [
        (&[3, 5], &[1]),
        (&[4, 3, 5, 2], &[0, 2]),
        (&[7], &[]),
        (&[70_000], &[]),
        (&[2, 3, 33_000], &[0, 2]),
    ];
    for (shape, axes) in shapes {
        cases.push(build_case(
            &format!("reduce {shape:?} {axes:?}"),
            &[Data::distinct(shape, 1)],
            |_, x| {
                vec![
                    x[0].sum(axes, false),
                    x[0].mean(axes, true),
                    x[0].max(axes, false),
                    x[0].min(axes, true),
                    x[0].var(axes, true, false),
                    x[0].logsumexp(axes, false),
                ]
            },
            true,
        ));
    }
    for (shape, axis) in [
        (vec![4, 6], 1),
        (vec![4, 8], 1),
        (vec![5, 4, 3], 1),
        (vec![3, 70_000], 1),
        (vec![9], 0),
    ] {
        cases.push(build_case(
            &format!("along {axis} of {shape:?}"),
            &[Data::distinct(shape, 1)],
            |_, x| {
                vec![
                    x[0].softmax(axis),
                    x[0].log_softmax(axis),
                    x[0].cumsum(axis),
                    x[0].argmax(Some(axis)),
                    x[0].argmin(None),
                ]
            },
            true,
        ));
    }
}

fn norms(cases: &mut Vec<Case>) {
    cases.push(build_case(
        "norms",
        &[
            images([2, 4, 3, 5]),
            Data::f32([4], 2),
            Data::f32([4], 3),
            Data::f32([3, 5], 4),
        ],
        |_, x| {
            let (gamma, beta) = (Some(&x[1]), Some(&x[2]));
            let (y, mean, var) = x[0].batch_norm_train(gamma, beta, 1e-5);
            let eval = x[0].batch_norm_eval(&mean, &var, gamma, None, 1e-5);
            let group = x[0].group_norm(2, gamma, beta, 1e-5);
            let layer = x[0].layer_norm(&[3, 5], Some(&x[3]), None, 1e-5);
            vec![y, mean, var, eval, group, layer]
        },
        true,
    ));
}

fn couplings(cases: &mut Vec<Case>) {
    let plain = CouplingParams::new(CouplingMask::After(2));
    let all = [
        plain,
        CouplingParams::glow(CouplingMask::Odd),
        CouplingParams::additive(CouplingMask::Before(2)),
        CouplingParams {
            scale: CouplingScale::Tanh { clamp: 2.0 },
            minimum: 1e-3,
            ..CouplingParams::new(CouplingMask::Checkerboard { parity: 1 })
        },
        CouplingParams {
            minimum: 1e-3,
            ..plain
        },
    ];
    for params in all {
        for plane in [[3, 5], [4, 40]] {
            let shape = [2, 4, plane[0], plane[1]];
            let raw = [2, params.raw_channels(4), plane[0], plane[1]];
            cases.push(build_case(
                &format!("coupling of {shape:?}, {params:?}"),
                &[Data::f32(shape, 1), Data::f32(raw, 2)],
                |_, x| {
                    let (y, log_det) = x[0].coupling(&x[1], &params);
                    let (back, inverse) = x[0].coupling_inverse(&x[1], &params);
                    // What nobody else reads is overwritten, its gradient as well.
                    let own = x[0].exp().coupling(&x[1], &params).0.sin();
                    let other = x[0].exp().neg().coupling_inverse(&x[1], &params).0;
                    vec![y, log_det, back, inverse, own, other.sin()]
                },
                true,
            ));
        }
    }
    let params = SplineParams {
        bins: 5,
        bound: 2.0,
    };
    cases.push(build_case(
        "spline",
        &[
            Data::uniform([2, 3, 2, 4], 1, -3.0, 3.0),
            Data::f32([2, 42, 2, 4], 2),
        ],
        |_, x| {
            let (y, log) = x[0].spline(&x[1], &params);
            let (back, inverse) = x[0].spline_inverse(&x[1], &params);
            vec![y, log, back, inverse]
        },
        true,
    ));
    cases.push(build_case(
        "actnorm",
        &[images([2, 4, 3, 5]), Data::f32([4], 2), Data::f32([4], 3)],
        |_, x| {
            let (y, log_det) = x[0].actnorm(&x[1], &x[2]);
            let init = y.actnorm_init(1e-6, 0.1);
            vec![y, log_det, init.bias, init.log_scale]
        },
        true,
    ));
}

fn pictures(cases: &mut Vec<Case>) {
    let x = images([3, 2, 5, 4]);
    for by in [Data::f32([3, 2], 2), Data::below([3], 2, 7)] {
        cases.push(build_case(
            &format!("moved by {:?}", by.shape()),
            &[x.clone(), by],
            |_, x| {
                vec![
                    x[0].roll_each(&x[1]),
                    x[0].crop_each(&x[1], [6, 3]),
                    x[0].flip_each(&x[1]),
                ]
            },
            true,
        ));
    }
    for padding in [GridPadding::Zeros, GridPadding::Border] {
        cases.push(build_case(
            &format!("warped, {padding:?}"),
            &[x.clone(), Data::f32([3, 2, 3], 2)],
            |_, x| {
                let grid = x[1].affine_grid([3, 7]).sin();
                vec![x[0].grid_sample(&grid, padding)]
            },
            true,
        ));
    }
    for format in [
        PixelFormat::rgb([5, 3]).imagenet(),
        PixelFormat::rgba([2, 3]),
        PixelFormat::grey([3, 5]),
    ] {
        let words = Data::below([format.words(3)], 2, 1 << 31);
        cases.push(build_case(
            &format!("bytes {format:?}"),
            &[words],
            |_, x| vec![x[0].pixels(3, &format)],
            false,
        ));
    }
    // So many places that they are taken in turns.
    cases.push(build_case(
        "many places",
        &[images([1, 1, 2, 3]), Data::f32([1, 2, 3], 2)],
        |_, x| vec![x[0].affine_warp(&x[1], [250, 190], GridPadding::Zeros)],
        true,
    ));
}

fn views(cases: &mut Vec<Case>) {
    cases.push(build_case(
        "views",
        &[Data::f32([4, 3, 6], 1), Data::f32([4, 1, 6], 2)],
        |_, x| {
            vec![
                x[0].permute(&[2, 0, 1]),
                x[0].transpose(0, 1),
                x[1].broadcast_to([4, 5, 6]),
                x[0].slice(2, 1, 4),
                x[0].slice_step(2, 5, 3, -2),
                x[0].pad(&[(1, 0), (0, 2), (1, 1)], 0.5),
                x[0].flip(&[0, 2]),
                x[0].roll(1, 2),
                Tensor::concat(&[&x[0], &x[1]], 1),
                x[0].reshape([12, 6]),
            ]
        },
        true,
    ));
}

fn packs(cases: &mut Vec<Case>) {
    // The first part is computed in place, the others must be copied.
    cases.push(build_case(
        "pack",
        &[Data::f32([5, 3], 1), Data::f32([7], 2)],
        |g, x| vec![g.pack(&[(64, &x[0].exp()), (128, &x[1]), (192, &x[1])], 256)],
        true,
    ));
}

fn codes(cases: &mut Vec<Case>) {
    for (n, k, d) in [(5, 7, 3), (2, 4099, 4), (70, 33, 8)] {
        cases.push(build_case(
            &format!("codes {n} {k} {d}"),
            &[Data::f32([n, d], 1), Data::f32([k, d], 2)],
            |_, x| {
                let idx = x[0].codebook_nearest(&x[1]);
                let code = x[1].gather_rows(&idx);
                let sums = x[0].segment_sum(&idx, k);
                vec![
                    x[0].straight_through(&code.stop_gradient()),
                    code,
                    sums,
                    idx.one_hot(k).stop_gradient(),
                    idx,
                ]
            },
            true,
        ));
    }
    // So many rows and segments that they are sorted first, on every device.
    cases.push(build_case(
        "many segments",
        &[Data::f32([4096, 16], 1), Data::below([4096], 2, 8192)],
        |_, x| vec![x[0].segment_sum(&x[1], 8192)],
        true,
    ));
    for (n, width) in [(9, 3), (9, 4), (2100, 1)] {
        cases.push(build_case(
            &format!("rows set {n}x{width}"),
            &[
                Data::f32([40, width], 1),
                Data::below([n], 2, 50),
                Data::f32([n, width], 3),
            ],
            |_, x| vec![x[0].set_rows(&x[1], &x[2])],
            true,
        ));
    }
    cases.push(build_case(
        "labels",
        &[Data::f32([6, 5, 2], 1), Data::below([6, 2], 2, 5)],
        |_, x| {
            let options = CrossEntropy {
                label_smoothing: 0.1,
                ..Default::default()
            };
            vec![
                x[0].cross_entropy(&x[1], &options),
                x[0].take_along_axis(1, &x[1]),
            ]
        },
        true,
    ));
}

fn pointwise(cases: &mut Vec<Case>) {
    cases.push(build_case(
        "functions",
        &[
            Data::uniform([5, 7], 1, 0.5, 2.0),
            Data::uniform([7], 2, 0.5, 2.0),
        ],
        |g, x| {
            let (a, b) = (&x[0], &x[1]);
            let mut all = vec![
                a.neg(),
                a.abs(),
                a.exp(),
                a.log(),
                a.sqrt(),
                a.rsqrt(),
                a.recip(),
                a.square(),
                a.sin(),
                a.cos(),
                a.tanh(),
                a.sigmoid(),
                a.softplus(),
                a.relu(),
                a.leaky_relu(0.2),
                a.elu(1.0),
                a.erf(),
                a.gelu(),
                a.silu(),
                a.pow_scalar(3.0),
                a.pow_scalar(-7.0),
                a.pow_scalar(1.5),
                a.clamp(0.7, 1.5),
                a.clamp(f32::NEG_INFINITY, 1.5),
            ];
            all.extend([
                a.add(b),
                a.sub(b),
                a.mul(b),
                a.div(b),
                a.pow(b),
                a.maximum(b),
                a.minimum(b),
                a.less(b).stop_gradient().select(a, b),
                g.full([3], f32::INFINITY),
                g.full([2], -1e-30),
            ]);
            all
        },
        true,
    ));
    cases.push(build_case(
        "no gradient",
        &[Data::uniform([5, 7], 1, -2.0, 2.0), Data::below([7], 2, 9)],
        |g, x| {
            let zero = g.full([5, 7], 0.0);
            vec![
                x[0].sign(),
                x[0].floor(),
                x[0].ceil(),
                x[0].round(),
                x[0].to_u32(),
                x[1].to_f32(),
                x[0].less_equal(&x[0].round()),
                x[1].equal(&x[0].to_u32()),
                // Constants that are folded into the text.
                zero.recip(),
                zero.log(),
                x[0].div(&zero),
                zero.neg().add(&x[0]),
                x[0].clone(),
            ]
        },
        false,
    ));
}

fn random(cases: &mut Vec<Case>) {
    for top_k in [None, Some(3)] {
        let options = Categorical {
            top_k,
            ..Default::default()
        };
        cases.push(build_case(
            "drawn classes",
            &[Data::f32([3, 9], 1)],
            |_, x| vec![x[0].categorical(&options)],
            false,
        ));
    }
    cases.push(build_case(
        "random",
        &[],
        |g: &Graph, _| {
            vec![
                g.uniform([7]),
                g.normal([3, 3]),
                g.bernoulli([5], 0.3),
                g.random_bits([6]),
                g.random_below([6], 10),
            ]
        },
        false,
    ));
}
