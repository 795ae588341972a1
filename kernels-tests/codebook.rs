//! The nearest code: every tile edge, both vector widths, parts of the codebook
//! merged, ties, with and without subgroups.

use flowgrad::device::DeviceProfile;
use flowgrad::gpu::GpuOptions;
use flowgrad::plan::PlanOptions;
use flowgrad::{Gpu, Graph, Tensor, Value};

use crate::support::{Data, Tol, build_case, check_op, gpu, run_gpu, run_on};

fn nearest(name: &str, x: Data, codebook: Data) {
    check_op(
        name,
        &[x, codebook],
        |_, t| vec![t[0].codebook_nearest(&t[1])],
        Tol::default().no_grad(),
    );
}

#[test]
fn shapes() {
    for (n, k, d) in [
        (1, 1, 1),
        (3, 5, 2),
        (7, 4, 4),
        (8, 257, 3),
        (9, 64, 8),
        (65, 130, 16),
        (130, 33, 12),
        (2, 16, 131),
    ] {
        let name = format!("{n} rows, {k} codes of {d}");
        nearest(&name, Data::f32([n, d], 1), Data::f32([k, d], 2));
    }
}

#[test]
fn a_codebook_beyond_the_loop_budget_is_split() {
    // 2,048 steps of 4 codes with 64 vectors each: 131,072 iterations in one go.
    nearest("wide", Data::f32([3, 256], 3), Data::f32([8192, 256], 4));
    // Few rows: split to occupy the device, with a last part that is not full.
    nearest("long", Data::f32([2, 4], 5), Data::f32([4099, 4], 6));
}

#[test]
fn ties_take_the_lowest_index() {
    // Every code stands twice: in other tiles, in other lanes, in other parts of the codebook.
    // Of many codes some are looked for: the reference looks at all pairs.
    for (k, d, step) in [(6, 3, 1), (600, 4, 1), (603, 4, 1), (4096, 8, 13)] {
        let Data::F32 { values, .. } = Data::f32([k, d], 7) else {
            unreachable!()
        };
        let twice = [values.clone(), values.clone()].concat();
        let expected: Vec<u32> = (0..k as u32).step_by(step).collect();
        let rows: Vec<f32> = values.chunks(d).step_by(step).flatten().copied().collect();
        let case = build_case(
            "ties",
            &[
                Data::values([expected.len(), d], &rows),
                Data::values([2 * k, d], &twice),
            ],
            |_, t| vec![t[0].codebook_nearest(&t[1])],
            false,
        );
        let exact: Vec<u32> = case.reference()[0].data.iter().map(|v| *v as u32).collect();
        assert_eq!(exact, expected);
        let got = run_gpu(&case.inputs, &case.wanted()).unwrap();
        let Data::U32 { values, .. } = &got[0] else {
            unreachable!()
        };
        assert!(values == &expected, "{k} codes of {d}");
    }
}

#[test]
fn wrong_shapes_tell() {
    let graph = Graph::new();
    let x = graph.input("x", [4, 3]);
    for bad in [
        graph.input("a", [5, 2]),
        graph.input("b", [3]),
        graph.input_u32("c", [5, 3]),
    ] {
        assert!(x.codebook_nearest(&bad).check().is_err());
    }
}

/// What a device finds, and the kernels that it ran; panics where it is not the nearest.
fn search(gpu: &Gpu, n: usize, k: usize, d: usize) -> Vec<String> {
    let data = [Data::f32([n, d], 8), Data::f32([k, d], 9)];
    let build = |t: &[Tensor]| vec![t[0].codebook_nearest(&t[1])];
    let case = build_case("variants", &data, |_, t| build(t), false);
    let (got, kernels) = run_on(gpu, &case.inputs, &case.wanted()).unwrap();
    let Data::U32 { values, .. } = &got[0] else {
        unreachable!()
    };
    let expected: Vec<u32> = case.reference()[0].data.iter().map(|v| *v as u32).collect();
    assert_eq!(values, &expected, "{kernels:?}: {n} rows, {k} codes of {d}");
    kernels
}

#[test]
fn with_and_without_subgroups() {
    for subgroups in [true, false] {
        let gpu = Gpu::with(GpuOptions {
            subgroups,
            ..Default::default()
        })
        .unwrap();
        let kernel = match gpu.profile().subgroup_size {
            Some(_) => "codebook_subgroup",
            None => "codebook_nearest",
        };
        assert!(subgroups || kernel == "codebook_nearest");
        for (n, k, d) in [
            (16, 3, 4),
            (31, 129, 5),
            (65, 1030, 8),
            (33, 4100, 64),
            (130, 70, 12),
        ] {
            let kernels = search(&gpu, n, k, d);
            assert!(kernels.iter().any(|name| name == kernel));
        }
    }
}

/// Devices with and without subgroups.
fn devices() -> Vec<Gpu> {
    let with = |subgroups| {
        let options = GpuOptions {
            subgroups,
            ..Default::default()
        };
        Gpu::with(options).unwrap()
    };
    vec![with(true), with(false)]
}

#[test]
fn a_mean_far_from_zero_costs_no_digits() {
    for gpu in devices() {
        for (mean, spread) in [(100.0, 1.0), (1000.0, 1.0), (10.0, 0.01), (-1e6, 10.0)] {
            // Whole vectors and not; the last with few rows, whose codes are merged in parts.
            for (n, k, d) in [(70, 512, 16), (33, 130, 7), (3, 2050, 4)] {
                let around = |shape, seed| {
                    Data::uniform(shape, seed, mean - 1.7 * spread, mean + 1.7 * spread)
                };
                let data = [around([n, d], 8), around([k, d], 9)];
                found(&gpu, &data, None);
            }
        }
    }
}

#[test]
fn numbers_whose_squares_overflow() {
    let rows = [
        1e20, 1e20, -1e20, 2e20, 0.5, 0.75, -3.0, 2.0, 3e37, 1e37, 4e19, -1.0, 0.0, 0.0, 9e19, 1e20,
    ];
    let mixed = [
        0.0, 0.0, 1.0, 1.0, -3.0, 1.0, 1e20, 1e20, -1e20, 1e20, 1e25, 0.0, 1e38, 1e37, 0.5, 0.5,
    ];
    let small = [0.0, 0.0, 1.0, 1.0, -1.0, 2.5, 2.0, -3.0];
    let large = [1e20, 1e20, -1e20, 2e20, 3e20, -1e20];
    for gpu in devices() {
        // 8 rows, and 24, which subgroups share.
        for times in [1, 3] {
            let rows = Data::values([8 * times, 2], &rows.repeat(times));
            let search = |codes: &[f32], nearest: [u32; 8]| {
                let codes = Data::values([codes.len() / 2, 2], codes);
                found(&gpu, &[rows.clone(), codes], Some(&nearest.repeat(times)));
            };
            search(&mixed, [3, 4, 7, 2, 5, 1, 0, 3]);
            search(&small, [1, 2, 1, 2, 1, 3, 0, 1]);
            search(&large, [0, 1, 0, 0, 2, 0, 0, 0]);
        }
    }
    // A code that is no number is nobody's nearest, and spoils no other.
    let codes = Data::values([3, 2], &[f32::NAN, 1.0, 5.0, 5.0, 5.0, f32::INFINITY]);
    for gpu in devices() {
        found(
            &gpu,
            &[Data::f32([20, 2], 3), codes.clone()],
            Some(&[1; 20]),
        );
    }
}

/// Panics where the GPU or the reference finds other codes than these, or than each other.
#[track_caller]
fn found(gpu: &Gpu, data: &[Data; 2], expected: Option<&[u32]>) {
    let case = build_case(
        "found",
        data,
        |_, t| vec![t[0].codebook_nearest(&t[1])],
        false,
    );
    let exact: Vec<u32> = case.reference()[0].data.iter().map(|v| *v as u32).collect();
    let (got, kernels) = run_on(gpu, &case.inputs, &case.wanted()).unwrap();
    let Data::U32 { values, .. } = &got[0] else {
        unreachable!()
    };
    assert_eq!(&exact, expected.unwrap_or(&exact), "the reference");
    assert_eq!(values, &exact, "{kernels:?}");
}

#[test]
fn long_searches_are_dealt_out_over_dispatches() {
    for subgroups in [true, false] {
        let gpu = Gpu::with(GpuOptions {
            subgroups,
            dispatch_flops: Some(1 << 14),
            ..Default::default()
        })
        .unwrap();
        // 200 rows are four chunks; the second case also merges parts of its codebook.
        for (n, k, d, merged) in [(200, 40, 4, false), (150, 2000, 4, true)] {
            let kernels = search(&gpu, n, k, d);
            let count = |what: &str| kernels.iter().filter(|name| name.contains(what)).count();
            assert!(count("codebook_subgroup") + count("codebook_nearest") >= 3);
            assert!(!merged || count("codebook_merge") >= 1, "{kernels:?}");
        }
    }
}

/// The memory and the chunks of a search that is too long to be run in every test.
#[test]
fn a_large_search_needs_little_memory() {
    let graph = Graph::new();
    let x = graph.input("x", [262_144, 64]);
    let codebook = graph.input("codebook", [8192, 64]);
    let nearest = x.codebook_nearest(&codebook);
    for subgroup_size in [None, Some(8), Some(32)] {
        let profile = DeviceProfile {
            subgroup_size,
            ..DeviceProfile::baseline()
        };
        let plan = graph
            .plan(&profile, &[], &[&nearest], &PlanOptions::default())
            .unwrap();
        let memory = plan.memory();
        let output = 262_144 * 4;
        assert!(memory.temporary - output < 16 << 20, "{memory:?}");
        let longest = plan.steps.iter().map(|s| s.flops).max().unwrap();
        assert!(longest <= profile.dispatch_flops + (1 << 28), "{longest}");
    }
}

/// The search above, run: about ten seconds on a software adapter, so only on demand.
#[test]
#[ignore = "a large search: cargo test --release --test kernels -- --ignored large_search"]
fn a_large_search_is_right() {
    let (n, k, d) = (262_144, 8192, 64);
    let (Data::F32 { values: x, .. }, Data::F32 { values: codes, .. }) =
        (Data::f32([n, d], 1), Data::f32([k, d], 2))
    else {
        unreachable!()
    };
    let graph = Graph::new();
    let nearest = graph
        .input("x", [n, d])
        .codebook_nearest(&graph.input("codebook", [k, d]));
    let mut program = graph
        .compile(gpu(), &flowgrad::Params::new(0), &[&nearest])
        .unwrap();
    let beyond = program.plan().memory().temporary - 4 * n as u64;
    assert!(
        beyond < 16 << 20,
        "{beyond} bytes beyond inputs and outputs"
    );
    let feed = [("x", Value::F32(&x)), ("codebook", Value::F32(&codes))];
    let got = program.run(&feed).unwrap().u32(0).unwrap();
    let distance = |row: usize, code: usize| -> f64 {
        let pairs = x[row * d..][..d].iter().zip(&codes[code * d..][..d]);
        pairs.map(|(a, b)| (*a as f64 - *b as f64).powi(2)).sum()
    };
    // Every 127th row against all codes in float64.
    for row in (0..n).step_by(127) {
        let least = (0..k)
            .map(|code| distance(row, code))
            .fold(f64::MAX, f64::min);
        let found = distance(row, got[row] as usize);
        assert!(
            found - least <= 1e-6 * (1.0 + least),
            "row {row}: {found}, {least}"
        );
    }
}
