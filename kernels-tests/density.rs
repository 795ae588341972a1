//! Densities of the plane: flows learn them, and what they learn is a density.

use flowgrad::data::Plane;
use flowgrad::flow::{Context, Flow};
use flowgrad::models::{VectorCoupling, VectorFlowConfig, vector_flow};
use flowgrad::ops::SplineParams;
use flowgrad::optim::{Adam, Optimizer};
use flowgrad::{Graph, Params};

use crate::flow::check_bijector;
use crate::support::{Data, gpu};

const SPLINE: VectorCoupling = VectorCoupling::Spline(SplineParams {
    bins: 8,
    bound: 4.0,
});
const AFFINE: VectorCoupling = VectorCoupling::Affine { clamp: 2.0 };

fn config(dims: usize, coupling: VectorCoupling, layers: usize) -> VectorFlowConfig {
    VectorFlowConfig {
        dims,
        coupling,
        layers,
        hidden: vec![32],
    }
}

/// Some training steps on `plane`; the mean log-likelihood (nats) of other points.
fn fit(params: &Params, flow: &Flow, plane: Plane, steps: u64) -> f64 {
    const BATCH: usize = 256;
    let graph = Graph::new();
    let x = graph.input("x", [BATCH, 2]);
    let log_prob = flow.log_prob(&x, &Context::train());
    let loss = log_prob.mean(&[], false).neg();
    let rule = Adam {
        lr: 5e-3,
        ..Adam::default()
    };
    let optimizer = Optimizer::new(params, rule).unwrap();
    optimizer.minimize(&loss).unwrap();
    let mut program = graph.compile(gpu(), params, &[&loss]).unwrap();
    for step in 0..steps {
        let points = plane.sample(BATCH, step);
        program.set_scalars(&optimizer.inputs(step)).unwrap();
        program.run(&[("x", (&points).into())]).unwrap();
    }
    let points = plane.sample(BATCH, 1 << 40);
    let log_prob = log_prob_at(params, flow, &points);
    log_prob.iter().map(|v| *v as f64).sum::<f64>() / BATCH as f64
}

fn log_prob_at(params: &Params, flow: &Flow, points: &[f32]) -> Vec<f32> {
    let graph = Graph::new();
    let x = graph.input("x", [points.len() / 2, 2]);
    let log_prob = flow.log_prob(&x, &Context::eval());
    let mut program = graph.compile_pure(gpu(), params, &[&log_prob]).unwrap();
    let out = program.run(&[("x", points.into())]).unwrap();
    out.f32(0).unwrap()
}

/// The sum of the density over a fine grid of the plane within +-8.
fn integral(params: &Params, flow: &Flow) -> f64 {
    const SIDE: usize = 320;
    let cell = 16.0 / SIDE as f64;
    let centre = |i: usize| ((i as f64 + 0.5) * cell - 8.0) as f32;
    let points: Vec<f32> = (0..SIDE * SIDE)
        .flat_map(|i| [centre(i % SIDE), centre(i / SIDE)])
        .collect();
    let log_prob = log_prob_at(params, flow, &points);
    log_prob.iter().map(|v| (*v as f64).exp()).sum::<f64>() * cell * cell
}

/// The mean log-likelihood (nats) of points under a Gaussian with their own moments.
fn gaussian(points: &[f32]) -> f64 {
    let n = (points.len() / 2) as f64;
    let sum = |f: &dyn Fn(f64, f64) -> f64| {
        let terms = points.chunks(2).map(|p| f(p[0] as f64, p[1] as f64));
        terms.sum::<f64>() / n
    };
    let (x, y) = (sum(&|x, _| x), sum(&|_, y| y));
    let xx = sum(&|a, _| (a - x).powi(2));
    let yy = sum(&|_, b| (b - y).powi(2));
    let xy = sum(&|a, b| (a - x) * (b - y));
    let entropy_of_a_dimension = 0.5 * (std::f64::consts::TAU * std::f64::consts::E).ln();
    -2.0 * entropy_of_a_dimension - 0.5 * (xx * yy - xy * xy).ln()
}

#[test]
fn learnt_densities_integrate_to_one() {
    let bar = gaussian(&Plane::TwoMoons.sample(4096, 3));
    for (coupling, layers, gain) in [
        (SPLINE, 4, 0.6),
        (AFFINE, 6, 0.25),
        (VectorCoupling::Additive, 6, 0.1),
    ] {
        let params = Params::new(1);
        let flow = vector_flow(&params, &config(2, coupling, layers)).unwrap();
        let before = integral(&params, &flow);
        assert!(
            (before - 1.0).abs() < 1e-3,
            "{coupling:?}: {before} at first"
        );
        let log_likelihood = fit(&params, &flow, Plane::TwoMoons, 200);
        assert!(
            log_likelihood > bar + gain,
            "{coupling:?}: mean log-likelihood {log_likelihood}, that of a Gaussian is {bar}"
        );
        let after = integral(&params, &flow);
        assert!((after - 1.0).abs() < 0.01, "{coupling:?}: {after}");
        // What sampling says of a sample's density, the density says as well.
        let graph = Graph::new();
        let (x, while_sampling) = flow.sample_with_log_prob(&graph, 256, 1.0, &Context::eval());
        let again = flow.log_prob(&x, &Context::eval());
        let wanted = [&while_sampling, &again];
        let mut program = graph.compile_pure(gpu(), &params, &wanted).unwrap();
        let out = program.run(&[]).unwrap();
        for (a, b) in out.f32(0).unwrap().iter().zip(out.f32(1).unwrap()) {
            assert!(
                (a - b).abs() < 1e-3 * a.abs().max(1.0),
                "{coupling:?}: {a} {b}"
            );
        }
    }
}

#[test]
fn vector_flows_are_bijections() {
    for (coupling, dims) in [(SPLINE, 3), (AFFINE, 5), (VectorCoupling::Additive, 2)] {
        let params = Params::new(2);
        let flow = vector_flow(&params, &config(dims, coupling, 3)).unwrap();
        // Away from the identity.
        for (i, p) in params.trainable().iter().enumerate() {
            let values = Data::uniform(p.shape(), 10 + i as u64, -0.3, 0.3);
            p.set(&values.array().to_f32()).unwrap();
        }
        let x = Data::uniform([3, dims], 3, -2.0, 2.0);
        check_bijector(&format!("{coupling:?}"), &params, flow.chain, &x, 3e-5);
    }
    let params = Params::new(0);
    assert!(vector_flow(&params, &config(1, AFFINE, 3)).is_err());
    assert!(vector_flow(&params, &config(2, AFFINE, 0)).is_err());
    let thin = VectorFlowConfig {
        hidden: vec![0],
        ..config(2, AFFINE, 1)
    };
    assert!(vector_flow(&params, &thin).is_err());
}

#[test]
fn points_of_the_plane() {
    for plane in Plane::ALL {
        let points = plane.sample(4000, 7);
        assert_eq!(points[..100], plane.sample(50, 7), "{plane:?}");
        assert_ne!(points[..100], plane.sample(50, 8), "{plane:?}");
        for axis in 0..2 {
            let column: Vec<f64> = points[axis..]
                .iter()
                .step_by(2)
                .map(|v| *v as f64)
                .collect();
            let mean = column.iter().sum::<f64>() / 4000.0;
            assert!(mean.abs() < 0.25, "{plane:?}: mean {mean}");
            let reach = column.iter().fold(0.0f64, |m, v| m.max(v.abs()));
            assert!((2.0..5.5).contains(&reach), "{plane:?}: reaches {reach}");
        }
    }
    let mut squares = [0i32; 16];
    for point in Plane::Checkerboard.sample(8000, 1).chunks(2) {
        let cell = |v: f32| ((v + 3.0) / 1.5).floor() as usize;
        let (column, row) = (cell(point[0]), cell(point[1]));
        assert_eq!((column + row) % 2, 0, "{point:?}");
        squares[4 * row + column] += 1;
    }
    for (i, count) in squares.iter().enumerate() {
        let wanted = if (i / 4 + i % 4) % 2 == 0 { 1000 } else { 0 };
        assert!((*count - wanted).abs() < 150, "square {i}: {count}");
    }
    for point in Plane::Rings.sample(1000, 2).chunks(2) {
        let radius = point[0].hypot(point[1]) / 0.75;
        let ring = radius.round().clamp(1.0, 4.0);
        assert!((radius - ring).abs() < 0.6, "{point:?}");
    }
}
