//! Products: awkward shapes, every transposition, broadcasting, epilogues.

use flowgrad::ops::Activation;
use flowgrad::{Error, Graph, Params};

use crate::support::{Data, Tol, check_op, gpu};

/// Sizes beside multiples of 4, 8, 16 and 64, where tiles have ragged edges.
const SHAPES: &[[usize; 3]] = &[
    [1, 1, 1],
    [1, 5, 3],
    [3, 1, 7],
    [4, 4, 4],
    [5, 3, 1],
    [7, 9, 33],
    [8, 64, 16],
    [17, 31, 65],
    [31, 33, 8],
    [65, 7, 129],
];

fn stored(rows: usize, columns: usize, transposed: bool, lead: &[usize]) -> Vec<usize> {
    let mut shape = lead.to_vec();
    shape.extend(if transposed {
        [columns, rows]
    } else {
        [rows, columns]
    });
    shape
}

#[test]
fn awkward_shapes_and_transpositions() {
    for [m, n, k] in SHAPES {
        for (ta, tb) in [(false, false), (false, true), (true, false), (true, true)] {
            check_op(
                &format!("matmul {m}x{n}x{k} {ta} {tb}"),
                &[
                    Data::f32(stored(*m, *k, ta, &[]), 1),
                    Data::f32(stored(*k, *n, tb, &[]), 2),
                ],
                |_, x| vec![x[0].matmul_with(&x[1], ta, tb)],
                Tol::default(),
            );
        }
    }
}

#[test]
fn batches_broadcast() {
    let leads: &[(&[usize], &[usize])] = &[
        (&[3], &[3]),
        (&[3], &[]),
        (&[], &[3]),
        (&[1], &[3]),
        (&[2, 1], &[1, 3]),
        (&[2, 3], &[3]),
        (&[2, 3], &[2, 1]),
        (&[2, 1, 2], &[3, 1]),
    ];
    for (la, lb) in leads {
        for (ta, tb) in [(false, false), (true, true)] {
            check_op(
                &format!("batched matmul {la:?} {lb:?} {ta} {tb}"),
                &[
                    Data::f32(stored(5, 6, ta, la), 3),
                    Data::f32(stored(6, 3, tb, lb), 4),
                ],
                |_, x| vec![x[0].matmul_with(&x[1], ta, tb)],
                Tol::default(),
            );
        }
    }
}

#[test]
fn linear_with_every_epilogue() {
    let activations = [
        Activation::None,
        Activation::Relu,
        Activation::LeakyRelu(0.2),
        Activation::Sigmoid,
        Activation::Tanh,
    ];
    for activation in activations {
        for bias in [false, true] {
            let mut inputs = vec![Data::f32([2, 5, 7], 5), Data::f32([9, 7], 6)];
            if bias {
                inputs.push(Data::f32([9], 7));
            }
            check_op(
                &format!("linear {activation:?} bias {bias}"),
                &inputs,
                |_, x| vec![x[0].linear(&x[1], x.get(2), activation)],
                Tol::rel(6e-6),
            );
        }
    }
}

#[test]
fn one_row_of_many() {
    // The inner extent reaches the loop budget's order of magnitude.
    check_op(
        "matmul 2x3x20000",
        &[
            Data::uniform([2, 20_000], 8, 0.0, 1.0),
            Data::uniform([20_000, 3], 9, 0.0, 1.0),
        ],
        |_, x| vec![x[0].matmul(&x[1])],
        Tol::rel(2e-5),
    );
}

#[test]
fn wrong_shapes_are_named() {
    let g = Graph::new();
    let (a, b) = (g.input("a", [3, 4]), g.input("b", [5, 6]));
    let text = a.matmul(&b).check().unwrap_err().to_string();
    assert!(text.contains("4") && text.contains("5"), "{text}");
    assert!(text.contains("matmul.rs:"), "{text}");
    let text = g
        .input("c", [4])
        .matmul(&b)
        .check()
        .unwrap_err()
        .to_string();
    assert!(text.contains("two axes"), "{text}");
    let text = a
        .linear(&g.input("w", [2, 4]), Some(&b), Activation::None)
        .check()
        .unwrap_err()
        .to_string();
    assert!(text.contains("bias"), "{text}");
}

/// Software adapters silently end loops after 65,535 iterations: a sum of ones that
/// is cut short shows at once.
#[test]
fn inner_axes_beyond_the_loop_budget_are_summed_in_parts() {
    let ones = |graph: &Graph, shape: [usize; 2]| {
        let n = shape[0] * shape[1];
        graph.constant(shape, &vec![1.0; n])
    };
    for (m, k, n) in [(1, 59_999, 1), (1, 70_001, 3), (4, 140_000, 4)] {
        let graph = Graph::new();
        let y = ones(&graph, [m, k]).matmul(&ones(&graph, [k, n]));
        let transposed = ones(&graph, [k, m]).matmul_with(&ones(&graph, [n, k]), true, true);
        let wanted = [&y, &transposed];
        let mut program = graph.compile(gpu(), &Params::new(0), &wanted).unwrap();
        let out = program.run(&[]).unwrap();
        for i in 0..2 {
            assert_eq!(out.f32(i).unwrap(), vec![k as f32; m * n], "{m} {k} {n}");
        }
    }
    // What is not split is refused, not cut short.
    let graph = Graph::new();
    let y = ones(&graph, [1, 70_001]).linear(&ones(&graph, [3, 70_001]), None, Activation::None);
    let refused = graph.compile(gpu(), &Params::new(0), &[&y]).map(drop);
    assert!(
        matches!(refused, Err(Error::LimitExceeded { .. })),
        "{refused:?}"
    );
}
