//! Random numbers: the generator's published answers, exact bits on every
//! adapter, and the moments of each distribution.

use std::collections::HashSet;

use flowgrad::graph::{Array, Feed, evaluate};
use flowgrad::ops::threefry;
use flowgrad::{Graph, Tensor};

use crate::support::{Tol, check_op};

#[test]
fn threefry_gives_the_published_answers() {
    // Random123's kat_vectors, threefry2x32 with 20 rounds.
    let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
    for (key, counter, expected) in [
        ([0, 0], [0, 0], [0x6b20_0159, 0x99ba_4efe]),
        ([!0, !0], [!0, !0], [0x1cb9_96fc, 0xbb00_2be7]),
        ([pi[2], pi[3]], [pi[0], pi[1]], [0xc492_3a9c, 0x483d_f7a0]),
    ] {
        assert_eq!(threefry(key, counter), expected);
    }
}

fn draw(random: (u64, u32), build: impl Fn(&Graph) -> Tensor) -> Array {
    let graph = Graph::new();
    let y = build(&graph);
    let feed = Feed {
        random,
        ..Feed::default()
    };
    evaluate(&[&y], &feed)
        .expect("random numbers")
        .swap_remove(0)
}

#[test]
fn bits_and_uniforms_are_exact_on_the_gpu() {
    let exact = Tol {
        output: 0.0,
        ..Tol::default().no_grad()
    };
    for n in [1, 2, 7, 8, 250, 1000] {
        check_op("bits", &[], |g, _| vec![g.random_bits([n])], exact);
        check_op("uniform", &[], |g, _| vec![g.uniform([n])], exact);
        check_op("bernoulli", &[], |g, _| vec![g.bernoulli([n], 0.3)], exact);
        check_op("below", &[], |g, _| vec![g.random_below([n], 10)], exact);
    }
    // The radius of Box and Muller near zero is as good as the adapter's logarithm.
    let tol = Tol::rel(1e-5).no_grad();
    for n in [667, 680] {
        check_op("normal", &[], |g, _| vec![g.normal([3, n])], tol);
    }
    check_op(
        "two streams",
        &[],
        |g, _| vec![g.uniform([9]), g.uniform([9])],
        exact,
    );
}

#[test]
fn seed_step_stream_and_element_all_count() {
    let mut seen = HashSet::new();
    let states = [(1, 0), (2, 0), (1 << 32, 0), (1, 1)];
    for state in states {
        for stream in 0..3 {
            let words = draw(state, |g| {
                (0..stream).for_each(|_| drop(g.uniform([1])));
                g.random_bits([64])
            });
            seen.extend(words.data.iter().map(|w| *w as u32));
        }
    }
    // 768 words collide with probability 7e-5; these do not.
    assert_eq!(seen.len(), states.len() * 3 * 64);
    let again = |g: &Graph| g.random_bits([5]);
    assert_eq!(draw((7, 3), again), draw((7, 3), again));
}

/// Mean, variance, skewness, kurtosis.
fn moments(a: &Array) -> [f64; 4] {
    let n = a.numel() as f64;
    let mean = a.data.iter().sum::<f64>() / n;
    let about = |p: i32| a.data.iter().map(|v| (v - mean).powi(p)).sum::<f64>() / n;
    let std = about(2).sqrt();
    [
        mean,
        about(2),
        about(3) / std.powi(3),
        about(4) / std.powi(4),
    ]
}

#[test]
fn moments_are_those_of_the_distributions() {
    // Five standard errors of each moment at n = 200,000.
    let n = 200_000;
    let [mean, var, skew, kurt] = moments(&draw((11, 0), |g| g.uniform([n])));
    assert!((mean - 0.5).abs() < 0.0033, "{mean}");
    assert!((var - 1.0 / 12.0).abs() < 0.0009, "{var}");
    assert!(skew.abs() < 0.02, "{skew}");
    assert!((kurt - 1.8).abs() < 0.02, "{kurt}");
    let normal = draw((12, 0), |g| g.normal([n]));
    let [mean, var, skew, kurt] = moments(&normal);
    assert!(mean.abs() < 0.0112, "{mean}");
    assert!((var - 1.0).abs() < 0.0159, "{var}");
    assert!(skew.abs() < 0.028, "{skew}");
    assert!((kurt - 3.0).abs() < 0.055, "{kurt}");
    let beyond = normal.data.iter().filter(|v| v.abs() > 1.959_964).count() as f64 / n as f64;
    assert!((beyond - 0.05).abs() < 0.0025, "{beyond}");
    // Neighbours come from one pair of words: they must not be correlated.
    let pairs = normal.data.chunks(2).map(|p| p[0] * p[1]).sum::<f64>() / (n / 2) as f64;
    assert!(pairs.abs() < 0.016, "{pairs}");
    let [mean, ..] = moments(&draw((13, 0), |g| g.bernoulli([n], 0.3)));
    assert!((mean - 0.3).abs() < 0.0052, "{mean}");
}

#[test]
fn wrong_arguments_tell() {
    let graph = Graph::new();
    assert!(graph.bernoulli([2], 1.5).check().is_err());
    assert!(graph.bernoulli([2], f32::NAN).check().is_err());
    assert!(graph.random_below([2], 0).check().is_err());
    assert!(graph.normal([0]).check().is_err());
}
