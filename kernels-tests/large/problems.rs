//! The problems: every op whose kernels depend on sizes.

use flowgrad::Tensor;
use flowgrad::ops::{
    ConvParams, ConvTransposeParams, CouplingMask, CouplingParams, CouplingScale, GridPadding, Plu,
    PoolParams, SplineParams, Triangular,
};

use super::In::{Below, Distinct, Float, Matrices, Positive};
use super::sampled::{self, Geometry};
use super::{In, Problem, Size};
use crate::support::Tol;

pub fn all() -> Vec<Problem> {
    let families = [
        products(),
        convolutions(),
        reductions(),
        norms(),
        indices(),
        matrices(),
        flows(),
        moves(),
        pictures(),
        attention(),
    ];
    families.into_iter().flatten().collect()
}

/// `[rows, columns]`, stored transposed where asked.
fn matrix(rows: usize, columns: usize, transposed: bool) -> In {
    Float(match transposed {
        true => vec![columns, rows],
        false => vec![rows, columns],
    })
}

pub fn products() -> Vec<Problem> {
    let mut all = Vec::new();
    let mut product = |name: &str, run: [usize; 3], huge: [usize; 3], [ta, tb]: [bool; 2]| {
        let inputs = |[m, n, k]: [usize; 3]| [matrix(m, k, ta), matrix(k, n, tb)];
        all.push(
            Problem::new(name, &inputs(run), &inputs(huge), move |x, _| {
                vec![x[0].matmul_with(&x[1], ta, tb)]
            })
            .no_grad()
            .check(sampled::product(run, [ta, tb])),
        );
    };
    for trans in [[false, false], [true, false], [false, true], [true, true]] {
        product("product", [1024, 512, 36], [8192, 8192, 4096], trans);
    }
    // Read in vectors only once copied.
    for trans in [[false, false], [true, true]] {
        product("odd product", [1027, 515, 35], [8191, 8191, 4095], trans);
    }
    // Few outputs of long sums.
    product(
        "long product",
        [64, 64, 1 << 13],
        [64, 64, 1 << 15],
        [false; 2],
    );
    for tb in [false, true] {
        product("row", [1, 512, 2048], [1, 1 << 14, 1 << 14], [false, tb]);
    }
    let batch = |n: usize, [m, k]: [usize; 2]| [Float(vec![m, k]), Float(vec![n, k, 24])];
    all.push(
        Problem::new(
            "one matrix for all of a batch",
            &batch(96, [64, 36]),
            &batch(4096, [512, 512]),
            |x, _| vec![x[0].matmul(&x[1])],
        )
        .no_grad(),
    );
    all
}

pub fn convolutions() -> Vec<Problem> {
    let convolution = |name: &str, run: Geometry, huge: Geometry| {
        let inputs = |g: Geometry| {
            let [h, w] = g.size;
            let weight = vec![g.o, g.c / g.groups, g.kernel, g.kernel];
            [Float(vec![g.n, g.c, h, w]), Float(weight)]
        };
        Problem::new(name, &inputs(run), &inputs(huge), move |x, size| {
            let g = if size == Size::Run { run } else { huge };
            let params = ConvParams {
                stride: [g.stride; 2],
                padding: [g.pad; 4],
                groups: g.groups,
                ..ConvParams::default()
            };
            vec![x[0].conv2d(&x[1], None, &params)]
        })
        .check(run.check())
    };
    let same = Geometry {
        n: 1,
        c: 8,
        o: 128,
        size: [64, 64],
        kernel: 3,
        stride: 1,
        pad: 1,
        groups: 1,
    };
    let wide = Geometry {
        n: 32,
        c: 512,
        o: 512,
        ..same
    };
    let pointwise = Geometry {
        n: 16,
        c: 40,
        o: 72,
        size: [16, 16],
        kernel: 1,
        pad: 0,
        ..same
    };
    let strided = Geometry {
        n: 1,
        c: 96,
        o: 16,
        stride: 2,
        ..same
    };
    let grouped = Geometry {
        n: 8,
        c: 32,
        o: 32,
        size: [32, 32],
        groups: 4,
        ..same
    };
    let few = Geometry {
        c: 64,
        o: 320,
        size: [4, 4],
        ..same
    };
    // Transposed, it goes from the output to the input.
    let back = Geometry {
        n: 16,
        c: 8,
        o: 96,
        size: [32, 32],
        kernel: 4,
        stride: 2,
        ..same
    };
    let back_of = |n: usize| Geometry {
        n,
        c: 8,
        o: 8,
        size: [128, 128],
        ..back
    };
    vec![
        convolution("3x3", same, Geometry { c: 8, ..wide }),
        convolution(
            "3x3 to few channels",
            Geometry {
                c: 128,
                o: 8,
                ..same
            },
            Geometry { o: 8, ..wide },
        ),
        convolution(
            "3x3 of many pixels and few channels",
            Geometry {
                n: 32,
                o: 1,
                ..same
            },
            Geometry { c: 8, o: 1, ..wide },
        ),
        convolution(
            "3x3 of few pixels",
            few,
            Geometry {
                c: 2048,
                o: 2048,
                ..few
            },
        ),
        convolution(
            "3x3 of some pixels",
            Geometry {
                size: [20, 16],
                ..same
            },
            Geometry {
                c: 512,
                size: [16, 16],
                ..same
            },
        ),
        convolution(
            "1x1",
            pointwise,
            Geometry {
                size: [16, 16],
                kernel: 1,
                pad: 0,
                ..wide
            },
        ),
        convolution(
            "strided",
            strided,
            Geometry {
                o: 16,
                stride: 2,
                ..wide
            },
        ),
        convolution(
            "strided, of images enough for large workgroups",
            Geometry {
                n: 32,
                c: 16,
                ..strided
            },
            Geometry {
                o: 16,
                stride: 2,
                ..wide
            },
        )
        .on_software(),
        convolution(
            "strided, of many pixels",
            Geometry {
                n: 16,
                c: 32,
                ..strided
            },
            Geometry {
                c: 32,
                o: 16,
                stride: 2,
                ..wide
            },
        )
        .on_software(),
        convolution(
            "grouped",
            grouped,
            Geometry {
                n: 128,
                c: 128,
                o: 128,
                groups: 16,
                ..grouped
            },
        ),
        convolution(
            "depthwise",
            Geometry {
                groups: 32,
                ..grouped
            },
            Geometry {
                n: 128,
                c: 512,
                o: 512,
                groups: 512,
                ..grouped
            },
        ),
        transposed(
            "transposed",
            back,
            Geometry {
                n: 256,
                o: 512,
                ..back
            },
        ),
        transposed("transposed, of many pixels", back_of(8), back_of(64)).on_software(),
        transposed("transposed, of very many pixels", back_of(32), back_of(64)).on_gpus(),
    ]
}

fn transposed(name: &str, run: Geometry, huge: Geometry) -> Problem {
    let inputs = |g: Geometry| {
        let [p, q] = g.output();
        [
            Float(vec![g.n, g.o, p, q]),
            Float(vec![g.o, g.c, g.kernel, g.kernel]),
        ]
    };
    let params = ConvTransposeParams {
        stride: [run.stride; 2],
        padding: [run.pad; 4],
        ..Default::default()
    };
    let check = run.check();
    Problem::new(name, &inputs(run), &inputs(huge), move |x, _| {
        vec![x[0].conv_transpose2d(&x[1], None, &params)]
    })
    .check(move |what, x, y| {
        // What goes in is the other's gradient by its output, and the other way round.
        let inputs = [&x[2], &x[1], &x[0]].map(Vec::clone);
        check(what, &inputs, &[&y[1], &y[0], &y[2]].map(Vec::clone));
    })
}

/// The shapes of sums: one long row, short rows, long columns, channels of images, few and
/// many.
const SHAPES: [(&[usize], &[usize], &[isize]); 5] = [
    (&[1 << 15], &[1 << 27], &[0]),
    (&[2056, 16], &[1 << 22, 16], &[1]),
    (&[1 << 12, 8], &[1 << 22, 8], &[0]),
    (&[16, 2, 32, 32], &[64, 64, 128, 128], &[0, 2, 3]),
    (&[4, 1032, 2, 8], &[64, 1032, 32, 32], &[0, 2, 3]),
];

/// Parts of its parts are added up, and squares taken around a mean that is known.
const VERY_LONG: usize = (1 << 24) + (1 << 14);
/// Odd, so that a cell is one number and there are parts enough to be put together in parts.
const FOR_TWO_PASSES: usize = (1 << 24) + 1;

pub fn reductions() -> Vec<Problem> {
    let mut all = Vec::new();
    for (run, huge, axes) in SHAPES {
        let shapes = |make: fn(Vec<usize>) -> In| [[make(run.to_vec())], [make(huge.to_vec())]];
        let [small, large] = shapes(Positive);
        all.push(Problem::new(
            format!("sums over {axes:?} of {run:?}"),
            &small,
            &large,
            move |x, _| {
                vec![
                    x[0].sum(axes, false),
                    x[0].var(axes, false, false),
                    x[0].logsumexp(axes, false),
                ]
            },
        ));
        let [small, large] = shapes(Distinct);
        all.push(
            Problem::new(
                format!("extrema over {axes:?} of {run:?}"),
                &small,
                &large,
                move |x, _| {
                    let last = x[0].argmin(Some(axes[0]));
                    vec![x[0].max(axes, false), x[0].min(axes, false), last]
                },
            )
            .no_grad(),
        );
    }
    for (n, software) in [(VERY_LONG, true), (1 << 21, false)] {
        let problem = Problem::new(
            format!("a row of {n}"),
            &[Positive(vec![n])],
            &[Positive(vec![1 << 27])],
            |x, _| {
                vec![
                    x[0].sum(&[0], false),
                    x[0].var(&[0], false, false),
                    x[0].logsumexp(&[0], false),
                    x[0].max(&[0], false),
                    x[0].argmin(Some(0)),
                ]
            },
        );
        let problem = problem.no_grad().check(sampled::long_row);
        all.push(match software {
            true => problem.on_software(),
            false => problem.on_gpus(),
        });
    }
    // More than software adapters take in one pass.
    all.push(
        Problem::new(
            format!("a variance of {FOR_TWO_PASSES}"),
            &[Positive(vec![FOR_TWO_PASSES])],
            &[Positive(vec![(1 << 27) + 1])],
            |x, _| vec![x[0].var(&[0], false, false)],
        )
        .no_grad()
        .check(sampled::variance)
        .on_software(),
    );
    // Along the first, a middle and the last axis.
    let along: [(&[usize], &[usize], isize); 4] = [
        (&[1 << 16], &[1 << 26], 0),
        (&[16, 2048, 4], &[256, 1 << 14, 4], 1),
        (&[1032, 72], &[1 << 14, 1 << 14], 1),
        (&[8192, 8], &[1 << 23, 8], 1),
    ];
    for (run, huge, axis) in along {
        all.push(Problem::new(
            format!("softmax along {axis} of {run:?}"),
            &[Float(run.to_vec())],
            &[Float(huge.to_vec())],
            move |x, _| vec![x[0].softmax(axis), x[0].log_softmax(axis)],
        ));
        all.push(Problem::new(
            format!("running sums along {axis} of {run:?}"),
            &[Positive(run.to_vec())],
            &[Positive(huge.to_vec())],
            move |x, _| vec![x[0].cumsum(axis)],
        ));
    }
    all
}

pub fn norms() -> Vec<Problem> {
    // Positive, since means near 0 are only exact compared with what they are the means of.
    let images = |n: usize, c: usize, side: usize| {
        [
            Positive(vec![n, c, side, side]),
            Positive(vec![c]),
            Float(vec![c]),
        ]
    };
    let layer = |name: &str, run: [usize; 2], huge: [usize; 2]| {
        let rows = |[n, d]: [usize; 2]| [Float(vec![n, d]), Positive(vec![d]), Float(vec![d])];
        Problem::new(name, &rows(run), &rows(huge), |x, _| {
            let d = x[0].dim(1);
            vec![x[0].layer_norm(&[d], Some(&x[1]), Some(&x[2]), 1e-5)]
        })
    };
    vec![
        Problem::new(
            "batch norm",
            &images(32, 8, 16),
            &images(256, 64, 128),
            |x, _| {
                let (y, mean, var) = x[0].batch_norm_train(Some(&x[1]), Some(&x[2]), 1e-5);
                vec![y, mean, var]
            },
        ),
        Problem::new(
            "batch norm of many channels",
            &[
                Float(vec![4, 1032, 2, 8]),
                Positive(vec![1032]),
                Float(vec![1032]),
            ],
            &[
                Float(vec![256, 1032, 32, 32]),
                Positive(vec![1032]),
                Float(vec![1032]),
            ],
            |x, _| vec![x[0].batch_norm_train(Some(&x[1]), Some(&x[2]), 1e-5).0],
        ),
        Problem::new(
            "group norm",
            &images(4, 8, 32),
            &images(256, 64, 128),
            |x, _| vec![x[0].group_norm(4, Some(&x[1]), Some(&x[2]), 1e-5)],
        ),
        Problem::new(
            "actnorm",
            &images(16, 2, 32),
            &images(256, 64, 128),
            |x, _| {
                let (y, _) = x[0].actnorm(&x[2], &x[1]);
                vec![y, x[0].actnorm_init(1e-6, 0.0).log_scale]
            },
        ),
        layer("layer norm", [1032, 32], [1 << 18, 1024]),
        layer("layer norm of long rows", [4, 8320], [1 << 14, 8320]),
    ]
}

pub fn indices() -> Vec<Problem> {
    let mut all = Vec::new();
    let codes = |n: usize, k: usize, d: usize| [Float(vec![n, d]), Float(vec![k, d])];
    for (name, run, huge) in [
        ("nearest codes", [1200, 600, 64], [1 << 18, 8192, 64]),
        ("nearest of many codes", [64, 8192, 16], [64, 1 << 18, 256]),
        (
            "nearest codes of few rows",
            [8, 4100, 16],
            [8, 1 << 18, 256],
        ),
        ("nearest codes, odd", [300, 600, 15], [1 << 18, 8192, 63]),
        (
            "nearest of many codes, odd",
            [64, 4100, 7],
            [64, 1 << 18, 63],
        ),
    ] {
        all.push(
            Problem::new(
                name,
                &codes(run[0], run[1], run[2]),
                &codes(huge[0], huge[1], huge[2]),
                |x, _| vec![x[0].codebook_nearest(&x[1])],
            )
            .no_grad()
            .check(sampled::nearest(run[2])),
        );
    }
    // Rows, segments and elements of a row: looked through by every segment, sorted, and
    // sorted with long segments cut into parts.
    for (run, huge) in [
        ([16_384, 512, 4], [1 << 20, 1 << 16, 64]),
        ([40_000, 1700, 4], [1 << 23, 64, 4]),
        ([16_384, 1400, 3], [1 << 23, 1 << 16, 3]),
    ] {
        let inputs = |[n, segments, width]: [usize; 3]| {
            [Float(vec![n, width]), Below(vec![n], segments + 1)]
        };
        all.push(Problem::new(
            format!("segment sums {run:?}"),
            &inputs(run),
            &inputs(huge),
            move |x, size| {
                let segments = if size == Size::Run { run[1] } else { huge[1] };
                vec![x[0].segment_sum(&x[1], segments)]
            },
        ));
    }
    for width in [3, 4] {
        let inputs = |n: usize, k: usize| {
            [
                Float(vec![k, width]),
                Below(vec![n], k),
                Float(vec![n, width]),
                Positive(vec![n, 5]),
                Below(vec![n], 5),
            ]
        };
        all.push(Problem::new(
            format!("rows by index, {width} wide"),
            &inputs(4096, 300),
            &inputs(1 << 22, 1 << 16),
            |x, _| {
                vec![
                    x[0].gather_rows(&x[1]),
                    x[0].set_rows(&x[1], &x[2]),
                    x[3].take_along_axis(1, &x[4]),
                ]
            },
        ));
    }
    all
}

pub fn matrices() -> Vec<Problem> {
    let mut all = Vec::new();
    // Many small ones, and one that a workgroup factors.
    for (run, huge) in [([40, 12], [1 << 17, 12]), ([2, 56], [64, 128])] {
        let inputs = |[n, rows]: [usize; 2]| [Matrices(vec![n, rows, rows])];
        all.push(
            Problem::new(
                format!("factors of {run:?}"),
                &inputs(run),
                &inputs(huge),
                |x, _| {
                    let f = x[0].lu();
                    vec![f.lu, f.perm, f.pivots, f.log_det, x[0].inverse()]
                },
            )
            .tol(Tol::rel(2e-5)),
        );
    }
    // Block by block, and beyond what the subgroups of a workgroup hold on software adapters.
    for (run, huge) in [(136, 1024), (132, 1020), (1032, 2048), (1028, 2044)] {
        let problem = Problem::new(
            format!("factors of {run} rows"),
            &[Matrices(vec![1, run, run])],
            &[Matrices(vec![4, huge, huge])],
            move |x, _| {
                let f = x[0].lu();
                let inverse = (run < 1000).then(|| x[0].inverse());
                [f.lu, f.perm, f.log_det]
                    .into_iter()
                    .chain(inverse)
                    .collect()
            },
        );
        let problem = problem.no_grad().check(sampled::factors(run));
        all.push(match run > 1000 {
            true => problem.on_software(),
            false => problem,
        });
    }
    for kind in [Triangular::lower(), Triangular::upper().transposed()] {
        for (run, huge) in [
            ([2, 80, 1], 1),
            ([2, 80, 36], 1 << 10),
            ([1, 80, 72], 1 << 12),
        ] {
            let inputs = |[batch, n, columns]: [usize; 3]| {
                [Matrices(vec![batch, n, n]), Float(vec![batch, n, columns])]
            };
            all.push(
                Problem::new(
                    format!("triangular systems {run:?}, {kind:?}"),
                    &inputs(run),
                    &inputs([8, 2048, huge]),
                    move |x, _| vec![x[0].solve_triangular(&x[1], kind)],
                )
                .tol(Tol::rel(2e-5)),
            );
        }
    }
    // Beyond what the loops of one lane may count on software adapters.
    all.push(
        Problem::new(
            "a large triangular system",
            &[Matrices(vec![2720, 2720]), Float(vec![2720, 1])],
            &[Matrices(vec![4096, 4096]), Float(vec![4096, 1])],
            |x, _| vec![x[0].solve_triangular(&x[1], Triangular::lower())],
        )
        .no_grad()
        .on_software()
        .check(sampled::solution(2720)),
    );
    let inputs = |n: usize| {
        [
            Float(vec![n, n]),
            Float(vec![n, n]),
            Float(vec![n, n]),
            Positive(vec![n]),
            Float(vec![n]),
        ]
    };
    all.push(
        Problem::new("plu", &inputs(64), &inputs(1024), |x, _| {
            let plu = Plu {
                p: &x[0].stop_gradient(),
                l: &x[1],
                u: &x[2],
                sign: &x[3].stop_gradient(),
                log_s: &x[4],
            };
            vec![plu.assemble()]
        })
        .tol(Tol::rel(1e-5)),
    );
    all
}

pub fn flows() -> Vec<Problem> {
    let masks = [
        CouplingParams::new(CouplingMask::After(4)),
        CouplingParams::glow(CouplingMask::Odd),
        CouplingParams {
            scale: CouplingScale::Tanh { clamp: 2.0 },
            ..CouplingParams::new(CouplingMask::Checkerboard { parity: 1 })
        },
        CouplingParams::additive(CouplingMask::Before(4)),
    ];
    let mut all: Vec<Problem> = Vec::new();
    for params in masks {
        let inputs = move |n: usize, side: usize| {
            let raw = params.raw_channels(8);
            [
                Float(vec![n, 8, side, side]),
                Float(vec![n, raw, side, side]),
            ]
        };
        all.push(Problem::new(
            format!("coupling, {params:?}"),
            &inputs(4, 32),
            &inputs(256, 256),
            move |x, _| {
                let (y, log_det) = x[0].coupling(&x[1], &params);
                let (back, inverse) = x[0].coupling_inverse(&x[1], &params);
                match params.scale {
                    CouplingScale::None => vec![y, back],
                    _ => vec![y, log_det, back, inverse],
                }
            },
        ));
    }
    let params = SplineParams {
        bins: 8,
        bound: 2.0,
    };
    let inputs = move |n: usize, side: usize| {
        [
            Float(vec![n, 2, side, side]),
            Float(vec![n, 2 * params.raw_values(), side, side]),
        ]
    };
    all.push(
        Problem::new("splines", &inputs(4, 16), &inputs(64, 128), move |x, _| {
            let (y, log) = x[0].spline(&x[1], &params);
            let (back, inverse) = x[0].spline_inverse(&x[1], &params);
            vec![y, log, back, inverse]
        })
        .tol(Tol::rel(2e-5)),
    );
    all
}

pub fn moves() -> Vec<Problem> {
    let mut all = Vec::new();
    for width in [16, 5] {
        let inputs = |n: usize| [Float(vec![n, 6, width]), Float(vec![n, 2, width])];
        all.push(Problem::new(
            format!("views of rows of {width}"),
            &inputs(208),
            &inputs(1 << 20),
            |x, _| {
                let rows = x[0].dim(0);
                vec![
                    x[0].permute(&[2, 0, 1]),
                    x[0].transpose(0, 1),
                    x[0].slice(0, 8, rows - 8),
                    x[0].pad(&[(1, 0), (0, 2), (0, 0)], 0.5),
                    x[0].flip(&[0]),
                    x[0].roll(1, 2),
                    Tensor::concat(&[&x[0], &x[1]], 1),
                    x[0].exp().add(&x[1].slice(1, 0, 1)).sin(),
                ]
            },
        ));
    }
    let windows = [
        PoolParams::new([2, 2], [2, 2]),
        PoolParams::new([3, 3], [2, 2]).padding([1, 1]),
    ];
    for params in windows {
        all.push(Problem::new(
            format!("pools {params:?}"),
            &[Distinct(vec![2, 4, 32, 32])],
            &[Distinct(vec![256, 64, 128, 128])],
            move |x, _| {
                let most = x[0].max_pool2d(&params);
                vec![
                    flowgrad::tape::backward(&most.square().sum(&[], false), &[&x[0]])
                        .expect("a gradient")
                        .remove(0),
                    most,
                    x[0].avg_pool2d(&params),
                    x[0].upsample_nearest2d([2, 2]),
                ]
            },
        ));
    }
    // Enough for sixteen elements an invocation, and the parts of a flat arena.
    let inputs = |n: usize| [Float(vec![n, 16, 16]), Float(vec![n, 1, 1])];
    all.push(
        Problem::new("chains", &inputs(256), &inputs(1 << 18), |x, _| {
            let y = x[0].mul(&x[1]).tanh();
            let len = x[0].numel() + 64;
            vec![x[0].graph().pack(&[(64, &x[0])], len), y]
        })
        .no_grad(),
    );
    all
}

/// Pictures sampled anywhere, with as many channels as cells take at once and more.
pub fn pictures() -> Vec<Problem> {
    let inputs = |n: usize, c: usize, side: usize| {
        [
            Float(vec![n, c, side, side]),
            Float(vec![n, side + 1, side, 2]),
        ]
    };
    let paddings = [GridPadding::Zeros, GridPadding::Border];
    let sampled = paddings.into_iter().flat_map(|padding| {
        [(3, 3), (24, 64)].map(|(run, huge)| {
            Problem::new(
                format!("samples of {run} channels, {padding:?}"),
                &inputs(2, run, 24),
                &inputs(256, huge, 128),
                move |x, _| vec![x[0].grid_sample(&x[1], padding)],
            )
        })
    });
    sampled.collect()
}

/// More queries and keys than a tile has, and widths of several kinds.
pub fn attention() -> Vec<Problem> {
    let mut all = Vec::new();
    for width in [64, 20, 7] {
        for causal in [false, true] {
            let rows = |b: usize, t: usize, d: usize| [0; 3].map(|_| Float(vec![b, t, d]));
            all.push(Problem::new(
                format!("attention of {width}, causal {causal}"),
                &rows(8, 150, width),
                &rows(128, 1 << 13, width),
                move |x, _| vec![x[0].attention(&x[1], &x[2], 0.2, causal)],
            ));
        }
    }
    all
}
