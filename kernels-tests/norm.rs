//! Normalisation layers, with and without scale and shift.

use flowgrad::{Graph, tape};

use crate::support::{Data, Tol, check_op};

const EPS: f32 = 1e-5;

const SHAPES: &[&[usize]] = &[
    &[2, 3],
    &[9, 1],
    &[3, 4, 5],
    &[2, 3, 4, 5],
    &[1, 2, 3, 3],
    &[5, 7, 1, 1],
    &[4, 2, 40, 33],
    // Cells of eight and four, across and along the innermost axis, also in parts.
    &[6, 8],
    &[5, 12, 1, 1],
    &[1100, 24],
    &[3, 2, 4, 6],
];

#[test]
fn batch_norm_in_training() {
    for shape in SHAPES {
        for affine in [false, true] {
            let large = shape.iter().product::<usize>() > 1000;
            let mut inputs = vec![Data::uniform(*shape, 1, -2.0, 2.0)];
            if affine {
                inputs.push(Data::uniform([shape[1]], 2, 0.5, 2.0));
                inputs.push(Data::f32([shape[1]], 3));
            }
            check_op(
                &format!("batch norm of {shape:?}, affine {affine}"),
                &inputs,
                |_, x| {
                    let (y, mean, var) = x[0].batch_norm_train(x.get(1), x.get(2), EPS);
                    vec![y, mean, var]
                },
                Tol {
                    differences: (!large).then_some(3e-5),
                    output: 4e-6,
                    grad: 4e-5,
                    ..Tol::default()
                },
            );
        }
    }
}

#[test]
fn batch_norm_far_from_zero() {
    check_op(
        "batch norm of 100 +- 1",
        &[
            Data::uniform([8, 3, 6, 7], 4, 99.0, 101.0),
            Data::uniform([3], 5, 0.5, 2.0),
            Data::f32([3], 6),
        ],
        |_, x| {
            let (y, _, var) = x[0].batch_norm_train(Some(&x[1]), Some(&x[2]), EPS);
            vec![y, var]
        },
        Tol {
            output: 2e-5,
            grad: 4e-5,
            differences: None,
            ..Tol::default()
        },
    );
}

#[test]
fn batch_norm_in_evaluation() {
    for shape in [&[4, 3][..], &[2, 3, 4, 5]] {
        check_op(
            "batch norm, evaluation",
            &[
                Data::f32(shape, 7),
                Data::f32([3], 8),
                Data::uniform([3], 9, 0.3, 2.0),
                Data::f32([3], 10),
                Data::f32([3], 11),
            ],
            |_, x| {
                vec![
                    x[0].batch_norm_eval(&x[1], &x[2], Some(&x[3]), Some(&x[4]), EPS),
                    x[0].batch_norm_eval(&x[1], &x[2], None, None, EPS),
                    x[0].batch_norm_eval(&x[1], &x[2], Some(&x[3]), None, EPS),
                ]
            },
            Tol::rel(1e-5),
        );
    }
}

#[test]
fn layer_and_group_norm() {
    check_op(
        "layer norm",
        &[
            Data::f32([3, 4, 5], 12),
            Data::f32([4, 5], 13),
            Data::f32([4, 5], 14),
        ],
        |_, x| {
            vec![
                x[0].layer_norm(&[4, 5], Some(&x[1]), Some(&x[2]), EPS),
                x[0].layer_norm(&[5], None, None, EPS),
            ]
        },
        Tol::rel(1e-5),
    );
    for groups in [1, 2, 6] {
        check_op(
            &format!("group norm, {groups} groups"),
            &[
                Data::f32([2, 6, 3, 5], 15),
                Data::f32([6], 16),
                Data::f32([6], 17),
            ],
            |_, x| {
                vec![
                    x[0].group_norm(groups, Some(&x[1]), Some(&x[2]), EPS),
                    x[0].group_norm(groups, None, None, EPS),
                ]
            },
            Tol::rel(1e-5),
        );
    }
}

#[test]
fn gradient_of_the_gradient() {
    check_op(
        "gradient of the gradient of batch norm",
        &[
            Data::f32([3, 2, 2, 3], 18),
            Data::uniform([2], 19, 0.5, 2.0),
            Data::f32([2], 20),
            Data::f32([3, 2, 2, 3], 21),
        ],
        |_, x| {
            let (y, _, var) = x[0].batch_norm_train(Some(&x[1]), Some(&x[2]), EPS);
            let loss = y.square().mul(&x[3]).sum(&[], false);
            let loss = loss.add(&var.sqrt().sum(&[], false));
            tape::backward(&loss, &[&x[0], &x[1]]).expect("a gradient")
        },
        Tol {
            differences: Some(3e-5),
            ..Tol::rel(2e-5)
        },
    );
}

#[test]
fn wrong_shapes_are_named() {
    let g = Graph::new();
    let (x, c) = (g.input("x", [2, 6, 3]), g.input("c", [5]));
    for bad in [
        x.batch_norm_train(Some(&c), None, EPS).0,
        x.batch_norm_eval(&c, &c, None, None, EPS),
        c.batch_norm_train(None, None, EPS).2,
        x.group_norm(4, None, None, EPS),
        x.group_norm(0, None, None, EPS),
        x.layer_norm(&[6], None, None, EPS),
        x.layer_norm(&[3], Some(&c), None, EPS),
    ] {
        let text = bad.check().unwrap_err().to_string();
        assert!(text.contains("norm.rs:"), "{text}");
    }
}
