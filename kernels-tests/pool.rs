//! Pooling and up-sampling: windows that overlap, touch and leave gaps, borders,
//! ties, gradients of gradients, and what is refused.

use flowgrad::ops::PoolParams;
use flowgrad::{Graph, tape};

use crate::support::{Data, Tol, check_op};

fn cases() -> Vec<([usize; 4], PoolParams)> {
    let p = |k: [usize; 2], s: [usize; 2], pad: [usize; 2]| PoolParams::new(k, s).padding(pad);
    vec![
        ([1, 1, 1, 1], p([1, 1], [1, 1], [0, 0])),
        ([2, 3, 6, 8], p([2, 2], [2, 2], [0, 0])),
        ([2, 3, 7, 5], p([2, 2], [2, 2], [0, 0])),
        ([2, 3, 7, 6], p([3, 3], [2, 2], [1, 1])),
        ([2, 3, 6, 7], p([3, 3], [1, 1], [1, 1])),
        ([1, 2, 7, 9], p([3, 2], [2, 1], [1, 0])),
        ([1, 2, 7, 9], p([2, 3], [1, 2], [0, 1])),
        ([1, 2, 11, 9], p([2, 2], [3, 4], [1, 1])),
        ([1, 2, 9, 9], p([5, 4], [1, 1], [2, 2])),
        ([1, 1, 2, 1], p([2, 2], [1, 1], [1, 1])),
        // Rows in pieces of 8 pixels, and of 4: one piece, several, borders in the middle.
        ([2, 3, 7, 16], p([3, 3], [2, 2], [1, 1])),
        ([1, 2, 6, 24], p([2, 2], [2, 2], [0, 0])),
        ([2, 2, 6, 16], p([3, 3], [1, 1], [1, 1])),
        ([1, 2, 7, 8], p([5, 5], [1, 1], [2, 2])),
        ([1, 2, 3, 24], p([5, 5], [1, 1], [2, 2])),
        ([1, 2, 9, 16], p([2, 4], [4, 4], [0, 0])),
        ([1, 2, 8, 8], p([1, 2], [3, 2], [0, 0])),
        ([1, 2, 9, 16], p([5, 4], [2, 2], [2, 1])),
        ([1, 2, 5, 12], p([3, 3], [2, 2], [1, 1])),
        ([2, 2, 7, 4], p([3, 3], [2, 1], [1, 1])),
        ([1, 2, 4, 20], p([2, 5], [1, 1], [0, 2])),
        // Windows beyond the border: by one row, by two columns, none that begins there.
        ([2, 2, 6, 7], p([3, 3], [2, 2], [0, 0]).ceil_mode()),
        ([1, 2, 7, 8], p([3, 3], [2, 2], [1, 1]).ceil_mode()),
        ([1, 2, 5, 5], p([2, 3], [3, 4], [1, 1]).ceil_mode()),
        ([2, 2, 8, 16], p([3, 3], [2, 2], [0, 0]).ceil_mode()),
        ([1, 2, 9, 24], p([3, 4], [2, 2], [1, 0]).ceil_mode()),
        ([1, 2, 8, 4], p([3, 3], [2, 2], [0, 0]).ceil_mode()),
    ]
}

/// Extents that PyTorch documents and gives.
#[test]
fn extents_beyond_the_border() {
    let extent = |h: usize, params: PoolParams| {
        let x = Graph::new().input("x", [1, 1, h, 8]);
        x.max_pool2d(&params).dim(2)
    };
    let p = |k: usize, s: usize, pad: usize| PoolParams::new([k, 1], [s, 1]).padding([pad, 0]);
    for (h, k, s, pad, floor, ceil) in [
        (6, 3, 2, 0, 2, 3),
        (7, 3, 2, 0, 3, 3),
        (112, 3, 2, 0, 55, 56),
        (112, 3, 2, 1, 56, 57),
        // The third window would begin in the padding.
        (5, 2, 3, 1, 2, 2),
        (5, 1, 3, 0, 2, 2),
        (7, 2, 4, 0, 2, 2),
    ] {
        assert_eq!(extent(h, p(k, s, pad)), floor, "{h} {k} {s} {pad}");
        assert_eq!(
            extent(h, p(k, s, pad).ceil_mode()),
            ceil,
            "{h} {k} {s} {pad}"
        );
    }
}

/// TensorFlow's rule, written down anew: `ceil(H / s)` windows, the odd pixel behind.
#[test]
fn windows_padded_like_tensorflow() {
    let mut numbers = crate::support::Numbers::new(3);
    for (h, k, s) in [
        (6, 3, 2),
        (7, 3, 2),
        (5, 3, 1),
        (6, 2, 2),
        (7, 2, 2),
        (7, 2, 4),
        (5, 5, 3),
    ] {
        let values: Vec<f32> = (0..h).map(|_| numbers.uniform(-1.0, 1.0)).collect();
        let windows = usize::div_ceil(h, s);
        let all = ((windows - 1) * s + k).saturating_sub(h);
        let inside = |p: usize| {
            let first = (p * s) as isize - (all / 2) as isize;
            let range = first.max(0) as usize..((first + k as isize) as usize).min(h);
            values[range]
                .iter()
                .map(|v| f64::from(*v))
                .collect::<Vec<_>>()
        };
        let max: Vec<f64> = (0..windows)
            .map(|p| inside(p).into_iter().fold(f64::NEG_INFINITY, f64::max))
            .collect();
        let mean: Vec<f64> = (0..windows)
            .map(|p| inside(p).iter().sum::<f64>() / inside(p).len() as f64)
            .collect();
        let params = PoolParams::same([k, 1], [s, 1], [h, 1]).unwrap();
        let x = [Data::values([1, 1, h, 1], &values)];
        let case = crate::support::build_case(
            "same",
            &x,
            |_, x| vec![x[0].max_pool2d(&params), x[0].avg_pool2d(&params)],
            false,
        );
        let got = case.reference();
        for (got, expected) in got.iter().zip([max, mean]) {
            assert_eq!(got.data.len(), expected.len(), "{h} {k} {s}");
            for (a, b) in got.data.iter().zip(&expected) {
                assert!((a - b).abs() < 1e-12, "{h} {k} {s}: {a} is not {b}");
            }
        }
    }
    let error = PoolParams::same([2, 2], [1, 1], [5, 5])
        .unwrap_err()
        .to_string();
    assert!(error.contains("Tensor::pad"), "{error}");
}

#[test]
fn means_of_parts() {
    for (shape, parts) in [
        ([1, 1, 1, 1], [1, 1]),
        ([2, 3, 7, 5], [3, 2]),
        ([2, 3, 6, 8], [3, 4]),
        ([1, 2, 7, 7], [7, 1]),
        ([1, 2, 3, 4], [5, 6]),
        ([2, 3, 9, 11], [1, 1]),
        ([1, 1, 13, 67], [6, 66]),
    ] {
        check_op(
            &format!("adaptive_avg_pool2d {shape:?} {parts:?}"),
            &[Data::f32(shape, 1)],
            |_, x| vec![x[0].adaptive_avg_pool2d(parts)],
            Tol::default(),
        );
    }
    // By hand: five pixels in three parts are 0 and 1, 1 to 3, 3 and 4.
    let x = [Data::values([1, 1, 1, 5], &[1.0, 2.0, 4.0, 8.0, 16.0])];
    let build = |_: &Graph, x: &[flowgrad::Tensor]| vec![x[0].adaptive_avg_pool2d([1, 3])];
    let case = crate::support::build_case("by hand", &x, build, false);
    let expected = [1.5, 14.0 / 3.0, 12.0];
    for (a, b) in case.reference()[0].data.iter().zip(expected) {
        assert!((a - b).abs() < 1e-12, "{a} is not {b}");
    }
    let x = Graph::new().input("x", [1, 2, 5, 6]);
    for parts in [[0, 1], [1, 70_000]] {
        assert!(x.adaptive_avg_pool2d(parts).check().is_err(), "{parts:?}");
    }
    assert!(
        x.reshape([10, 6])
            .adaptive_avg_pool2d([1, 1])
            .check()
            .is_err()
    );
}

#[test]
fn maxima() {
    for (shape, params) in cases() {
        check_op(
            &format!("max_pool2d {shape:?} {params:?}"),
            &[Data::distinct(shape, 1)],
            |_, x| {
                let (y, at) = x[0].max_pool2d_with_indices(&params);
                vec![y, at]
            },
            Tol::default(),
        );
    }
}

#[test]
fn averages() {
    for (shape, params) in cases() {
        for count_include_pad in [true, false] {
            let params = PoolParams {
                count_include_pad,
                ..params
            };
            check_op(
                &format!("avg_pool2d {shape:?} {params:?}"),
                &[Data::f32(shape, 1)],
                |_, x| vec![x[0].avg_pool2d(&params)],
                Tol::default(),
            );
        }
    }
}

#[test]
fn whole_planes_and_blocks() {
    for shape in [[1, 1, 1, 1], [2, 5, 3, 7], [3, 130, 4, 4]] {
        check_op(
            &format!("global_avg_pool2d {shape:?}"),
            &[Data::f32(shape, 1)],
            |_, x| vec![x[0].global_avg_pool2d()],
            Tol::default(),
        );
    }
    for (shape, factor) in [
        ([1, 1, 1, 1], [1, 1]),
        ([2, 3, 4, 5], [2, 2]),
        ([1, 2, 3, 5], [2, 3]),
        ([2, 1, 5, 3], [4, 1]),
        ([2, 3, 3, 8], [2, 2]),
        ([2, 3, 3, 4], [3, 2]),
    ] {
        check_op(
            &format!("upsample_nearest2d {shape:?} {factor:?}"),
            &[Data::f32(shape, 1)],
            |_, x| vec![x[0].upsample_nearest2d(factor)],
            Tol::default(),
        );
    }
}

/// The first of equal maxima, in scan order, takes the whole gradient.
#[test]
fn ties() {
    let x = Data::values([1, 1, 2, 4], &[1.0, 1.0, 0.0, 2.0, 1.0, 1.0, 2.0, 2.0]);
    let params = PoolParams::new([2, 2], [2, 2]);
    let case = crate::support::build_case(
        "ties",
        &[x],
        |_, x| {
            let (y, at) = x[0].max_pool2d_with_indices(&params);
            vec![y, at]
        },
        true,
    );
    let values = case.reference();
    assert_eq!(values[1].data, [0.0, 3.0]);
    let hit: Vec<bool> = values[2].data.iter().map(|v| *v != 0.0).collect();
    assert_eq!(hit, [true, false, false, true, false, false, false, false]);
}

#[test]
fn gradients_of_gradients() {
    let params = PoolParams::new([3, 3], [2, 2]).padding([1, 1]);
    check_op(
        "gradient of max_pool2d",
        &[Data::distinct([2, 2, 6, 7], 1)],
        |_, x| {
            let loss = x[0].max_pool2d(&params).square().sum(&[], false);
            tape::backward(&loss, &[&x[0]]).expect("differentiable")
        },
        Tol::default(),
    );
    check_op(
        "gradients of avg_pool2d and upsample_nearest2d",
        &[Data::f32([2, 2, 6, 7], 1)],
        |_, x| {
            let y = x[0].avg_pool2d(&params).upsample_nearest2d([2, 3]);
            tape::backward(&y.square().sum(&[], false), &[&x[0]]).expect("differentiable")
        },
        Tol::default(),
    );
    // Through the gradient of the gradient, which picks by position.
    check_op(
        "third derivative of max_pool2d",
        &[Data::distinct([1, 1, 5, 5], 1)],
        |_, x| {
            let loss = x[0].max_pool2d(&params).exp().sum(&[], false);
            let first = tape::backward(&loss, &[&x[0]]).expect("differentiable");
            let loss = first[0].square().sum(&[], false);
            tape::backward(&loss, &[&x[0]]).expect("twice differentiable")
        },
        Tol::rel(1e-5),
    );
}

#[test]
fn refusals() {
    let refused = |params: PoolParams, words: &str| {
        let x = Graph::new().input("x", [1, 2, 5, 6]);
        for y in [x.max_pool2d(&params), x.avg_pool2d(&params)] {
            let error = y.check().expect_err(words).to_string();
            assert!(error.contains(words), "`{error}` does not say `{words}`");
        }
    };
    refused(PoolParams::new([0, 1], [1, 1]), "kernel");
    refused(PoolParams::new([1, 1], [1, 0]), "stride");
    refused(PoolParams::new([2, 2], [1, 1]).padding([2, 0]), "padding");
    refused(PoolParams::new([6, 2], [1, 1]), "do not fit");
    refused(PoolParams::new([usize::MAX, 2], [1, 1]), "kernel");
    let g = Graph::new();
    let flat = g.input("flat", [4, 5]);
    assert!(
        flat.max_pool2d(&PoolParams::new([1, 1], [1, 1]))
            .check()
            .is_err()
    );
    assert!(flat.global_avg_pool2d().check().is_err());
    assert!(flat.upsample_nearest2d([2, 2]).check().is_err());
    let x = g.input("x", [1, 2, 5, 6]);
    assert!(x.upsample_nearest2d([0, 2]).check().is_err());
    assert!(x.upsample_nearest2d([usize::MAX, 2]).check().is_err());
    assert!(
        x.to_u32()
            .max_pool2d(&PoolParams::new([1, 1], [1, 1]))
            .check()
            .is_err()
    );
}
