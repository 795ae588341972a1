//! The tape itself: several uses, stopped gradients, second derivatives, errors.

use std::collections::HashMap;

use flowgrad::graph::{Array, Feed, evaluate};
use flowgrad::{Error, Graph, Tensor, tape};

use crate::support::{Data, Tol, check_op};

fn value(wanted: &Tensor, inputs: &[(&str, &[f64])]) -> Vec<f64> {
    let feed = Feed {
        inputs: inputs
            .iter()
            .map(|(n, v)| {
                let shape = if v.len() == 1 { vec![] } else { vec![v.len()] };
                (n.to_string(), Array::new(shape, v.to_vec()).unwrap())
            })
            .collect::<HashMap<_, _>>(),
        ..Feed::default()
    };
    evaluate(&[wanted], &feed).unwrap().remove(0).data
}

#[test]
fn several_uses_add_up() {
    // x^3 by three uses of the same value, and a fourth through another path.
    check_op(
        "several uses",
        &[Data::f32([7], 1)],
        |_, x| {
            let square = x[0].mul(&x[0]);
            vec![square.mul(&x[0]).add(&square.exp()), square]
        },
        Tol::default(),
    );
}

#[test]
fn the_same_graph_gives_the_same_nodes() {
    let build = || {
        let g = Graph::new();
        let x = g.input("x", [5]);
        let loss = x.mul(&x).add(&x.exp()).mul(&x).sum(&[], false);
        tape::backward(&loss, &[&x]).unwrap();
        g.len()
    };
    assert_eq!(build(), build());
}

#[test]
fn independent_tensors_get_zeros() {
    let g = Graph::new();
    let (x, y) = (g.input("x", [2]), g.input("y", [3]));
    let loss = x.square().sum(&[], false);
    let grads = tape::backward(&loss, &[&y, &x]).unwrap();
    assert_eq!(value(&grads[0], &[]), [0.0; 3]);
    assert_eq!(value(&grads[1], &[("x", &[2.0, -3.0])]), [4.0, -6.0]);
}

#[test]
fn stopped_gradients() {
    let g = Graph::new();
    let x = g.input("x", [2]);
    // d(sg(x) * x) = sg(x) only.
    let loss = x.stop_gradient().mul(&x).sum(&[], false);
    let grad = tape::backward(&loss, &[&x]).unwrap().remove(0);
    assert_eq!(value(&grad, &[("x", &[3.0, -5.0])]), [3.0, -5.0]);
    // A loss that only hangs on stopped values is constant.
    let loss = x.stop_gradient().square().sum(&[], false);
    let grad = tape::backward(&loss, &[&x]).unwrap().remove(0);
    assert_eq!(value(&grad, &[("x", &[3.0, -5.0])]), [0.0, 0.0]);
}

#[test]
fn gradient_of_gradient() {
    let g = Graph::new();
    let x = g.input("x", [3]);
    // f = x^4: f'' = 12 x^2, f''' = 24 x, by differentiating three times.
    let mut y = x.square().square();
    let at: &[f64] = &[1.0, -2.0, 0.5];
    for expected in [[4.0, -32.0, 0.5], [12.0, 48.0, 3.0], [24.0, -48.0, 12.0]] {
        y = tape::backward(&y.sum(&[], false), &[&x]).unwrap().remove(0);
        let got = value(&y, &[("x", at)]);
        for (a, b) in got.iter().zip(expected) {
            assert!((a - b).abs() < 1e-12, "{got:?}, expected {expected:?}");
        }
    }
}

#[test]
fn second_derivatives_by_finite_differences() {
    // The gradient penalty of critics: the gradient itself is part of the loss.
    check_op(
        "gradient penalty",
        &[
            Data::f32([4, 3], 2),
            Data::f32([3, 5], 3),
            Data::f32([5], 4),
        ],
        |_, x| {
            let score = x[0].matmul(&x[1]).tanh().mul(&x[2]).sum(&[], false);
            let grad = tape::backward(&score, &[&x[0]]).unwrap().remove(0);
            vec![score, grad.square().sum(&[1], false)]
        },
        Tol::rel(1e-5),
    );
}

#[test]
fn what_has_no_gradient_is_named() {
    let g = Graph::new();
    let x = g.input("x", [3]);
    let error = tape::backward(&x.floor().sum(&[], false), &[&x]).unwrap_err();
    let Error::NotDifferentiable { op, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(op, "floor");
    assert!(error.to_string().contains("stop_gradient"), "{error}");
    // Not on the way to what is wanted: no error.
    let y = g.input("y", [3]);
    let loss = x.floor().mul(&y).sum(&[], false);
    assert!(tape::backward(&loss, &[&y]).is_ok());
}

#[test]
fn poisoned_tensors_tell_where() {
    let g = Graph::new();
    let (a, b) = (g.input("a", [3]), g.input("b", [4]));
    let line = line!() + 1;
    let poisoned = a.add(&b);
    let later = poisoned.exp().sum(&[], false);
    for error in [
        later.check().unwrap_err(),
        g.check().unwrap_err(),
        tape::backward(&later, &[&a]).unwrap_err(),
        evaluate(&[&later], &Feed::default()).unwrap_err(),
    ] {
        let text = error.to_string();
        assert!(text.contains(&format!("tape.rs:{line}")), "{text}");
        assert!(text.contains("[3]") && text.contains("[4]"), "{text}");
    }
    // Other tensors of the graph are still good.
    assert!(a.exp().check().is_ok());
}

#[test]
fn misuse_is_refused() {
    let (g, h) = (Graph::new(), Graph::new());
    let (x, foreign) = (g.input("x", [3]), h.input("x", [3]));
    assert!(x.add(&foreign).check().is_err());
    assert!(tape::backward(&x.exp(), &[&x]).is_err(), "not a scalar");
    let loss = x.exp().sum(&[], false);
    assert!(tape::backward(&loss, &[&foreign]).is_err());
    assert!(tape::backward_from(&[(x.exp(), loss)], &[&x]).is_err());
    assert!(tape::backward_from(&[], &[&x]).is_err());
}
