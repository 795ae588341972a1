//! What every bijection must show: its inverse undoes it, the two log-determinants
//! cancel, and they are that of the Jacobian.

use std::collections::HashMap;

use flowgrad::graph::{Array, Feed, evaluate};
use flowgrad::{Graph, Tensor};

use crate::support::{Data, run_gpu};

/// Checks a bijection given by its two directions, each with a log-determinant `[N]`.
/// `params` are further inputs of both. On the GPU the round trip must come within
/// 1e-5 of the largest element, and the log-determinants cancel as well; the
/// log-determinant must come within 1e-4 of that of the whole Jacobian of every
/// sample, which the float64 interpreter gives by central differences. Samples may
/// have 64 elements.
#[track_caller]
pub fn check_bijection(
    name: &str,
    x: &Data,
    params: &[Data],
    forward: impl Fn(&Tensor, &[Tensor]) -> (Tensor, Tensor),
    inverse: impl Fn(&Tensor, &[Tensor]) -> (Tensor, Tensor),
) {
    let graph = Graph::new();
    let input = x.input(&graph, "x");
    let mut data = vec![("x".to_string(), x.clone())];
    let mut tensors = Vec::new();
    for (i, p) in params.iter().enumerate() {
        let key = format!("p{i}");
        tensors.push(p.input(&graph, &key));
        data.push((key, p.clone()));
    }
    let (y, log_det) = forward(&input, &tensors);
    let (back, back_log_det) = inverse(&y, &tensors);
    for t in [&y, &log_det, &back, &back_log_det] {
        t.check().unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    let samples = x.shape()[0];
    assert_eq!(log_det.shape().dims(), [samples], "{name}: log_det");
    assert_eq!(back_log_det.shape().dims(), [samples], "{name}: log_det");
    assert_eq!(y.numel(), x.shape().numel(), "{name}: elements");

    let wanted = [&y, &log_det, &back, &back_log_det];
    let got = run_gpu(&data, &wanted).unwrap_or_else(|e| panic!("{name}: {e}"));
    let got: Vec<Array> = got.iter().map(Data::array).collect();
    let original = x.array();
    let size = largest(&original).max(largest(&got[0]));
    for (i, (a, b)) in got[2].data.iter().zip(&original.data).enumerate() {
        let error = (a - b).abs();
        assert!(
            error <= 1e-5 * size,
            "{name}: element {i} comes back as {a}, was {b}"
        );
    }
    let size = largest(&got[1]).max(1.0);
    for (a, b) in got[1].data.iter().zip(&got[3].data) {
        let error = (a + b).abs();
        assert!(
            error <= 1e-5 * size,
            "{name}: log-determinants {a} and {b} do not cancel"
        );
    }

    let dims = x.shape().numel() / samples;
    assert!(dims <= 64, "{name}: {dims} elements in a sample");
    let base: HashMap<String, Array> = data.iter().map(|(n, d)| (n.clone(), d.array())).collect();
    // All samples are moved at once: they do not depend on one another.
    let moved = |k: usize, h: f64| -> Array {
        let mut inputs = base.clone();
        if let Some(x) = inputs.get_mut("x") {
            x.data
                .iter_mut()
                .skip(k)
                .step_by(dims)
                .for_each(|v| *v += h);
        }
        let feed = Feed {
            inputs,
            ..Feed::default()
        };
        evaluate(&[&y], &feed)
            .unwrap_or_else(|e| panic!("{name}: {e}"))
            .swap_remove(0)
    };
    let h = 1e-5;
    let columns: Vec<(Array, Array)> = (0..dims).map(|k| (moved(k, h), moved(k, -h))).collect();
    for n in 0..samples {
        let mut jacobian = vec![vec![0.0; dims]; dims];
        for (k, (plus, minus)) in columns.iter().enumerate() {
            for (i, row) in jacobian.iter_mut().enumerate() {
                row[k] = (plus.data[n * dims + i] - minus.data[n * dims + i]) / (2.0 * h);
            }
        }
        let (exact, got) = (log_abs_det(jacobian), got[1].data[n]);
        assert!(
            (got - exact).abs() <= 1e-4 * exact.abs().max(1.0),
            "{name}: the log-determinant of sample {n} is {got}, that of its Jacobian {exact}"
        );
    }
}

fn largest(a: &Array) -> f64 {
    a.data.iter().fold(0.0, |m, v| m.max(v.abs()))
}

/// `log |det a|` by elimination with partial pivoting.
fn log_abs_det(mut a: Vec<Vec<f64>>) -> f64 {
    let mut total = 0.0;
    for k in 0..a.len() {
        let pivot = (k..a.len()).max_by(|i, j| a[*i][k].abs().total_cmp(&a[*j][k].abs()));
        a.swap(k, pivot.unwrap_or(k));
        let head = a[k].clone();
        total += head[k].abs().ln();
        for row in &mut a[k + 1..] {
            let factor = row[k] / head[k];
            for (v, h) in row[k..].iter_mut().zip(&head[k..]) {
                *v -= factor * h;
            }
        }
    }
    total
}
