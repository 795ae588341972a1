//! Coupling and actnorm: values, gradients, round trips, log-determinants.

use flowgrad::device::DeviceProfile;
use flowgrad::graph::Access;
use flowgrad::ops::{CouplingMask, CouplingParams, CouplingScale, RawLayout};
use flowgrad::plan::{PlanOptions, Step};
use flowgrad::{Graph, Tensor};

use crate::flow_support::check_bijection;
use crate::support::{Data, Tol, build_case, check_op, run_gpu};

const MASKS: [CouplingMask; 6] = [
    CouplingMask::After(2),
    CouplingMask::Before(1),
    CouplingMask::Even,
    CouplingMask::Odd,
    CouplingMask::Checkerboard { parity: 0 },
    CouplingMask::Checkerboard { parity: 1 },
];

const LAYOUTS: [RawLayout; 4] = [
    RawLayout::ScaleShift,
    RawLayout::ShiftScale,
    RawLayout::ScaleShiftInterleaved,
    RawLayout::ShiftScaleInterleaved,
];

/// Raw values for a tensor of `shape`.
fn raw(shape: &[usize], params: &CouplingParams, seed: u64) -> Data {
    let mut dims = shape.to_vec();
    dims[1] = params.raw_channels(shape[1]);
    Data::uniform(dims, seed, -1.5, 1.5)
}

/// Every mask with every layout, in turn with every way to scale.
#[test]
fn masks_and_layouts() {
    let scales = [
        (CouplingScale::Exp, false, 0.0),
        (CouplingScale::Sigmoid { offset: 2.0 }, true, 0.0),
        (CouplingScale::Tanh { clamp: 2.0 }, false, 0.0),
        (CouplingScale::Sigmoid { offset: 2.0 }, false, 1e-3),
        (CouplingScale::None, false, 0.0),
    ];
    // The third is taken four elements at a time by most masks, the others eight; in the
    // last but one a checkerboard cannot go on from one channel to the next, in the last
    // its rows end within eight elements.
    for shape in [
        [2, 3, 5, 3],
        [1, 5, 1, 1],
        [3, 4, 2, 6],
        [2, 4, 2, 8],
        [1, 5, 3, 8],
        [4, 3, 2, 12],
    ] {
        for (i, mask) in MASKS.into_iter().enumerate() {
            if shape[2] == 1 && matches!(mask, CouplingMask::Checkerboard { parity: 0 }) {
                continue; // nothing is transformed, which is tested below
            }
            for (j, layout) in LAYOUTS.into_iter().enumerate() {
                let (scale, shift_first, minimum) = scales[(i + j + shape[0]) % scales.len()];
                let params = CouplingParams {
                    mask,
                    scale,
                    shift_first,
                    layout,
                    minimum,
                };
                check_op(
                    &format!("coupling of {shape:?}, {params:?}"),
                    &[
                        Data::f32(shape, 1),
                        raw(&shape, &params, 2),
                        Data::f32(shape, 3),
                    ],
                    |_, x| {
                        let (y, log_det) = x[0].coupling(&x[1], &params);
                        let (back, inverse) = x[2].coupling_inverse(&x[1], &params);
                        vec![y, log_det, back, inverse]
                    },
                    Tol::default(),
                );
            }
        }
    }
}

/// Samples that several invocations share, so that their sums come in two passes.
#[test]
fn sums_of_large_samples() {
    for shape in [
        vec![2, 6, 8, 16],
        vec![3, 2, 21, 11],
        vec![2, 1000],
        vec![2, 16, 16, 16],
    ] {
        for params in [
            CouplingParams::glow(CouplingMask::After(1)),
            CouplingParams::new(CouplingMask::Odd),
        ] {
            check_op(
                &format!("coupling of {shape:?}, {params:?}"),
                &[Data::f32(&shape[..], 1), raw(&shape, &params, 2)],
                |_, x| {
                    let (y, log_det) = x[0].coupling(&x[1], &params);
                    vec![y, log_det]
                },
                Tol {
                    differences: None, // as for the small ones
                    ..Tol::default()
                },
            );
        }
    }
}

/// Values that nobody else reads are overwritten, and so are their gradients.
#[test]
fn dying_values_are_overwritten() {
    for (params, shape) in [
        (CouplingParams::glow(CouplingMask::After(1)), [2, 3, 4, 4]),
        (CouplingParams::new(CouplingMask::Odd), [3, 4, 3, 1]),
        (
            CouplingParams::new(CouplingMask::Checkerboard { parity: 0 }),
            [2, 2, 5, 3],
        ),
        (
            CouplingParams::new(CouplingMask::Checkerboard { parity: 1 }),
            [2, 2, 4, 8],
        ),
        (
            CouplingParams::additive(CouplingMask::Before(2)),
            [2, 4, 2, 2],
        ),
    ] {
        let inputs = [Data::f32(shape, 1), raw(&shape, &params, 2)];
        let build = |_: &Graph, x: &[Tensor]| {
            let (y, log_det) = x[0].mul_scalar(2.0).coupling(&x[1], &params);
            let (back, _) = y.sin().coupling_inverse(&x[1].neg(), &params);
            vec![back.cos(), log_det]
        };
        let name = format!("in place, {params:?}");
        check_op(&name, &inputs, build, Tol::default());
        let case = build_case(&name, &inputs, build, true);
        let wanted = case.wanted();
        let profile = DeviceProfile::baseline();
        let plan = wanted[0]
            .graph()
            .plan(&profile, &[], &wanted, &PlanOptions::default());
        let plan = plan.unwrap();
        let works_in_place = |kernel: &str| {
            let steps = plan.steps.iter().filter(|s| s.kernel == kernel);
            let overwrites = |s: &&Step| s.bindings.iter().any(|b| b.1 == Access::ReadWrite);
            (steps.clone().filter(overwrites).count(), steps.count())
        };
        // The first output is read again by the gradients.
        let gradients = if params.scale == CouplingScale::None {
            0
        } else {
            2
        };
        assert_eq!(works_in_place("coupling"), (2, 2), "{name}");
        assert_eq!(
            works_in_place("coupling_grad"),
            (gradients, gradients),
            "{name}"
        );
    }
}

#[test]
fn couplings_are_bijections() {
    for (params, shape) in [
        (
            CouplingParams::new(CouplingMask::After(1)),
            vec![2, 3, 3, 5],
        ),
        (
            CouplingParams::glow(CouplingMask::Before(2)),
            vec![1, 5, 2, 2],
        ),
        (
            CouplingParams {
                scale: CouplingScale::Tanh { clamp: 2.0 },
                ..CouplingParams::new(CouplingMask::Checkerboard { parity: 1 })
            },
            vec![2, 1, 5, 3],
        ),
        (
            CouplingParams {
                minimum: 1e-3,
                ..CouplingParams::glow(CouplingMask::Even)
            },
            vec![3, 7],
        ),
        (CouplingParams::additive(CouplingMask::Odd), vec![2, 5]),
    ] {
        let values = raw(&shape, &params, 5);
        check_bijection(
            &format!("{params:?}"),
            &Data::uniform(&shape[..], 4, -2.0, 2.0),
            &[values],
            |x, raw| x.coupling(&raw[0], &params),
            |y, raw| y.coupling_inverse(&raw[0], &params),
        );
    }
}

/// Scales that round to zero, and such that overflow: numbers, or an infinite value
/// where that is the answer, never NaN.
#[test]
fn extreme_scales_are_no_nan() {
    let raws = [-1000.0, -90.0, -20.0, 0.0, 20.0, 1000.0];
    for scale in [
        CouplingScale::Sigmoid { offset: 2.0 },
        CouplingScale::Tanh { clamp: 2.0 },
    ] {
        let params = CouplingParams {
            scale,
            ..CouplingParams::glow(CouplingMask::After(1))
        };
        let graph = Graph::new();
        let x = graph.input("x", [6, 2]);
        let s = graph.constant([6, 1], &raws);
        let raw = Tensor::concat(&[&s, &s.zeros_like()], 1);
        let (y, log_det) = x.coupling(&raw, &params);
        let (back, inverse) = x.coupling_inverse(&raw, &params);
        let loss = y.sum(&[], false).add(&log_det.sum(&[], false));
        let grads = flowgrad::tape::backward(&loss, &[&x, &s]).unwrap();
        for values in [[0.0f32; 12], [1.5; 12]] {
            let data = Data::values([6, 2], &values);
            let wanted = [&y, &log_det, &inverse, &back, &grads[0], &grads[1]];
            let got = run_gpu(&[("x".into(), data)], &wanted).unwrap();
            for (i, out) in got.iter().enumerate() {
                let Data::F32 { values, .. } = out else {
                    panic!("not f32")
                };
                assert!(
                    values.iter().all(|v| !v.is_nan()),
                    "{scale:?}, {i}: {values:?}"
                );
                // Only the division by a vanishing scale may leave the numbers.
                assert!(
                    i == 3 || values.iter().all(|v| v.is_finite()),
                    "{scale:?}, {i}"
                );
            }
        }
    }
}

#[test]
fn wrong_shapes_are_told() {
    let graph = Graph::new();
    let x = graph.input("x", [2, 4, 3, 3]);
    let glow = CouplingParams::glow(CouplingMask::After(2));
    let said = |raw: [usize; 4], params: CouplingParams| {
        let raw = graph.full(raw, 0.0);
        let (y, log_det) = x.coupling(&raw, &params);
        assert!(log_det.check().is_err());
        y.check().unwrap_err().to_string()
    };
    assert!(said([2, 2, 3, 3], glow).contains("[2, 4, 3, 3]"));
    assert!(said([2, 8, 3, 3], CouplingParams::glow(CouplingMask::After(0))).contains("mask"));
    assert!(said([2, 8, 3, 3], CouplingParams::glow(CouplingMask::After(4))).contains("mask"));
    assert!(said([2, 8, 3, 3], CouplingParams::glow(CouplingMask::After(9))).contains("mask"));
    let parity = CouplingMask::Checkerboard { parity: 2 };
    assert!(said([2, 8, 3, 3], CouplingParams::glow(parity)).contains("parity"));
    let minimum = -1.0;
    assert!(said([2, 4, 3, 3], CouplingParams { minimum, ..glow }).contains("least scale"));
    let scale = CouplingScale::Tanh { clamp: 0.0 };
    assert!(said([2, 4, 3, 3], CouplingParams { scale, ..glow }).contains("above 0"));
    let vector = graph.input("v", [2, 4]);
    let checker = CouplingParams::new(CouplingMask::Checkerboard { parity: 0 });
    let (y, _) = vector.coupling(&vector, &checker);
    assert!(y.check().unwrap_err().to_string().contains("[N, C, H, W]"));
}

#[test]
fn actnorm_values_and_gradients() {
    for shape in [&[2, 3, 4, 5][..], &[1, 1, 1, 1], &[7, 5], &[3, 130, 1, 2]] {
        let c = shape[1];
        check_op(
            &format!("actnorm of {shape:?}"),
            &[
                Data::f32(shape, 1),
                Data::f32([c], 2),
                Data::f32([c], 3),
                Data::f32(shape, 4),
            ],
            |_, x| {
                let (y, log_det) = x[0].actnorm(&x[1], &x[2]);
                let (back, inverse) = x[3].actnorm_inverse(&x[1], &x[2]);
                vec![y, log_det, back, inverse]
            },
            Tol::default(),
        );
    }
    let params = [Data::f32([5], 5), Data::f32([5], 6)];
    check_bijection(
        "actnorm",
        &Data::uniform([2, 5, 3, 1], 4, -2.0, 2.0),
        &params,
        |x, p| x.actnorm(&p[0], &p[1]),
        |y, p| y.actnorm_inverse(&p[0], &p[1]),
    );
}

/// The least deviation holds where a channel has less; NaN and wrong ranks are told.
#[test]
fn first_values_of_actnorm() {
    let shape = [4, 3, 2, 2];
    let Data::F32 { shape, mut values } = Data::f32(shape, 1) else {
        panic!("not f32")
    };
    for (i, v) in values.iter_mut().enumerate() {
        if i / 4 % 3 == 1 {
            *v = 0.75;
        }
    }
    let graph = Graph::new();
    let x = graph.input("x", &shape);
    let init = x.actnorm_init(1e-6, 0.01);
    let (y, _) = x.actnorm(&init.bias, &init.log_scale);
    let (mean, var) = y.moments(&[0, 2, 3], true);
    let data = Data::F32 { shape, values };
    let wanted = [&init.log_scale, &init.std, &mean, &var];
    let got = run_gpu(&[("x".into(), data)], &wanted).unwrap();
    let got: Vec<Vec<f64>> = got.iter().map(|d| d.array().data).collect();
    assert!((got[0][1] - 100f64.ln()).abs() < 1e-3 && got[1][1] < 1e-6);
    assert!(got[2].iter().all(|m| m.abs() < 1e-5), "means {:?}", got[2]);
    for (variance, wanted) in got[3].iter().zip([1.0, 0.0, 1.0]) {
        assert!((variance - wanted).abs() < 1e-4, "variance {variance}");
    }
    let flat = graph.input("flat", [3]);
    assert!(flat.actnorm_init(1e-6, 0.0).bias.check().is_err());
    assert!(x.actnorm_init(f32::NAN, 0.0).std.check().is_err());
}
