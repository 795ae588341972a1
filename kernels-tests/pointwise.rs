//! Functions of single elements: values, derivatives, broadcasting, edges.

use flowgrad::ops::Func;
use flowgrad::{Graph, Tensor};

use crate::support::{Data, Tol, check_op, run_gpu};

type Unary = fn(&Tensor) -> Tensor;

#[test]
fn smooth_functions() {
    let table: &[(&str, f32, f32, Unary)] = &[
        ("neg", -2.0, 2.0, |x| x.neg()),
        ("exp", -5.0, 5.0, |x| x.exp()),
        ("log", 0.1, 9.0, |x| x.log()),
        ("sqrt", 0.1, 9.0, |x| x.sqrt()),
        ("rsqrt", 0.1, 9.0, |x| x.rsqrt()),
        ("recip", 0.2, 3.0, |x| x.recip()),
        ("square", -3.0, 3.0, |x| x.square()),
        ("sin", -9.0, 9.0, |x| x.sin()),
        ("cos", -9.0, 9.0, |x| x.cos()),
        ("tanh", -4.0, 4.0, |x| x.tanh()),
        ("sigmoid", -9.0, 9.0, |x| x.sigmoid()),
        ("softplus", -9.0, 9.0, |x| x.softplus()),
        ("erf", -3.0, 3.0, |x| x.erf()),
        ("gelu", -4.0, 4.0, |x| x.gelu()),
        ("silu", -5.0, 5.0, |x| x.silu()),
        ("gelu_tanh", -5.0, 5.0, |x| x.gelu_tanh()),
        ("add_scalar", -2.0, 2.0, |x| x.add_scalar(0.7)),
        ("mul_scalar", -2.0, 2.0, |x| x.mul_scalar(-1.3)),
        ("pow 3", -2.0, 2.0, |x| x.pow_scalar(3.0)),
        ("pow -2", 0.5, 2.0, |x| x.pow_scalar(-2.0)),
        ("pow 0.5", 0.5, 2.0, |x| x.pow_scalar(0.5)),
        ("pow 5", -2.0, 2.0, |x| x.pow_scalar(5.0)),
        ("pow 6", -2.0, 2.0, |x| x.pow_scalar(6.0)),
        ("pow 1.7", 0.5, 3.0, |x| x.pow_scalar(1.7)),
        ("pow 1", 0.5, 3.0, |x| x.pow_scalar(1.0)),
        ("pow 0", 0.5, 3.0, |x| x.pow_scalar(0.0)),
    ];
    for (name, lo, hi, f) in table {
        check_op(
            name,
            &[Data::uniform([3, 23], 1, *lo, *hi)],
            |_, x| vec![f(&x[0])],
            Tol::default(),
        );
    }
}

#[test]
fn functions_with_kinks() {
    // The seed keeps every element further from the kinks than the step of the
    // finite differences.
    let table: &[(&str, Unary)] = &[
        ("abs", |x| x.abs()),
        ("relu", |x| x.relu()),
        ("leaky_relu", |x| x.leaky_relu(0.1)),
        ("elu", |x| x.elu(1.3)),
        ("clamp", |x| x.clamp(-1.0, 0.75)),
        ("relu6", |x| x.mul_scalar(5.0).relu6()),
        ("hard_sigmoid", |x| x.mul_scalar(3.0).hard_sigmoid()),
        ("hard_swish", |x| x.mul_scalar(3.0).hard_swish()),
    ];
    for (name, f) in table {
        check_op(
            name,
            &[Data::uniform([61], 2, -2.0, 2.0)],
            |_, x| vec![f(&x[0])],
            Tol::default(),
        );
    }
}

/// What PyTorch gives.
#[test]
fn activations_of_other_peoples_networks() {
    let x = [Data::values([6], &[-4.0, -1.0, 0.0, 0.5, 1.0, 7.0])];
    let tanh = [-7.0228e-5, -0.158808, 0.0, 0.345714, 0.841192, 7.0];
    let near = |x: &Tensor| x.mul_scalar(1e4).round().mul_scalar(1e-4);
    let rounded = tanh.map(|v: f64| (v * 1e4).round() / 1e4);
    crate::edges::literal("gelu_tanh", &x, |x| near(&x[0].gelu_tanh()), &rounded);
    let swish = [0.0, -1.0 / 3.0, 0.0, 3.5 / 12.0, 2.0 / 3.0, 7.0];
    crate::edges::literal("hard_swish", &x, |x| x[0].hard_swish(), &swish);
    let sigmoid = [0.0, 1.0 / 3.0, 0.5, 3.5 / 6.0, 2.0 / 3.0, 1.0];
    crate::edges::literal("hard_sigmoid", &x, |x| x[0].hard_sigmoid(), &sigmoid);
    crate::edges::literal(
        "relu6",
        &x,
        |x| x[0].relu6(),
        &[0.0, 0.0, 0.0, 0.5, 1.0, 6.0],
    );
}

#[test]
fn piecewise_constant_functions() {
    let table: &[(&str, Unary)] = &[
        ("sign", |x| x.sign()),
        ("floor", |x| x.floor()),
        ("ceil", |x| x.ceil()),
        ("round", |x| x.round()),
        ("to_u32", |x| x.to_u32()),
        ("to_u32 and back", |x| x.to_u32().to_f32()),
    ];
    let mut values = vec![0.0, 0.5, 1.5, 2.5, -0.5, -1.5, -0.0, 7.0, -7.0];
    values.extend((0..50).map(|i| i as f32 * 0.37 - 9.0));
    for (name, f) in table {
        check_op(
            name,
            &[Data::values([values.len()], &values)],
            |_, x| vec![f(&x[0])],
            Tol::default().no_grad(),
        );
    }
}

#[test]
fn two_operands_broadcast() {
    type Binary = fn(&Tensor, &Tensor) -> Tensor;
    let table: &[(&str, Binary)] = &[
        ("add", |a, b| a.add(b)),
        ("sub", |a, b| a.sub(b)),
        ("mul", |a, b| a.mul(b)),
        ("div", |a, b| a.div(b)),
        ("pow", |a, b| a.pow(b)),
        ("maximum", |a, b| a.maximum(b)),
        ("minimum", |a, b| a.minimum(b)),
    ];
    let shapes: &[(&[usize], &[usize])] = &[
        (&[5], &[5]),
        (&[2, 3, 5], &[5]),
        (&[3, 1], &[2, 1, 4]),
        (&[2, 3, 5], &[]),
        (&[], &[7]),
        (&[2, 1, 3, 1], &[1, 2, 1, 5]),
    ];
    for (name, f) in table {
        for (a, b) in shapes {
            check_op(
                &format!("{name} {a:?} {b:?}"),
                &[
                    Data::uniform(*a, 3, 0.5, 2.0),
                    Data::uniform(*b, 4, 0.5, 2.0),
                ],
                |_, x| vec![f(&x[0], &x[1])],
                Tol::default(),
            );
        }
    }
}

#[test]
fn comparisons_and_select() {
    check_op(
        "comparisons",
        &[
            Data::values([2, 3], &[1.0, 2.0, 3.0, -1.0, 0.0, -0.0]),
            Data::values([3], &[1.0, 2.5, -3.0]),
        ],
        |_, x| {
            vec![
                x[0].less(&x[1]),
                x[0].less_equal(&x[1]),
                x[0].equal(&x[1]),
                x[0].equal(&x[0].zeros_like()),
            ]
        },
        Tol::default().no_grad(),
    );
    check_op(
        "integer comparisons",
        &[
            Data::u32([4], &[1, 16_777_217, 4_000_000_000, 3]),
            Data::u32([4], &[1, 16_777_216, 3_999_999_999, 4]),
        ],
        |_, x| vec![x[0].equal(&x[1]), x[0].less(&x[1]), x[0].less_equal(&x[1])],
        Tol::default().no_grad(),
    );
    check_op(
        "select",
        &[
            Data::f32([4, 1], 5),
            Data::f32([4, 3], 6),
            Data::f32([3], 7),
        ],
        |g, x| {
            let condition = g.constant([4, 1], &[1.0, 0.0, -2.0, 0.0]);
            vec![condition.select(&x[1], &x[2]), x[0].mul(&x[1])]
        },
        Tol::default(),
    );
}

/// Worst errors of the library's own functions over dense sweeps, in units of the
/// float32 round-off. Drivers' functions miss these by factors of 10 to 100,000.
#[test]
fn functions_are_accurate_everywhere() {
    let u = 2f64.powi(-24);
    let n = 1 << 14;
    let table: &[(Func, f64, f64, bool, f64)] = &[
        // function, range, logarithmic sweep, allowed error
        (Func::Exp, -87.0, 88.7, false, 4.0),
        (Func::Log, 1e-37, 1e38, true, 4.0),
        (Func::Log, 0.5, 2.0, false, 4.0),
        (Func::Log, 1e-44, 1e-37, true, 4.0),
        (Func::Tanh, -9.5, 9.5, false, 8.0),
        (Func::Tanh, 1e-30, 1.0, true, 8.0),
        (Func::Sigmoid, -80.0, 80.0, false, 8.0),
        (Func::Softplus, -80.0, 80.0, false, 8.0),
        (Func::Erf, -5.0, 5.0, false, 8.0),
        (Func::Erf, 1e-30, 1.0, true, 8.0),
        (Func::Sin, -1.5, 1.5, false, 4.0),
        (Func::Cos, -1.5, 1.5, false, 8.0),
        (Func::Sin, 8192.0, 3e38, true, 8.0),
        (Func::Cos, 8192.0, 3e38, true, 8.0),
        (Func::Elu(1.0), -20.0, 5.0, false, 8.0),
        (Func::PowScalar(2.7), 1e-10, 1e10, true, 16.0),
        (Func::PowScalar(-1.5), 1e-10, 1e10, true, 16.0),
        (Func::Rsqrt, 1e-30, 1e30, true, 8.0),
    ];
    let mut inputs = Vec::new();
    let graph = Graph::new();
    let mut wanted = Vec::new();
    for (i, (func, lo, hi, logarithmic, _)) in table.iter().enumerate() {
        let at = |k: usize| {
            let t = (k as f64 + 0.37) / n as f64;
            match logarithmic {
                true => (lo.ln() + (hi.ln() - lo.ln()) * t).exp() as f32,
                false => (lo + (hi - lo) * t) as f32,
            }
        };
        let data = Data::values([n], &(0..n).map(at).collect::<Vec<_>>());
        let name = format!("x{i}");
        wanted.push(data.input(&graph, &name).map(*func));
        inputs.push((name, data));
    }
    let got = run_gpu(&inputs, &wanted.iter().collect::<Vec<_>>()).unwrap();
    for ((func, _, _, _, limit), ((_, x), y)) in table.iter().zip(inputs.iter().zip(&got)) {
        for (x, y) in x.array().data.iter().zip(&y.array().data) {
            let exact = func.eval(&[*x]);
            let error = (y - exact).abs() / exact.abs().max(1.2e-38) / u;
            assert!(
                error <= *limit,
                "{func:?}({x:e}) = {y:e}, not {exact:e}: {error:.1} u"
            );
        }
    }
}

/// A NaN must not turn into a number on the way to the loss.
#[test]
fn nan_goes_through() {
    let table: &[(&str, Unary)] = &[
        ("exp", |x| x.exp()),
        ("log", |x| x.log()),
        ("tanh", |x| x.tanh()),
        ("sigmoid", |x| x.sigmoid()),
        ("softplus", |x| x.softplus()),
        ("erf", |x| x.erf()),
        ("gelu", |x| x.gelu()),
        ("silu", |x| x.silu()),
        ("pow", |x| x.pow_scalar(1.7)),
        ("sqrt", |x| x.sqrt()),
    ];
    let data = Data::values([3], &[1.0, f32::NAN, 0.5]);
    let graph = Graph::new();
    let x = data.input(&graph, "x");
    let wanted: Vec<Tensor> = table.iter().map(|(_, f)| f(&x)).collect();
    let inputs = [("x".to_string(), data)];
    let got = run_gpu(&inputs, &wanted.iter().collect::<Vec<_>>()).unwrap();
    for ((name, _), y) in table.iter().zip(&got) {
        let y = y.array().data;
        assert!(
            y[0].is_finite() && y[1].is_nan() && y[2].is_finite(),
            "{name}: {y:?}"
        );
    }
}

#[test]
fn bounds_in_the_wrong_order_are_refused() {
    let g = Graph::new();
    assert!(g.input("x", [3]).clamp(1.0, -1.0).check().is_err());
    assert!(g.input("x", [3]).clamp(f32::NAN, 1.0).check().is_err());
}

#[test]
fn long_chains_with_shared_parts() {
    check_op(
        "chain",
        &[Data::f32([9, 17], 8), Data::f32([17], 9)],
        |g, x| {
            let mut y = x[0].add(&x[1]);
            let kept = y.tanh();
            for i in 0..30 {
                y = y.mul(&kept).add_scalar(0.1 * i as f32).sin();
            }
            let full = g.full([9, 1], 0.3);
            vec![y.mul(&full), kept, y.add(&x[0])]
        },
        Tol::rel(2e-5),
    );
}

/// Large enough that an invocation takes sixteen elements which share an operand; eight or
/// one where rows and planes are not made of sixteens.
#[test]
fn shared_operands_of_large_tensors() {
    for (shape, channels) in [
        ([4, 8, 64, 40], [8, 1, 1]),
        ([2, 3, 8, 1502], [3, 1, 1]),
        ([6, 4, 56, 49], [4, 1, 1]),
        ([16, 32, 8, 17], [32, 8, 1]),
    ] {
        check_op(
            &format!("channels of {shape:?}"),
            &[
                Data::f32(shape, 12),
                Data::f32(channels, 13),
                Data::f32(channels, 14),
                Data::f32([shape[0], 1, 1, 1], 15),
                Data::f32([shape[3]], 16),
            ],
            |_, x| {
                let y = x[0].mul(&x[1]).add(&x[2]).relu();
                let z = y.mul(&x[3]);
                vec![z.sub(&x[4]), z, y]
            },
            Tol {
                differences: None,
                ..Tol::rel(1e-5)
            },
        );
    }
}

#[test]
fn operators_on_references() {
    check_op(
        "operators",
        &[Data::f32([4], 10), Data::uniform([4], 11, 1.0, 2.0)],
        |_, x| {
            let (a, b) = (&x[0], &x[1]);
            vec![
                &(&(a + b) - &(a * b)) / b,
                &(&(a + 1.0) * 2.0) / 4.0,
                b - 0.5,
            ]
        },
        Tol::default(),
    );
}

#[test]
fn types_are_checked() {
    let g = Graph::new();
    let (x, i) = (g.input("x", [3]), g.input_u32("i", [3]));
    assert!(x.add(&i).check().is_err());
    assert!(i.exp().check().is_err());
    assert!(x.to_f32().check().is_err());
    assert!(i.to_u32().check().is_err());
    assert!(i.less(&x).check().is_err());
    assert!(i.to_f32().add(&x).check().is_ok());
}

/// From 4,096 elements on, software adapters take eight at a time: operands that all eight
/// share, that lie next to each other, that do neither, and results of both types.
#[test]
fn eight_elements_at_a_time() {
    let table: &[(&[usize], &[usize])] = &[
        (&[16, 32, 8], &[1]),
        (&[16, 32, 8], &[8]),
        (&[16, 32, 8], &[32, 1]),
        (&[16, 32, 8], &[32, 8]),
        (&[16, 32, 8], &[16, 1, 8]),
        (&[4, 33, 32], &[33, 1]),
        (&[4, 33, 32], &[4, 1, 32]),
        (&[128, 33], &[33]),
        (&[128, 33], &[128, 1]),
        (&[128, 4, 12], &[128, 1, 12]),
        (&[128, 4, 12], &[4, 1]),
        (&[4097], &[1]),
    ];
    for (shape, other) in table {
        let inputs = [
            Data::uniform(*shape, 1, -3.0, 3.0),
            Data::uniform(*other, 2, 0.5, 3.0),
            Data::uniform(*shape, 3, -3.0, 3.0),
        ];
        check_op(
            &format!("{shape:?} with {other:?}"),
            &inputs,
            |_, t| {
                let y = &(&t[0] * &t[1]) - &t[2];
                vec![y.relu(), &y + &t[1], t[0].abs().to_u32()]
            },
            Tol::default().no_grad(),
        );
    }
}
