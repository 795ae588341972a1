//! Groups of parameters, several optimisers over one set, and rules that know layers,
//! against plain loops in float64.

use flowgrad::optim::{Adam, Ema, Lamb, Lars, Optimizer, Sgd};
use flowgrad::params::ArenaKind;
use flowgrad::{Graph, Init, Param, Params, Tensor, Value};

use crate::optim::values;
use crate::support::{Numbers, gpu};

const SHAPES: [(&str, &[usize]); 5] = [
    ("fc.weight", &[7, 10]),
    ("fc.bias", &[7]),
    ("one", &[1]),
    ("still", &[65]),
    ("zero.weight", &[3, 43]),
];

/// Parameters of awkward sizes: the last is all zeros, as new biases are.
fn set() -> (Params, Vec<Param>, Vec<Vec<f64>>) {
    let params = Params::new(3);
    let init = |name: &str| match name.starts_with("zero") {
        true => Init::Zeros,
        false => Init::Uniform { lo: -0.5, hi: 1.0 },
    };
    let add = |(name, shape): &(&str, &[usize])| params.add(name, *shape, init(name));
    let all: Vec<Param> = SHAPES.iter().map(|s| add(s).expect("new")).collect();
    let start = all.iter().map(|p| doubles(&p.get().expect("values")));
    let start = start.collect();
    (params, all, start)
}

fn doubles(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

fn gradients(step: u64) -> Vec<Vec<f32>> {
    let mut numbers = Numbers::new(40 + step);
    let sizes = SHAPES.iter().map(|(_, s)| s.iter().product::<usize>());
    let mut all: Vec<Vec<f32>> = sizes
        .map(|n| (0..n).map(|_| numbers.uniform(-1.0, 1.0)).collect())
        .collect();
    // A layer may get no gradient at all.
    all[3].fill(0.0);
    all
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// One step of one layer in float64: parameter, moments, gradient, `t` from 1.
type Formula<'a> = &'a dyn Fn(&str, &mut [f64], &mut [Vec<f64>; 2], &[f64], f64);

/// What steps on the GPU give against what `formula` gives.
fn check(
    params: &Params,
    all: &[Param],
    optimizers: &[&Optimizer],
    start: Vec<Vec<f64>>,
    formula: Formula<'_>,
) {
    let graph = Graph::new();
    for optimizer in optimizers {
        let grads = all.iter().map(|p| graph.input(p.name(), p.shape()));
        let grads: Vec<(Param, Tensor)> = all.iter().cloned().zip(grads).collect();
        let mine = |p: &Param| optimizer.trains(p);
        let grads: Vec<(Param, Tensor)> = grads.into_iter().filter(|(p, _)| mine(p)).collect();
        optimizer.step(&graph, &grads).expect("a step");
    }
    let mut program = graph.compile(gpu(), params, &[]).expect("a program");
    let mut exact = start;
    let mut moments: Vec<[Vec<f64>; 2]> = exact
        .iter()
        .map(|p| [vec![0.0; p.len()], vec![0.0; p.len()]])
        .collect();
    for step in 0..4 {
        let grads = gradients(step);
        let inputs: Vec<(String, f32)> = optimizers.iter().flat_map(|o| o.inputs(step)).collect();
        let mut feed = values(&inputs);
        let trained = all
            .iter()
            .zip(&grads)
            .filter(|(p, _)| optimizers.iter().any(|o| o.trains(p)));
        feed.extend(trained.map(|(p, g)| (p.name(), Value::F32(g))));
        program.step(&feed).expect("a step");
        for (i, param) in all.iter().enumerate() {
            let grad = doubles(&grads[i]);
            formula(
                param.name(),
                &mut exact[i],
                &mut moments[i],
                &grad,
                step as f64 + 1.0,
            );
            let got = doubles(&param.get().expect("values"));
            for (at, (got, exact)) in got.iter().zip(&exact[i]).enumerate() {
                let what = format!("{}[{at}], step {step}: {got}, exact {exact}", param.name());
                assert!((got - exact).abs() < 4e-6 * (1.0 + exact.abs()), "{what}");
            }
        }
    }
}

fn sgd(lr: f64, weight_decay: f64) -> Sgd {
    Sgd {
        lr,
        weight_decay,
        ..Sgd::default()
    }
}

fn lars_step(p: &mut [f64], m: &mut [Vec<f64>; 2], g: &[f64], rule: &Lars) {
    let divisor = norm(g) + rule.weight_decay * norm(p);
    let trust = match norm(p) > 0.0 && divisor > 0.0 {
        true => rule.trust * norm(p) / divisor,
        false => 1.0,
    };
    for i in 0..p.len() {
        let step = rule.lr * trust * (g[i] + rule.weight_decay * p[i]);
        m[0][i] = rule.momentum * m[0][i] + step;
        p[i] -= m[0][i];
    }
}

#[test]
fn lars_takes_its_ratio_from_each_layer() {
    for (weight_decay, momentum) in [(0.0, 0.0), (0.3, 0.9)] {
        let rule = Lars {
            lr: 0.7,
            momentum,
            weight_decay,
            trust: 0.25,
        };
        let (params, all, start) = set();
        let optimizer = Optimizer::new(&params, rule).expect("an optimiser");
        check(&params, &all, &[&optimizer], start, &|_, p, m, g, _| {
            lars_step(p, m, g, &rule)
        });
    }
}

#[test]
fn lamb_takes_its_ratio_from_each_layer() {
    let rule = Lamb {
        lr: 0.05,
        weight_decay: 0.1,
        ..Lamb::default()
    };
    let (params, all, start) = set();
    let optimizer = Optimizer::new(&params, rule).expect("an optimiser");
    check(&params, &all, &[&optimizer], start, &|_, p, m, g, t| {
        let (b1, b2) = rule.betas;
        let mut direction = vec![0.0; p.len()];
        for i in 0..p.len() {
            m[0][i] = b1 * m[0][i] + (1.0 - b1) * g[i];
            m[1][i] = b2 * m[1][i] + (1.0 - b2) * g[i] * g[i];
            let (mean, square) = (m[0][i] / (1.0 - b1.powf(t)), m[1][i] / (1.0 - b2.powf(t)));
            direction[i] = mean / (square.sqrt() + rule.eps) + rule.weight_decay * p[i];
        }
        let (length, step) = (norm(p), norm(&direction));
        let trust = if length > 0.0 && step > 0.0 {
            length / step
        } else {
            1.0
        };
        for i in 0..p.len() {
            p[i] -= rule.lr * trust * direction[i];
        }
    });
}

/// Weights with LARS, biases with plain steps, one layer frozen: with arenas of their own,
/// and, when the layout was settled before, through masks.
#[test]
fn groups_have_rules_of_their_own() {
    for settled in [false, true] {
        let (params, all, start) = set();
        if settled {
            params.layout();
        }
        let rule = Lars {
            lr: 0.5,
            weight_decay: 0.1,
            trust: 0.5,
            ..Lars::default()
        };
        let optimizer = Optimizer::new(&params, rule)
            .and_then(|o| {
                o.group(
                    "plain",
                    |p| p.shape().rank() < 2 && p.name() != "still",
                    sgd(0.1, 0.0),
                )
            })
            .expect("an optimiser")
            .freeze(|p| p.name() == "still");
        let names: Vec<String> = optimizer.inputs(0).into_iter().map(|i| i.0).collect();
        assert_eq!(names, ["optim.lr", "optim.plain.lr"]);
        check(
            &params,
            &all,
            &[&optimizer],
            start,
            &|name, p, m, g, _| match name {
                "still" => {}
                "fc.bias" | "one" => p.iter_mut().zip(g).for_each(|(p, g)| *p -= 0.1 * g),
                _ => lars_step(p, m, g, &rule),
            },
        );
        let layout = params.layout();
        let own = layout
            .arenas
            .iter()
            .filter(|a| a.kind == ArenaKind::Trainable);
        assert_eq!(own.count(), if settled { 1 } else { 3 });
    }
}

#[test]
fn two_optimisers_train_one_set_in_one_graph() {
    for settled in [false, true] {
        let (params, all, start) = set();
        if settled {
            params.layout();
        }
        let of = |scope: &str, name: &str, lr: f64| {
            Optimizer::new(&params.scope(scope), sgd(lr, 0.5)).map(|o| o.named(name))
        };
        let (a, b) = (
            of("fc", "a", 0.1).expect("a"),
            of("zero", "b", 0.2).expect("b"),
        );
        check(&params, &all, &[&a, &b], start, &|name, p, _, g, _| {
            let lr = match name.split('.').next() {
                Some("fc") => 0.1,
                Some("zero") => 0.2,
                _ => return,
            };
            p.iter_mut()
                .zip(g)
                .for_each(|(p, g)| *p -= lr * (g + 0.5 * *p));
        });
    }
}

/// The dispatches of a step do not grow with the number of parameters.
#[test]
fn a_group_costs_a_handful_of_dispatches() {
    let steps = |layers: usize| {
        let params = Params::new(1);
        for i in 0..layers {
            params
                .add(&format!("{i}.weight"), [4, 5], Init::Ones)
                .expect("new");
            params
                .add(&format!("{i}.bias"), [5], Init::Ones)
                .expect("new");
        }
        let optimizer = Optimizer::new(&params, Lamb::default())
            .and_then(|o| o.group("plain", |p| p.shape().rank() < 2, Adam::default()))
            .expect("an optimiser");
        let graph = Graph::new();
        // Gradients as one input each: what packs them is not the optimiser's.
        let flat = graph.input("g", [20]);
        let grads = params.trainable().into_iter().map(|p| {
            let part = flat.slice(0, 0, p.shape().numel());
            let grad = part.reshape(p.shape());
            (p, grad)
        });
        let grads: Vec<(Param, Tensor)> = grads.collect();
        optimizer.step(&graph, &grads).expect("a step");
        let program = graph.compile(gpu(), &params, &[]).expect("a program");
        let packs = |s: &&flowgrad::plan::Step| s.op.contains("slice") || s.op.contains("pack");
        let all = program.plan().steps.iter();
        all.filter(|s| !packs(s)).count()
    };
    let (few, many) = (steps(2), steps(20));
    assert!(few == many && many < 20, "{few} and {many} dispatches");
}

#[test]
fn what_is_trained_twice_or_not_at_all_is_told() {
    for settled in [false, true] {
        let (params, _, _) = set();
        if settled {
            params.layout();
        }
        let graph = Graph::new();
        let weight = params.find("fc.weight").expect("a weight").on(&graph);
        let loss = weight.square().sum(&[], false);
        let a = Optimizer::new(&params.scope("fc"), sgd(0.1, 0.0)).expect("a");
        let b = Optimizer::new(&params, sgd(0.1, 0.0))
            .expect("b")
            .named("b");
        a.minimize(&loss).expect("a step");
        let first = line!() - 1;
        b.minimize(&loss).expect("a step");
        let error = graph.compile(gpu(), &params, &[]).expect_err("an error");
        let error = error.to_string();
        assert!(
            error.contains("`fc.weight`") && !error.contains("fc.bias"),
            "{error}"
        );
        for line in [first, first + 2] {
            assert!(
                error.contains(&format!("optim_groups.rs:{line}")),
                "{error}"
            );
        }
    }
    let (params, _, _) = set();
    let graph = Graph::new();
    let loss = params.find("one").expect("new").on(&graph).sum(&[], false);
    let optimizer = Optimizer::new(&params, sgd(0.1, 0.0)).expect("an optimiser");
    let grouped = optimizer.group("fc", |p| p.name().starts_with("fc"), sgd(0.1, 0.0));
    let grouped = grouped.expect("a group");
    let error = grouped
        .minimize(&loss)
        .expect_err("no gradient")
        .to_string();
    assert!(error.contains("optim.fc"), "{error}");
    // Two of one name would share a learning rate.
    let graph = Graph::new();
    let sum = |name: &str| params.find(name).expect("new").on(&graph).sum(&[], false);
    let of = |scope: &str| Optimizer::new(&params.scope(scope), sgd(0.1, 0.0)).expect("new");
    of("fc").minimize(&sum("fc.bias")).expect("a step");
    let error = of("zero").minimize(&sum("zero.weight"));
    assert!(error.expect_err("one name").to_string().contains("`optim`"));
    assert!(grouped.group("fc", |_| true, sgd(0.1, 0.0)).is_err());
}

#[test]
fn averages_follow_every_group() {
    for settled in [false, true] {
        let (params, all, start) = set();
        if settled {
            params.layout();
        }
        let optimizer = Optimizer::new(&params, sgd(0.5, 0.0))
            .and_then(|o| o.group("fc", |p| p.name().starts_with("fc"), sgd(0.25, 0.0)))
            .expect("an optimiser")
            .ema(Ema {
                decay: 0.75,
                warmup: false,
            });
        let graph = Graph::new();
        let grads = all.iter().map(|p| (p.clone(), p.on(&graph)));
        optimizer
            .step(&graph, &grads.collect::<Vec<_>>())
            .expect("a step");
        let mut program = graph.compile(gpu(), &params, &[]).expect("a program");
        program.step(&values(&optimizer.inputs(0))).expect("a run");
        let trained: Vec<Vec<f32>> = all.iter().map(|p| p.get().expect("values")).collect();
        optimizer.swap_ema().expect("averages");
        for (i, p) in all.iter().enumerate() {
            let lr = if p.name().starts_with("fc") {
                0.25
            } else {
                0.5
            };
            let averaged = p.get().expect("values");
            for ((start, new), average) in start[i].iter().zip(&trained[i]).zip(averaged) {
                assert!((f64::from(*new) - start * (1.0 - lr)).abs() < 1e-6);
                let exact = 0.75 * start + 0.25 * start * (1.0 - lr);
                assert!((f64::from(average) - exact).abs() < 1e-6, "{}", p.name());
            }
        }
    }
}
