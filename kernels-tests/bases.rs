//! Base distributions: densities against closed forms, samples against densities.

use flowgrad::flow::{
    Base, ClassGaussian, Context, DiagonalGaussian, GaussianMixture, Logistic, StandardNormal,
};
use flowgrad::{Graph, Params, Tensor, Value};

use crate::support::gpu;

/// `n` samples of `base`, their log-densities while sampling, and how often each of
/// `classes` classes stands in the condition.
fn draw(
    base: &dyn Base,
    params: &Params,
    n: usize,
    temperature: f32,
    classes: Option<&[u32]>,
) -> (Vec<f32>, Vec<f32>) {
    let graph = Graph::new();
    let condition = classes.map(|c| graph.constant_u32([n], c));
    let cx = match &condition {
        Some(c) => Context::eval().with_condition(c),
        None => Context::eval(),
    };
    let z = base.sample(&graph, n, temperature, &cx);
    let log_prob = base.log_prob(&z, &cx);
    let mut program = graph.compile(gpu(), params, &[&z, &log_prob]).unwrap();
    program.set_random_state(3, 0);
    let out = program.run(&[]).unwrap();
    (out.f32(0).unwrap(), out.f32(1).unwrap())
}

/// Mean and variance of every `width`th number from `first` on.
fn moments(values: &[f32], width: usize, first: usize) -> (f64, f64) {
    let column: Vec<f64> = values[first..]
        .iter()
        .step_by(width)
        .map(|v| *v as f64)
        .collect();
    let n = column.len() as f64;
    let mean = column.iter().sum::<f64>() / n;
    (
        mean,
        column.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n,
    )
}

fn close(what: &str, got: f64, expected: f64, allowed: f64) {
    let error = (got - expected).abs();
    assert!(
        error <= allowed,
        "{what}: {got}, expected {expected} +- {allowed}"
    );
}

const N: usize = 4096;

/// Samples have the moments of their distribution at every temperature, and the mean
/// of `-log_prob` over samples is the distribution's entropy.
#[test]
fn samples_fit_their_densities() {
    let half_log = 0.5 * (std::f64::consts::TAU * std::f64::consts::E).ln();
    // Four standard errors of a mean or a variance of N numbers.
    let slack = |var: f64| 4.0 * var / (N as f64).sqrt() * 1.5;
    let none = Params::new(0);
    let normal = StandardNormal::new([2, 1, 3]);
    let (z, log_prob) = draw(&normal, &none, N, 1.0, None);
    for i in 0..6 {
        let (mean, var) = moments(&z, 6, i);
        close("normal mean", mean, 0.0, slack(1.0));
        close("normal variance", var, 1.0, slack(1.0));
    }
    close(
        "normal entropy",
        -moments(&log_prob, 1, 0).0,
        6.0 * half_log,
        slack(2.0),
    );
    let (z, _) = draw(&normal, &none, N, 0.5, None);
    close("cold variance", moments(&z, 6, 2).1, 0.25, slack(0.25));

    let (z, log_prob) = draw(&Logistic::new([2]), &none, N, 1.0, None);
    let var = std::f64::consts::PI.powi(2) / 3.0;
    assert!(z.iter().all(|v| v.is_finite()));
    for i in 0..2 {
        let (mean, got) = moments(&z, 2, i);
        close("logistic mean", mean, 0.0, slack(1.8));
        close("logistic variance", got, var, slack(var) * 1.5);
    }
    // 2 nats per dimension.
    close(
        "logistic entropy",
        -moments(&log_prob, 1, 0).0,
        4.0,
        slack(2.0),
    );

    let params = Params::new(0);
    let learned = DiagonalGaussian::new(&params, [3]).unwrap();
    params.set("loc", &[1.0, -2.0, 0.5]).unwrap();
    params.set("log_scale", &[0.5, -1.0, 0.0]).unwrap();
    let (z, log_prob) = draw(&learned, &params, N, 1.0, None);
    for (i, (loc, log_scale)) in [(1.0, 0.5), (-2.0, -1.0), (0.5, 0.0f64)]
        .into_iter()
        .enumerate()
    {
        let (mean, var) = moments(&z, 3, i);
        let exact = (2.0 * log_scale).exp();
        close("learned mean", mean, loc, slack(exact.sqrt()));
        close("learned variance", var, exact, slack(exact));
    }
    close(
        "learned entropy",
        -moments(&log_prob, 1, 0).0,
        3.0 * half_log - 0.5,
        slack(2.0),
    );
}

#[test]
fn channels_of_images_share_a_gaussian() {
    let params = Params::new(0);
    let base = DiagonalGaussian::per_channel(&params, [2, 1, 3]).unwrap();
    params.set("loc", &[1.0, -1.0]).unwrap();
    params.set("log_scale", &[0.0, 0.7]).unwrap();
    let graph = Graph::new();
    let z = graph.constant([1, 2, 1, 3], &[1.0, 2.0, 0.0, -1.0, -2.0, 3.0]);
    let log_prob = base.log_prob(&z, &Context::eval());
    let mut program = graph.compile(gpu(), &params, &[&log_prob]).unwrap();
    let got = program.run(&[]).unwrap().scalar(0).unwrap() as f64;
    let density = |v: f64, mean: f64, log_std: f64| {
        let unit = (v - mean) / log_std.exp();
        -0.5 * unit * unit - log_std - 0.5 * std::f64::consts::TAU.ln()
    };
    let exact: f64 = [1.0, 2.0, 0.0]
        .iter()
        .map(|v| density(*v, 1.0, 0.0))
        .sum::<f64>()
        + [-1.0, -2.0, 3.0]
            .iter()
            .map(|v| density(*v, -1.0, 0.7))
            .sum::<f64>();
    close("per channel", got, exact, 1e-5);
    let (z, _) = draw(&base, &params, 512, 1.0, None);
    close("mean of channel 0", moments(&z, 6, 1).0, 1.0, 0.2);
    close("mean of channel 1", moments(&z, 6, 4).0, -1.0, 0.4);
}

#[test]
fn mixtures_draw_components_by_their_weights() {
    let params = Params::new(0);
    let base = GaussianMixture::new(&params, 3, [2]).unwrap();
    params
        .set("loc", &[-50.0, 0.0, 0.0, 50.0, 50.0, 0.0])
        .unwrap();
    let weights = [0.5f32, 0.2, 0.3];
    params
        .set("logits", &weights.map(|w| w.ln() + 1.0))
        .unwrap();
    let (z, log_prob) = draw(&base, &params, N, 1.0, None);
    let mut counts = [0usize; 3];
    let mut exact = Vec::new();
    for row in z.chunks(2) {
        let centers = [[-50.0, 0.0], [0.0, 50.0], [50.0, 0.0f32]];
        let distance = |c: &[f32; 2]| (row[0] - c[0]).powi(2) + (row[1] - c[1]).powi(2);
        let k = (0..3).min_by(|a, b| distance(&centers[*a]).total_cmp(&distance(&centers[*b])));
        let k = k.unwrap();
        counts[k] += 1;
        let d = distance(&centers[k]) as f64;
        exact.push((weights[k] as f64).ln() - 0.5 * d - std::f64::consts::TAU.ln());
    }
    for (count, weight) in counts.iter().zip(weights) {
        close("share", *count as f64 / N as f64, weight as f64, 0.04);
    }
    for (got, exact) in log_prob.iter().zip(exact) {
        close("log-density", *got as f64, exact, 2e-4);
    }
    // The posterior names the component.
    let graph = Graph::new();
    let joint = base.joint_log_prob(&graph.constant([1, 2], &[0.0, 50.0]));
    let mut program = graph
        .compile(gpu(), &params, &[&joint.argmax(Some(1))])
        .unwrap();
    assert_eq!(program.run(&[]).unwrap().u32(0).unwrap(), [1]);
}

#[test]
fn classes_have_gaussians_of_their_own() {
    let params = Params::new(0);
    let base = ClassGaussian::new(&params, 3, [1, 2]).unwrap();
    let loc = [-9.0, 1.0, 0.0, 2.0, 9.0, 3.0];
    params.set("loc", &loc).unwrap();
    params
        .set("log_scale", &[0.0, 0.0, 1.0, 1.0, -1.0, -1.0])
        .unwrap();
    let classes: Vec<u32> = (0..96).map(|i| i % 3).collect();
    let (z, log_prob) = draw(&base, &params, 96, 1.0, Some(&classes));
    for (i, row) in z.chunks(2).enumerate() {
        let class = i % 3;
        let log_std = [0.0f64, 1.0, -1.0][class];
        let mut exact = -std::f64::consts::TAU.ln() - 2.0 * log_std;
        for (v, m) in row.iter().zip(&loc[2 * class..]) {
            let unit = (*v - *m) as f64 / log_std.exp();
            assert!(unit.abs() < 5.0, "sample {i}: {row:?}");
            exact -= 0.5 * unit * unit;
        }
        close("log-density", log_prob[i] as f64, exact, 1e-4);
    }
    // The same densities beside those of the other classes.
    let graph = Graph::new();
    let z = graph.constant([96, 1, 2], &z);
    let all = base.log_prob_by_class(&z);
    let best = all.argmax(Some(1));
    let own = all.take_along_axis(1, &graph.constant_u32([96], &classes));
    let mut program = graph.compile(gpu(), &params, &[&own, &best]).unwrap();
    let out = program.run(&[]).unwrap();
    for (a, b) in out.f32(0).unwrap().iter().zip(&log_prob) {
        close("by class", *a as f64, *b as f64, 1e-4);
    }
    let right = out
        .u32(1)
        .unwrap()
        .iter()
        .zip(&classes)
        .filter(|(a, b)| a == b)
        .count();
    assert!(right > 80, "{right} of 96 classes");
}

#[test]
fn unknown_classes_and_wrong_shapes_are_told() {
    let params = Params::new(0);
    let base = ClassGaussian::new(&params.scope("a"), 3, [2]).unwrap();
    assert_eq!(base.check_classes(&[0, 2, 1]), Ok(()));
    let error = base.check_classes(&[0, 2, 3]).unwrap_err().to_string();
    assert!(error.contains("class 3 of sample 2"), "{error}");
    assert!(ClassGaussian::new(&params.scope("b"), 0, [2]).is_err());

    let graph = Graph::new();
    let z = graph.input("z", [2, 2]);
    let classes = graph.input_u32("classes", [2]);
    let said = |t: Tensor| t.check().unwrap_err().to_string();
    let none = Context::eval();
    assert!(said(base.log_prob(&z, &none)).contains("classes are missing"));
    let wrong = graph.input_u32("wrong", [3]);
    let cx = Context::eval().with_condition(&wrong);
    assert!(said(base.log_prob(&z, &cx)).contains("[2]"));
    let cx = Context::eval().with_condition(&classes);
    assert!(said(base.sample(&graph, 2, 0.0, &cx)).contains("temperature"));
    assert!(said(base.sample(&graph, 0, 1.0, &cx)).contains("at least one"));
    let flat = StandardNormal::new([3]);
    assert!(said(flat.log_prob(&z, &none)).contains("[2, 2]"));
    assert!(said(flat.sample(&graph, 2, f32::NAN, &none)).contains("temperature"));
    assert!(said(Logistic::new([3]).log_prob(&z, &none)).contains("Logistic"));

    // On the device an unknown class is no number, and leaves the others alone.
    let fresh = Graph::new();
    let z = fresh.input("z", [2, 2]);
    let classes = fresh.input_u32("classes", [2]);
    let cx = Context::eval().with_condition(&classes);
    let log_prob = base.log_prob(&z, &cx);
    let mut program = fresh.compile(gpu(), &params, &[&log_prob]).unwrap();
    let out = program
        .run(&[
            ("z", Value::F32(&[0.0; 4])),
            ("classes", Value::U32(&[7, 1])),
        ])
        .unwrap();
    let got = out.f32(0).unwrap();
    assert!(got[0].is_nan() && got[1].is_finite(), "{got:?}");
}
