//! Sizes at which each kind of device takes its kernels for large problems, run here
//! whatever adapter this is. Single entries are compared with sums in float64.

use flowgrad::device::{DeviceClass, DeviceProfile};
use flowgrad::ops::ConvParams;
use flowgrad::plan::PlanOptions;
use flowgrad::{Graph, Program, Tensor, Value, tape};

use crate::support::{Numbers, gpu};

/// What this adapter can do, with the choices of another kind.
fn profiles() -> Vec<DeviceProfile> {
    let classes = [
        DeviceClass::Software,
        DeviceClass::Integrated,
        DeviceClass::Discrete,
    ];
    let of = |class| DeviceProfile {
        class,
        dispatch_flops: class.dispatch_flops(),
        ..gpu().profile().clone()
    };
    classes.map(of).into()
}

fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut numbers = Numbers::new(seed);
    (0..n).map(|_| numbers.uniform(-1.0, 1.0)).collect()
}

/// Runs for each kind of device; kernels and variants, and the values.
fn run(
    inputs: &[(&str, &[f32])],
    wanted: &[&Tensor],
    mut check: impl FnMut(DeviceClass, &[String], &[Vec<f32>]),
) {
    for profile in profiles() {
        let class = profile.class;
        let plan = wanted[0]
            .graph()
            .plan(&profile, &[], wanted, &PlanOptions::default())
            .unwrap_or_else(|e| panic!("{class:?}: {e}"));
        let steps = plan.steps.iter();
        let kernels: Vec<String> = steps
            .map(|s| format!("{} {}", s.kernel, s.variant))
            .collect();
        let mut program = Program::new(gpu(), plan, &[]).expect("a program");
        let feed: Vec<(&str, Value<'_>)> =
            inputs.iter().map(|(n, v)| (*n, Value::F32(v))).collect();
        let outputs = program.run(&feed).expect("values");
        let values: Vec<Vec<f32>> = (0..wanted.len())
            .map(|i| outputs.f32(i).expect("floats"))
            .collect();
        check(class, &kernels, &values);
    }
}

/// 200 entries, the first and the last among them.
fn sampled(n: usize) -> impl Iterator<Item = usize> {
    let mut numbers = Numbers::new(7);
    let ends = [0, n - 1].into_iter();
    ends.chain((0..198).map(move |_| numbers.below(n)))
}

#[track_caller]
fn close(what: &str, got: f32, expected: f64, scale: f64) {
    let error = (f64::from(got) - expected).abs();
    assert!(
        error <= 4e-6 * scale,
        "{what}: {got}, expected {expected}, error {error:e}"
    );
}

#[track_caller]
fn ran(class: DeviceClass, kernels: &[String], names: [&str; 3]) {
    let name = names[class as usize];
    assert!(
        kernels.iter().any(|k| k.starts_with(name)),
        "{class:?}: {name} is not among {kernels:?}"
    );
}

#[test]
fn products() {
    let (m, n, k) = (1024, 512, 36);
    let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
    let graph = Graph::new();
    let (x, y) = (graph.input("a", [m, k]), graph.input("b", [k, n]));
    let z = x.matmul(&y);
    run(&[("a", &a), ("b", &b)], &[&z], |class, kernels, values| {
        let software = match gpu().profile().subgroup_size {
            Some(_) => "matmul_shuffle",
            None => "matmul",
        };
        ran(
            class,
            kernels,
            [software, "matmul_tiled tile 64", "matmul_tiled tile 128"],
        );
        for at in sampled(m * n) {
            let (i, j) = (at / n, at % n);
            let terms = (0..k).map(|k_| f64::from(a[i * k + k_]) * f64::from(b[k_ * n + j]));
            close(
                &format!("{class:?} {i} {j}"),
                values[0][at],
                terms.sum(),
                10.0,
            );
        }
    });
}

/// With the gradients by the image and by the kernel.
#[test]
fn convolutions() {
    let (c, o, h, w) = (8, 128, 64, 64);
    let (x, k) = (numbers(c * h * w, 1), numbers(o * c * 9, 2));
    let dy = numbers(o * h * w, 3);
    let graph = Graph::new();
    let image = graph.input("x", [1, c, h, w]);
    let kernel = graph.input("k", [o, c, 3, 3]);
    let upstream = graph.input("dy", [1, o, h, w]);
    let params = ConvParams {
        padding: [1; 4],
        ..ConvParams::default()
    };
    let y = image.conv2d(&kernel, None, &params);
    let grads = tape::backward_from(&[(y.clone(), upstream)], &[&image, &kernel]).expect("grads");
    let at = |v: &[f32], channel: usize, row: usize, column: usize| -> f64 {
        // Counted from one pixel before the image.
        match (1..=h).contains(&row) && (1..=w).contains(&column) {
            true => f64::from(v[(channel * h + row - 1) * w + column - 1]),
            false => 0.0,
        }
    };
    let taps = || (0..9).map(|t| (t / 3, t % 3));
    let weight = |o_: usize, c_: usize, (y, x): (usize, usize)| {
        f64::from(k[((o_ * c) + c_) * 9 + y * 3 + x])
    };
    run(
        &[("x", &x), ("k", &k), ("dy", &dy)],
        &[&y, &grads[0], &grads[1]],
        |class, kernels, values| {
            let software = match gpu().profile().subgroup_size {
                Some(_) => "conv2d_rows",
                None => "conv2d",
            };
            ran(class, kernels, [software, "conv2d_tiled", "conv2d_tiled"]);
            for i in sampled(o * h * w) {
                let (o_, p) = (i / (h * w), i % (h * w));
                let (row, column) = (p / w, p % w);
                let terms = (0..c).flat_map(|c_| {
                    let (x, at, weight) = (&x, &at, &weight);
                    taps().map(move |t| weight(o_, c_, t) * at(x, c_, row + t.0, column + t.1))
                });
                close(&format!("{class:?} y {i}"), values[0][i], terms.sum(), 15.0);
            }
            for i in sampled(c * h * w) {
                let (c_, p) = (i / (h * w), i % (h * w));
                let (row, column) = (p / w, p % w);
                let terms = (0..o).flat_map(|o_| {
                    let (dy, at, weight) = (&dy, &at, &weight);
                    taps().map(move |t| {
                        weight(o_, c_, t) * at(dy, o_, row + 2 - t.0, column + 2 - t.1)
                    })
                });
                close(
                    &format!("{class:?} dx {i}"),
                    values[1][i],
                    terms.sum(),
                    40.0,
                );
            }
            for i in sampled(o * c * 9) {
                let (o_, c_, t) = (i / (c * 9), i / 9 % c, (i % 9 / 3, i % 3));
                let terms = (0..h * w).map(|p| {
                    let (row, column) = (p / w, p % w);
                    at(&dy, o_, row + 1, column + 1) * at(&x, c_, row + t.0, column + t.1)
                });
                close(
                    &format!("{class:?} dk {i}"),
                    values[2][i],
                    terms.sum(),
                    80.0,
                );
            }
        },
    );
}

/// What is cut into parts: sums, running sums, softmax, moments, the nearest codes.
#[test]
fn parts() {
    let (n, d, codes) = (1200, 64, 600);
    let (x, e) = (numbers(n * d, 1), numbers(codes * d, 2));
    let graph = Graph::new();
    let (rows, book) = (graph.input("x", [n, d]), graph.input("e", [codes, d]));
    let nearest = rows.codebook_nearest(&book).to_f32();
    let long = rows.reshape([1, n * d]);
    let (mean, var) = long.moments(&[1], true);
    let wanted = [
        &nearest,
        &long.sum(&[], false),
        &long.cumsum(1),
        &long.softmax(1),
        &mean,
        &var,
        &long.logsumexp(&[1], false),
        &long.max(&[1], false),
    ];
    let exact: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
    let total: f64 = exact.iter().sum();
    let exps: f64 = exact.iter().map(|v| v.exp()).sum();
    let average = total / exact.len() as f64;
    let spread = exact
        .iter()
        .map(|v| (v - average) * (v - average))
        .sum::<f64>();
    let most = exact.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    run(&[("x", &x), ("e", &e)], &wanted, |class, _, values| {
        let what = format!("{class:?}");
        for i in sampled(n) {
            let gap = |c: usize| -> f64 {
                let pairs = exact[i * d..(i + 1) * d].iter().zip(&e[c * d..(c + 1) * d]);
                pairs.map(|(a, b)| (a - f64::from(*b)).powi(2)).sum()
            };
            let found = gap(values[0][i] as usize);
            let least = (0..codes).map(gap).fold(f64::INFINITY, f64::min);
            assert!(
                found <= least * (1.0 + 1e-5),
                "{what} row {i}: {found}, {least}"
            );
        }
        close(&what, values[1][0], total, 300.0);
        for i in sampled(n * d) {
            close(&what, values[2][i], exact[..=i].iter().sum(), 300.0);
            close(&what, values[3][i], exact[i].exp() / exps, 3.0 / exps);
        }
        close(&what, values[4][0], average, 1.0);
        close(&what, values[5][0], spread / exact.len() as f64, 1.0);
        close(&what, values[6][0], exps.ln(), exps.ln());
        close(&what, values[7][0], most, 1.0);
    });
}
