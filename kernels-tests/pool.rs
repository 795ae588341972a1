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
    ]
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
