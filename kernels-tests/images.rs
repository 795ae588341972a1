//! Pictures moved sample by sample: by whole pixels, and by bilinear sampling.

use flowgrad::ops::GridPadding;
use flowgrad::{Graph, Params, Tensor, Value};

use crate::edges::literal;
use crate::support::{Data, Tol, assert_close, build_case, check_op, run_gpu};

const PADDINGS: [GridPadding; 2] = [GridPadding::Zeros, GridPadding::Border];

/// Nothing is computed, so nothing may be rounded.
fn exact() -> Tol {
    Tol {
        output: 0.0,
        grad: 0.0,
        ..Tol::default()
    }
}

/// Whole numbers in `lo..=hi`.
fn whole(shape: &[usize], seed: u64, lo: i32, hi: i32) -> Data {
    let Data::U32 { shape, values } = Data::below(shape, seed, (hi - lo + 1) as usize) else {
        unreachable!()
    };
    let values: Vec<f32> = values.iter().map(|v| (*v as i32 + lo) as f32).collect();
    Data::values(shape, &values)
}

#[test]
fn samples_move_by_whole_pixels_of_their_own() {
    type Move = fn(&Tensor, &Tensor) -> Tensor;
    let moves: [(&str, Move); 4] = [
        ("roll", |x, by| x.roll_each(by)),
        ("crop", |x, by| {
            let size = [x.dim(2), x.dim(3)];
            x.crop_each(by, size)
        }),
        ("small crop", |x, by| x.crop_each(by, [2, 1])),
        ("flip", |x, by| x.flip_each(by)),
    ];
    for shape in [[1, 1, 1, 1], [5, 3, 7, 4], [4, 2, 3, 8], [70, 1, 2, 9]] {
        let x = Data::f32(shape, 1);
        for (name, f) in moves {
            for axes in [vec![shape[0]], vec![shape[0], 2]] {
                for by in [whole(&axes, 2, -9, 9), Data::below(axes.as_slice(), 3, 12)] {
                    // The gradient by the amounts is zero, and finite differences agree.
                    check_op(
                        &format!("{name} of {shape:?} by {:?}", by.shape()),
                        &[x.clone(), by],
                        |_, x| vec![f(&x[0], &x[1])],
                        exact(),
                    );
                }
            }
        }
    }
}

#[test]
fn each_sample_moves_like_a_static_view() {
    let (n, size) = (4, [5, 6]);
    let x = Data::f32([n, 3, size[0], size[1]], 1);
    let shifts = [(-2, 1), (0, -5), (7, 13), (3, 0)];
    let corners = [(0, 1), (2, 2), (1, 0), (2, 1)];
    let flags = [(false, true), (true, false), (true, true), (false, false)];
    let graph = Graph::new();
    let picture = x.input(&graph, "x0");
    let floats = |pairs: Vec<[f32; 2]>| graph.constant([n, 2], pairs.as_flattened());
    let by_shift = floats(shifts.map(|(a, b)| [a as f32, b as f32]).to_vec());
    let flat: Vec<u32> = corners.iter().flat_map(|(a, b)| [*a, *b]).collect();
    let by_corner = graph.constant_u32([n, 2], &flat);
    let by_flag = floats(
        flags
            .map(|(a, b)| [a, b].map(|f| if f { 1.0 } else { 0.0 }))
            .to_vec(),
    );
    let (mut rolled, mut cropped, mut flipped) = (Vec::new(), Vec::new(), Vec::new());
    for i in 0..n {
        let one = picture.slice(0, i, 1);
        rolled.push(one.roll(2, shifts[i].0).roll(3, shifts[i].1));
        let (row, column) = corners[i];
        let window = one.slice(2, row as usize, 3);
        cropped.push(window.slice(3, column as usize, 4));
        let axes = [(flags[i].0, 2), (flags[i].1, 3)];
        let axes: Vec<isize> = axes.iter().filter(|a| a.0).map(|a| a.1).collect();
        flipped.push(one.flip(&axes));
    }
    let join = |parts: &[Tensor]| Tensor::concat(&parts.iter().collect::<Vec<_>>(), 0);
    let wanted = [
        picture.roll_each(&by_shift),
        join(&rolled),
        picture.crop_each(&by_corner, [3, 4]),
        join(&cropped),
        picture.flip_each(&by_flag),
        join(&flipped),
    ];
    let got = run_gpu(&[("x0".into(), x)], &wanted.iter().collect::<Vec<_>>()).unwrap();
    for pair in got.chunks(2) {
        assert_eq!(pair[0].array(), pair[1].array());
    }
}

#[test]
fn amounts_that_are_no_whole_numbers() {
    let x = Data::values(
        [4, 1, 1, 3],
        &[1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12.],
    );
    let (nan, far) = (f32::NAN, 1e30);
    let by = Data::values([4], &[0.5, 1.5, nan, -far]);
    let n = f64::NAN;
    // Ties go to even numbers; -2^30 modulo 3 is 2.
    let rolled = [1., 2., 3., 5., 6., 4., n, n, n, 11., 12., 10.];
    let inputs = [x.clone(), by];
    literal("roll", &inputs, |x| x[0].roll_each(&x[1]), &rolled);
    let cropped = [1., 2., 3., 6., 0., 0., n, n, n, 0., 0., 0.];
    let crop = |x: &[Tensor]| x[0].crop_each(&x[1], [1, 3]);
    literal("crop", &inputs, crop, &cropped);
    let flipped = [3., 2., 1., 6., 5., 4., n, n, n, 12., 11., 10.];
    literal("flip", &inputs, |x| x[0].flip_each(&x[1]), &flipped);
    // All numbers of 32 bits: 4294967295 is a multiple of 3, and 5 modulo 10.
    let by = Data::u32([4], &[u32::MAX, u32::MAX - 1, 0, 2]);
    let rolled = [1., 2., 3., 5., 6., 4., 7., 8., 9., 11., 12., 10.];
    let inputs = [x, by];
    literal("roll", &inputs, |x| x[0].roll_each(&x[1]), &rolled);
    let cropped = [0., 0., 0., 0., 0., 0., 7., 8., 9., 12., 0., 0.];
    let crop = |x: &[Tensor]| x[0].crop_each(&x[1], [1, 3]);
    literal("crop", &inputs, crop, &cropped);
}

#[test]
fn samples_at_places() {
    for padding in PADDINGS {
        for (shape, size) in [
            ([1, 1, 1, 1], [1, 2]),
            ([2, 3, 5, 7], [4, 3]),
            ([3, 5, 4, 2], [6, 13]),
            ([2, 8, 9, 8], [9, 8]),
            ([2, 1, 1, 6], [3, 30]),
        ] {
            // Well beyond the edges, too.
            let grid = [shape[0], size[0], size[1], 2];
            check_op(
                &format!("{shape:?} at {size:?}, {padding:?}"),
                &[Data::f32(shape, 1), Data::uniform(grid, 2, -1.9, 1.9)],
                |_, x| vec![x[0].grid_sample(&x[1], padding)],
                Tol {
                    step: 1e-7,
                    ..Tol::rel(2e-5)
                },
            );
        }
    }
}

/// Numbers that PyTorch's `grid_sample(.., align_corners=False)` gives, too.
#[test]
fn edges_of_pictures_are_at_one() {
    let x = Data::values([1, 1, 2, 2], &[1.0, 2.0, 3.0, 4.0]);
    let far = 1e30;
    let places = [
        [0.0, 0.0],
        [-1.0, -1.0],
        [1.0, 0.0],
        [-0.5, 0.5],
        [0.25, -0.5],
        [3.0, 0.0],
        [-far, far],
        [f32::INFINITY, 0.0],
        [f32::NAN, 0.0],
    ];
    let grid = Data::values([1, 3, 3, 2], places.as_flattened());
    let inputs = [x, grid];
    let zeros = |x: &[Tensor]| x[0].grid_sample(&x[1], GridPadding::Zeros);
    let expected = [2.5, 0.25, 1.5, 3.0, 1.75, 0.0, 0.0, 0.0, f64::NAN];
    literal("zeros", &inputs, zeros, &expected);
    let border = |x: &[Tensor]| x[0].grid_sample(&x[1], GridPadding::Border);
    let expected = [2.5, 1.0, 3.0, 3.0, 1.75, 3.0, 3.0, 3.0, f64::NAN];
    literal("border", &inputs, border, &expected);
}

/// The map that turns by a multiple of a quarter and moves by whole pixels.
fn theta(quarters: usize, [dx, dy]: [f32; 2]) -> [f32; 6] {
    let (sin, cos) = [(0.0, 1.0), (1.0, 0.0), (0.0, -1.0), (-1.0, 0.0)][quarters];
    [cos, -sin, dx, sin, cos, dy]
}

#[test]
fn warps_that_are_known_otherwise() {
    let x = Data::f32([4, 3, 6, 6], 1);
    let graph = Graph::new();
    let picture = x.input(&graph, "x0");
    // One pixel of six is a third.
    let third = 1.0 / 3.0;
    let all = [
        theta(0, [0.0, 0.0]),
        theta(1, [0.0, 0.0]),
        theta(2, [0.0, 0.0]),
        theta(0, [2.0 * third, -third]),
    ];
    let maps = graph.constant([4, 2, 3], all.as_flattened());
    let warped = picture.affine_warp(&maps, [6, 6], GridPadding::Zeros);
    let one = |i: usize| picture.slice(0, i, 1);
    let known = [
        one(0),
        // (x, y) is read at (-y, x).
        one(1).transpose(2, 3).flip(&[2]),
        one(2).flip(&[2, 3]),
        one(3)
            .pad(&[(0, 0), (0, 0), (1, 0), (0, 2)], 0.0)
            .slice(2, 0, 6)
            .slice(3, 2, 6),
    ];
    let known = Tensor::concat(&known.iter().collect::<Vec<_>>(), 0);
    let got = run_gpu(&[("x0".into(), x)], &[&warped, &known]).unwrap();
    let Data::F32 { values, .. } = &got[0] else {
        panic!("floats")
    };
    assert_close("warps", values, &got[1].array(), 5e-6);
}

#[test]
fn warps_have_gradients_by_picture_and_map() {
    for padding in PADDINGS {
        for (shape, size) in [([3, 2, 5, 7], [6, 4]), ([2, 3, 8, 8], [8, 8])] {
            check_op(
                &format!("warp of {shape:?} to {size:?}, {padding:?}"),
                &[
                    Data::f32(shape, 1),
                    Data::uniform([shape[0], 2, 3], 2, -1.2, 1.2),
                ],
                |_, x| vec![x[0].affine_warp(&x[1], size, padding)],
                Tol {
                    step: 1e-7,
                    ..Tol::rel(2e-5)
                },
            );
        }
    }
}

/// A map that reads one place everywhere: more terms for a pixel than one invocation
/// may add up on any adapter.
#[test]
fn many_places_give_to_one_pixel() {
    let size = [260, 180];
    for padding in PADDINGS {
        let build = |_: &Graph, x: &[Tensor]| vec![x[0].affine_warp(&x[1], size, padding)];
        let maps = [0.0, 0.0, 0.3, 0.0, 0.0, -0.4, 0.01, 0.0, 0.9, 0.0, 2.0, 0.1];
        let inputs = [Data::f32([2, 3, 3, 4], 1), Data::values([2, 2, 3], &maps)];
        let tol = Tol {
            differences: None,
            ..Tol::rel(2e-5)
        };
        check_op(&format!("one place, {padding:?}"), &inputs, build, tol);
    }
}

#[test]
fn gradients_of_warps_have_the_same_bits_in_every_run() {
    let inputs = [
        Data::f32([3, 4, 9, 7], 1),
        Data::uniform([3, 20, 21, 2], 2, -1.2, 1.2),
    ];
    let case = build_case(
        "spread",
        &inputs,
        |_, x| vec![x[0].grid_sample(&x[1], GridPadding::Border)],
        true,
    );
    let graph = case.outputs[0].graph();
    let grads = [&case.grads[0].1];
    let params = Params::new(0);
    let mut program = graph
        .compile(crate::support::gpu(), &params, &grads)
        .unwrap();
    let kernels: Vec<&str> = (program.plan().steps.iter())
        .map(|s| s.kernel.as_str())
        .collect();
    assert!(kernels.contains(&"segment_sort"), "{kernels:?}");
    let used: Vec<String> = (program.plan().inputs.iter())
        .map(|i| i.name.clone())
        .collect();
    let mut first: Option<Vec<u32>> = None;
    for _ in 0..10 {
        let fed: Vec<(&str, Value<'_>)> = (case.inputs.iter())
            .filter(|(name, _)| used.contains(name))
            .map(|(name, data)| match data {
                Data::F32 { values, .. } => (name.as_str(), Value::F32(values)),
                Data::U32 { values, .. } => (name.as_str(), Value::U32(values)),
            })
            .collect();
        let out = program.run(&fed).unwrap().f32(0).unwrap().to_vec();
        let bits: Vec<u32> = out.iter().map(|v| v.to_bits()).collect();
        assert!(*first.get_or_insert(bits.clone()) == bits);
    }
}

#[test]
fn what_does_not_fit_is_told() {
    let g = Graph::new();
    let (x, by) = (g.input("x", [4, 3, 5, 6]), g.input("by", [4, 2]));
    let (theta, grid) = (g.input("theta", [4, 2, 3]), g.input("grid", [4, 7, 8, 2]));
    let zeros = GridPadding::Zeros;
    for (bad, what) in [
        (x.roll_each(&g.input("a", [3, 2])), "[4, 2]"),
        (x.roll_each(&g.input("b", [4, 3])), "[4] or [4, 2]"),
        (by.flip_each(&by), "four axes"),
        (x.crop_each(&by, [0, 2]), "nothing is left"),
        (x.crop_each(&by, [1 << 20, 1 << 20]), "can count"),
        (
            x.grid_sample(&g.input("c", [3, 7, 8, 2]), zeros),
            "[4, P, Q, 2]",
        ),
        (x.grid_sample(&g.input_u32("d", [4, 7, 8, 2]), zeros), "f32"),
        (
            g.input("e", [4, 5, 6]).grid_sample(&grid, zeros),
            "four axes",
        ),
        (x.affine_warp(&by, [5, 6], zeros), "[N, 2, 3]"),
        (x.affine_warp(&theta, [0, 6], zeros), "0x6"),
        (theta.affine_grid([usize::MAX, 2]), "can count"),
        (x.grid_sample(&theta.affine_grid([0, 1]), zeros), "0x1"),
    ] {
        let text = bad.check().unwrap_err().to_string();
        assert!(text.contains(what), "{text} does not say {what}");
    }
}
