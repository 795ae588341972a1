//! Normalisation layers, with and without scale and shift.

use flowgrad::ops::LocalResponse;
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

/// PyTorch's formula in loops of its own, for odd and even sizes.
#[test]
fn local_response_norm() {
    for (shape, size) in [
        ([2, 7, 3, 2], 5),
        ([1, 3, 2, 5], 2),
        ([2, 4, 1, 3], 4),
        ([1, 2, 3, 3], 1),
    ] {
        let options = LocalResponse {
            alpha: 0.3,
            beta: 0.75,
            k: 1.5,
            size,
        };
        let x = Data::uniform(shape, 1, -2.0, 2.0);
        let name = format!("local response of {shape:?}, {size} channels");
        let build = |_: &Graph, x: &[flowgrad::Tensor]| vec![x[0].local_response_norm(&options)];
        check_op(&name, std::slice::from_ref(&x), build, Tol::default());
        let got = crate::support::build_case(&name, std::slice::from_ref(&x), build, false);
        let got = got.reference().remove(0);
        let x = x.array();
        for (flat, v) in got.data.iter().enumerate() {
            let i = x.shape.unravel(flat);
            let mut squares = 0.0;
            for c in 0..shape[1] {
                // The channels c with own - size / 2 <= c <= own + (size - 1) / 2.
                if c + size / 2 >= i[1] && c <= i[1] + (size - 1) / 2 {
                    squares += x.at(&[i[0], c, i[2], i[3]]).powi(2);
                }
            }
            let by = 1.5 + f64::from(0.3f32) * squares / size as f64;
            let expected = x.data[flat] / by.powf(0.75);
            assert!((v - expected).abs() < 1e-6, "{name}: {v} is not {expected}");
        }
    }
    let x = Graph::new().input("x", [4]);
    assert!(
        x.local_response_norm(&LocalResponse::new(5))
            .check()
            .is_err()
    );
    let x = x.reshape([2, 2]);
    assert!(
        x.local_response_norm(&LocalResponse::new(0))
            .check()
            .is_err()
    );
}
