//! Gradients of gradients through every op: derivatives of the gradient rules against
//! finite differences of these rules, in the float64 reference; some on the GPU as well.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;

use flowgrad::ops::{
    Activation, ConvParams, ConvTransposeParams, CouplingMask, CouplingParams, CouplingScale,
    CrossEntropy, GridPadding, LossReduction, Plu, PoolParams, RawLayout, SplineParams, Triangular,
};
use flowgrad::{DType, Graph, Tensor, tape};

use crate::support::{Case, Data, Tol, build_case, check_differences, check_gpu};

type Build = Box<dyn Fn(&Graph, &[Tensor]) -> Vec<Tensor>>;

/// An op under test: its name, inputs, outputs, and whether the GPU is asked, too.
struct Row {
    name: String,
    inputs: Vec<Data>,
    build: Build,
    gpu: bool,
    /// The step of the finite differences.
    step: f64,
}

impl Row {
    fn new(
        name: impl Into<String>,
        inputs: &[Data],
        build: impl Fn(&Graph, &[Tensor]) -> Vec<Tensor> + 'static,
    ) -> Row {
        Row {
            name: name.into(),
            inputs: inputs.to_vec(),
            build: Box::new(build),
            gpu: false,
            step: 1e-5,
        }
    }

    fn on_gpu(self) -> Row {
        Row { gpu: true, ..self }
    }

    /// The gradients by all inputs as a function of these and of the upstream gradients:
    /// the outputs of the case. Its gradients are the second derivatives.
    fn case(&self) -> Case {
        self.case_and_ops().0
    }

    /// The same, and the names of the ops that are differentiated for it.
    fn case_and_ops(&self) -> (Case, Vec<&'static str>) {
        let first = build_case(&self.name, &self.inputs, &self.build, false);
        let floats = first.outputs.iter().filter(|y| y.dtype() == DType::F32);
        let upstream = floats.zip(500..).map(|(y, i)| Data::f32(y.shape(), i));
        let count = self.inputs.len();
        let inputs: Vec<Data> = self.inputs.iter().cloned().chain(upstream).collect();
        let mut ops = Mutex::new(Vec::new());
        let gradients = |graph: &Graph, all: &[Tensor]| {
            let (x, dy) = all.split_at(count);
            let outputs = (self.build)(graph, x).into_iter();
            let floats = outputs.filter(|y| y.dtype() == DType::F32);
            let seeds: Vec<_> = floats.zip(dy.iter().cloned()).collect();
            let wrt: Vec<&Tensor> = x.iter().filter(|x| x.dtype() == DType::F32).collect();
            let found = tape::backward_from(&seeds, &wrt);
            *ops.lock().unwrap() = graph.op_names();
            found.unwrap_or_else(|e| panic!("{}: {e}", self.name))
        };
        let case = build_case(&self.name, &inputs, gradients, true);
        (case, std::mem::take(ops.get_mut().unwrap()))
    }
}

fn unary() -> Vec<Row> {
    let row = |name: &'static str, lo: f32, hi: f32, f: fn(&Tensor) -> Tensor| {
        Row::new(name, &[Data::uniform([13], 1, lo, hi)], move |_, x| {
            vec![f(&x[0])]
        })
    };
    vec![
        row("neg", -2.0, 2.0, |x| x.neg()),
        row("exp", -2.0, 2.0, |x| x.exp()),
        row("log", 0.1, 3.0, |x| x.log()),
        row("sqrt", 0.3, 3.0, |x| x.sqrt()),
        row("rsqrt", 0.3, 3.0, |x| x.rsqrt()),
        row("recip", 0.3, 3.0, |x| x.recip()),
        row("square", -3.0, 3.0, |x| x.square()),
        row("sin", -3.0, 3.0, |x| x.sin()),
        row("cos", -3.0, 3.0, |x| x.cos()),
        row("tanh", -2.0, 2.0, |x| x.tanh()),
        row("sigmoid", -3.0, 3.0, |x| x.sigmoid()),
        row("softplus", -3.0, 3.0, |x| x.softplus()),
        row("erf", -2.0, 2.0, |x| x.erf()),
        row("gelu", -2.0, 2.0, |x| x.gelu()),
        row("silu", -3.0, 3.0, |x| x.silu()),
        row("gelu_tanh", -3.0, 3.0, |x| x.gelu_tanh()),
        row("hard_swish", -4.0, 4.0, |x| x.hard_swish()),
        row("add_scalar", -2.0, 2.0, |x| x.add_scalar(0.7)),
        row("mul_scalar", -2.0, 2.0, |x| x.mul_scalar(-1.3)),
        row("pow 0", 0.5, 2.0, |x| x.pow_scalar(0.0)),
        row("pow 1", 0.5, 2.0, |x| x.pow_scalar(1.0)),
        row("pow 2", -2.0, 2.0, |x| x.pow_scalar(2.0)),
        row("pow 3", -2.0, 2.0, |x| x.pow_scalar(3.0)),
        row("pow 1.7", 0.5, 2.0, |x| x.pow_scalar(1.7)),
        row("pow -2", 0.5, 2.0, |x| x.pow_scalar(-2.0)),
        // Squares of the piecewise ones, so that their second derivatives are not zero.
        row("abs", -2.0, 2.0, |x| x.abs().square()),
        row("relu", -2.0, 2.0, |x| x.relu().square()).on_gpu(),
        row("leaky_relu", -2.0, 2.0, |x| x.leaky_relu(0.1).square()),
        row("elu", -2.0, 2.0, |x| x.elu(1.3)),
        row("clamp", -2.0, 2.0, |x| x.clamp(-1.0, 0.75).exp()),
        row("select by a comparison", -2.0, 2.0, |x| {
            let positive = x.zeros_like().less(x);
            positive.select(&x.square(), &x.exp())
        })
        .on_gpu(),
        row("select by rounded values", -2.0, 2.0, |x| {
            x.floor().select(&x.square(), &x.mul_scalar(3.0))
        }),
    ]
}

fn binary() -> Vec<Row> {
    let row = |name: &'static str, f: fn(&Tensor, &Tensor) -> Tensor| {
        let inputs = [
            Data::uniform([2, 1, 3], 3, 0.5, 2.0),
            Data::uniform([4, 1], 4, 0.5, 2.0),
        ];
        Row::new(name, &inputs, move |_, x| vec![f(&x[0], &x[1])])
    };
    vec![
        row("add", |a, b| a.add(b).square()),
        row("sub", |a, b| a.sub(b).square()),
        row("mul", |a, b| a.mul(b)),
        row("div", |a, b| a.div(b)),
        row("pow", |a, b| a.pow(b)),
        row("maximum", |a, b| a.square().maximum(&b.exp())).on_gpu(),
        row("minimum", |a, b| a.square().minimum(&b.square())),
        row("select", |a, b| a.less(b).select(&a.exp(), &a.mul(b))),
    ]
}

const ACTIVATIONS: [Activation; 5] = [
    Activation::None,
    Activation::Relu,
    Activation::LeakyRelu(0.2),
    Activation::Sigmoid,
    Activation::Tanh,
];

fn products() -> Vec<Row> {
    let mut rows = Vec::new();
    for (trans_a, trans_b) in [(false, false), (true, false), (false, true), (true, true)] {
        let of = |trans: bool, m, k| if trans { [k, m] } else { [m, k] };
        let a: Vec<usize> = [&[2], &of(trans_a, 3, 4)[..]].concat();
        rows.push(Row::new(
            format!("matmul {trans_a} {trans_b}"),
            &[Data::f32(a, 1), Data::f32(of(trans_b, 4, 2), 2)],
            move |_, x| vec![x[0].matmul_with(&x[1], trans_a, trans_b)],
        ));
    }
    for act in ACTIVATIONS {
        let row = Row::new(
            format!("linear {act:?}"),
            &[
                Data::f32([3, 4], 1),
                Data::f32([5, 4], 2),
                Data::f32([5], 3),
            ],
            move |_, x| vec![x[0].linear(&x[1], Some(&x[2]), act)],
        );
        rows.push(if act == Activation::Relu {
            row.on_gpu()
        } else {
            row
        });
        let params = ConvParams {
            stride: [2, 1],
            padding: [1; 4],
            groups: 2,
            activation: act,
            ..ConvParams::default()
        };
        let inputs = [
            Data::f32([2, 2, 4, 3], 1),
            Data::f32([4, 1, 3, 2], 2),
            Data::f32([4], 3),
            Data::f32([2, 4, 2, 4], 4),
        ];
        let row = Row::new(format!("conv2d {act:?}"), &inputs, move |_, x| {
            vec![x[0].conv2d_residual(&x[1], Some(&x[2]), Some(&x[3]), &params)]
        });
        rows.push(if act == Activation::Relu {
            row.on_gpu()
        } else {
            row
        });
        let params = ConvTransposeParams {
            stride: [2, 2],
            activation: act,
            ..ConvTransposeParams::default()
        };
        rows.push(Row::new(
            format!("conv_transpose2d {act:?}"),
            &[
                Data::f32([1, 2, 3, 2], 1),
                Data::f32([2, 3, 2, 2], 2),
                Data::f32([3], 3),
            ],
            move |_, x| vec![x[0].conv_transpose2d(&x[1], Some(&x[2]), &params)],
        ));
    }
    rows
}

fn reductions() -> Vec<Row> {
    let row = |name: &'static str, f: fn(&Tensor) -> Tensor| {
        Row::new(
            name,
            &[Data::uniform([3, 2, 4], 5, -2.0, 2.0)],
            move |_, x| vec![f(&x[0])],
        )
    };
    vec![
        row("sum", |x| x.square().sum(&[0, 2], false)),
        row("mean", |x| x.square().mean(&[1], true)),
        row("max", |x| x.exp().max(&[0, 2], false)).on_gpu(),
        row("min", |x| x.exp().min(&[1], true)),
        row("var", |x| x.var(&[0, 2], false, false)),
        row("var, unbiased", |x| x.var(&[2], true, true)),
        row("logsumexp", |x| x.logsumexp(&[1, 2], false)),
        row("norm", |x| x.norm(&[2], false)),
        row("l2_normalize", |x| x.l2_normalize(1, 1e-12)),
        row("cumsum", |x| x.square().cumsum(1)),
        row("softmax", |x| x.softmax(1)),
        row("log_softmax", |x| x.log_softmax(-1)),
        row("moments", |x| {
            let (mean, var) = x.moments(&[0, 2], true);
            Tensor::concat(&[&mean, &var], 0)
        }),
        row("attention", |x| x.attention(x, &x.sin(), 0.7, true)),
    ]
}

fn views() -> Vec<Row> {
    let row = |name: &'static str, f: fn(&Tensor) -> Tensor| {
        Row::new(name, &[Data::f32([3, 2, 4], 6)], move |_, x| {
            // Of a square, so that what is looked at has a gradient of its own.
            vec![f(&x[0].square())]
        })
    };
    vec![
        row("reshape", |x| x.reshape([4, 6])),
        row("permute", |x| x.permute(&[2, 0, 1])),
        row("broadcast_to", |x| x.slice(1, 0, 1).broadcast_to([3, 5, 4])),
        row("repeat", |x| {
            x.slice(1, 0, 1).add(&x.graph().full([3, 5, 4], 0.0))
        }),
        row("slice", |x| x.slice_step(2, 3, 2, -2)),
        row("pad", |x| x.pad(&[(1, 0), (0, 2), (1, 1)], 0.5)),
        row("flip", |x| x.flip(&[0, 2])),
        row("roll", |x| x.roll(1, 3)),
        row("concat", |x| Tensor::concat(&[x, &x.exp(), x], 1)),
        row("pack", |x| {
            let (x, y) = (x.reshape([24]), x.reshape([24]).exp());
            x.graph().pack(&[(0, &x), (32, &y)], 64)
        }),
    ]
}

fn indices() -> Vec<Row> {
    let table = Data::f32([5, 3], 7);
    vec![
        Row::new(
            "gather_rows",
            &[table.clone(), Data::below([4, 2], 8, 5)],
            |_, x| vec![x[0].square().gather_rows(&x[1])],
        ),
        Row::new("segment_sum", &[table, Data::below([5], 9, 4)], |_, x| {
            vec![x[0].square().segment_sum(&x[1], 4)]
        }),
        Row::new(
            "take_along_axis",
            &[Data::f32([3, 4], 7), Data::below([3], 8, 4)],
            |_, x| vec![x[0].square().take_along_axis(1, &x[1])],
        ),
        Row::new(
            "set_rows",
            &[
                Data::f32([5, 3], 7),
                Data::u32([4], &[3, 0, 3, 9]),
                Data::f32([4, 3], 8),
            ],
            |_, x| vec![x[0].square().set_rows(&x[1], &x[2].exp())],
        ),
    ]
}

fn pools() -> Vec<Row> {
    let params = PoolParams::new([3, 2], [2, 1]).padding([1, 0]);
    let image = Data::f32([1, 2, 5, 4], 10);
    let row = |name: &'static str, f: fn(&Tensor, &PoolParams) -> Tensor| {
        Row::new(name, std::slice::from_ref(&image), move |_, x| {
            vec![f(&x[0].square(), &params)]
        })
    };
    vec![
        row("max_pool2d", |x, p| x.max_pool2d(p)).on_gpu(),
        row("gradient of max_pool2d", |x, p| {
            let loss = x.max_pool2d(p).square().sum(&[], false);
            tape::backward(&loss, &[x]).unwrap().remove(0)
        }),
        row("avg_pool2d", |x, p| x.avg_pool2d(p)),
        row("avg_pool2d beyond the border", |x, p| {
            x.avg_pool2d(&p.ceil_mode())
        }),
        row("adaptive_avg_pool2d", |x, _| x.adaptive_avg_pool2d([3, 3])),
        row("gradient of adaptive_avg_pool2d", |x, _| {
            let loss = x.adaptive_avg_pool2d([2, 3]).exp().sum(&[], false);
            tape::backward(&loss, &[x]).unwrap().remove(0)
        }),
        row("upsample_nearest2d", |x, _| x.upsample_nearest2d([2, 3])),
    ]
}

fn pictures() -> Vec<Row> {
    let x = Data::f32([2, 2, 3, 4], 11);
    let by = Data::u32([2, 2], &[1, 2, 0, 3]);
    let moved = |name: &'static str, f: fn(&Tensor, &Tensor) -> Tensor| {
        Row::new(name, &[x.clone(), by.clone()], move |_, x| {
            vec![f(&x[0].square(), &x[1])]
        })
    };
    let mut rows = vec![
        moved("roll_each", |x, by| x.roll_each(by)),
        moved("crop_each", |x, by| x.crop_each(by, [2, 3])),
        moved("flip_each", |x, by| x.flip_each(by)),
    ];
    for padding in [GridPadding::Zeros, GridPadding::Border] {
        let grid = Data::uniform([2, 3, 2, 2], 12, -1.3, 1.3);
        let name = format!("grid_sample, {padding:?}");
        let row = Row::new(name, &[x.clone(), grid], move |_, x| {
            vec![x[0].grid_sample(&x[1], padding)]
        });
        rows.push(row.on_gpu());
        let name = format!("affine_warp, {padding:?}");
        let inputs = [x.clone(), Data::f32([2, 2, 3], 13)];
        rows.push(Row::new(name, &inputs, move |_, x| {
            vec![x[0].affine_warp(&x[1], [2, 3], padding)]
        }));
    }
    rows
}

fn norms() -> Vec<Row> {
    let x = Data::uniform([4, 3, 2], 1, -2.0, 2.0);
    let (gamma, beta) = (Data::uniform([3], 2, 0.5, 2.0), Data::f32([3], 3));
    let affine = [x.clone(), gamma.clone(), beta.clone()];
    vec![
        Row::new("batch_norm_train", &affine, |_, x| {
            let (y, mean, var) = x[0].batch_norm_train(Some(&x[1]), Some(&x[2]), 1e-3);
            vec![y, mean, var]
        })
        .on_gpu(),
        Row::new("batch_norm_train, plain", &affine[..1], |_, x| {
            vec![x[0].batch_norm_train(None, None, 1e-3).0]
        }),
        Row::new(
            "batch_norm_eval",
            &[
                x.clone(),
                beta.clone(),
                gamma.clone(),
                gamma.clone(),
                beta.clone(),
            ],
            |_, x| vec![x[0].batch_norm_eval(&x[1], &x[2], Some(&x[3]), Some(&x[4]), 1e-3)],
        ),
        Row::new("layer_norm", &affine[..1], |_, x| {
            vec![x[0].layer_norm(&[3, 2], None, None, 1e-3)]
        }),
        Row::new("group_norm", &affine, |_, x| {
            vec![x[0].group_norm(3, Some(&x[1]), Some(&x[2]), 1e-3)]
        }),
        Row::new("actnorm", &affine, |_, x| {
            let (y, log_det) = x[0].actnorm(&x[1], &x[2]);
            let (back, _) = x[0].sin().actnorm_inverse(&x[1], &x[2]);
            vec![y, log_det, back]
        }),
    ]
}

/// A matrix far from singular, whose pivots are not close to one another.
fn matrix(n: usize, seed: u64) -> Data {
    let Data::F32 { shape, mut values } = Data::f32([n, n], seed) else {
        unreachable!()
    };
    for i in 0..n {
        values[i * n + i] += 2.0 + i as f32;
    }
    Data::F32 { shape, values }
}

fn matrices() -> Vec<Row> {
    let mut rows = vec![
        Row::new("lu", &[matrix(4, 1)], |_, x| {
            let f = x[0].lu();
            vec![f.lu, f.log_det]
        }),
        Row::new("inverse", &[matrix(3, 2)], |_, x| vec![x[0].inverse()]),
        Row::new("slogdet", &[matrix(3, 3)], |_, x| vec![x[0].slogdet().1]),
        Row::new("triangles", &[matrix(3, 4)], |_, x| {
            vec![x[0].square().tril(-1), x[0].square().triu(0)]
        }),
    ];
    for (name, kind) in [
        ("lower", Triangular::lower()),
        ("upper, transposed", Triangular::upper().transposed()),
        ("lower, unit", Triangular::lower().unit()),
        ("upper", Triangular::upper()),
    ] {
        rows.push(Row::new(
            format!("solve_triangular, {name}"),
            &[matrix(3, 5), Data::f32([3, 2], 6)],
            move |_, x| vec![x[0].solve_triangular(&x[1], kind)],
        ));
    }
    let plu = |name: &'static str, f: fn(&Plu<'_>) -> Tensor| {
        let inputs = [matrix(3, 7), matrix(3, 8), Data::f32([3], 9)];
        Row::new(name, &inputs, move |g, x| {
            let p = g.constant([3, 3], &[0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0]);
            vec![f(&Plu {
                p: &p,
                l: &x[0],
                u: &x[1],
                sign: &g.constant([3], &[1.0, -1.0, 1.0]),
                log_s: &x[2],
            })]
        })
    };
    rows.push(plu("plu", |w| w.assemble()).on_gpu());
    rows.push(plu("plu, inverse", |w| w.inverse()));
    rows
}

fn couplings() -> Vec<Row> {
    let masks = [
        CouplingMask::After(2),
        CouplingMask::Before(1),
        CouplingMask::Even,
        CouplingMask::Odd,
        CouplingMask::Checkerboard { parity: 0 },
        CouplingMask::Checkerboard { parity: 1 },
    ];
    let scales = [
        (CouplingScale::Exp, 0.0),
        (CouplingScale::Sigmoid { offset: 2.0 }, 1e-3),
        (CouplingScale::Tanh { clamp: 2.0 }, 0.0),
        (CouplingScale::None, 0.0),
    ];
    let layouts = [
        RawLayout::ScaleShift,
        RawLayout::ShiftScale,
        RawLayout::ScaleShiftInterleaved,
        RawLayout::ShiftScaleInterleaved,
    ];
    let mut rows = Vec::new();
    for (i, mask) in masks.into_iter().enumerate() {
        for (j, (scale, minimum)) in scales.into_iter().enumerate() {
            for inverse in [false, true] {
                let params = CouplingParams {
                    mask,
                    scale,
                    shift_first: (i + j) % 2 == 0,
                    layout: layouts[(i + 3 * j) % 4],
                    minimum,
                };
                let raw = [2, params.raw_channels(3), 2, 2];
                let inputs = [Data::f32([2, 3, 2, 2], 1), Data::uniform(raw, 2, -1.5, 1.5)];
                let name = format!("coupling {params:?}, inverse {inverse}");
                let row = Row::new(name, &inputs, move |_, x| {
                    let (y, log_det) = match inverse {
                        false => x[0].coupling(&x[1], &params),
                        true => x[0].coupling_inverse(&x[1], &params),
                    };
                    vec![y, log_det]
                });
                rows.push(if i == 4 && j < 2 { row.on_gpu() } else { row });
            }
        }
    }
    rows
}

fn splines() -> Vec<Row> {
    let mut rows = Vec::new();
    for inverse in [false, true] {
        for (bins, dims) in [(1, [4, 2, 1]), (2, [3, 2, 1]), (4, [2, 1, 3])] {
            let params = SplineParams { bins, bound: 3.0 };
            let raw = [dims[0], dims[1] * params.raw_values(), dims[2]];
            let inputs = [
                // Some beyond the bound.
                Data::uniform(dims, 1, -3.6, 3.6),
                Data::uniform(raw, 2, -1.0, 1.0),
            ];
            let name = format!("spline of {bins} bins, inverse {inverse}");
            let row = Row::new(name, &inputs, move |_, x| {
                let (y, log) = match inverse {
                    false => x[0].spline(&x[1], &params),
                    true => x[0].spline_inverse(&x[1], &params),
                };
                vec![y, log]
            });
            rows.push(if bins == 4 { row.on_gpu() } else { row });
        }
    }
    rows
}

fn losses() -> Vec<Row> {
    let pair = [Data::f32([3, 4], 1), Data::f32([3, 4], 2)];
    let labels: Vec<f32> = (0..12)
        .map(|i| if i % 3 == 0 { -1.0 } else { 1.0 })
        .collect();
    vec![
        Row::new("mse_loss", &pair, |_, x| {
            vec![x[0].mse_loss(&x[1], LossReduction::Mean)]
        }),
        Row::new("l1_loss", &pair, |_, x| {
            vec![x[0].square().l1_loss(&x[1], LossReduction::Sum)]
        })
        .on_gpu(),
        Row::new("bce_with_logits", &pair, |_, x| {
            vec![x[0].bce_with_logits(&x[1], None, LossReduction::None)]
        }),
        Row::new("gaussian_nll", &pair, |_, x| {
            vec![x[0].gaussian_nll(&x[0].sin(), &x[1], LossReduction::None)]
        }),
        Row::new("kl_to_standard_normal", &pair, |_, x| {
            vec![x[0].kl_to_standard_normal(&x[1])]
        }),
        Row::new("hinge_loss", &pair[..1], move |g, x| {
            let labels = g.constant([3, 4], &labels);
            vec![x[0].square().hinge_loss(&labels, 0.3, LossReduction::Mean)]
        })
        .on_gpu(),
        Row::new(
            "cross_entropy",
            &[Data::f32([4, 3], 1), Data::below([4], 2, 3)],
            |_, x| {
                let options = CrossEntropy {
                    label_smoothing: 0.1,
                    ..CrossEntropy::default()
                };
                vec![x[0].cross_entropy(&x[1], &options)]
            },
        ),
    ]
}

/// Gradients that the caller gives are differentiated like any other.
fn given() -> Vec<Row> {
    vec![Row::new("custom_gradient", &[Data::f32([5], 1)], |_, x| {
        let y = x[0].exp();
        let given = Tensor::with_gradient(&[&x[0]], &y, |_, y, dy| vec![dy.mul(y)]);
        vec![given, x[0].square().straight_through(&x[0].round())]
    })]
}

fn rows() -> Vec<Row> {
    [
        unary(),
        binary(),
        products(),
        reductions(),
        views(),
        indices(),
        pools(),
        pictures(),
        norms(),
        matrices(),
        couplings(),
        splines(),
        losses(),
        given(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn check(rows: Vec<Row>) {
    for row in rows {
        let case = row.case();
        let expected = case.reference();
        check_differences(&case, &expected[case.outputs.len()..], 1e-5, row.step);
        if row.gpu {
            check_gpu(&case, &expected, &Tol::rel(2e-5));
        }
    }
}

#[test]
fn of_functions_of_elements() {
    check(unary());
    check(binary());
    check(given());
}

#[test]
fn of_products() {
    check(products());
}

#[test]
fn of_reductions_and_views() {
    check(reductions());
    check(views());
    check(indices());
    check(pools());
    check(pictures());
}

#[test]
fn of_normalisations_and_matrices() {
    check(norms());
    check(matrices());
}

#[test]
fn of_couplings() {
    check(couplings());
}

#[test]
fn of_splines() {
    check(splines());
}

#[test]
fn of_losses() {
    check(losses());
}

/// Ops without a row, and why.
const EXCEPTIONS: &[(&str, &[&str])] = &[
    (
        "values that are there before a program starts",
        &["input", "param", "arena", "constant", "random_state"],
    ),
    (
        "piecewise constant: what they choose is differentiated, they are not",
        &[
            "sign",
            "floor",
            "ceil",
            "round",
            "less",
            "less_equal",
            "equal",
            "to_f32",
            "to_u32",
            "pixels",
            "argmax",
            "argmin",
            "codebook_nearest",
        ],
    ),
    (
        "drawn, not computed",
        &[
            "random_bits",
            "uniform",
            "normal",
            "bernoulli",
            "categorical",
        ],
    ),
    (
        "gradients end there, which is not the derivative",
        &["stop_gradient"],
    ),
    ("measures the device", &["roof_arithmetic", "roof_copy"]),
    (
        "chains that rebuild their inputs: `penalties.rs`",
        &["segment"],
    ),
];

/// The string literals in the bodies of `fn name` of all ops in a source text.
fn names(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let blocks = text
        .split("impl Op for ")
        .skip(1)
        .chain(text.split("impl Func {").skip(1));
    for block in blocks {
        let Some((_, rest)) = block.split_once("fn name(") else {
            continue;
        };
        let body = rest.split_once("\n    }\n").map_or(rest, |(body, _)| body);
        found.extend(body.split('"').skip(1).step_by(2).map(String::from));
    }
    found
}

fn read(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read(&path, found);
        } else {
            found.extend(names(&std::fs::read_to_string(path).unwrap()));
        }
    }
}

#[test]
fn no_op_is_forgotten() {
    let mut all = BTreeSet::new();
    read(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ops"),
        &mut all,
    );
    assert!(all.len() > 80, "only {all:?} were found");
    let swept: BTreeSet<&str> = rows().iter().flat_map(|r| r.case_and_ops().1).collect();
    let excepted: BTreeSet<&str> = EXCEPTIONS
        .iter()
        .flat_map(|(_, ops)| *ops)
        .copied()
        .collect();
    let known = |op: &&String| swept.contains(op.as_str()) || excepted.contains(op.as_str());
    let forgotten: Vec<_> = all.iter().filter(|op| !known(op)).collect();
    assert!(
        forgotten.is_empty(),
        "without a row and no exceptions: {forgotten:?}"
    );
    for op in excepted {
        assert!(
            all.contains(op),
            "`{op}` is an exception, but there is no such op"
        );
    }
}
