//! Reductions: every kind over every kind of axes, long ones in parts.

use flowgrad::device::DeviceClass;
use flowgrad::{Graph, Tensor};

use crate::support::{Data, Tol, assert_close, build_case, check_op, run_as, run_gpu};

type Reduce = fn(&Tensor, &[isize]) -> Tensor;

const KINDS: &[(&str, Reduce)] = &[
    ("sum", |x, a| x.sum(a, false)),
    ("mean", |x, a| x.mean(a, true)),
    ("max", |x, a| x.max(a, false)),
    ("min", |x, a| x.min(a, true)),
    ("var", |x, a| x.var(a, false, true)),
    ("logsumexp", |x, a| x.logsumexp(a, false)),
];

#[test]
fn every_kind_over_every_axis() {
    let cases: &[(&[usize], &[isize])] = &[
        (&[], &[]),
        (&[1], &[0]),
        (&[7], &[]),
        (&[5, 9], &[0]),
        (&[5, 9], &[-1]),
        (&[3, 4, 5], &[1]),
        (&[3, 4, 5], &[0, 2]),
        (&[1, 4, 1, 5], &[0, 2, 3]),
        (&[2, 3, 4, 5], &[1, 3]),
        (&[2, 3, 4, 5], &[0, 2]),
        (&[2, 3, 2, 3, 2], &[0, 2, 4]),
        (&[2, 3, 2, 3, 2, 2], &[1, 3, 5]),
        // Cells of eight and of four, along and across the innermost axis.
        (&[5, 8], &[0]),
        (&[5, 8], &[1]),
        (&[3, 12], &[0]),
        (&[3, 12], &[1]),
        (&[3, 5, 16], &[1]),
        (&[2, 3, 4, 8], &[0, 2]),
        (&[2, 3, 4, 8], &[1, 3]),
        (&[2, 3, 2, 4], &[0, 2]),
    ];
    for (shape, axes) in cases {
        for (name, reduce) in KINDS {
            check_op(
                &format!("{name} of {shape:?} over {axes:?}"),
                &[Data::distinct(*shape, 1)],
                |_, x| vec![reduce(&x[0], axes)],
                Tol::default(),
            );
        }
    }
}

#[test]
fn long_reductions_in_parts() {
    // Parts of one output each, along the last axis and across it; more than one
    // invocation may loop over.
    let cases: &[(&[usize], &[isize])] = &[
        (&[70_001], &[0]),
        (&[3, 5003], &[1]),
        (&[5003, 3], &[0]),
        (&[40, 3, 13, 11], &[0, 2, 3]),
        (&[5003, 8], &[0]),
        (&[5003, 12], &[0]),
        (&[1030, 3, 24], &[0]),
        (&[5, 5008], &[1]),
        (&[33_000], &[0]),
    ];
    for (shape, axes) in cases {
        for (name, reduce) in KINDS {
            check_op(
                &format!("long {name} of {shape:?}"),
                &[Data::distinct(*shape, 2)],
                // Away from zero, where sums would cancel.
                |_, x| vec![reduce(&x[0].add_scalar(1.25), axes)],
                Tol {
                    differences: None,
                    ..Tol::default()
                },
            );
        }
    }
}

#[test]
fn millions_to_one() {
    let positive = Data::uniform([4, 1 << 20], 3, 0.0, 1.0);
    check_op(
        "sum and logsumexp of 4M",
        &[positive],
        |_, x| vec![x[0].sum(&[], false), x[0].logsumexp(&[], false)],
        Tol::rel(1e-6).no_grad(),
    );
}

#[test]
fn variance_far_from_zero() {
    // One pass over the squares would leave no correct digit here.
    for shape in [[6, 100], [2, 9001]] {
        check_op(
            "variance of 100 +- 1",
            &[Data::uniform(shape, 4, 99.0, 101.0)],
            |_, x| vec![x[0].var(&[1], true, false), x[0].var(&[0], true, false)],
            Tol {
                output: 2e-5,
                grad: 4e-5,
                differences: None,
                ..Tol::default()
            },
        );
    }
}

#[test]
fn variance_with_an_outlier_in_front() {
    // Whatever a kernel measures from, one far element must not spoil the others' digits.
    for (shape, outlier) in [([3, 9001], 1e4), ([2, 16_392], 1e4), ([3000, 8], -1e4)] {
        let mut values: Vec<f32> = Data::f32(shape, 22)
            .array()
            .data
            .iter()
            .map(|v| *v as f32)
            .collect();
        values[0] = outlier;
        check_op(
            &format!("variance of {shape:?} with an outlier"),
            &[Data::values(shape, &values)],
            |_, x| {
                let (mean, var) = x[0].moments(&[1], true);
                let (across_mean, across) = x[0].moments(&[0], true);
                vec![mean, var.sqrt(), across_mean, across.sqrt()]
            },
            Tol {
                differences: None,
                ..Tol::rel(1e-5)
            },
        );
    }
}

#[test]
fn moments_keep_axes_only_where_asked() {
    for (shape, axes) in [(&[3, 5][..], &[1][..]), (&[2, 3, 4], &[0, 2]), (&[6], &[])] {
        check_op(
            &format!("moments of {shape:?} over {axes:?}"),
            &[Data::f32(shape, 4)],
            |_, x| {
                let (mean, var) = x[0].moments(axes, false);
                assert_eq!(mean.shape(), x[0].mean(axes, false).shape());
                assert_eq!(var.shape(), mean.shape());
                let (kept, var_kept) = x[0].moments(axes, true);
                assert_eq!(kept.shape(), x[0].mean(axes, true).shape());
                assert_eq!(var_kept.shape(), kept.shape());
                vec![mean, var, kept, var_kept]
            },
            Tol::default(),
        );
    }
    let (mean, var) = Graph::new().input("x", [2]).moments(&[1], false);
    assert!(mean.check().is_err() && var.check().is_err());
}

#[test]
fn logsumexp_does_not_overflow() {
    check_op(
        "logsumexp of +-1000",
        &[Data::uniform([5, 17], 5, -1000.0, 1000.0)],
        |_, x| vec![x[0].logsumexp(&[1], false), x[0].logsumexp(&[], false)],
        Tol {
            differences: None,
            ..Tol::rel(4e-6)
        },
    );
}

#[test]
fn arg_takes_the_lowest_of_equals() {
    let shapes: &[&[usize]] = &[&[1], &[9], &[4, 7], &[3, 5, 4], &[2, 3000], &[3000, 2]];
    for shape in shapes {
        let n: usize = shape.iter().product();
        // Every value occurs many times.
        let values: Vec<f32> = (0..n).map(|i| ((i * 7 + 3) % 5) as f32 - 6.0).collect();
        let rank = shape.len() as isize;
        check_op(
            &format!("argmax and argmin of {shape:?}"),
            &[Data::values(*shape, &values)],
            |_, x| {
                let mut out = vec![x[0].argmax(None), x[0].argmin(None)];
                for axis in 0..rank {
                    out.extend([x[0].argmax(Some(axis)), x[0].argmin(Some(axis))]);
                }
                out
            },
            Tol::default().no_grad(),
        );
    }
}

#[test]
fn the_first_of_equals_takes_the_gradient() {
    check_op(
        "max with ties",
        &[Data::values(
            [2, 4],
            &[1.0, 3.0, 3.0, 0.0, 2.0, 2.0, -1.0, 2.0],
        )],
        |_, x| vec![x[0].max(&[1], false), x[0].min(&[0], false)],
        Tol::default().no_differences(),
    );
}

#[test]
fn softmax_along_any_axis() {
    let cases: &[(&[usize], isize)] = &[
        (&[1], 0),
        (&[7], 0),
        (&[5, 9], -1),
        (&[5, 9], 0),
        (&[2, 10, 3], 1),
        (&[3, 130], 1),
        (&[70, 65], 1),
        (&[70, 64], -1),
        (&[130, 3], 0),
        (&[2, 3000], 1),
        // Eight at a time: rows in loops, in registers, and one cell an invocation.
        (&[3, 8], 1),
        (&[70, 72], 1),
        (&[1100, 24], 1),
        (&[4099, 8], 1),
        (&[13, 53, 56], -1),
        (&[521, 64], 1),
        (&[3, 4104], 1),
    ];
    for (shape, axis) in cases {
        let large = shape.iter().product::<usize>() > 5000;
        for log in [false, true] {
            check_op(
                &format!("softmax {log} of {shape:?} along {axis}"),
                &[Data::uniform(*shape, 6, -5.0, 5.0)],
                |_, x| {
                    vec![match log {
                        false => x[0].softmax(*axis),
                        true => x[0].log_softmax(*axis),
                    }]
                },
                Tol {
                    differences: (!large).then_some(1e-5),
                    ..Tol::default()
                },
            );
        }
    }
}

#[test]
fn softmax_of_masked_rows() {
    // What is masked gets nothing at all, in every variant: scalars, fours, eights in a
    // loop and in registers.
    for shape in [[5, 7], [5, 12], [70, 24], [600, 56], [3, 4104]] {
        let [_, extent] = shape;
        let mut values = Data::f32(shape, 20).array().data;
        for (i, v) in values.iter_mut().enumerate() {
            *v = match i % extent {
                k if k % 3 == 1 => -1e9,
                k if k % 5 == 2 => f64::NEG_INFINITY,
                _ => *v,
            };
        }
        let values: Vec<f32> = values.iter().map(|v| *v as f32).collect();
        check_op(
            &format!("masked softmax of {shape:?}"),
            &[Data::values(shape, &values)],
            |_, x| vec![x[0].softmax(1), x[0].logsumexp(&[1], false)],
            Tol::default().no_grad(),
        );
        let case = build_case(
            "zeros and NaN",
            &[Data::values(shape, &values), Data::f32([1], 21)],
            |_, x| vec![x[0].softmax(1), x[0].mul(&x[1]).softmax(1)],
            false,
        );
        let mut inputs = case.inputs.clone();
        inputs[1].1 = Data::values([1], &[f32::NAN]);
        let got = run_gpu(&inputs, &case.wanted()).expect("results");
        for (i, p) in got[0].array().data.iter().enumerate() {
            let k = i % extent;
            assert_eq!(*p == 0.0, k % 3 == 1 || k % 5 == 2, "{shape:?}: {i} is {p}");
        }
        assert!(got[1].array().data.iter().all(|p| p.is_nan()), "{shape:?}");
    }
}

#[test]
fn softmax_of_large_numbers() {
    check_op(
        "softmax of 1000 +- 1",
        &[Data::uniform([4, 6], 7, 999.0, 1001.0)],
        |_, x| vec![x[0].softmax(1), x[0].log_softmax(1)],
        Tol::rel(4e-6),
    );
}

#[test]
fn gradients_of_gradients() {
    type Kind = (&'static str, fn(&Tensor) -> Tensor);
    let kinds: &[Kind] = &[
        ("softmax", |x| x.softmax(1)),
        ("log_softmax", |x| x.log_softmax(1)),
        ("logsumexp", |x| x.logsumexp(&[1], true)),
        ("var", |x| x.var(&[0], true, false)),
        ("max", |x| x.max(&[0], false).square()),
        ("cumsum", |x| x.cumsum(1).square()),
        ("moments", |x| x.moments(&[1], true).1.sqrt()),
    ];
    for (name, build) in kinds {
        check_op(
            &format!("gradient of the gradient of {name}"),
            &[Data::distinct([3, 5], 8), Data::distinct([3, 5], 9)],
            |_, x| {
                let y = build(&x[0]);
                let weights = x[1].cos().sum_to(y.shape());
                let loss = y.mul(&weights).sum(&[], false);
                flowgrad::tape::backward(&loss, &[&x[0]]).expect("a gradient")
            },
            Tol::rel(8e-6),
        );
    }
}

#[test]
fn cumsum_short_and_in_parts() {
    let cases: &[(&[usize], isize)] = &[
        (&[1], 0),
        (&[9], 0),
        (&[4, 5], 0),
        (&[4, 5], 1),
        (&[2, 7, 3], 1),
        (&[2, 9000], 1),
        (&[9000, 2], 0),
    ];
    for (shape, axis) in cases {
        let long = shape.contains(&9000);
        check_op(
            &format!("cumsum of {shape:?} along {axis}"),
            &[Data::f32(*shape, 10)],
            |_, x| vec![x[0].cumsum(*axis)],
            Tol {
                differences: (!long).then_some(1e-5),
                ..Tol::rel(if long { 1e-5 } else { 2e-6 })
            },
        );
    }
}

/// Compares what a discrete GPU would be given to do, on whatever adapter is here.
fn check_as_discrete(name: &str, inputs: &[Data], build: impl Fn(&[Tensor]) -> Vec<Tensor>) {
    let case = build_case(name, inputs, |_, x| build(x), true);
    let got = run_as(DeviceClass::Discrete, &case.inputs, &case.wanted()).expect("results");
    for (i, expected) in case.reference().iter().enumerate() {
        let what = case.describe(i);
        match &got[i] {
            Data::U32 { values, .. } => {
                let exact: Vec<u32> = expected.data.iter().map(|v| *v as u32).collect();
                assert_eq!(*values, exact, "{what}");
            }
            Data::F32 { values, .. } => assert_close(&what, values, expected, 1e-5),
        }
    }
}

#[test]
fn other_adapters_cut_otherwise() {
    let cases: &[(&[usize], &[isize])] = &[
        (&[70_001], &[0]),
        (&[70_004], &[0]),
        (&[3, 5003], &[1]),
        (&[5003, 3], &[0]),
        (&[40, 3, 13, 11], &[0, 2, 3]),
        (&[40, 3, 12, 12], &[0, 2, 3]),
        (&[3, 40, 2, 30, 5], &[1, 3]),
    ];
    for (shape, axes) in cases {
        for (name, reduce) in KINDS {
            check_as_discrete(
                &format!("{name} of {shape:?} on other adapters"),
                &[Data::distinct(*shape, 12)],
                |x| vec![reduce(&x[0].add_scalar(1.25), axes)],
            );
        }
    }
    check_as_discrete("rows", &[Data::distinct([5, 3001], 13)], |x| {
        vec![
            x[0].argmax(None),
            x[0].argmin(Some(1)),
            x[0].softmax(1),
            x[0].log_softmax(0),
            x[0].add_scalar(1.25).cumsum(1),
            x[0].add_scalar(1.25).moments(&[0], true).1,
        ]
    });
    check_as_discrete(
        "segments",
        &[Data::f32([70_000, 5], 14), Data::below([70_000], 15, 300)],
        |x| vec![x[0].segment_sum(&x[1], 300), x[0].segment_sum(&x[1], 2)],
    );
}

#[test]
fn wrong_axes_are_named() {
    let g = Graph::new();
    let x = g.input("x", [3, 4]);
    for bad in [
        x.sum(&[2], false),
        x.max(&[0, -2], false),
        x.argmax(Some(-3)),
        x.softmax(5),
        x.cumsum(2),
        x.moments(&[3], true).0,
    ] {
        let text = bad.check().unwrap_err().to_string();
        assert!(
            text.contains("axis") && text.contains("reduce.rs:"),
            "{text}"
        );
    }
    let one = g.input("one", [1]).var(&[], true, false);
    assert!(one.check().is_err());
    assert!(g.input_u32("i", [3]).sum(&[], false).check().is_err());
}
