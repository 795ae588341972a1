//! Classes drawn from logits: the same as the reference draws from the same random numbers,
//! as often as their probabilities say, and never what cannot be.

use flowgrad::ops::Categorical;
use flowgrad::{Graph, Params, Program, Tensor, Value};

use crate::support::{Data, Tol, check_op, gpu};

fn options(temperature: f32, top_k: Option<usize>) -> Categorical {
    Categorical { temperature, top_k }
}

#[test]
fn classes_are_those_of_the_reference() {
    for shape in [
        &[1, 1][..],
        &[7],
        &[300, 2],
        &[3, 5, 10],
        &[40, 257],
        &[2, 3001],
    ] {
        for (temperature, top_k) in [
            (1.0, None),
            (0.3, Some(1)),
            (2.5, Some(3)),
            (1.0, Some(100)),
            (1e-30, None),
            (1e30, Some(2)),
        ] {
            let options = options(temperature, top_k);
            check_op(
                &format!("drawn from {shape:?}, {options:?}"),
                &[Data::uniform(shape, 1, -4.0, 4.0)],
                |_, x| vec![x[0].categorical(&options), x[0].categorical(&options)],
                Tol::default().no_grad(),
            );
        }
    }
}

/// As many classes as there are samples of `logits`, each drawn `rows` times.
fn counts(logits: &[f32], rows: usize, options: &Categorical) -> Vec<usize> {
    let k = logits.len();
    let graph = Graph::new();
    let row = graph.constant([1, k], logits);
    let drawn = row.broadcast_to([rows, k]).categorical(options);
    let mut program = compile(&graph, &drawn);
    let mut counts = vec![0; k + 1];
    for class in program.run(&[]).unwrap().u32(0).unwrap() {
        counts[class as usize] += 1;
    }
    counts
}

fn compile(graph: &Graph, wanted: &Tensor) -> Program {
    graph.compile(gpu(), &Params::new(3), &[wanted]).unwrap()
}

/// Pearson's statistic of counts for probabilities, and its degrees of freedom. What has no
/// probability must not be there.
fn chi_square(counts: &[usize], probabilities: &[f64]) -> (f64, usize) {
    let n = counts.iter().sum::<usize>() as f64;
    let mut statistic = 0.0;
    for (count, p) in counts.iter().zip(probabilities) {
        if *p == 0.0 {
            assert_eq!(*count, 0);
        } else {
            statistic += (*count as f64 - n * p).powi(2) / (n * p);
        }
    }
    let possible = probabilities.iter().filter(|p| **p > 0.0).count();
    (statistic, possible - 1)
}

#[test]
fn classes_come_as_often_as_they_should() {
    let none = f32::NEG_INFINITY;
    let logits = [0.5, none, -1.0, 2.0, 0.0, 1.5, -2.0, none, 1.0];
    for (temperature, top_k, kept) in [
        (1.0, None, 9),
        (0.5, None, 9),
        (3.0, None, 9),
        (1.0, Some(3), 3),
        (2.0, Some(8), 7),
    ] {
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        let weight = |j: usize| match order[..kept].contains(&j) {
            true => f64::from(logits[j] / temperature).exp(),
            false => 0.0,
        };
        let mut p: Vec<f64> = (0..logits.len()).map(weight).collect();
        let total: f64 = p.iter().sum();
        p.iter_mut().for_each(|p| *p /= total);
        // The last count is that of rows where nothing could be drawn.
        p.push(0.0);
        let n = 20_000;
        let counts = counts(&logits, n, &options(temperature, top_k));
        let (statistic, freedom) = chi_square(&counts, &p);
        // Beyond by chance in one of 100,000 cases at most (Wilson and Hilferty).
        let f = 2.0 / (9.0 * freedom as f64);
        let bound = freedom as f64 * (1.0 - f + 4.27 * f.sqrt()).powi(3);
        assert!(
            statistic < bound,
            "temperature {temperature}, top {top_k:?}: {statistic} of {bound}, {counts:?}"
        );
    }
}

/// Many rare classes against a likely one: maxima come from the ends of the distribution.
#[test]
fn rare_classes_are_as_rare_as_they_should_be() {
    let k = 4096;
    let mut logits = vec![0.0; k];
    // Together as likely as all others, each of which has a probability of 1.2e-4.
    logits[17] = (k as f32 - 1.0).ln();
    let n = 2000;
    let counts = counts(&logits, n, &Categorical::default());
    let often = counts[17] as f64;
    // Five standard deviations.
    let n = n as f64;
    assert!((often - n / 2.0).abs() < 5.0 * (n / 4.0).sqrt(), "{often}");
    assert!(counts[..k].iter().filter(|c| **c > 0).count() > 800);
}

#[test]
fn what_cannot_be_is_not_drawn() {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    // Logits, what is drawn, and what is drawn among the three largest.
    let rows: [([f32; 5], &[u32], &[u32]); 7] = [
        ([-inf, -inf, 0.0, -inf, -inf], &[2], &[2]),
        // Nothing is left.
        ([-inf; 5], &[5], &[5]),
        ([-inf, inf, 3.0, inf, -inf], &[1, 3], &[1, 3]),
        ([0.0, nan, inf, -nan, 0.0], &[1], &[1]),
        ([-3e38, 3e38, -inf, 0.0, 1e38], &[1], &[1]),
        ([-0.0, 0.0, -1.0, -0.5, -2.0], &[0, 1, 2, 3, 4], &[0, 1, 3]),
        // All are as large as the third, as is zero of either sign.
        (
            [-0.0, 0.0, -0.0, 0.0, -1.0],
            &[0, 1, 2, 3, 4],
            &[0, 1, 2, 3],
        ),
    ];
    let graph = Graph::new();
    let x = graph.input("x", [1, 5]).broadcast_to([300, 5]);
    let all = x.categorical(&options(1.0, None));
    let three = x.categorical(&options(1.0, Some(3)));
    let mut program = graph
        .compile(gpu(), &Params::new(3), &[&all, &three])
        .unwrap();
    for (row, all, three) in rows {
        let out = program.run(&[("x", Value::F32(&row))]).unwrap();
        for (i, possible) in [all, three].into_iter().enumerate() {
            let mut got = out.u32(i).unwrap();
            got.sort_unstable();
            got.dedup();
            assert_eq!(got, possible, "{row:?}, draw {i}");
        }
    }
}

#[test]
fn draws_depend_on_the_random_state_alone() {
    let graph = Graph::new();
    let x = graph.input("x", [64, 50]);
    let drawn = x.categorical(&options(1.0, Some(20)));
    let mut program = compile(&graph, &drawn);
    let Data::F32 { values, .. } = Data::f32([64, 50], 1) else {
        unreachable!()
    };
    let mut draw = |step: u32| {
        program.set_random_state(9, step);
        let fed = [("x", Value::F32(&values))];
        program.run(&fed).unwrap().u32(0).unwrap().to_vec()
    };
    let first = draw(0);
    assert_ne!(draw(1), first);
    for _ in 0..5 {
        assert_eq!(draw(0), first);
    }
}

#[test]
fn wrong_options_are_told() {
    let g = Graph::new();
    let x = g.input("x", [4, 5]);
    for (bad, what) in [
        (x.categorical(&options(0.0, None)), "argmax"),
        (x.categorical(&options(-1.0, None)), "argmax"),
        (x.categorical(&options(f32::NAN, None)), "NaN"),
        (x.categorical(&options(f32::INFINITY, None)), "inf"),
        (x.categorical(&options(1.0, Some(0))), "top_k"),
        (
            g.input_u32("i", [4]).categorical(&Categorical::default()),
            "f32",
        ),
        (
            g.input("s", []).categorical(&Categorical::default()),
            "scalar",
        ),
    ] {
        let text = bad.check().unwrap_err().to_string();
        assert!(text.contains(what), "{text}");
    }
}
