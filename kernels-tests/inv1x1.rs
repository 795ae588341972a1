//! Invertible 1x1 convolutions: the assembled matrix, its gradients, and the layer.

use flowgrad::flow::{Bijector, Context, Inv1x1};
use flowgrad::ops::Plu;
use flowgrad::{Error, Graph, Params, Tensor};

use crate::flow::check_bijector;
use crate::support::{Data, Numbers, Tol, assert_close, check_op, gpu};

fn permutation(order: &[usize]) -> Data {
    let n = order.len();
    let mut p = vec![0.0; n * n];
    for (k, row) in order.iter().enumerate() {
        p[row * n + k] = 1.0;
    }
    Data::values([n, n], &p)
}

#[test]
fn a_matrix_from_its_factors() {
    let p = permutation(&[3, 0, 4, 1, 2]);
    let sign = Data::values([5], &[1.0, -1.0, -1.0, 1.0, -1.0]);
    let rest = [
        Data::f32([5, 5], 1),
        Data::f32([5, 5], 2),
        Data::f32([5], 3),
    ];
    check_op(
        "plu",
        &rest,
        |g, x| {
            let (Data::F32 { values: p, .. }, Data::F32 { values: s, .. }) = (&p, &sign) else {
                unreachable!()
            };
            let (p, sign) = (g.constant([5, 5], p), g.constant([5], s));
            let plu = Plu {
                p: &p,
                l: &x[0],
                u: &x[1],
                sign: &sign,
                log_s: &x[2],
            };
            let w = plu.assemble();
            vec![w.slogdet().1.sub(&x[2].sum(&[], false)), w, plu.inverse()]
        },
        Tol::rel(2e-5),
    );
}

#[test]
fn layers_of_both_kinds() {
    // Odd channels, one channel, one pixel, vectors.
    for (i, shape) in [
        vec![2, 3, 3, 2],
        vec![1, 1, 2, 5],
        vec![3, 12, 1, 1],
        vec![1, 7],
    ]
    .into_iter()
    .enumerate()
    {
        let channels = shape[1];
        let data = Data::f32(shape, 3);
        type New = fn(&Params, usize) -> flowgrad::Result<Inv1x1>;
        let kinds: [(&str, New); 2] = [("plu", Inv1x1::plu), ("full", Inv1x1::full)];
        for (name, new) in kinds {
            let params = Params::new(i as u64);
            let layer = new(&params, channels).expect("a layer");
            // A rotation's log-determinant is zero, which would prove little.
            for param in params.trainable() {
                let mut values = param.get().expect("values");
                let mut numbers = Numbers::new(i as u64);
                for v in &mut values {
                    *v = 1.3 * *v + numbers.uniform(0.05, 0.15);
                }
                param.set(&values).expect("set");
            }
            check_bijector(name, &params, layer, &data, 1e-5);
        }
    }
}

/// What the graph computes for `log |det W|` beside the host's double precision.
fn log_dets(params: &Params, layer: &Inv1x1, channels: usize) -> (f64, f64) {
    let graph = Graph::new();
    let x = graph.full([1, channels], 0.5);
    let log_det = layer.forward(&x, &Context::eval()).log_det;
    let mut program = graph
        .compile_pure(gpu(), params, &[&log_det])
        .expect("a program");
    let got = program.run(&[]).expect("a run").f32(0).expect("floats");
    (got[0] as f64, layer.log_abs_det().expect("regular"))
}

#[test]
fn both_kinds_start_as_rotations_and_know_their_determinant() {
    for plu in [true, false] {
        let params = Params::new(7);
        let scope = params.scope("flow").scope("invconv");
        let layer = match plu {
            true => Inv1x1::plu(&scope, 24),
            false => Inv1x1::full(&scope, 24),
        };
        let layer = layer.expect("a layer");
        let (on_gpu, on_host) = log_dets(&params, &layer, 24);
        assert!(
            on_host.abs() < 1e-6 && on_gpu.abs() < 1e-5,
            "{on_gpu} {on_host}"
        );
        let unit = match plu {
            true => {
                let ones = params.find("flow.invconv.w_s").expect("there");
                ones.set(&[0.25; 24]).expect("set");
                0.25
            }
            false => {
                let weight = params.find("flow.invconv.weight").expect("there");
                let doubled: Vec<f32> = weight
                    .get()
                    .expect("values")
                    .iter()
                    .map(|w| 2.0 * w)
                    .collect();
                weight.set(&doubled).expect("set");
                2f64.ln()
            }
        };
        let (on_gpu, on_host) = log_dets(&params, &layer, 24);
        // w_s of a rotation sums to zero; all of them were replaced.
        assert!((on_host - 24.0 * unit).abs() < 1e-5, "{on_host}");
        assert!((on_gpu - 24.0 * unit).abs() < 1e-4, "{on_gpu}");
    }
    // The assembled matrix is orthogonal.
    let params = Params::new(8);
    let layer = Inv1x1::plu(&params, 10).expect("a layer");
    let graph = Graph::new();
    let unit: Vec<f32> = (0..100).map(|i| (i / 10 == i % 10) as u32 as f32).collect();
    let rows = layer
        .forward(&graph.constant([10, 10], &unit), &Context::train())
        .out;
    let square = rows.matmul_with(&rows, false, true);
    let mut program = graph
        .compile_pure(gpu(), &params, &[&square])
        .expect("a program");
    let got = program.run(&[]).expect("a run").f32(0).expect("floats");
    let identity = Data::values([10, 10], &unit).array();
    assert_close("W W^T", &got, &identity, 1e-5);
    let count: usize = params.trainable().iter().map(|p| p.shape().numel()).sum();
    assert_eq!(count, 10 * 10 + 10 * 10 + 10);
}

#[test]
fn different_layers_start_differently() {
    let params = Params::new(1);
    let names = ["0", "1"].map(|name| {
        Inv1x1::plu(&params.scope(name), 6).expect("a layer");
        params.find(&format!("{name}.w_l")).expect("there")
    });
    let values = names.map(|p| p.get().expect("values"));
    assert_ne!(values[0], values[1]);
}

#[test]
fn a_singular_matrix_is_an_error_or_infinite_and_never_nan() {
    let params = Params::new(2);
    let layer = Inv1x1::full(&params, 3).expect("a layer");
    let weight = params.find("weight").expect("there");
    let rows = [1.0, 2.0, 3.0, 2.0, 4.0, 6.0, 0.0, 1.0, 1.0];
    weight.set(&rows).expect("set");
    match layer.log_abs_det() {
        Err(Error::NonFinite { place, .. }) => assert!(place.contains("weight"), "{place}"),
        other => panic!("{other:?}"),
    }
    let graph = Graph::new();
    let x = graph.constant([1, 3], &[0.5, 0.25, -0.5]);
    let z = layer.forward(&x, &Context::train());
    let loss = z.log_det.sum(&[], false).add(&z.out.sum(&[], false));
    let grads = flowgrad::tape::backward(&loss, &[&weight.on(&graph)]).expect("a gradient");
    let wanted: Vec<&Tensor> = vec![&z.log_det, &grads[0]];
    let mut program = graph
        .compile_pure(gpu(), &params, &wanted)
        .expect("a program");
    let got = program.run(&[]).expect("a run");
    assert_eq!(got.f32(0).expect("floats"), [f32::NEG_INFINITY]);
    assert!(got.f32(1).expect("floats").iter().all(|g| g.is_finite()));
    assert!(got.check_finite(&["log_det"]).is_err());
}

#[test]
fn wrong_inputs_are_errors() {
    let params = Params::new(3);
    let layer = Inv1x1::plu(&params, 4).expect("a layer");
    let graph = Graph::new();
    for shape in [vec![2, 3, 4, 4], vec![4], vec![2, 4, 3]] {
        let x = graph.input(&format!("{shape:?}"), shape);
        for out in [
            layer.forward(&x, &Context::train()).out,
            layer.inverse(&x, &Context::train()).log_det,
            layer.pixel_log_det(&x, &Context::train()),
        ] {
            let error = out.check().expect_err("an error").to_string();
            assert!(
                error.contains("inv1x1") && error.contains("[N, 4"),
                "{error}"
            );
        }
    }
    assert!(Inv1x1::plu(&params.scope("none"), 0).is_err());
    assert!(Inv1x1::full(&params.scope("none"), 4096).is_err());
    let t = graph.input("t", [3]);
    let m = graph.input("m", [4, 4]);
    let plu = Plu {
        p: &m,
        l: &m,
        u: &m,
        sign: &t,
        log_s: &t,
    };
    assert!(plu.assemble().check().is_err());
}
