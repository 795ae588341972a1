//! Mixed-up graphs, programs and tensors: typed errors, and nothing healthy suffers.

use flowgrad::{Error, Graph, Init, Params, Value, tape};

use crate::support::gpu;

#[test]
fn an_assignment_across_graphs_is_an_error() {
    let params = Params::new(0);
    let w = params.add("w", [2], Init::Zeros).unwrap();
    // Both ways, and with a node number that the graph does not have.
    let (full, empty) = (Graph::new(), Graph::new());
    let target = w.on(&full).add_scalar(1.0);
    let target = [w.on(&full), target];
    for target in &target {
        let graph = Graph::new();
        graph.assign(target, target);
        let error = graph.compile(gpu(), &params, &[]).unwrap_err();
        assert!(matches!(error, Error::Graph(_)), "{error}");
    }
    empty.assign(&w.on(&empty), &target[1]);
    let error = empty.compile(gpu(), &params, &[]).unwrap_err();
    assert!(matches!(error, Error::Graph(_)), "{error}");
}

#[test]
fn a_ticket_is_good_for_its_program_only() {
    let graph = Graph::new();
    let x = graph.input("x", [2]);
    let compile = |by: f32| {
        let params = Params::new(0);
        graph.compile(gpu(), &params, &[&x.mul_scalar(by)]).unwrap()
    };
    let (mut a, mut b) = (compile(2.0), compile(3.0));
    let feed = [("x", Value::F32(&[1.0, 2.0]))];
    let (mine, theirs) = (a.submit(&feed).unwrap(), b.submit(&feed).unwrap());
    let error = b.wait(mine).unwrap_err();
    assert!(matches!(error, Error::Argument { .. }), "{error}");
    assert!(error.to_string().contains("another program"), "{error}");
    assert_eq!(b.wait(theirs).unwrap().f32(0).unwrap(), [3.0, 6.0]);
    assert_eq!(a.run(&[]).unwrap().f32(0).unwrap(), [2.0, 4.0]);
}

#[test]
fn gradients_start_from_floats() {
    let graph = Graph::new();
    let x = graph.input("x", [3]);
    let whole = graph.input_u32("i", [3]);
    for seed in [(x.square(), whole.clone()), (whole.clone(), whole.clone())] {
        let error = tape::backward_from(&[seed], &[&x]).unwrap_err();
        assert!(matches!(error, Error::DType { .. }), "{error}");
        assert!(error.to_string().contains("misuse.rs"), "{error}");
    }
}

#[test]
fn poison_that_no_output_depends_on_does_no_harm() {
    let params = Params::new(0);
    let graph = Graph::new();
    let w = params.add("w", [2], Init::Zeros).unwrap().on(&graph);
    let x = graph.input("x", [2]);
    let bad = x.add(&graph.input("y", [3])).relu();
    let good = x.add_scalar(1.0);
    graph.assign(&w, &good);
    let mut program = graph.compile(gpu(), &params, &[&good]).unwrap();
    let out = program.run(&[("x", Value::F32(&[1.0, 2.0]))]).unwrap();
    assert_eq!(out.f32(0).unwrap(), [2.0, 3.0]);
    assert_eq!(params.get("w").unwrap(), [2.0, 3.0]);
    // It is still the graph's first error, and that of what depends on it.
    let error = graph.check().unwrap_err();
    assert!(matches!(error, Error::Shape { .. }), "{error}");
    let of_output = graph.compile(gpu(), &params, &[&good, &bad]).unwrap_err();
    assert_eq!(of_output, error);
    // An assignment of it fails every program that carries assignments out, no other.
    let v = params.add("v", [2], Init::Zeros).unwrap().on(&graph);
    graph.assign(&v, &bad);
    assert_eq!(graph.compile(gpu(), &params, &[&good]).unwrap_err(), error);
    graph.compile_pure(gpu(), &params, &[&good]).unwrap();
}
