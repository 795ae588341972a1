//! Factorisations, triangular systems, determinants and inverses.

use flowgrad::graph::Array;
use flowgrad::ops::Triangular;
use flowgrad::{Error, Graph, Shape, Tensor, tape};

use crate::support::{Data, Tol, assert_close, check_op, run_gpu};

const KINDS: [Triangular; 8] = {
    let mut kinds = [Triangular {
        upper: false,
        transpose: false,
        unit_diagonal: false,
    }; 8];
    let mut i = 0;
    while i < 8 {
        kinds[i].upper = i & 1 != 0;
        kinds[i].transpose = i & 2 != 0;
        kinds[i].unit_diagonal = i & 4 != 0;
        i += 1;
    }
    kinds
};

/// Random matrices whose diagonal is as large as a row of the rest.
pub fn well_conditioned(shape: impl Into<Shape>, seed: u64) -> Data {
    let shape = shape.into();
    let n = shape[shape.rank() - 1];
    let Data::F32 { shape, mut values } = Data::f32(shape, seed) else {
        unreachable!()
    };
    for (i, v) in values.iter_mut().enumerate() {
        if (i / n) % n == i % n {
            *v += (n as f32).sqrt() * v.signum();
        }
    }
    Data::F32 { shape, values }
}

fn floats(data: &Data) -> &[f32] {
    match data {
        Data::F32 { values, .. } => values,
        Data::U32 { .. } => panic!("integers"),
    }
}

#[test]
fn factors_and_their_gradients() {
    // One workgroup, several rows per panel; odd sizes; a batch of batches.
    for shape in [vec![1, 1], vec![2, 3, 5, 5], vec![20, 20]] {
        check_op(
            &format!("lu {shape:?}"),
            &[well_conditioned(shape, 3)],
            |_, x| {
                let f = x[0].lu();
                vec![f.lu, f.perm, f.pivots, f.sign.stop_gradient(), f.log_det]
            },
            Tol::rel(2e-5),
        );
    }
}

/// Equal magnitudes in the first columns, so that the rule decides.
#[test]
fn the_first_of_equal_pivots_is_taken() {
    let a = [
        [0.0, 2.0, 3.0, 4.0],
        [-1.0, 1.0, 0.0, 2.0],
        [1.0, -1.0, 2.0, 0.0],
        [-1.0, 1.0, 1.0, 1.0],
    ];
    check_op(
        "ties",
        &[Data::values([4, 4], &a.concat())],
        |_, x| {
            let f = x[0].lu();
            vec![f.lu, f.perm, f.pivots]
        },
        Tol::default().no_grad(),
    );
}

/// Small ones in the registers of 1, 2, 4 and 8 lanes, larger ones by one workgroup; with
/// equal magnitudes in a first column, and a column of zeros.
#[test]
fn batches_of_matrices_of_all_sizes_are_factored() {
    let sizes = [
        (17, 12),
        (9, 16),
        (5, 24),
        (3, 36),
        (2, 48),
        (3, 52),
        (2, 56),
        (2, 100),
        (2, 128),
    ];
    for (batch, n) in sizes {
        let Data::F32 { shape, mut values } = Data::f32([batch, n, n], n as u64) else {
            unreachable!()
        };
        for i in 0..n {
            values[i * n] = values[i * n].signum();
            values[(batch - 1) * n * n + i * n + n / 2] = 0.0;
        }
        check_op(
            &format!("lu {batch}x{n}"),
            &[Data::F32 { shape, values }],
            |_, x| {
                let f = x[0].lu();
                let finite = f.sign.equal(&f.sign.zeros_like());
                let log_det = finite.select(&f.sign, &f.log_det);
                vec![f.lu, f.perm, f.pivots, f.sign, log_det]
            },
            Tol::rel(1e-4).no_grad(),
        );
    }
}

#[test]
fn large_matrices_are_factored_in_blocks() {
    // Several blocks, a narrow last one; read by four and by eight elements; several
    // subgroups for a panel.
    for (n, seed) in [(131, 1), (164, 2), (264, 3)] {
        check_op(
            &format!("lu {n}"),
            &[Data::f32([2, n, n], seed)],
            |_, x| {
                let f = x[0].lu();
                vec![f.lu, f.perm, f.pivots, f.sign, f.log_det]
            },
            Tol::rel(1e-4).no_grad(),
        );
    }
}

#[test]
fn a_large_inverse_is_one() {
    let n = 512;
    let graph = Graph::new();
    let a = graph.input("a", [n, n]);
    let inverse = a.inverse();
    let dets = [a.slogdet(), inverse.slogdet()];
    let sign = dets[0].0.mul(&dets[1].0);
    let log_det = dets[0].1.add(&dets[1].1);
    let wanted = [&a.matmul(&inverse), &sign, &log_det];
    let data = well_conditioned([n, n], 5);
    let got = run_gpu(&[("a".into(), data)], &wanted).expect("a run");
    let identity = Array::from_fn([n, n], |i| (i[0] == i[1]) as u32 as f64);
    assert_close("A A^-1", floats(&got[0]), &identity, 1e-4);
    assert_eq!(floats(&got[1]), [1.0]);
    assert!(floats(&got[2])[0].abs() < 1e-3, "{:?}", got[2]);
}

#[test]
fn triangular_systems_of_all_kinds() {
    for kind in KINDS {
        check_op(
            &format!("{kind:?}"),
            &[well_conditioned([2, 9, 9], 1), Data::f32([2, 9, 5], 2)],
            |_, x| vec![x[0].solve_triangular(&x[1], kind)],
            Tol::rel(1e-5),
        );
    }
    // Several blocks of unknowns, and four, eight and one columns of each lane of a subgroup.
    let shapes = [(20, 36), (36, 40), (37, 40)].into_iter().cycle();
    for (kind, (n, columns)) in KINDS.into_iter().zip(shapes) {
        check_op(
            &format!("{kind:?} {n} {columns}"),
            &[
                well_conditioned([2, n, n], 5),
                Data::f32([2, n, columns], 6),
            ],
            |_, x| vec![x[0].solve_triangular(&x[1], kind)],
            Tol::rel(1e-5).no_grad(),
        );
    }
    check_op(
        "one matrix of fours, one column a lane, for a batch of right sides",
        &[well_conditioned([20, 20], 3), Data::f32([3, 2, 20, 4], 4)],
        |_, x| vec![x[0].solve_triangular(&x[1], Triangular::upper())],
        Tol::rel(1e-5),
    );
    check_op(
        "one matrix for a batch of right sides, in several workgroups",
        &[well_conditioned([19, 19], 3), Data::f32([3, 2, 19, 37], 4)],
        |_, x| vec![x[0].solve_triangular(&x[1], Triangular::upper())],
        Tol::rel(1e-5),
    );
}

#[test]
fn what_stands_outside_of_a_triangle_is_ignored() {
    for kind in KINDS {
        let graph = Graph::new();
        let (a, b) = (graph.input("a", [5, 5]), graph.input("b", [5, 2]));
        let x = a.solve_triangular(&b, kind);
        let da = tape::backward(&x.sum(&[], false), &[&a]).expect("a gradient");
        let Data::F32 { values, .. } = well_conditioned([5, 5], 7) else {
            unreachable!()
        };
        let inside = |i: usize| match (kind.upper, kind.unit_diagonal) {
            (true, false) => i / 5 <= i % 5,
            (false, false) => i % 5 <= i / 5,
            (true, true) => i / 5 < i % 5,
            (false, true) => i % 5 < i / 5,
        };
        let run = |other: f32| {
            let mixed: Vec<f32> = (0..25)
                .map(|i| if inside(i) { values[i] } else { other })
                .collect();
            let inputs = [
                ("a".to_string(), Data::values([5, 5], &mixed)),
                ("b".to_string(), Data::f32([5, 2], 8)),
            ];
            run_gpu(&inputs, &[&x, &da[0]]).expect("a run")
        };
        let (plain, spoilt) = (run(0.0), run(f32::NAN));
        assert_eq!(floats(&plain[0]), floats(&spoilt[0]), "{kind:?}");
        assert_eq!(floats(&plain[1]), floats(&spoilt[1]), "{kind:?}");
        for (i, g) in floats(&spoilt[1]).iter().enumerate() {
            assert!(inside(i) || *g == 0.0, "{kind:?}: gradient {g} at {i}");
        }
    }
}

#[test]
fn determinants_and_inverses() {
    for shape in [vec![1, 1], vec![3, 2, 2], vec![2, 2, 7, 7], vec![18, 18]] {
        check_op(
            &format!("slogdet, inverse {shape:?}"),
            &[well_conditioned(shape, 11)],
            |_, x| {
                let (sign, log_det) = x[0].slogdet();
                vec![sign.stop_gradient(), log_det, x[0].inverse()]
            },
            Tol::rel(2e-5),
        );
    }
}

/// A singular matrix, by rank, by a column, and by its last pivot alone, between two
/// regular ones.
#[test]
fn singular_matrices_are_told_and_spoil_nothing() {
    let a = [
        [2.0, 1.0, 0.0, 1.0, 3.0, 1.0, 0.0, 1.0, 4.0],
        [1.0, 2.0, 3.0, 2.0, 4.0, 6.0, 1.0, 1.0, 1.0],
        [0.0, 1.0, 2.0, 0.0, 3.0, 4.0, 0.0, 5.0, 7.0],
        [4.0, 2.0, 2.0, 2.0, 1.0, 5.0, 0.0, 0.0, 0.0],
        [0.0; 9],
        [1.0, 0.0, 0.0, 0.0, -2.0, 0.0, 0.0, 0.0, 4.0],
    ]
    .concat();
    let singular = [false, true, true, true, true, false];
    let graph = Graph::new();
    let x = graph.input("a", [6, 3, 3]);
    let (sign, log_det) = x.slogdet();
    let inverse = x.inverse();
    let f = x.lu();
    let mut wanted = vec![sign, log_det.clone(), inverse.clone(), f.lu.clone()];
    for output in [&log_det, &inverse, &f.lu] {
        let ones = output.ones_like();
        let grad = tape::backward_from(&[(output.clone(), ones)], &[&x]).expect("a gradient");
        wanted.extend(grad);
    }
    let wanted: Vec<&Tensor> = wanted.iter().collect();
    let got = run_gpu(&[("a".into(), Data::values([6, 3, 3], &a))], &wanted).expect("a run");
    for (k, singular) in singular.into_iter().enumerate() {
        let matrix = |i: usize| &floats(&got[i])[9 * k..][..9];
        let (sign, log_det) = (floats(&got[0])[k], floats(&got[1])[k]);
        assert_eq!(singular, sign == 0.0, "sign of {k}: {sign}");
        assert_eq!(singular, log_det == f32::NEG_INFINITY, "{k}: {log_det}");
        let infinite = matrix(2).iter().all(|v| *v == f32::INFINITY);
        assert_eq!(singular, infinite, "inverse of {k}: {:?}", matrix(2));
        assert!(matrix(3).iter().all(|v| v.is_finite()), "lu of {k}");
        for i in 4..7 {
            assert!(matrix(i).iter().all(|v| v.is_finite()), "gradient {i}: {k}");
            let zeros = matrix(i).iter().all(|v| *v == 0.0);
            assert!(!singular || i == 6 || zeros, "gradient {i} of {k}");
        }
    }
    assert!((floats(&got[1])[5] - 8f32.ln()).abs() < 1e-6);
    assert_eq!(floats(&got[0])[5], -1.0);
}

#[test]
fn a_singular_matrix_is_an_error_where_finite_values_are_asked_for() {
    let graph = Graph::new();
    let y = graph.constant([2, 2], &[1.0, 2.0, 2.0, 4.0]).inverse();
    let params = flowgrad::Params::new(0);
    let mut program = graph
        .compile(crate::support::gpu(), &params, &[&y])
        .expect("a program");
    let outputs = program.run(&[]).expect("a run");
    match outputs.check_finite(&["inverse"]) {
        Err(Error::NonFinite { place, .. }) => assert_eq!(place, "inverse"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn second_derivatives_of_a_determinant() {
    check_op(
        "hessian-vector product",
        &[well_conditioned([4, 4], 13), Data::f32([4, 4], 14)],
        |_, x| {
            let log_det = x[0].slogdet().1;
            let grad = tape::backward(&log_det, &[&x[0]]).expect("a gradient");
            vec![grad[0].mul(&x[1]).sum(&[], false)]
        },
        Tol::rel(2e-5),
    );
}

#[test]
fn wrong_shapes_are_errors() {
    let graph = Graph::new();
    let x = graph.input("x", [3, 4]);
    let b = graph.input("b", [3, 4]);
    let t = graph.input("t", [2, 3, 3]);
    let refused = |y: &Tensor, part: &str| {
        let error = y.check().expect_err("an error").to_string();
        assert!(error.contains(part), "{error}");
    };
    refused(&x.lu().pivots, "square");
    refused(&x.inverse(), "square");
    refused(&x.slogdet().0, "square");
    refused(&graph.input("v", [3]).lu().lu, "square");
    refused(&t.solve_triangular(&b, Triangular::lower()), "[.., 3, m]");
    refused(&x.solve_triangular(&b, Triangular::lower()), "square");
    refused(&graph.input("w", [7]).tril(0), "matrices");
    refused(&graph.input("l", [4096, 4096]).lu().lu, "2048");
    // An input's own error wins.
    refused(&x.reshape([5]).inverse(), "reshape");
}
