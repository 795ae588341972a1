//! All traits of layers and flows in scope at once.

use flowgrad::flow::*;
use flowgrad::nn::*;
use flowgrad::ops::Activation;
use flowgrad::{Graph, Init, Params};

use crate::support::gpu;

#[test]
fn layers_and_flows_are_called_side_by_side() {
    let params = Params::new(0);
    let linear = Linear::new(&params, 2, 2).unwrap();
    let boxed: Box<dyn Layer> = Box::new(Activation::Tanh);
    let net = Sequential::new().with(linear).with(boxed);
    let chain = Chain::new("chain").with(Affine::new(2.0, 1.0).unwrap());
    let inside: Box<dyn Bijector> = Box::new(Chain::new("inside"));

    let graph = Graph::new();
    let x = graph.input("x", [3, 2]);
    let cx = Context::new(Mode::Eval);
    let hidden = net.forward(&x, Mode::Eval);
    let mapped = chain.forward(&hidden, &cx);
    let out = inside.forward(&mapped.out, &cx).out;
    assert_eq!(Network::apply(&net, &x, &cx).shape(), out.shape());
}

#[test]
fn a_program_takes_several_sets() {
    let (a, b) = (Params::new(0), Params::new(1));
    let x = a.add("w", [2], Init::Ones).unwrap();
    let y = b.add("w", [2], Init::Constant(3.0)).unwrap();
    let graph = Graph::new();
    let sum = x.on(&graph).add(&y.on(&graph));
    for mut program in [
        graph.compile_pure(gpu(), &[&a, &b], &[&sum]).unwrap(),
        graph.compile(gpu(), &[&a, &b][..], &[&sum]).unwrap(),
    ] {
        assert_eq!(program.run(&[]).unwrap().f32(0).unwrap(), [4.0, 4.0]);
    }
}
