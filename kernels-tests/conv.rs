//! Convolutions: every parameter alone and together, awkward sizes, gradients of
//! gradients, sizes that must be split, and what is refused.

use flowgrad::device::{DeviceClass, DeviceProfile};
use flowgrad::ops::{Activation, Conv1dParams, ConvParams, ConvTransposeParams};
use flowgrad::plan::PlanOptions;
use flowgrad::{Graph, Program, Result, Tensor, Value, tape};

use crate::support::{Data, Tol, assert_close, build_case, check_op, gpu};

/// `[N, C, H, W]`, output channels, kernel, parameters.
type Case = ([usize; 4], usize, [usize; 2], ConvParams);

fn same(pad: usize) -> ConvParams {
    ConvParams {
        padding: [pad; 4],
        ..Default::default()
    }
}

fn cases() -> Vec<Case> {
    let plain = ConvParams::default();
    let strided = |s: [usize; 2], pad: usize| ConvParams {
        stride: s,
        ..same(pad)
    };
    let dilated = |d: [usize; 2], pad: usize| ConvParams {
        dilation: d,
        ..same(pad)
    };
    let grouped = |groups: usize, p: ConvParams| ConvParams { groups, ..p };
    let asymmetric = |padding: [usize; 4]| ConvParams { padding, ..plain };
    vec![
        ([1, 1, 1, 1], 1, [1, 1], plain),
        ([2, 3, 5, 7], 4, [1, 1], plain),
        ([2, 9, 20, 20], 17, [1, 1], plain),
        // Sums over samples in parts of unequal length; columns of two tiles.
        ([13, 36, 2, 6], 41, [1, 1], plain),
        ([3, 72, 4, 5], 9, [1, 1], plain),
        ([2, 3, 7, 6], 5, [1, 1], strided([2, 2], 0)),
        ([2, 3, 7, 6], 5, [1, 1], same(1)),
        ([2, 3, 6, 5], 4, [3, 3], same(1)),
        ([1, 17, 5, 9], 19, [3, 3], same(1)),
        ([2, 2, 8, 13], 9, [3, 3], plain),
        ([2, 3, 9, 8], 5, [3, 3], strided([2, 2], 1)),
        ([2, 3, 8, 9], 5, [3, 3], strided([2, 2], 0)),
        ([1, 2, 9, 9], 3, [3, 3], strided([1, 2], 1)),
        ([1, 2, 11, 10], 3, [3, 3], strided([3, 4], 1)),
        ([1, 2, 13, 12], 3, [4, 4], strided([4, 4], 0)),
        ([1, 2, 12, 13], 2, [5, 5], strided([6, 5], 2)),
        ([1, 3, 8, 8], 4, [4, 4], strided([2, 2], 1)),
        ([1, 2, 20, 40], 3, [2, 16], strided([2, 16], 0)),
        ([2, 2, 9, 10], 3, [5, 5], same(2)),
        ([1, 2, 9, 11], 3, [7, 7], same(3)),
        ([1, 2, 4, 14], 3, [2, 9], same(4)),
        ([1, 2, 3, 3], 3, [5, 5], same(3)),
        ([2, 3, 9, 9], 4, [3, 3], dilated([2, 2], 2)),
        ([1, 2, 9, 9], 3, [3, 3], dilated([1, 3], 3)),
        (
            [1, 2, 12, 13],
            3,
            [3, 3],
            ConvParams {
                stride: [2, 3],
                dilation: [2, 2],
                ..same(2)
            },
        ),
        (
            [1, 2, 14, 13],
            3,
            [3, 4],
            ConvParams {
                stride: [4, 4],
                dilation: [2, 3],
                ..same(2)
            },
        ),
        ([1, 1, 5, 90], 2, [1, 3], dilated([1, 40], 0)),
        ([2, 6, 6, 5], 4, [3, 3], grouped(2, same(1))),
        ([2, 6, 7, 7], 9, [3, 3], grouped(3, strided([2, 2], 1))),
        ([2, 6, 3, 3], 4, [1, 1], grouped(2, plain)),
        ([2, 5, 6, 7], 5, [3, 3], grouped(5, same(1))),
        ([1, 3, 6, 7], 6, [5, 5], grouped(3, strided([2, 2], 2))),
        // Rows of whole vec4s, one filter a channel.
        ([2, 3, 11, 12], 3, [3, 3], grouped(3, same(1))),
        (
            [1, 4, 9, 20],
            4,
            [7, 6],
            grouped(4, asymmetric([3, 0, 5, 4])),
        ),
        ([2, 2, 3, 4], 2, [5, 5], grouped(2, same(2))),
        ([1, 3, 4, 8], 3, [1, 1], grouped(3, plain)),
        ([2, 2, 6, 7], 3, [3, 3], asymmetric([1, 2, 0, 3])),
        ([1, 2, 6, 9], 3, [3, 5], asymmetric([2, 0, 4, 0])),
        ([1, 2, 6, 2], 3, [3, 1], asymmetric([0, 1, 0, 0])),
        ([3, 2, 1, 1], 11, [3, 3], same(1)),
        // Wider than one tile of channels both ways, where subgroups share reads.
        ([3, 19, 6, 7], 37, [3, 3], same(1)),
        ([3, 37, 7, 6], 19, [3, 3], strided([2, 2], 1)),
        ([2, 35, 5, 5], 33, [1, 1], plain),
        ([2, 20, 6, 6], 36, [3, 3], grouped(2, same(1))),
        ([2, 9, 7, 7], 18, [5, 5], same(2)),
        ([2, 9, 9, 9], 17, [7, 7], same(3)),
        ([1, 2, 6, 6], 3, [1, 1], asymmetric([0, 1, 0, 0])),
        // Large enough for packed copies: folded taps, phases, groups, whole vec4s.
        ([2, 3, 18, 17], 16, [3, 3], dilated([2, 3], 2)),
        ([4, 1, 16, 16], 32, [3, 3], strided([2, 2], 1)),
        ([4, 2, 12, 12], 32, [5, 3], asymmetric([0, 2, 3, 1])),
        ([4, 12, 8, 8], 20, [4, 4], grouped(2, strided([2, 2], 1))),
        ([4, 16, 9, 9], 18, [3, 3], strided([2, 2], 1)),
        ([4, 16, 9, 12], 1, [3, 3], dilated([1, 2], 2)),
        ([3, 64, 4, 5], 40, [1, 1], grouped(2, plain)),
        ([8, 40, 4, 4], 33, [1, 1], plain),
        ([9, 8, 4, 4], 36, [3, 3], same(1)),
        ([4, 4, 9, 16], 64, [3, 3], same(1)),
        ([4, 4, 7, 15], 30, [3, 3], same(1)),
        ([4, 4, 9, 17], 40, [3, 5], same(2)),
    ]
}

fn data(case: &Case) -> Vec<Data> {
    let (x, o, [kh, kw], params) = case;
    vec![
        Data::f32(*x, 1),
        Data::f32([*o, x[1] / params.groups, *kh, *kw], 2),
        Data::f32([*o], 3),
    ]
}

#[test]
fn parameters() {
    for case in cases() {
        check_op(
            &format!("conv2d {case:?}"),
            &data(&case),
            |_, x| vec![x[0].conv2d(&x[1], Some(&x[2]), &case.3)],
            Tol::default(),
        );
    }
}

#[test]
fn activations() {
    let all = [
        Activation::Relu,
        Activation::LeakyRelu(0.1),
        Activation::Sigmoid,
        Activation::Tanh,
    ];
    for activation in all {
        let params = ConvParams {
            activation,
            ..same(1)
        };
        let transposed = ConvTransposeParams {
            stride: [2, 2],
            padding: [1; 4],
            activation,
            ..Default::default()
        };
        check_op(
            &format!("conv2d {activation:?}"),
            &data(&([2, 3, 6, 5], 4, [3, 3], params)),
            |_, x| vec![x[0].conv2d(&x[1], Some(&x[2]), &params)],
            Tol::default(),
        );
        check_op(
            &format!("conv_transpose2d {activation:?}"),
            &[
                Data::f32([2, 3, 4, 5], 1),
                Data::f32([3, 4, 4, 4], 2),
                Data::f32([4], 3),
            ],
            |_, x| vec![x[0].conv_transpose2d(&x[1], Some(&x[2]), &transposed)],
            Tol::default(),
        );
    }
}

#[test]
fn transposed() {
    let params =
        |s: usize, p: usize, op: [usize; 2], d: usize, groups: usize| ConvTransposeParams {
            stride: [s, s],
            padding: [p; 4],
            output_padding: op,
            dilation: [d, d],
            groups,
            activation: Activation::None,
        };
    let cut = |s: usize, padding: [usize; 4]| ConvTransposeParams {
        padding,
        ..params(s, 0, [0, 0], 1, 1)
    };
    let cases = [
        ([1, 1, 1, 1], 1, [1, 1], params(1, 0, [0, 0], 1, 1)),
        ([2, 3, 4, 5], 4, [4, 4], params(2, 1, [0, 0], 1, 1)),
        ([2, 3, 4, 5], 4, [3, 3], params(2, 1, [1, 0], 1, 1)),
        ([1, 3, 4, 5], 2, [3, 3], params(3, 0, [2, 2], 1, 1)),
        ([1, 3, 4, 5], 2, [1, 1], params(2, 0, [1, 1], 1, 1)),
        ([1, 4, 4, 5], 6, [3, 2], params(2, 1, [0, 1], 2, 2)),
        ([1, 4, 4, 5], 4, [3, 3], params(1, 1, [1, 1], 2, 4)),
        ([1, 2, 3, 3], 3, [2, 2], params(2, 0, [2, 2], 3, 1)),
        ([2, 9, 5, 5], 10, [3, 3], params(1, 1, [0, 0], 1, 1)),
        ([2, 9, 5, 5], 10, [3, 3], cut(2, [0, 1, 0, 1])),
        ([1, 3, 4, 5], 4, [3, 2], cut(3, [2, 0, 0, 1])),
        ([1, 2, 4, 5], 3, [3, 3], cut(2, [0, 4, 3, 0])),
    ];
    for (shape, o, [kh, kw], params) in cases {
        check_op(
            &format!("conv_transpose2d {shape:?} {o} {kh}x{kw} {params:?}"),
            &[
                Data::f32(shape, 1),
                Data::f32([shape[1], o / params.groups, kh, kw], 2),
                Data::f32([o], 3),
            ],
            |_, x| vec![x[0].conv_transpose2d(&x[1], Some(&x[2]), &params)],
            Tol::default(),
        );
    }
}

/// The gradients of a convolution's gradients, against finite differences.
#[test]
fn gradients_of_gradients() {
    let strided = ConvParams {
        stride: [2, 2],
        activation: Activation::Tanh,
        ..same(1)
    };
    let grouped = ConvParams {
        groups: 2,
        ..same(1)
    };
    for params in [strided, grouped] {
        check_op(
            &format!("gradients of {params:?}"),
            &data(&([2, 4, 5, 6], 4, [3, 3], params)),
            |_, x| {
                let y = x[0].conv2d(&x[1], Some(&x[2]), &params);
                let loss = y.square().sum(&[], false);
                tape::backward(&loss, &[&x[0], &x[1], &x[2]]).expect("differentiable")
            },
            Tol::rel(1e-5),
        );
    }
    let params = ConvTransposeParams {
        stride: [2, 2],
        padding: [1; 4],
        output_padding: [1, 0],
        ..Default::default()
    };
    check_op(
        "gradients of conv_transpose2d",
        &[Data::f32([2, 3, 4, 3], 1), Data::f32([3, 2, 3, 3], 2)],
        |_, x| {
            let y = x[0].conv_transpose2d(&x[1], None, &params);
            let loss = y.square().sum(&[], false);
            tape::backward(&loss, &[&x[0], &x[1]]).expect("differentiable")
        },
        Tol::rel(1e-5),
    );
}

/// Weight gradients of 1x1 kernels over more pixels than what adds up whole samples may
/// loop over: other kernels do them.
#[test]
fn pointwise_weight_gradients_of_large_images() {
    let profile = DeviceProfile {
        class: DeviceClass::Software,
        subgroup_size: Some(8),
        ..DeviceProfile::baseline()
    };
    let plan = |n: usize, channels: usize, side: usize| {
        let graph = Graph::new();
        let x = graph.input("x", [n, channels, side, side]);
        let weight = graph.input("w", [channels, channels, 1, 1]);
        let y = x.conv2d(&weight, None, &ConvParams::default());
        let grads = tape::backward(&y.sum(&[], false), &[&weight]).unwrap();
        let plan = graph.plan(&profile, &[], &[&grads[0]], &PlanOptions::default());
        let steps = plan
            .unwrap_or_else(|e| panic!("{n}x{channels}x{side}x{side}: {e}"))
            .steps;
        steps.iter().any(|s| s.variant.contains("over samples"))
    };
    assert!(plan(2, 32, 64));
    assert!(!plan(1, 32, 512));
}

/// More pixels than one invocation may loop over: the weight gradient is split.
#[test]
fn many_pixels() {
    let big = Tol {
        differences: None,
        ..Tol::rel(1e-5)
    };
    for (shape, o, k) in [
        ([3, 1, 260, 300], 1, [1, 1]),
        ([1, 2, 257, 513], 3, [3, 3]),
        ([70, 3, 17, 19], 5, [3, 3]),
    ] {
        let params = same(k[0] / 2);
        check_op(
            &format!("many pixels {shape:?}"),
            &data(&(shape, o, k, params)),
            |_, x| vec![x[0].conv2d(&x[1], Some(&x[2]), &params)],
            big,
        );
    }
}

/// The plain variants, which other adapters get, and those without any extras.
#[test]
fn other_adapters() {
    let grouped = ConvParams {
        groups: 3,
        stride: [2, 2],
        ..same(1)
    };
    let profiles = [
        DeviceProfile {
            class: DeviceClass::Software,
            ..DeviceProfile::baseline()
        },
        DeviceProfile::baseline(),
    ];
    for case in [
        ([2, 9, 7, 6], 17, [3, 3], same(1)),
        ([2, 9, 7, 6], 15, [3, 3], grouped),
        ([2, 9, 5, 5], 11, [1, 1], ConvParams::default()),
    ] {
        let name = format!("conv2d {case:?}");
        let build = |_: &Graph, x: &[Tensor]| vec![x[0].conv2d(&x[1], Some(&x[2]), &case.3)];
        let case = build_case(&name, &data(&case), build, true);
        let (expected, wanted) = (case.reference(), case.wanted());
        for profile in &profiles {
            let profile = DeviceProfile {
                immediates: gpu().profile().immediates,
                ..profile.clone()
            };
            let run = || -> Result<_> {
                let options = PlanOptions::default();
                let plan = wanted[0].graph().plan(&profile, &[], &wanted, &options)?;
                let inputs = plan.inputs.clone();
                let mut program = Program::new(gpu(), plan, &[])?;
                let mut feed = Vec::new();
                for input in &inputs {
                    let given = case.inputs.iter().find(|(n, _)| *n == input.name);
                    if let Some((n, Data::F32 { values, .. })) = given {
                        feed.push((n.as_str(), Value::F32(values)));
                    }
                }
                program.run(&feed)
            };
            let got = run().unwrap_or_else(|e| panic!("{name}: {e}"));
            for (i, expected) in expected.iter().enumerate() {
                let values = got.f32(i).expect("floats");
                assert_close(&case.describe(i), &values, expected, 8e-6);
            }
        }
    }
}

fn refused(build: impl Fn(&Tensor, &Tensor) -> Tensor, words: &str) {
    let g = Graph::new();
    let (x, w) = (g.input("x", [2, 4, 5, 6]), g.input("w", [6, 4, 3, 3]));
    let error = build(&x, &w).check().expect_err(words).to_string();
    assert!(error.contains(words), "`{error}` does not say `{words}`");
}

#[test]
fn refusals() {
    let plain = ConvParams::default();
    let with = |change: fn(&mut ConvParams)| {
        let mut p = plain;
        change(&mut p);
        p
    };
    let p = with(|p| p.stride = [0, 1]);
    refused(|x, w| x.conv2d(w, None, &p), "stride");
    let p = with(|p| p.dilation = [1, usize::MAX]);
    refused(|x, w| x.conv2d(w, None, &p), "dilation");
    let p = with(|p| p.groups = 0);
    refused(|x, w| x.conv2d(w, None, &p), "groups");
    let p = with(|p| p.groups = 3);
    refused(|x, w| x.conv2d(w, None, &p), "do not divide");
    let p = with(|p| p.groups = 2);
    refused(|x, w| x.conv2d(w, None, &p), "per group");
    let p = with(|p| p.padding = [usize::MAX; 4]);
    refused(|x, w| x.conv2d(w, None, &p), "padding");
    let p = with(|p| p.dilation = [3, 3]);
    refused(|x, w| x.conv2d(w, None, &p), "does not fit");
    refused(
        |x, w| x.conv2d(&w.reshape([24, 9]), None, &plain),
        "four axes",
    );
    refused(|x, w| x.conv2d(w, Some(&w.reshape([216])), &plain), "bias");

    let transposed = ConvTransposeParams::default();
    let p = ConvTransposeParams {
        output_padding: [1, 0],
        ..transposed
    };
    refused(|x, _| x.conv_transpose2d(x, None, &p), "output_padding");
    let p = ConvTransposeParams {
        padding: [9, 9, 0, 0],
        ..transposed
    };
    refused(|x, w| x.conv_transpose2d(w, None, &p), "nothing is left");
    refused(|x, w| x.conv_transpose2d(w, None, &transposed), "input");
    let p = ConvTransposeParams {
        stride: [usize::MAX, 0],
        ..transposed
    };
    refused(|x, w| x.conv_transpose2d(w, None, &p), "stride");
}

/// Input, output channels, taps, parameters: against the definition, written out.
#[test]
fn along_one_axis() {
    let plain = Conv1dParams::default();
    let cases = [
        ([1, 1, 1], 1, 1, plain),
        ([2, 3, 17], 5, 4, plain),
        (
            [2, 4, 33],
            6,
            3,
            Conv1dParams {
                stride: 2,
                padding: [3, 1],
                dilation: 2,
                groups: 2,
                ..plain
            },
        ),
        (
            [3, 5, 70],
            5,
            2,
            Conv1dParams {
                // Causal and depthwise.
                padding: [4, 0],
                dilation: 4,
                groups: 5,
                ..plain
            },
        ),
        (
            [2, 8, 40],
            16,
            5,
            Conv1dParams {
                padding: [2, 2],
                ..plain
            },
        ),
    ];
    for ([n, c, length], o, taps, p) in cases {
        let (per, each) = (c / p.groups, o / p.groups);
        let inputs = [
            Data::f32([n, c, length], 1),
            Data::f32([o, per, taps], 2),
            Data::f32([o], 3),
        ];
        let name = format!("{o} of {taps} over {:?}, {p:?}", inputs[0].shape());
        let build = |_: &Graph, x: &[Tensor]| vec![x[0].conv1d(&x[1], Some(&x[2]), &p)];
        check_op(&name, &inputs, build, Tol::rel(1e-5));
        let case = build_case(&name, &inputs, build, false);
        let [x, w, b] = inputs.each_ref().map(|d| d.array().data);
        let reach = p.dilation * (taps - 1);
        let out = (length + p.padding[0] + p.padding[1] - reach - 1) / p.stride + 1;
        assert_eq!(case.outputs[0].shape().dims(), [n, o, out], "{name}");
        let got = &case.reference()[0].data;
        for (i, got) in got.iter().enumerate() {
            let (sample, channel, at) = (i / (o * out), i / out % o, i % out);
            let mut sum = b[channel];
            for (k, tap) in (0..per).flat_map(|k| (0..taps).map(move |t| (k, t))) {
                let from = (at * p.stride + tap * p.dilation).checked_sub(p.padding[0]);
                let Some(from) = from.filter(|f| *f < length) else {
                    continue;
                };
                let source = channel / each * per + k;
                sum +=
                    x[(sample * c + source) * length + from] * w[(channel * per + k) * taps + tap];
            }
            assert!((got - sum).abs() < 1e-12, "{name}: element {i}");
        }
    }
    let g = Graph::new();
    let (x, w) = (g.input("x", [2, 4, 9]), g.input("w", [6, 4, 3]));
    for (bad, what) in [
        (x.conv1d(&g.input("v", [4, 3]), None, &plain), "[N, C, L]"),
        (x.conv1d(&w, Some(&w), &plain), "bias"),
        (
            x.conv1d(&w, None, &Conv1dParams { groups: 3, ..plain }),
            "groups",
        ),
        (
            x.conv1d(&w, None, &Conv1dParams { stride: 0, ..plain }),
            "stride",
        ),
    ] {
        let text = bad.check().unwrap_err().to_string();
        assert!(text.contains(what), "{text}");
    }
}
