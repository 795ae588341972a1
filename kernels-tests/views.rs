//! Views: every kind, alone and composed, f32 and u32, values and gradients; and
//! the ops that change gradients only.

use flowgrad::graph::{Feed, evaluate};
use flowgrad::{Graph, Tensor, tape};

use crate::support::{Data, Tol, check_op};

/// Copies are exact; gradients of broadcasts are sums.
const EXACT: Tol = Tol {
    output: 0.0,
    grad: 1e-6,
    gradients: true,
    differences: Some(1e-5),
    step: 1e-5,
};

#[track_caller]
fn check(name: &str, shape: &[usize], build: impl Fn(&Tensor) -> Tensor) {
    let one = |_: &Graph, x: &[Tensor]| vec![build(&x[0])];
    check_op(name, &[Data::f32(shape, 1)], one, EXACT);
    let integers = Data::below(shape, 2, 1 << 30);
    check_op(&format!("{name} u32"), &[integers], one, EXACT.no_grad());
}

#[test]
fn permutations() {
    check("transpose", &[5, 7], |x| x.transpose(0, 1));
    check("nchw to nhwc", &[2, 3, 5, 4], |x| x.permute(&[0, 2, 3, 1]));
    check("reversed", &[2, 3, 5, 4], |x| x.permute(&[3, 2, 1, 0]));
    check("axes that move together", &[2, 3, 5, 4, 3], |x| {
        x.permute(&[2, 3, 0, 1, 4])
    });
    check("squeeze 2x2", &[2, 3, 4, 6], |x| {
        x.reshape([2, 3, 2, 2, 3, 2])
            .permute(&[0, 1, 3, 5, 2, 4])
            .reshape([2, 12, 2, 3])
    });
    check("nothing moves", &[1, 7, 1, 3], |x| x.permute(&[1, 0, 2, 3]));
    check("negative axes", &[2, 3, 4], |x| x.transpose(-1, -3));
}

#[test]
fn broadcasts() {
    check("row", &[7], |x| x.broadcast_to([5, 7]));
    check("middle", &[3, 1, 4], |x| x.broadcast_to([2, 3, 5, 4]));
    check("scalar", &[], |x| x.broadcast_to([3, 3]));
    check("channel", &[3, 1, 1], |x| x.broadcast_to([2, 3, 5, 5]));
}

#[test]
fn slices_and_pads() {
    check("slice", &[4, 9], |x| x.slice(1, 2, 5));
    check("slice channels", &[2, 5, 3, 3], |x| x.slice(1, 1, 3));
    check("every third", &[2, 11], |x| x.slice_step(1, 1, 4, 3));
    check("backwards by two", &[9, 2], |x| x.slice_step(0, 7, 4, -2));
    check("every second pixel", &[2, 2, 7, 5], |x| {
        x.slice_step(2, 0, 4, 2).slice_step(3, 1, 2, 2)
    });
    check("pad", &[2, 3], |x| x.pad(&[(1, 0), (0, 2)], 7.0));
    check("pad image", &[2, 3, 4, 5], |x| {
        x.pad(&[(0, 0), (0, 0), (1, 2), (3, 0)], 0.0)
    });
    check("pad one axis", &[2, 3, 4], |x| {
        x.pad(&[(0, 0), (2, 1), (0, 0)], 3.0)
    });
    check("last", &[5, 3], |x| x.slice(0, 4, 1));
}

#[test]
fn flips_and_rolls() {
    check("flip", &[7], |x| x.flip(&[0]));
    check("flip both", &[3, 4, 5], |x| x.flip(&[0, -1]));
    check("roll", &[3, 7], |x| x.roll(1, 2));
    check("roll back", &[3, 7, 2], |x| x.roll(1, -3));
    check("roll far", &[5, 2], |x| x.roll(0, 13));
    check("roll by the extent", &[5, 2], |x| x.roll(0, 5));
    let graph = Graph::new();
    let x = graph.constant([4], &[1.0, 2.0, 3.0, 4.0]);
    let rolled = evaluate(&[&x.roll(0, 1)], &Feed::default()).expect("a value");
    assert_eq!(rolled[0].data, [4.0, 1.0, 2.0, 3.0]);
}

#[test]
fn a_large_view_needs_both_divisions() {
    check("large", &[3, 257, 131], |x| x.permute(&[2, 0, 1]));
}

#[test]
fn concats() {
    let shapes = [[2, 3, 4], [2, 1, 4], [2, 5, 4]];
    let data: Vec<Data> = (0..3).map(|i| Data::f32(shapes[i], i as u64)).collect();
    check_op(
        "three",
        &data,
        |_, x| vec![Tensor::concat(&[&x[0], &x[1], &x[2]], 1)],
        EXACT,
    );
    let data: Vec<Data> = (0..17)
        .map(|i| Data::f32([3, 1 + i % 4], i as u64))
        .collect();
    check_op(
        "more than there are bindings",
        &data,
        |_, x| vec![Tensor::concat(&x.iter().collect::<Vec<_>>(), -1)],
        EXACT,
    );
    check_op(
        "u32 along the first axis",
        &[Data::below([2, 3], 1, 99), Data::below([1, 3], 2, 99)],
        |_, x| vec![Tensor::concat(&[&x[0], &x[1]], 0)],
        EXACT.no_grad(),
    );
    check_op(
        "one tensor twice",
        &[Data::f32([2, 3], 1)],
        |_, x| vec![Tensor::concat(&[&x[0], &x[0]], 1)],
        EXACT,
    );
}

#[test]
fn gradients_of_gradients() {
    check_op(
        "through views",
        &[Data::f32([3, 4], 3)],
        |_, x| {
            let y = x[0].slice(1, 1, 3).pad(&[(1, 0), (0, 1)], 2.0).roll(0, 1);
            let loss = y.mul(&y).mul(&y).sum(&[], false);
            tape::backward(&loss, &[&x[0]]).expect("a gradient")
        },
        Tol::default(),
    );
}

#[test]
fn wrong_views_tell() {
    let graph = Graph::new();
    let x = graph.input("x", [2, 3]);
    for (bad, word) in [
        (x.permute(&[0, 0]), "permute"),
        (x.permute(&[0]), "permute"),
        (x.transpose(0, 2), "no axis 2"),
        (x.slice(1, 2, 2), "do not lie"),
        (x.slice(1, 0, 0), "empty"),
        (x.slice_step(1, 0, 2, 0), "steps of 0"),
        (x.slice_step(1, 0, 2, isize::MAX), "do not lie"),
        (x.pad(&[(0, 0)], 0.0), "pairs"),
        (x.broadcast_to([2, 4]), "broadcast"),
        (x.broadcast_to([3]), "repeated"),
        (x.flip(&[5]), "no axis 5"),
        (x.roll(-3, 1), "no axis -3"),
        (
            Tensor::concat(&[&x, &graph.input("y", [2, 2])], 0),
            "does not fit",
        ),
        (
            Tensor::concat(&[&x, &graph.input_u32("i", [2, 3])], 0),
            "do not mix",
        ),
        (Tensor::concat(&[], 0), "no tensor"),
    ] {
        let error = bad.check().expect_err(word).to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn straight_through_takes_the_value_and_passes_the_gradient() {
    let graph = Graph::new();
    let x = graph.constant([3], &[0.4, 1.6, -2.2]);
    let y = x.straight_through(&x.round());
    let loss = y.mul(&y).sum(&[], false);
    let dx = tape::backward(&loss, &[&x])
        .expect("a gradient")
        .swap_remove(0);
    let got = evaluate(&[&y, &dx], &Feed::default()).expect("values");
    assert_eq!(got[0].data, [0.0, 2.0, -2.0]);
    assert_eq!(got[1].data, [0.0, 4.0, -4.0]);
    check_op(
        "straight_through",
        &[Data::uniform([5, 3], 4, -9.0, 9.0)],
        |_, x| vec![x[0].straight_through(&x[0].round())],
        EXACT.no_differences(),
    );
    assert!(
        x.straight_through(&graph.constant([1], &[0.0]))
            .check()
            .is_err()
    );
}

#[test]
fn given_gradients_replace_the_recorded_ones() {
    // sqrt(x)^2 is x; its recorded gradient at 0 is not finite, the given one is 1.
    let graph = Graph::new();
    let x = graph.constant([2], &[0.0, 4.0]);
    let y = x.sqrt().square();
    let y = Tensor::with_gradient(&[&x], &y, |_, _, dy| vec![dy.clone()]);
    let dx = tape::backward(&y.sum(&[], false), &[&x])
        .expect("a gradient")
        .swap_remove(0);
    let got = evaluate(&[&y, &dx], &Feed::default()).expect("values");
    assert_eq!(got[0].data, [0.0, 4.0]);
    assert_eq!(got[1].data, [1.0, 1.0]);

    check_op(
        "a product with its true gradient",
        &[Data::f32([4, 3], 5), Data::f32([4, 3], 6)],
        |_, x| {
            let y = x[0].mul(&x[1]);
            let rule = |x: &[Tensor], _: &Tensor, dy: &Tensor| vec![dy.mul(&x[1]), dy.mul(&x[0])];
            vec![Tensor::with_gradient(&[&x[0], &x[1]], &y, rule)]
        },
        Tol::default(),
    );
    let short = Tensor::with_gradient(&[&x], &x, |_, _, _| Vec::new());
    assert!(tape::backward(&short.sum(&[], false), &[&x]).is_err());
}

/// From 4,096 elements on, software adapters move eight at a time where they stay together.
#[test]
fn eight_elements_at_a_time() {
    let x = || Data::f32([6, 24, 8, 8], 1);
    let exact = |name: &str, f: fn(&Tensor) -> Tensor| {
        check_op(name, &[x()], |_, t| vec![f(&t[0])], EXACT.no_grad());
    };
    exact("whole planes change places", |x| x.permute(&[1, 0, 2, 3]));
    exact("rows do", |x| x.permute(&[0, 2, 1, 3]));
    exact("single elements do", |x| x.permute(&[0, 1, 3, 2]));
    exact("planes from the eighth on", |x| x.slice(1, 8, 16));
    exact("eight from the fourth on", |x| {
        x.reshape([144, 64]).slice(1, 4, 32)
    });
    exact("every second plane", |x| x.slice_step(1, 0, 12, 2));
    exact("rows of eight", |x| x.slice(2, 1, 7).slice(1, 3, 20));
    exact("not from a multiple of eight", |x| x.slice(3, 1, 6));
    exact("planes before and after", |x| {
        x.pad(&[(0, 0), (3, 5), (0, 0), (0, 0)], 0.5)
    });
    exact("rows before and after", |x| {
        x.pad(&[(0, 0), (0, 0), (1, 2), (0, 0)], -0.5)
    });
    exact("elements before and after", |x| {
        x.pad(&[(0, 0), (0, 0), (0, 0), (4, 8)], 0.5)
    });
    exact("elements on both sides", |x| {
        x.pad(&[(0, 0), (0, 0), (0, 0), (8, 8)], 0.5)
    });
    exact("planes in a ring", |x| x.roll(1, 5));
    exact("backwards", |x| x.flip(&[1]));
    exact("backwards in rows", |x| x.flip(&[3]));
    for (axis, width) in [(1, 3), (3, 3), (3, 16)] {
        let mut shape = [6, 24, 8, 8];
        shape[axis] = width;
        check_op(
            &format!("{width} beside along {axis}"),
            &[x(), Data::f32(shape, 2)],
            |_, t| vec![Tensor::concat(&[&t[0], &t[1], &t[0]], axis as isize)],
            EXACT.no_grad(),
        );
    }
}

/// Products and sums of extents that do not fit must not wrap around to small ones.
#[test]
fn extents_that_overflow_are_told() {
    const HUGE: usize = usize::MAX;
    let half = 1 << (usize::BITS / 2);
    let graph = Graph::new();
    let x = graph.input("x", [4]);
    let square = graph.input("square", [4, 4]);
    let image = graph.input("image", [1, 2, 4, 4]);
    let index = graph.input_u32("index", [4]);
    let wide = graph.input("wide", [1 << 20, 1]);
    let long = graph.input("long", [1, 1 << 20]);
    let bad = [
        x.pad(&[(HUGE - 2, 3)], 0.0),
        x.pad(&[(3, HUGE - 2)], 0.0),
        x.pad(&[(HUGE / 2, 0)], 0.0),
        x.pad(&[(HUGE / 2 + 1, HUGE / 2 + 1)], 0.0),
        x.pad(&[(1 << 33, 0)], 0.0),
        x.reshape([(1 << (usize::BITS - 1)) + 2, 2]),
        x.reshape([half, half, 4]),
        x.reshape([HUGE, HUGE, 4]),
        x.broadcast_to([half, half, 4]),
        x.broadcast_to([HUGE, 4]),
        wide.add(&long),
        wide.matmul(&long),
        image.upsample_nearest2d([HUGE, 2]),
        image.upsample_nearest2d([1 << 20, 1 << 20]),
        index.one_hot(HUGE),
        index.one_hot((1 << 32) + 1),
        index.one_hot(1 << 31),
        x.segment_sum(&index, HUGE),
        square.segment_sum(&index, half * (half / 4)),
        x.slice_step(0, 0, HUGE, -1),
        x.slice_step(0, 0, HUGE / 2 + 2, -1),
        x.slice(0, HUGE, 1),
        graph.input("too large", [half, half]),
        graph.input("far too large", [HUGE, HUGE]),
        graph.full([HUGE, 2], 1.0),
        graph.normal([half, half]),
        graph.pack(&[(0, &x)], HUGE),
        graph.pack(&[(HUGE, &x)], HUGE),
    ];
    for (i, tensor) in bad.iter().enumerate() {
        assert!(tensor.check().is_err(), "case {i}: {:?}", tensor.shape());
    }
    // A shift goes around as often as it likes.
    for shift in [isize::MIN, isize::MAX] {
        check_op(
            "a roll around and around",
            &[Data::f32([5], 3)],
            |_, t| vec![t[0].roll(0, shift)],
            EXACT,
        );
    }
    assert_eq!(flowgrad::Shape::from([HUGE, 2]).numel(), HUGE);
    assert_eq!(flowgrad::Shape::from([HUGE, 2, 0]).numel(), 0);
}
