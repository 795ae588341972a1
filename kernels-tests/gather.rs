//! Rows by index, one-hot vectors, sums by segment, one element per row.

use flowgrad::Graph;

use crate::support::{Data, Tol, check_op};

#[test]
fn rows_by_index() {
    for (k, d, shape) in [
        (1, 1, &[3][..]),
        (5, 3, &[7]),
        (9, 8, &[2, 3]),
        (4, 6, &[]),
        (300, 12, &[5, 41]),
    ] {
        // Some indices are out of range: their rows are zero.
        check_op(
            &format!("rows of [{k}, {d}] by {shape:?}"),
            &[Data::f32([k, d], 1), Data::below(shape, 2, k + 1)],
            |_, x| vec![x[0].gather_rows(&x[1])],
            Tol::default(),
        );
    }
}

#[test]
fn one_hot_vectors() {
    check_op(
        "one_hot",
        &[Data::below([4, 3], 3, 6)],
        |_, x| vec![x[0].one_hot(5)],
        Tol::default().no_grad(),
    );
}

#[test]
fn sums_by_segment() {
    for (n, d, k) in [(1, 1, 1), (9, 3, 4), (50, 8, 5), (3, 4, 9)] {
        check_op(
            &format!("segment sum of [{n}, {d}] to {k}"),
            &[Data::f32([n, d], 4), Data::below([n], 5, k + 1)],
            |_, x| vec![x[0].segment_sum(&x[1], k)],
            Tol::default(),
        );
    }
    check_op(
        "segment sum of other ranks",
        &[
            Data::f32([20], 6),
            Data::f32([20, 2, 3], 7),
            Data::below([20], 8, 4),
        ],
        |_, x| vec![x[0].segment_sum(&x[2], 4), x[1].segment_sum(&x[2], 4)],
        Tol::default(),
    );
}

#[test]
fn large_sums_by_segment() {
    let large = Tol {
        differences: None,
        ..Tol::rel(4e-6)
    };
    for (n, d, k) in [
        (3000, 4, 40),
        (3000, 3, 700),
        (20_000, 8, 5),
        (5000, 16, 300),
        (70_000, 1, 2),
        (100_000, 4, 64),
    ] {
        check_op(
            &format!("segment sum of [{n}, {d}] to {k}"),
            &[Data::f32([n, d], 9), Data::below([n], 10, k + 2)],
            |_, x| vec![x[0].segment_sum(&x[1], k)],
            large,
        );
    }
    // All rows in one segment, one of them past the end.
    let mut one = vec![3u32; 80_000];
    one[17] = u32::MAX;
    check_op(
        "segment sum into one segment",
        &[
            Data::uniform([80_000, 4], 11, 0.0, 1.0),
            Data::u32([80_000], &one),
        ],
        |_, x| vec![x[0].segment_sum(&x[1], 20)],
        large,
    );
}

#[test]
fn one_element_per_row() {
    for (shape, axis) in [
        (&[5][..], 0isize),
        (&[4, 7], 1),
        (&[4, 7], 0),
        (&[2, 5, 3], 1),
        (&[2, 5, 3, 4], -3),
    ] {
        let at = (axis + shape.len() as isize) as usize % shape.len();
        let mut rows = shape.to_vec();
        let extent = rows.remove(at);
        check_op(
            &format!("one element of {shape:?} along {axis}"),
            &[Data::f32(shape, 12), Data::below(rows, 13, extent + 1)],
            |_, x| vec![x[0].take_along_axis(axis, &x[1])],
            Tol::default(),
        );
    }
}

#[test]
fn wrong_inputs_are_named() {
    let g = Graph::new();
    let (x, i) = (g.input("x", [3, 4]), g.input_u32("i", [3]));
    for bad in [
        x.gather_rows(&x),
        i.gather_rows(&i),
        g.input("v", [4]).gather_rows(&i),
        x.one_hot(3),
        x.segment_sum(&g.input_u32("j", [4]), 2),
        x.segment_sum(&i, 0),
        x.take_along_axis(0, &i),
        x.take_along_axis(2, &i),
        x.take_along_axis(1, &x),
    ] {
        let text = bad.check().unwrap_err().to_string();
        assert!(text.contains("gather.rs:"), "{text}");
    }
}
