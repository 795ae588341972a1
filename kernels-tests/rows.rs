//! Rows written by index: as a value, and into a state where it lies.

use flowgrad::exec::arena_map;
use flowgrad::graph::Access;
use flowgrad::plan::{Plan, PlanOptions, Role};
use flowgrad::{Graph, Init, Params, Program, Tensor, Value};

use crate::support::{Data, Numbers, Tol, check_op, gpu};

#[test]
fn rows_are_set_and_the_last_of_equal_indices_counts() {
    let exact = Tol {
        output: 0.0,
        ..Tol::default()
    };
    for (shape, n) in [
        (&[1][..], 1),
        (&[5, 3], 9),
        (&[7, 2, 4], 3),
        (&[9, 8], 40),
        (&[300, 5], 70),
    ] {
        let mut rows = shape.to_vec();
        rows[0] = n;
        // Some indices come several times, others are out of range.
        let idx = Data::below([n], 2, shape[0] + 1);
        check_op(
            &format!("{n} rows of {shape:?}"),
            &[Data::f32(shape, 1), idx, Data::f32(rows, 3)],
            |_, x| vec![x[0].set_rows(&x[1], &x[2])],
            exact,
        );
    }
    check_op(
        "static indices",
        &[Data::f32([6, 3], 1), Data::f32([4, 3], 2)],
        |_, x| vec![x[0].set_rows_at(&[5, 0, 3, 2], &x[1])],
        exact,
    );
}

#[test]
fn many_rows_are_set_by_a_table_of_the_last() {
    let exact = Tol {
        output: 0.0,
        differences: None,
        ..Tol::default()
    };
    for (n, k) in [(2049, 700), (5000, 9000), (70_000, 12)] {
        check_op(
            &format!("{n} rows of {k}"),
            &[
                Data::f32([k, 2], 1),
                Data::below([n], 2, k + 3),
                Data::f32([n, 2], 3),
            ],
            |_, x| vec![x[0].set_rows(&x[1], &x[2])],
            exact,
        );
    }
}

/// By design, not by luck: the last of rows with one index stays in every run, whatever
/// workgroup wrote it, whether rows look through all later ones or a table is kept.
#[test]
fn the_last_of_many_equal_indices_stays_in_every_run() {
    const SEEDS: u64 = 4;
    for (n, rows) in [(1500, 3), (6000, 3), (6000, 1)] {
        let graph = Graph::new();
        let (x, idx) = (graph.input("x", [rows, 2]), graph.input_u32("idx", [n]));
        let y = x.set_rows(&idx, &graph.input("rows", [n, 2]));
        let mut program = compile(&graph, &Params::new(0), &[&y]);
        for seed in 0..SEEDS {
            let mut numbers = Numbers::new(seed);
            // One row of four is beyond the last and writes nothing.
            let mut idx: Vec<u32> = (0..n).map(|_| numbers.below(rows + 1) as u32).collect();
            if seed == 0 {
                // The last of row 0 is one of the first that a second thread comes to, while
                // a first one ends with more of them.
                let half = (n / 64).div_ceil(2) * 64 + 8;
                idx[..half].fill(0);
                idx[half..].fill(1);
            }
            let new: Vec<f32> = (0..2 * n).map(|i| i as f32).collect();
            let old = vec![-1.0; 2 * rows];
            let mut expected = old.clone();
            for (k, row) in idx.iter().zip(new.chunks(2)) {
                if let Some(to) = expected.chunks_mut(2).nth(*k as usize) {
                    to.copy_from_slice(row);
                }
            }
            for _ in 0..5 {
                let fed = [
                    ("x", Value::F32(&old)),
                    ("idx", Value::U32(&idx)),
                    ("rows", Value::F32(&new)),
                ];
                let got = program.run(&fed).unwrap().f32(0).unwrap().to_vec();
                assert_eq!(got, expected, "{n} rows into {rows}, numbers {seed}");
            }
        }
    }
}

#[test]
fn wrong_rows_are_named() {
    let g = Graph::new();
    let (x, i) = (g.input("x", [5, 4]), g.input_u32("i", [3]));
    let rows = g.input("rows", [3, 4]);
    for (bad, what) in [
        (x.set_rows(&rows, &rows), "u32"),
        (x.set_rows(&i, &i), "f32"),
        (x.set_rows(&i, &x), "[N, ..]"),
        (x.set_rows(&i, &g.input("wide", [3, 5])), "[N, ..]"),
        (g.input("s", []).set_rows(&i, &rows), "[N, ..]"),
        (x.set_rows_at(&[0, 5, 1], &rows), "out of range"),
        (x.set_rows_at(&[2, 0, 2], &rows), "comes twice"),
        (x.set_rows_at(&[2, 0], &rows), "[N, ..]"),
    ] {
        let text = bad.check().unwrap_err().to_string();
        assert!(text.contains(what), "{text}");
    }
    let g = Graph::new();
    let x = g.input("x", [5, 4]);
    g.assign_rows_at(&x, &[1], &g.input("rows", [1, 4]));
    assert!(g.check().is_err(), "inputs cannot be assigned");
}

const ROWS: usize = 1000;
const WIDTH: usize = 48;

/// A buffer of rows beside other states, with numbers in it.
fn buffer() -> (Params, Vec<f32>) {
    let params = Params::new(0);
    params.add_state("before", [7], Init::Zeros).unwrap();
    params
        .add_state("rows", [ROWS, WIDTH], Init::Zeros)
        .unwrap();
    params.add_state("after", [4, WIDTH], Init::Zeros).unwrap();
    let values: Vec<f32> = (0..ROWS * WIDTH).map(|i| i as f32).collect();
    params.set("rows", &values).unwrap();
    (params, values)
}

fn compile(graph: &Graph, params: &Params, outputs: &[&Tensor]) -> Program {
    graph.compile(gpu(), params, outputs).unwrap()
}

/// The bytes that a plan moves, and nothing is copied as a whole.
fn moved(plan: &Plan) -> u64 {
    assert!(
        plan.copies.is_empty() && plan.copies_before.is_empty(),
        "{plan}"
    );
    let arena = |b: usize| matches!(plan.buffers[b].role, Role::Arena { .. });
    let writes = plan.steps.iter().flat_map(|s| &s.bindings);
    let writes = writes.filter(|(s, a)| *a != Access::Read && arena(s.buffer));
    assert_eq!(writes.count(), 1, "{plan}");
    plan.steps.iter().map(|s| s.bytes).sum()
}

#[test]
fn only_the_rows_of_a_state_are_written() {
    let (params, mut values) = buffer();
    let graph = Graph::new();
    let state = params.find("rows").unwrap().on(&graph);
    let idx = graph.input_u32("idx", [3]);
    let rows = graph.input("new", [3, WIDTH]).mul_scalar(2.0);
    let old = state.gather_rows(&idx);
    graph.assign_rows(&state, &idx, &rows);
    let mut program = compile(&graph, &params, &[&old]);
    // The new rows scaled, the old ones read, the new ones written; not 188 KiB.
    assert!(
        moved(program.plan()) < 7 * 4 * (3 * WIDTH) as u64,
        "{}",
        program.plan()
    );
    for (idx, seed) in [([4, 999, 4], 1.0), ([0, 1000, 4], 2.0f32)] {
        let new: Vec<f32> = (0..3 * WIDTH).map(|i| seed * i as f32).collect();
        let fed = [("idx", Value::U32(&idx)), ("new", Value::F32(&new))];
        let out = program.run(&fed).unwrap().f32(0).unwrap().to_vec();
        for (i, k) in idx.iter().enumerate() {
            let old = match values.chunks(WIDTH).nth(*k as usize) {
                Some(row) => row.to_vec(),
                None => vec![0.0; WIDTH],
            };
            assert_eq!(out[i * WIDTH..][..WIDTH], old, "an old row");
        }
        for (k, row) in idx.iter().zip(new.chunks(WIDTH)) {
            if let Some(to) = values.chunks_mut(WIDTH).nth(*k as usize) {
                to.iter_mut().zip(row).for_each(|(t, v)| *t = 2.0 * v);
            }
        }
        assert!(params.get("rows").unwrap() == values, "the rows");
    }
    assert_eq!(params.get("before").unwrap(), [0.0; 7]);
}

/// A replay buffer of 10,000 images of 3x32x32: a step with 64 new ones moves some of
/// 768 KiB each, not the 117 MiB that lie there.
#[test]
fn a_replay_buffer_is_not_rewritten() {
    const IMAGE: usize = 3 * 32 * 32;
    let params = Params::new(0);
    params
        .add_state("replay", [10_000, IMAGE], Init::Zeros)
        .unwrap();
    let graph = Graph::new();
    let state = params.find("replay").unwrap().on(&graph);
    let idx = graph.random_below([64], 10_000);
    let fresh = state.gather_rows(&idx).mul_scalar(0.5).add_scalar(1.0);
    graph.assign_rows(&state, &idx, &fresh);
    let (maps, options) = ([arena_map(&params)], PlanOptions::default());
    let plan = graph.plan(gpu().profile(), &maps, &[], &options).unwrap();
    let bytes = moved(&plan);
    // Old rows gathered, scaled and written: six times.
    assert!(
        bytes < 6 * (64 * 4 * IMAGE) as u64 + 4096,
        "{bytes} bytes\n{plan}"
    );
}

#[test]
fn rows_of_one_state_go_into_another() {
    let (params, mut values) = buffer();
    let after: Vec<f32> = (0..4 * WIDTH).map(|i| -(i as f32)).collect();
    params.set("after", &after).unwrap();
    let graph = Graph::new();
    let state = params.find("rows").unwrap().on(&graph);
    let from = params.find("after").unwrap().on(&graph);
    graph.assign_rows_at(&state, &[7, 3, 998, 0], &from);
    let mut program = compile(&graph, &params, &[]);
    assert!(
        moved(program.plan()) < 6 * 4 * (4 * WIDTH) as u64,
        "{}",
        program.plan()
    );
    program.run(&[]).unwrap();
    for (k, row) in [7, 3, 998, 0].into_iter().zip(after.chunks(WIDTH)) {
        values[k * WIDTH..][..WIDTH].copy_from_slice(row);
    }
    assert!(params.get("rows").unwrap() == values, "the rows");
    assert_eq!(params.get("after").unwrap(), after);
}

/// A program that returns the state itself has to keep the old one.
#[test]
fn the_whole_state_can_still_be_read() {
    let (params, values) = buffer();
    let graph = Graph::new();
    let state = params.find("rows").unwrap().on(&graph);
    graph.assign_rows_at(&state, &[1], &graph.full([1, WIDTH], -1.0));
    let mut program = compile(&graph, &params, &[&state]);
    assert!(program.run(&[]).unwrap().f32(0).unwrap() == values);
    let now = params.get("rows").unwrap();
    assert_eq!(now[WIDTH..2 * WIDTH], [-1.0; WIDTH]);
    assert_eq!(now[..WIDTH], values[..WIDTH]);
}
