//! Optimisers against PyTorch's trajectories, their masks, clipping, averages and
//! accumulation, all through the float64 interpreter, all vectors on the GPU too.

use std::collections::HashMap;

use flowgrad::graph::{Array, Feed, evaluate};
use flowgrad::optim::{Adam, AdamW, Adamax, Ema, Optimizer, RmsProp, Rule, Schedule, Sgd, Step};
use flowgrad::{Error, Graph, Init, Param, Params, Tensor, Value};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value as Json;

use crate::support::gpu;
use crate::vectors::ledger::{self, Ledger};

/// A program on the host: arenas that the updates of a graph write to.
pub struct Host {
    params: Params,
    arenas: HashMap<usize, Vec<f64>>,
}

impl Host {
    pub fn new(params: &Params) -> Self {
        Host {
            params: params.clone(),
            arenas: HashMap::new(),
        }
    }

    fn arena(&mut self, arena: usize) -> &mut Vec<f64> {
        let params = &self.params;
        self.arenas.entry(arena).or_insert_with(|| {
            let values = params.arena_values(arena).expect("an arena");
            values.into_iter().map(f64::from).collect()
        })
    }

    pub fn param(&mut self, param: &Param) -> Vec<f64> {
        let place = self.params.layout().params[param.index()];
        self.arena(place.arena)[place.offset..place.offset + place.len].to_vec()
    }

    fn evaluate(&mut self, wanted: &[&Tensor], inputs: &[(String, Array)]) -> Vec<Array> {
        let layout = self.params.layout();
        for arena in 0..layout.arenas.len() {
            self.arena(arena);
        }
        let arenas = &self.arenas;
        let arena = |_: u64, i: usize| {
            let values = arenas[&i].clone();
            Array::new([values.len()], values).ok()
        };
        let all = self.params.all();
        let param = |_: u64, i: usize| {
            let p = layout.params[i];
            let values = arenas[&p.arena][p.offset..p.offset + p.len].to_vec();
            Array::new(all[i].shape(), values).ok()
        };
        let feed = Feed {
            inputs: inputs.iter().cloned().collect(),
            arena: Some(&arena),
            param: Some(&param),
            ..Feed::default()
        };
        evaluate(wanted, &feed).expect("values")
    }

    /// Runs a step: all new values from the old ones, then all assignments.
    pub fn run(&mut self, updates: &[(usize, Tensor)], inputs: &[(String, Array)]) {
        let wanted: Vec<&Tensor> = updates.iter().map(|(_, t)| t).collect();
        let values = self.evaluate(&wanted, inputs);
        for ((arena, _), value) in updates.iter().zip(values) {
            *self.arena(*arena) = value.data;
        }
    }
}

pub fn scalars(optimizer: &Optimizer, step: u64) -> Vec<(String, Array)> {
    let inputs = optimizer.inputs(step).into_iter();
    inputs
        .map(|(name, v)| (name, Array::full([], v as f64)))
        .collect()
}

/// An optimiser's scalars for a program.
pub fn values(inputs: &[(String, f32)]) -> Vec<(&str, Value<'_>)> {
    let slice = |v| Value::F32(std::slice::from_ref(v));
    inputs.iter().map(|(n, v)| (n.as_str(), slice(v))).collect()
}

struct Vectors {
    bytes: Vec<u8>,
    ledger: Ledger,
}

impl Vectors {
    fn open() -> Self {
        let bytes = ledger::open("optim");
        let ledger = Ledger::new("optim", &bytes);
        Vectors { bytes, ledger }
    }

    fn read(&self, case: &str, tensor: &str) -> Array {
        let file = SafeTensors::deserialize(&self.bytes).expect("a file");
        let key = format!("case/{case}/{tensor}");
        self.ledger.read(&key);
        let view = file.tensor(&key).expect("a tensor");
        let data = view.data();
        let values = match view.dtype() {
            Dtype::F32 => data
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]) as f64)
                .collect(),
            Dtype::F64 => data
                .chunks_exact(8)
                .map(|b| f64::from_le_bytes(b.try_into().expect("8 bytes")))
                .collect(),
            other => panic!("{other:?}"),
        };
        Array::new(view.shape(), values).expect("a whole tensor")
    }
}

fn f32s(values: &[f64]) -> Vec<f32> {
    values.iter().map(|v| *v as f32).collect()
}

/// Hyper-parameters enter the graph rounded to float32, so even the interpreter
/// agrees to float32 only: `r = 1e-6` of the table for `optim`.
pub fn assert_close(what: &str, got: &[f64], expected: &[f64], floor: f64) {
    let scale = expected.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        let allowed = (1e-6 * scale).max(floor) + 1e-12;
        assert!(
            (g - e).abs() <= allowed,
            "{what}[{i}]: {g:e}, expected {e:e}"
        );
    }
}

fn trajectory(name: &str, info: &Json, vectors: &Vectors, rule: impl Rule + 'static) {
    let (p0, g, expected) = (
        vectors.read(name, "p0"),
        vectors.read(name, "g"),
        vectors.read(name, "p"),
    );
    let n = p0.numel();
    let params = Params::new(0);
    let p = params
        .add("p", [n], Init::Values(f32s(&p0.data)))
        .expect("a parameter");
    let optimizer = Optimizer::new(&params, rule).expect("an optimiser");
    let graph = Graph::new();
    let grad = graph.input("g", [n]);
    let step = optimizer
        .step(&graph, &[(p.clone(), grad)])
        .expect("a step");
    let mut host = Host::new(&params);
    for t in 0..info["params"]["steps"].as_u64().expect("steps") as usize {
        let mut inputs = scalars(&optimizer, t as u64);
        let row = g.data[t * n..(t + 1) * n].to_vec();
        inputs.push(("g".into(), Array::new([n], row).expect("a row")));
        host.run(&step.updates, &inputs);
        let what = format!("{name}, step {t}");
        let floor = 16.0 * info["f32_err"]["p"].as_f64().unwrap_or(0.0);
        assert_close(
            &what,
            &host.param(&p),
            &expected.data[t * n..(t + 1) * n],
            floor,
        );
    }
    let mut program = graph.compile(gpu(), &params, &[]).expect("a program");
    for t in 0..info["params"]["steps"].as_u64().expect("steps") as usize {
        let inputs = optimizer.inputs(t as u64);
        let row = f32s(&g.data[t * n..(t + 1) * n]);
        let mut feed = values(&inputs);
        feed.push(("g", Value::F32(&row)));
        program.step(&feed).expect("a step");
        let got: Vec<f64> = p
            .get()
            .expect("values")
            .into_iter()
            .map(f64::from)
            .collect();
        let floor = 16.0 * info["f32_err"]["p"].as_f64().unwrap_or(0.0);
        let what = format!("{name}, step {t} on the GPU");
        assert_close(&what, &got, &expected.data[t * n..(t + 1) * n], floor);
    }
}

fn average(name: &str, info: &Json, vectors: &Vectors) {
    let (e0, p, expected) = (
        vectors.read(name, "e0"),
        vectors.read(name, "p"),
        vectors.read(name, "e"),
    );
    let n = e0.numel();
    // With learning rate 1 and gradient -(new - old) the step lands on the given values.
    let params = Params::new(0);
    let param = params
        .add("p", [n], Init::Values(f32s(&e0.data)))
        .expect("a parameter");
    let rule = Sgd {
        lr: 1.0,
        ..Sgd::default()
    };
    let optimizer = Optimizer::new(&params, rule)
        .expect("an optimiser")
        .ema(Ema {
            decay: info["params"]["decay"].as_f64().expect("a decay"),
            warmup: info["params"]["warmup"].as_bool().expect("a flag"),
        });
    let graph = Graph::new();
    let target = graph.input("target", [n]);
    let grad = param.on(&graph).sub(&target);
    let step = optimizer.step(&graph, &[(param, grad)]).expect("a step");
    let (ema, _) = step.updates[step.updates.len() - 1];
    let mut host = Host::new(&params);
    for t in 0..info["params"]["steps"].as_u64().expect("steps") as usize {
        let mut inputs = scalars(&optimizer, t as u64);
        let row = p.data[t * n..(t + 1) * n].to_vec();
        inputs.push(("target".into(), Array::new([n], row).expect("a row")));
        host.run(&step.updates, &inputs);
        let got = host.arena(ema)[..n].to_vec();
        assert_close(name, &got, &expected.data[t * n..(t + 1) * n], 0.0);
    }
    let mut program = graph.compile(gpu(), &params, &[]).expect("a program");
    for t in 0..info["params"]["steps"].as_u64().expect("steps") as usize {
        let inputs = optimizer.inputs(t as u64);
        let row = f32s(&p.data[t * n..(t + 1) * n]);
        let mut feed = values(&inputs);
        feed.push(("target", Value::F32(&row)));
        program.step(&feed).expect("a step");
        let got = params.arena_values(ema).expect("averages");
        let got: Vec<f64> = got[..n].iter().copied().map(f64::from).collect();
        let what = format!("{name}, step {t} on the GPU");
        assert_close(&what, &got, &expected.data[t * n..(t + 1) * n], 0.0);
    }
}

fn clipping(name: &str, info: &Json, vectors: &Vectors) {
    let max = info["params"]["max_norm"].as_f64().expect("a norm");
    let params = Params::new(0);
    let graph = Graph::new();
    let names: Vec<String> = (0..4).map(|i| format!("g{i}")).collect();
    let mut grads = Vec::new();
    let mut inputs = Vec::new();
    for name_of in &names {
        let g = vectors.read(name, name_of);
        let param = params.add(name_of, &g.shape, Init::Zeros).expect("new");
        grads.push((param, graph.input(name_of, &g.shape)));
        inputs.push((name_of.clone(), g));
    }
    let rule = Sgd {
        lr: 1.0,
        ..Sgd::default()
    };
    let optimizer = Optimizer::new(&params, rule)
        .expect("an optimiser")
        .clip_grad_norm(max as f32);
    let step = optimizer.step(&graph, &grads).expect("a step");
    inputs.extend(scalars(&optimizer, 0));
    let mut host = Host::new(&params);
    let norm = step.norm.as_ref().expect("a norm");
    let got = host.evaluate(&[norm], &inputs);
    assert_close(name, &got[0].data, &vectors.read(name, "norm").data, 0.0);
    host.run(&step.updates, &inputs);
    let mut program = graph.compile(gpu(), &params, &[norm]).expect("a program");
    let scalar_inputs = optimizer.inputs(0);
    let data: Vec<Vec<f32>> = names
        .iter()
        .map(|n| f32s(&vectors.read(name, n).data))
        .collect();
    let mut feed = values(&scalar_inputs);
    feed.extend(
        names
            .iter()
            .zip(&data)
            .map(|(n, d)| (n.as_str(), Value::F32(d))),
    );
    let got = program
        .run(&feed)
        .and_then(|o| o.scalar(0))
        .expect("a norm");
    let what = format!("{name} on the GPU");
    let expected = vectors.read(name, "norm").data;
    assert_close(&what, &[f64::from(got)], &expected, 0.0);
    let coefficient = vectors.read(name, "coef").data[0];
    for (i, (param, _)) in grads.iter().enumerate() {
        let expected = vectors.read(name, &format!("c{i}")).data;
        let got: Vec<f64> = host.param(param).iter().map(|v| -v).collect();
        assert_close(name, &got, &expected, 0.0);
        let given = vectors.read(name, &names[i]).data.into_iter();
        let scaled: Vec<f64> = given.map(|g| g * coefficient).collect();
        assert_close(name, &got, &scaled, 0.0);
        let got = param.get().expect("values").into_iter();
        let got: Vec<f64> = got.map(|v| -f64::from(v)).collect();
        assert_close(&what, &got, &expected, 0.0);
    }
}

#[test]
fn trajectories_are_those_of_pytorch() {
    let vectors = Vectors::open();
    for (name, info) in &vectors.ledger.cases {
        let p = &info["params"];
        let float = |key: &str| p[key].as_f64().unwrap_or_else(|| panic!("{name}: {key}"));
        let flag = |key: &str| p[key].as_bool().unwrap_or_else(|| panic!("{name}: {key}"));
        let betas = || {
            let beta = |i: usize| p["betas"][i].as_f64().expect("a beta");
            (beta(0), beta(1))
        };
        match info["op"].as_str().expect("an op") {
            "sgd" => {
                assert_eq!(float("dampening"), 0.0);
                let rule = Sgd {
                    lr: float("lr"),
                    momentum: float("momentum"),
                    nesterov: flag("nesterov"),
                    weight_decay: float("weight_decay"),
                };
                trajectory(name, info, &vectors, rule);
            }
            "adam" => {
                let rule = Adam {
                    lr: float("lr"),
                    betas: betas(),
                    eps: float("eps"),
                    weight_decay: float("weight_decay"),
                };
                trajectory(name, info, &vectors, rule);
            }
            "adamw" => {
                let rule = AdamW {
                    lr: float("lr"),
                    betas: betas(),
                    eps: float("eps"),
                    weight_decay: float("weight_decay"),
                };
                trajectory(name, info, &vectors, rule);
            }
            "adamax" => {
                let rule = Adamax {
                    lr: float("lr"),
                    betas: betas(),
                    eps: float("eps"),
                    weight_decay: float("weight_decay"),
                };
                trajectory(name, info, &vectors, rule);
            }
            "rmsprop" => {
                let rule = RmsProp {
                    lr: float("lr"),
                    alpha: float("alpha"),
                    eps: float("eps"),
                    weight_decay: float("weight_decay"),
                    momentum: float("momentum"),
                    centered: flag("centered"),
                };
                trajectory(name, info, &vectors, rule);
            }
            "param_ema" => average(name, info, &vectors),
            "clip_grad_norm" => clipping(name, info, &vectors),
            other => panic!("{name}: unknown op {other}"),
        }
    }
    vectors.ledger.close(|_| false);
}

/// `sum((used - target)^2)`, with a second parameter that is not used.
struct Half {
    params: Params,
    used: Param,
    idle: Param,
}

impl Half {
    fn new() -> Self {
        let params = Params::new(3);
        let used = params
            .add("used", [5], Init::Uniform { lo: -1.0, hi: 1.0 })
            .expect("new");
        let idle = params.add("idle", [70], Init::Ones).expect("new");
        Half { params, used, idle }
    }

    fn loss(&self, graph: &Graph) -> Tensor {
        let gap = self.used.on(graph).sub(&graph.input("target", [5]));
        gap.square().sum(&[], false)
    }

    fn target(value: f64) -> Vec<(String, Array)> {
        vec![("target".into(), Array::full([5], value))]
    }
}

#[test]
fn a_parameter_without_gradient_stays() {
    let half = Half::new();
    let optimizer = Optimizer::new(&half.params, AdamW::default()).expect("an optimiser");
    let graph = Graph::new();
    let step = optimizer.minimize(&half.loss(&graph)).expect("a step");
    let mut host = Host::new(&half.params);
    let before = host.param(&half.used);
    for t in 0..3 {
        let mut inputs = scalars(&optimizer, t);
        inputs.extend(Half::target(1.0));
        host.run(&step.updates, &inputs);
    }
    // Weight decay alone would have changed it.
    assert_eq!(host.param(&half.idle), vec![1.0; 70]);
    assert_ne!(host.param(&half.used), before);
}

#[test]
fn a_scope_is_trained_alone() {
    let params = Params::new(0);
    let a = params.scope("a").add("w", [3], Init::Ones).expect("new");
    let b = params.scope("b").add("w", [3], Init::Ones).expect("new");
    let optimizer = Optimizer::new(&params.scope("a"), Sgd::default()).expect("an optimiser");
    let graph = Graph::new();
    let loss = a.on(&graph).mul(&b.on(&graph)).sum(&[], false);
    let step = optimizer.minimize(&loss).expect("a step");
    let mut host = Host::new(&params);
    host.run(&step.updates, &scalars(&optimizer, 0));
    assert_close("a", &host.param(&a), &[0.99; 3], 1e-7);
    assert_eq!(host.param(&b), vec![1.0; 3]);
}

#[test]
fn accumulated_gradients_step_like_their_mean() {
    let build = |half: &Half| {
        Optimizer::new(&half.params, Adam::default())
            .expect("an optimiser")
            .clip_grad_norm(0.5)
    };
    let half = Half::new();
    let optimizer = build(&half);
    let (first, second) = (Graph::new(), Graph::new());
    let sums = optimizer.accumulate(&half.loss(&first)).expect("sums");
    let apply = optimizer.apply(&second, &sums, 2).expect("a step");
    let mut host = Host::new(&half.params);
    for t in 0..2 {
        host.run(&sums.updates, &Half::target(1.0));
        host.run(&sums.updates, &Half::target(3.0));
        host.run(&apply.updates, &scalars(&optimizer, t));
    }
    // The gradient is linear in the target: the mean of both is that of target 2.
    let other = Half::new();
    let optimizer = build(&other);
    let graph = Graph::new();
    let step = optimizer.minimize(&other.loss(&graph)).expect("a step");
    let mut expected = Host::new(&other.params);
    for t in 0..2 {
        let mut inputs = scalars(&optimizer, t);
        inputs.extend(Half::target(2.0));
        expected.run(&step.updates, &inputs);
    }
    let expected = expected.param(&other.used);
    assert_close("accumulated", &host.param(&half.used), &expected, 0.0);
}

#[test]
fn wrong_uses_are_errors() {
    let half = Half::new();
    let bad = Adam {
        lr: f64::NAN,
        ..Adam::default()
    };
    assert!(matches!(
        Optimizer::new(&half.params, bad),
        Err(Error::Argument { .. })
    ));
    let nesterov = Sgd {
        nesterov: true,
        ..Sgd::default()
    };
    assert!(Optimizer::new(&half.params, nesterov).is_err());
    let beta = Adam {
        betas: (0.9, 1.0),
        ..Adam::default()
    };
    assert!(Optimizer::new(&half.params, beta).is_err());
    let optimizer = Optimizer::new(&half.params, Sgd::default()).expect("an optimiser");
    let graph = Graph::new();
    let unrelated = graph.input("x", []);
    assert!(matches!(
        optimizer.minimize(&unrelated),
        Err(Error::Graph(_))
    ));
    let wrong = graph.input("g", [4]);
    let step: Result<Step, Error> = optimizer.step(&graph, &[(half.used.clone(), wrong)]);
    assert!(matches!(step, Err(Error::Shape { .. })));
    let foreign = Half::new();
    let grad = graph.input("h", [5]);
    let step = optimizer.step(&graph, &[(foreign.used.clone(), grad)]);
    assert!(matches!(step, Err(Error::MissingParameter { .. })));
    assert!(optimizer.swap_ema().is_err());
    let clip = optimizer.clip_grad_norm(0.0);
    assert!(clip.minimize(&half.loss(&Graph::new())).is_err());
}

#[test]
fn averages_change_places_with_parameters() {
    let half = Half::new();
    let optimizer = Optimizer::new(&half.params, Sgd::default())
        .expect("an optimiser")
        .ema(Ema {
            decay: 0.9,
            warmup: false,
        });
    let step = optimizer
        .minimize(&half.loss(&Graph::new()))
        .expect("a step");
    let (ema, _) = step.updates[step.updates.len() - 1];
    let start = half.used.get().expect("values");
    let average = half.params.arena_values(ema).expect("values");
    assert_eq!(
        &average[..5],
        &start[..],
        "averages start at the parameters"
    );
    half.params
        .set_arena_values(ema, &vec![7.0; average.len()])
        .expect("set");
    optimizer.swap_ema().expect("swapped");
    assert_eq!(half.used.get().expect("values"), vec![7.0; 5]);
    optimizer.swap_ema().expect("swapped");
    assert_eq!(half.used.get().expect("values"), start);
}

#[test]
fn schedules() {
    let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
    let cosine = Schedule::cosine(110, 0.1).warmup(10);
    close(cosine.factor(0), 0.1);
    close(cosine.factor(9), 1.0);
    close(cosine.factor(10), 1.0);
    close(cosine.factor(60), 0.55);
    close(cosine.factor(110), 0.1);
    close(cosine.factor(u64::MAX), 0.1);
    close(Schedule::exponential(0.5).factor(3), 0.125);
    close(Schedule::step(0.1, 10).factor(29), 0.01);
    close(Schedule::step(0.1, 0).factor(1), 0.1);
    close(Schedule::constant().factor(5), 1.0);
}
