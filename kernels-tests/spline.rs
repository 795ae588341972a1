//! Rational-quadratic splines: values, gradients, inverses, tails, degenerate bins.

use flowgrad::graph::{Feed, evaluate};
use flowgrad::ops::SplineParams;
use flowgrad::{Graph, Tensor};

use crate::flow_support::check_bijection;
use crate::support::{Data, Tol, check_op, run_gpu};

fn raw(shape: &[usize], params: &SplineParams, size: f32) -> Data {
    let mut dims = shape.to_vec();
    dims[1] *= params.raw_values();
    Data::uniform(dims, 2, -size, size)
}

const SHAPES: [&[usize]; 5] = [
    &[7, 2],
    &[5, 2, 1, 1],
    &[2, 3, 3, 2],
    &[2, 1, 5, 1],
    &[70, 1],
];

#[test]
fn values_and_gradients() {
    for shape in SHAPES {
        for bins in [2, 8, 13] {
            let params = SplineParams { bins, bound: 3.0 };
            check_op(
                &format!("spline of {shape:?}, {bins} bins"),
                &[
                    Data::uniform(shape, 1, -3.4, 3.4),
                    raw(shape, &params, 1.5),
                    Data::uniform(shape, 3, -3.4, 3.4),
                ],
                |_, x| {
                    let (y, log) = x[0].spline(&x[1], &params);
                    let (back, inverse) = x[2].spline_inverse(&x[1], &params);
                    vec![y, log, back, inverse]
                },
                Tol {
                    // Inverses of steep pieces: what a digit of x is worth.
                    output: 4e-5,
                    grad: 1e-4,
                    differences: Some(1e-4),
                    step: 1e-7,
                    ..Tol::default()
                },
            );
        }
    }
}

#[test]
fn splines_are_bijections() {
    for (shape, bins, size) in [
        (&[3, 5][..], 8, 1.0),
        (&[2, 3, 2, 3], 5, 2.0),
        (&[1, 7], 16, 1.0),
        (&[3, 2], 1, 1.0),
    ] {
        let params = SplineParams { bins, bound: 2.0 };
        let sum = |(y, log): (Tensor, Tensor)| {
            let axes: Vec<isize> = (1..y.shape().rank() as isize).collect();
            (y, log.sum(&axes, false))
        };
        check_bijection(
            &format!("spline of {shape:?}"),
            &Data::uniform(shape, 4, -2.5, 2.5),
            &[raw(shape, &params, size)],
            |x, r| sum(x.spline(&r[0], &params)),
            |y, r| sum(y.spline_inverse(&r[0], &params)),
        );
    }
}

/// A grid of points across the whole interval, its ends and what lies beyond, under raw
/// values of any size: increasing, inverted, and a number everywhere.
#[test]
fn steep_splines_stay_monotone_and_invertible() {
    let params = SplineParams {
        bins: 6,
        bound: 1.0,
    };
    let n = 801;
    let grid: Vec<f32> = (0..n).map(|i| (i as f32 - 400.0) / 320.0).collect();
    for size in [0.0, 4.0, 60.0] {
        let Data::F32 { values, .. } = raw(&[1, 1], &params, size) else {
            panic!("not f32")
        };
        let graph = Graph::new();
        let x = graph.input("x", [n, 1]);
        let raw = graph.constant([1, params.raw_values()], &values);
        let raw = raw.broadcast_to([n, params.raw_values()]);
        let (y, log) = x.spline(&raw, &params);
        let (back, inverse) = y.spline_inverse(&raw, &params);
        let data = Data::values([n, 1], &grid);
        let got = run_gpu(&[("x".into(), data.clone())], &[&y, &log, &back, &inverse]).unwrap();
        let got: Vec<Vec<f64>> = got.iter().map(|d| d.array().data).collect();
        assert!(got.iter().flatten().all(|v| v.is_finite()), "size {size}");
        let feed = Feed {
            inputs: [("x".to_string(), data.array())].into(),
            ..Feed::default()
        };
        let exact = evaluate(&[&y, &log], &feed).unwrap();
        for i in 0..n {
            let (x, y, log, back) = (grid[i] as f64, got[0][i], got[1][i], got[2][i]);
            assert!(
                (y - exact[0].data[i]).abs() < 2e-6 * log.exp().max(1.0),
                "size {size}, {x}: {y}"
            );
            assert!(i == 0 || y >= got[0][i - 1], "size {size}: falls at {x}");
            if x.abs() >= 1.0 {
                assert_eq!((y, log), (x, 0.0), "tail at {x}");
            }
            if size == 0.0 {
                assert!((y - x).abs() < 1e-6 && log.abs() < 1e-5, "{x} becomes {y}");
            }
            // What y lost by rounding, the inverse cannot know; the slope may fall far
            // below that at x within a bin of the extreme spline.
            let allowed = (1e-5 + 4e-7 / log.exp()) * if size > 10.0 { 100.0 } else { 1.0 };
            assert!(
                (back - x).abs() <= allowed,
                "size {size}: {x} comes back as {back}"
            );
        }
    }
}

#[test]
fn wrong_splines_are_told() {
    let graph = Graph::new();
    let x = graph.input("x", [2, 3]);
    let said = |columns: usize, bins: usize, bound: f32| {
        let raw = graph.full([2, columns], 0.0);
        let (y, log) = x.spline(&raw, &SplineParams { bins, bound });
        assert!(log.check().is_err());
        y.check().unwrap_err().to_string()
    };
    assert!(said(69, 8, 0.0).contains("bound"));
    assert!(said(69, 0, 1.0).contains("bins"));
    assert!(said(69, 257, 1.0).contains("256"));
    assert!(said(68, 8, 1.0).contains("[2, 69]"));
    let (y, _) = graph.input("flat", [4]).spline(
        &x,
        &SplineParams {
            bins: 2,
            bound: 1.0,
        },
    );
    assert!(y.check().unwrap_err().to_string().contains("[N, C, ..]"));
}
