//! Edits of code grids and of latents: literal values, the same for both.

use flowgrad::quantize::edit::{self, Axis, Half, Region};
use flowgrad::{Graph, Tensor};

use crate::support::{Data, Tol, build_case, check_op, run_gpu};

type Grid = ([usize; 3], Vec<u32>);

/// 0 to 5 in two rows.
fn small(from: u32) -> Grid {
    ([1, 2, 3], (from..from + 6).collect())
}

/// Codes and latents with these values become codes and latents with those.
#[track_caller]
fn becomes(grids: &[Grid], build: impl Fn(&[Tensor]) -> Tensor, shape: [usize; 3], to: &[u32]) {
    let codes = grids.iter().map(|(shape, v)| Data::u32(*shape, v));
    let latents = grids.iter().map(|(shape, v)| {
        let values: Vec<f32> = v.iter().map(|v| *v as f32).collect();
        Data::values(*shape, &values)
    });
    for inputs in [codes.collect::<Vec<_>>(), latents.collect()] {
        let case = build_case("edit", &inputs, |_, x| vec![build(x)], false);
        assert_eq!(case.outputs[0].shape().dims(), shape);
        assert_eq!(
            case.outputs[0].dtype() == flowgrad::DType::F32,
            inputs[0].is_f32()
        );
        let expected: Vec<f64> = to.iter().map(|v| f64::from(*v)).collect();
        assert_eq!(case.reference()[0].data, expected);
        let got = run_gpu(&case.inputs, &case.wanted()).expect("a run");
        assert_eq!(got[0].array().data, expected);
    }
}

#[test]
fn grids_are_moved_turned_and_mirrored() {
    let one = [small(0)];
    let (wide, high) = ([1, 2, 3], [1, 3, 2]);
    becomes(
        &one,
        |x| edit::shift(&x[0], 1, -1),
        wide,
        &[4, 5, 3, 1, 2, 0],
    );
    becomes(
        &one,
        |x| edit::shift(&x[0], -3, 4),
        wide,
        &[5, 3, 4, 2, 0, 1],
    );
    becomes(
        &one,
        |x| edit::shift(&x[0], 0, 0),
        wide,
        &[0, 1, 2, 3, 4, 5],
    );
    becomes(
        &one,
        |x| edit::rotate90(&x[0], 1),
        high,
        &[2, 5, 1, 4, 0, 3],
    );
    becomes(
        &one,
        |x| edit::rotate90(&x[0], -2),
        wide,
        &[5, 4, 3, 2, 1, 0],
    );
    becomes(
        &one,
        |x| edit::rotate90(&x[0], -1),
        high,
        &[3, 0, 4, 1, 5, 2],
    );
    becomes(
        &one,
        |x| edit::rotate90(&x[0], 8),
        wide,
        &[0, 1, 2, 3, 4, 5],
    );
    becomes(
        &one,
        |x| edit::flip(&x[0], Axis::Rows),
        wide,
        &[3, 4, 5, 0, 1, 2],
    );
    becomes(
        &one,
        |x| edit::flip(&x[0], Axis::Columns),
        wide,
        &[2, 1, 0, 5, 4, 3],
    );
}

#[test]
fn two_grids_become_one() {
    let two = [small(0), small(10)];
    let shape = [1, 2, 3];
    let halves = [
        (Half::Left, [0, 11, 12, 3, 14, 15]),
        (Half::Right, [10, 1, 2, 13, 4, 5]),
        (Half::Top, [0, 1, 2, 13, 14, 15]),
        (Half::Bottom, [10, 11, 12, 3, 4, 5]),
    ];
    for (half, to) in halves {
        becomes(&two, |x| edit::splice(&x[0], &x[1], half), shape, &to);
    }
    let masked = |x: &[Tensor]| {
        let mask = [1.0, 0.0, 0.0, 0.0, -2.0, 0.5];
        let mask = x[0].graph().constant([2, 3], &mask);
        edit::splice_by_mask(&x[0], &x[1], &mask)
    };
    becomes(&two, masked, shape, &[0, 11, 12, 13, 4, 5]);
}

#[test]
fn regions_are_transplanted() {
    let larger: Grid = ([1, 3, 4], (10..22).collect());
    let two = [small(0), larger];
    let region = Region {
        at: [0, 1],
        size: [2, 2],
    };
    let corner = [10, 11, 12, 13, 14, 15, 1, 2, 18, 19, 4, 5];
    let put = |at| move |x: &[Tensor]| edit::transplant(&x[0], &x[1], region, at);
    becomes(&two, put([1, 2]), [1, 3, 4], &corner);
    let first = [1, 2, 12, 13, 4, 5, 16, 17, 18, 19, 20, 21];
    becomes(&two, put([0, 0]), [1, 3, 4], &first);
    let all = Region {
        at: [0, 0],
        size: [2, 3],
    };
    let whole = |x: &[Tensor]| edit::transplant(&x[0], &x[1], all, [0, 0]);
    becomes(
        &[small(0), small(10)],
        whole,
        [1, 2, 3],
        &[0, 1, 2, 3, 4, 5],
    );
}

#[test]
fn values_are_inverted() {
    let invert = |codes: usize, data: Data| {
        let case = build_case(
            "invert",
            &[data],
            |_, x| vec![edit::invert(&x[0], codes)],
            false,
        );
        run_gpu(&case.inputs, &case.wanted()).expect("a run")[0]
            .array()
            .data
    };
    let grid = Data::u32([2, 3], &[0, 1, 2, 3, 4, 5]);
    assert_eq!(invert(6, grid.clone()), [5., 4., 3., 2., 1., 0.]);
    // A code that there is not stays what it is.
    assert_eq!(invert(5, grid), [4., 3., 2., 1., 0., 5.]);
    let latents = Data::values([1, 2], &[0.25, -3.0]);
    assert_eq!(invert(6, latents), [-0.25, 3.0]);
}

#[test]
fn codes_change_one_by_one_and_latents_are_mixed() {
    let (a, b) = (vec![0u32; 20], vec![1u32; 20]);
    let mut before = vec![0.0; 20];
    for step in 0..=20 {
        let inputs = [Data::u32([4, 5], &a), Data::u32([4, 5], &b)];
        let t = step as f32 / 20.0;
        let mix = |_: &Graph, x: &[Tensor]| vec![edit::interpolate(&x[0], &x[1], t)];
        let case = build_case("mix", &inputs, mix, false);
        let now = case.reference().swap_remove(0).data;
        assert_eq!(now.iter().sum::<f64>(), f64::from(step));
        assert!(before.iter().zip(&now).all(|(b, n)| b <= n));
        before = now;
    }
    let inputs = [
        Data::values([1, 2], &[1.0, 2.0]),
        Data::values([1, 2], &[5.0, -2.0]),
    ];
    let mix = |_: &Graph, x: &[Tensor]| vec![edit::interpolate(&x[0], &x[1], 0.25)];
    let case = build_case("mix", &inputs, mix, false);
    let got = run_gpu(&case.inputs, &case.wanted()).expect("a run");
    assert_eq!(got[0].array().data, [2.0, 1.0]);
}

#[test]
fn edits_of_latents_pass_gradients() {
    let inputs = [Data::f32([2, 3, 4, 5], 1), Data::f32([2, 3, 4, 5], 2)];
    let region = Region {
        at: [1, 0],
        size: [2, 3],
    };
    let all = |_: &Graph, x: &[Tensor]| {
        let (a, b) = (&x[0], &x[1]);
        vec![
            edit::rotate90(&edit::shift(a, 1, -2), 1),
            edit::flip(&edit::splice(a, b, Half::Right), Axis::Rows),
            edit::transplant(b, a, region, [0, 2]),
            edit::interpolate(a, &edit::invert(b, 9), 0.3),
        ]
    };
    check_op("edits", &inputs, all, Tol::default());
}

#[test]
fn edits_that_cannot_be_tell() {
    let graph = Graph::new();
    let (a, b) = (graph.input("a", [1, 2, 3]), graph.input("b", [1, 3, 2]));
    let (line, codes) = (
        graph.input("line", [4]),
        graph.input_u32("codes", [1, 2, 3]),
    );
    let refused = |t: Tensor, words: &str| {
        let error = t.check().expect_err(words).to_string();
        assert!(error.contains(words), "{error}");
    };
    refused(edit::shift(&line, 1, 1), "[.., H, W]");
    refused(edit::rotate90(&line, 1), "[.., H, W]");
    refused(edit::flip(&line, Axis::Rows), "[.., H, W]");
    refused(edit::splice(&a, &b, Half::Left), "alike");
    refused(edit::splice(&a, &codes, Half::Left), "alike");
    let row = a.slice(1, 0, 1);
    refused(edit::splice(&row, &row, Half::Top), "halved");
    refused(edit::splice_by_mask(&a, &a, &line), "4");
    refused(edit::interpolate(&a, &a, 1.5), "0..=1");
    refused(edit::interpolate(&a, &a, f32::NAN), "0..=1");
    refused(edit::invert(&codes, 0), "0 codes");
    let region = |at, size| Region { at, size };
    refused(
        edit::transplant(&a, &b, region([0, 0], [2, 3]), [0, 0]),
        "must lie",
    );
    refused(
        edit::transplant(&a, &b, region([1, 0], [2, 1]), [0, 0]),
        "must lie",
    );
    refused(
        edit::transplant(&a, &b, region([0, 0], [0, 1]), [0, 0]),
        "must lie",
    );
    refused(
        edit::transplant(&a, &b, region([0, 0], [1, usize::MAX]), [0, 1]),
        "must lie",
    );
    refused(
        edit::transplant(&codes, &b, region([0, 0], [1, 1]), [0, 0]),
        "types",
    );
}
