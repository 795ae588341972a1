//! Values at the edges of float32, on the GPU and in the reference: literal numbers, so
//! that an error which both share shows, too.

use flowgrad::device::DeviceClass;
use flowgrad::graph::{Feed, evaluate};
use flowgrad::ops::SplineParams;
use flowgrad::{Graph, Tensor, tape};

use crate::support::{Data, Tol, check_op, run_as, run_gpu};

/// Elements of a result must be within `rel` of `expected` (infinity and NaN themselves),
/// on the GPU and in the reference.
#[track_caller]
pub fn literal(what: &str, inputs: &[Data], build: impl Fn(&[Tensor]) -> Tensor, expected: &[f64]) {
    within(what, 1e-6, inputs, build, expected);
}

#[track_caller]
fn within(
    what: &str,
    rel: f64,
    inputs: &[Data],
    build: impl Fn(&[Tensor]) -> Tensor,
    expected: &[f64],
) {
    let graph = Graph::new();
    let named: Vec<(String, Data)> = (inputs.iter().enumerate())
        .map(|(i, data)| (format!("x{i}"), data.clone()))
        .collect();
    let tensors: Vec<Tensor> = named.iter().map(|(n, d)| d.input(&graph, n)).collect();
    let y = build(&tensors);
    y.check().unwrap_or_else(|e| panic!("{what}: {e}"));
    let feed = Feed {
        inputs: named.iter().map(|(n, d)| (n.clone(), d.array())).collect(),
        ..Feed::default()
    };
    let reference = evaluate(&[&y], &feed).expect("a reference").remove(0).data;
    let gpu = |class| {
        let got = run_as(class, &named, &[&y]).unwrap_or_else(|e| panic!("{what}: {e}"));
        got[0].array().data
    };
    for (who, got) in [
        ("the reference", reference),
        ("a software adapter", gpu(DeviceClass::Software)),
        ("the GPU", gpu(DeviceClass::Discrete)),
    ] {
        assert_eq!(got.len(), expected.len(), "{what}: {who}");
        for (i, (g, e)) in got.iter().zip(expected).enumerate() {
            // Beyond float32 the reference has numbers where the GPU has infinity.
            let g = if e.is_infinite() {
                *g as f32 as f64
            } else {
                *g
            };
            let same = g == *e || g.is_nan() && e.is_nan() || (g - e).abs() <= rel * e.abs();
            assert!(same, "{what}: element {i} of {who} is {g:e}, not {e:e}");
        }
    }
}

/// The gradient of the sum of what `f` gives by input `i`.
fn gradient(x: &[Tensor], i: usize, f: impl Fn(&[Tensor]) -> Tensor) -> Tensor {
    let loss = f(x).sum(&[], false);
    tape::backward(&loss, &[&x[i]])
        .expect("a gradient")
        .remove(0)
}

fn values(v: &[f32]) -> Data {
    Data::values([v.len()], v)
}

#[test]
fn logarithms_of_subnormal_numbers() {
    let x = [
        1e-40,
        1.1754942e-38,
        1e-45,
        1.1754944e-38,
        0.0,
        -0.0,
        -1e-40,
    ];
    let y = [
        -92.1034136,
        -87.3365449,
        -103.2789299,
        -87.3365447,
        f64::NEG_INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
    ];
    literal("log", &[values(&x)], |x| x[0].log(), &y);
}

#[test]
fn sines_of_large_angles() {
    let x = [
        1e4, 1e5, 1e6, -1e6, 1e10, 1e20, -1e20, 3e38, 8191.5, 8192.0, 8192.5,
    ];
    let (inf, nan) = (f64::INFINITY, f64::NAN);
    // Of the float32 numbers that these are.
    let exact: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
    let sines: Vec<f64> = exact.iter().map(|v| v.sin()).collect();
    let cosines: Vec<f64> = exact.iter().map(|v| v.cos()).collect();
    literal("sin", &[values(&x)], |x| x[0].sin(), &sines);
    literal("cos", &[values(&x)], |x| x[0].cos(), &cosines);
    literal("sin", &[values(&[1e6])], |x| x[0].sin(), &[-0.349993502]);
    literal("cos", &[values(&[1e6])], |x| x[0].cos(), &[0.936752127]);
    literal("sin", &[values(&[1e20])], |x| x[0].sin(), &[0.656576678]);
    let far = [inf as f32, -inf as f32, nan as f32];
    literal("sin", &[values(&far)], |x| x[0].sin(), &[nan; 3]);
    literal("cos", &[values(&far)], |x| x[0].cos(), &[nan; 3]);
}

#[test]
fn logsumexp_of_infinities() {
    let inf = f32::INFINITY;
    let lse = |x: &[Tensor]| x[0].logsumexp(&[-1], false);
    // One by one, four and eight at a time along the axis, and across it.
    for n in [2, 4, 8, 24, 4096] {
        let row = |first: f32, others: f32| {
            let mut row = vec![others; n];
            row[n / 2] = first;
            row
        };
        let x = [
            row(inf, 0.0),
            row(-inf, -inf),
            row(inf, inf),
            row(-inf, 0.0),
            row(f32::NAN, inf),
        ];
        let y = [
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::INFINITY,
            ((n - 1) as f64).ln(),
            f64::NAN,
        ];
        let rows = Data::values([5, n], &x.concat());
        literal(&format!("rows of {n}"), &[rows], lse, &y);
        let mut columns = vec![0.0; 5 * n];
        for (c, column) in x.iter().enumerate() {
            for (r, v) in column.iter().enumerate() {
                columns[5 * r + c] = *v;
            }
        }
        let columns = Data::values([n, 5], &columns);
        literal(
            &format!("columns of {n}"),
            &[columns],
            |x| x[0].logsumexp(&[0], false),
            &y,
        );
        let nothing = Data::values([1, n], &x[1]);
        literal(
            "no share",
            &[nothing],
            |x| gradient(x, 0, lse),
            &vec![0.0; n],
        );
    }
    let two = values(&[-inf, 0.0]);
    literal("a share", &[two], |x| gradient(x, 0, lse), &[0.0, 1.0]);
    // A row with infinity has no softmax, whichever way its sums are taken.
    for n in [2, 24, 4104] {
        let mut row = vec![0.0; n];
        row[1] = inf;
        let row = Data::values([1, n], &row);
        for build in [
            |x: &[Tensor]| x[0].softmax(1),
            |x: &[Tensor]| x[0].log_softmax(1),
        ] {
            literal(
                "softmax",
                std::slice::from_ref(&row),
                build,
                &vec![f64::NAN; n],
            );
        }
    }
}

#[test]
fn powers_of_zero_and_of_negative_numbers() {
    let a = values(&[0.0, 0.0, 0.0, -2.0, -2.0, -2.0, -2.0, -0.5, 2.0]);
    let b = values(&[2.0, 0.0, 1.0, 3.0, 2.0, -1.0, 0.5, -2.0, 0.5]);
    let pow = |x: &[Tensor]| x[0].pow(&x[1]);
    let nan = f64::NAN;
    let root = 2f64.sqrt();
    let y = [0.0, 1.0, 0.0, -8.0, 4.0, -0.5, nan, 4.0, root];
    literal("pow", &[a.clone(), b.clone()], pow, &y);
    let by_a = [0.0, 0.0, 1.0, 12.0, -4.0, -0.25, nan, 16.0, 0.25 * root];
    literal(
        "pow by its base",
        &[a.clone(), b.clone()],
        |x| gradient(x, 0, pow),
        &by_a,
    );
    let by_b = [0.0, 0.0, 0.0, nan, nan, nan, nan, nan, root * 2f64.ln()];
    literal(
        "pow by its exponent",
        &[a, b],
        |x| gradient(x, 1, pow),
        &by_b,
    );
    let twice = |x: &[Tensor]| gradient(x, 0, |x| gradient(x, 0, pow));
    let (zeros, two) = (values(&[0.0, 0.0, -3.0]), values(&[2.0, 0.0, 2.0]));
    literal("pow, twice", &[zeros, two], twice, &[2.0, 0.0, 2.0]);
    let mixed = |x: &[Tensor]| gradient(x, 1, |x| gradient(x, 0, pow));
    literal(
        "pow by both",
        &[values(&[2.0]), values(&[3.0])],
        mixed,
        &[4.0 + 12.0 * 2f64.ln()],
    );
    for (e, want) in [(2.0, 0.0), (0.0, 0.0), (1.0, 1.0)] {
        let power = |x: &[Tensor]| x[0].pow_scalar(e);
        literal(
            "pow_scalar",
            &[values(&[0.0])],
            |x| gradient(x, 0, power),
            &[want],
        );
    }
}

#[test]
fn running_sums_keep_their_digits() {
    let n = 100_000;
    let x = Data::values([1, n, 1], &vec![0.1; n]);
    let want = [f64::from(0.1f32) * n as f64];
    let end = |x: &[Tensor]| x[0].cumsum(1).slice(1, n - 1, 1);
    within("cumsum of 0.1", 2e-6, std::slice::from_ref(&x), end, &want);
    // The gradient by the first element is the sum from the other end.
    let back = |x: &[Tensor]| {
        let sums = |x: &[Tensor]| x[0].cumsum(1).mul_scalar(0.1);
        gradient(x, 0, sums).slice(1, 0, 1)
    };
    within("its gradient", 2e-6, &[x], back, &want);
}

#[test]
fn ones_add_up_beyond_what_an_addition_of_one_changes() {
    // On the GPU alone: the reference would take minutes.
    let n = (1 << 24) + 4096;
    let graph = Graph::new();
    let sums = graph.full([n], 1.0).cumsum(0);
    let tail = sums.slice(0, n - 2, 2);
    let got = run_gpu(&[], &[&tail])
        .expect("results")
        .remove(0)
        .array()
        .data;
    assert_eq!(got[1], n as f64);
}

#[test]
fn splines_end_at_the_bound() {
    let params = SplineParams {
        bins: 32,
        bound: 3.0,
    };
    let raw: Vec<f32> = (0..95)
        .map(|j| ((((j % 95) * 37) % 11) as f32 - 5.0) * 0.4)
        .collect();
    let raw = Data::values([1, 95], &raw);
    let x = Data::values([1, 1], &[2.999999]);
    let inputs = [x, raw];
    let log = |x: &[Tensor]| x[0].spline(&x[1], &params).1;
    within("log slope", 5e-3, &inputs, log, &[6.12e-4]);
    let value = |x: &[Tensor]| x[0].spline(&x[1], &params).0;
    literal("value", &inputs, value, &[2.999999]);
    let inverse = |x: &[Tensor]| x[0].spline_inverse(&x[1], &params).1;
    within(
        "log slope of the inverse",
        5e-3,
        &inputs,
        inverse,
        &[-6.12e-4],
    );
    let back = |x: &[Tensor]| x[0].spline_inverse(&x[1], &params).0;
    literal("inverse", &inputs, back, &[2.999999]);
}

#[test]
fn norms_have_a_gradient_at_zero() {
    let x = Data::values([2, 3], &[0.0, 0.0, 0.0, 3.0, 0.0, -4.0]);
    let norm = |x: &[Tensor]| x[0].norm(&[1], false);
    literal("norm", std::slice::from_ref(&x), norm, &[0.0, 5.0]);
    let by_x = [0.0, 0.0, 0.0, 0.6, 0.0, -0.8];
    literal("norm's gradient", &[x], |x| gradient(x, 0, norm), &by_x);
    let graph = Graph::new();
    assert_eq!(
        graph.input("x", [2, 3]).norm(&[], true).shape().dims(),
        [1, 1]
    );
    assert!(graph.input("y", [2, 3]).norm(&[2], true).check().is_err());
    for axes in [&[1][..], &[-2], &[]] {
        check_op(
            &format!("norm over {axes:?}"),
            &[Data::f32([5, 7], 1), Data::f32([5, 7], 2)],
            |_, x| {
                let loss = x[0].norm(axes, true).mul(&x[1]).sum(&[], false);
                let grad = tape::backward(&loss, &[&x[0]])
                    .expect("a gradient")
                    .remove(0);
                vec![x[0].norm(axes, false), grad]
            },
            Tol::default(),
        );
    }
}

#[test]
fn variances_that_overflow_and_of_equal_numbers() {
    let var = |x: &[Tensor]| x[0].var(&[0], false, false);
    literal(
        "var of +-1e20",
        &[values(&[1e20, -1e20])],
        var,
        &[f64::INFINITY],
    );
    for n in [2, 3, 8, 24, 5003, 5008, 40_000] {
        literal("var of 1e30", &[values(&vec![1e30; n])], var, &[0.0]);
        // Across the innermost axis.
        let across = Data::values([n, 8], &vec![1e30; 8 * n]);
        literal("var of 1e30 across", &[across], var, &[0.0; 8]);
    }
}

/// What is normalised by a variance beyond float32 is an ordinary number, and so is the
/// gradient times the deviation.
#[test]
fn what_is_normalised_by_a_variance_beyond_float32() {
    // Mean 5e29, deviations 5, -15, 15, -5 (times 1e29): their root mean square is 1.118e30.
    let x = Data::values([4, 1], &[1e30, -1e30, 2e30, 0.0]);
    let y = [0.447_213_6, -1.341_640_8, 1.341_640_8, -0.447_213_6];
    let normal = |x: &[Tensor]| x[0].batch_norm_train(None, None, 1e-5).0;
    literal("batch norm", std::slice::from_ref(&x), normal, &y);
    let row = |x: &[Tensor]| x[0].reshape([1, 4]).layer_norm(&[4], None, None, 1e-5);
    literal("layer norm", std::slice::from_ref(&x), row, &y);
    let group = |x: &[Tensor]| x[0].reshape([1, 4]).group_norm(1, None, None, 1e-5);
    literal("group norm", std::slice::from_ref(&x), group, &y);
    let var = |x: &[Tensor]| x[0].batch_norm_train(None, None, 1e-5).2;
    literal(
        "its variance",
        std::slice::from_ref(&x),
        var,
        &[f64::INFINITY],
    );
    let mean = |x: &[Tensor]| x[0].batch_norm_train(None, None, 1e-5).1;
    literal("its mean", std::slice::from_ref(&x), mean, &[5e29]);
    // (w - mean w - y mean(w y)) / deviation for the weights w = (1, 2, 3, -1) of y.
    let slope = |x: &[Tensor]| {
        let w = x[1].reshape([4, 1]);
        let gamma = x[1].slice(0, 0, 1);
        let y = x[0].batch_norm_train(Some(&gamma), None, 1e-5).0;
        tape::backward(&y.mul(&w).sum(&[], false), &[&x[0]]).expect("a gradient")[0]
            .mul_scalar(1.118_034e30)
    };
    let inner = (0.447_213_6 - 2.0 * 1.341_640_8 + 3.0 * 1.341_640_8 + 0.447_213_6) / 4.0;
    let wanted: Vec<f64> = ([1.0, 2.0, 3.0, -1.0].iter().zip(y))
        .map(|(w, y)| w - 1.25 - y * inner)
        .collect();
    let w = values(&[1.0, 2.0, 3.0, -1.0]);
    literal("its gradient", &[x, w], slope, &wanted);
    // Many elements, in parts, in channels next to each other and far apart.
    for shape in [[6000, 8], [8, 6000], [30_000, 1]] {
        let n = shape[0];
        let spread: Vec<f32> = (0..n * shape[1])
            .map(|i| if i / shape[1] % 2 == 0 { 3e30 } else { -1e30 })
            .collect();
        let wanted: Vec<f64> = (spread.iter().map(|v| if *v > 0.0 { 1.0 } else { -1.0 })).collect();
        let normal = |x: &[Tensor]| x[0].batch_norm_train(None, None, 1e-5).0;
        literal("many", &[Data::values(shape, &spread)], normal, &wanted);
    }
}

/// An infinite variance, and one below zero, is nobody's: NaN in both directions.
#[test]
fn statistics_that_are_no_variances() {
    for bad in [f32::INFINITY, -1.0] {
        let x = [
            Data::values([2, 1], &[1.0, 2.0]),
            values(&[0.5]),
            values(&[bad]),
        ];
        let eval = |x: &[Tensor]| x[0].batch_norm_eval(&x[1], &x[2], None, None, 1e-5);
        literal("batch norm", &x, eval, &[f64::NAN; 2]);
        let slope = |x: &[Tensor]| gradient(x, 0, eval);
        literal("its gradient", &x, slope, &[f64::NAN; 2]);
    }
}

#[test]
fn short_vectors_are_divided_by_eps() {
    // As PyTorch 2's `normalize(x, dim=1, eps=0.1)`: by the norm, by eps where it is longer.
    let x = Data::values([3, 2], &[3.0, 4.0, 0.03, -0.04, 0.0, 0.0]);
    let unit = |x: &[Tensor]| x[0].l2_normalize(1, 0.1);
    let by = [0.6, 0.8, 0.3, -0.4, 0.0, 0.0];
    literal("l2_normalize", std::slice::from_ref(&x), unit, &by);
    // Of the first coordinates: 1/5 - 9/125, then 1/eps twice.
    let first = |x: &[Tensor]| unit(x).slice(1, 0, 1);
    let by_x = [0.128, -0.096, 10.0, 0.0, 10.0, 0.0];
    literal(
        "l2_normalize's gradient",
        &[x],
        |x| gradient(x, 0, first),
        &by_x,
    );
    for (shape, axis) in [(&[3, 4, 5][..], 1), (&[7], 0), (&[2, 3, 130], -1)] {
        check_op(
            &format!("l2_normalize of {shape:?} along {axis}"),
            &[Data::f32(shape, 3)],
            |_, x| vec![x[0].l2_normalize(axis, 1e-12)],
            Tol::default(),
        );
    }
    let g = Graph::new();
    let x = g.input("x", [2, 3]);
    for (bad, what) in [
        (x.l2_normalize(2, 1e-12), "axis"),
        (x.l2_normalize(1, 0.0), "eps is 0"),
        (x.l2_normalize(1, f32::NAN), "eps is NaN"),
    ] {
        let text = bad.check().unwrap_err().to_string();
        assert!(text.contains(what), "{text}");
    }
}
