//! Optimisers, parameters and checkpoints on the GPU.

use flowgrad::graph::Array;
use flowgrad::optim::{Adam, AdamW, Ema, Optimizer, Schedule, Sgd};
use flowgrad::train::Checkpoint;
use flowgrad::{Error, Graph, Init, Param, Params, Program, Tensor, Value, ops};

use crate::optim::{Host, assert_close, scalars, values};
use crate::params::Folder;
use crate::support::{Numbers, gpu};

/// A small network with noise, a state, and a parameter that is not used.
struct Net {
    params: Params,
    weights: Vec<Param>,
    mean: Param,
}

const BATCH: usize = 9;

impl Net {
    fn new(seed: u64) -> Self {
        let params = Params::new(seed);
        let shapes: [(&str, &[usize]); 3] = [("w", &[13, 7]), ("b", &[13]), ("v", &[3, 13])];
        let mut weights = Vec::new();
        for (name, shape) in shapes {
            let init = Init::Uniform { lo: -0.5, hi: 0.5 };
            weights.push(params.add(name, shape, init).unwrap());
        }
        params.add("idle", [100], Init::Ones).unwrap();
        let mean = params.add_state("mean", [7], Init::Zeros).unwrap();
        Net {
            params,
            weights,
            mean,
        }
    }

    fn loss(&self, graph: &Graph, noise: f32) -> Tensor {
        let on: Vec<Tensor> = self.weights.iter().map(|p| p.on(graph)).collect();
        let x = graph.input("x", [BATCH, 7]);
        let mean = self.mean.on(graph);
        let average = x.sum(&[0], false).mul_scalar(0.1 / BATCH as f32);
        graph.assign(&mean, &mean.mul_scalar(0.9).add(&average));
        let x = match noise == 0.0 {
            true => x,
            false => x.add(&graph.normal([BATCH, 7]).mul_scalar(noise)),
        };
        let hidden = x.linear(&on[0], Some(&on[1]), ops::Activation::Tanh);
        let y = hidden.linear(&on[2], None, ops::Activation::None);
        let target = graph.input("t", [BATCH, 3]);
        y.sub(&target).square().mean(&[], false)
    }
}

fn batch(step: u64) -> (Vec<f32>, Vec<f32>) {
    let mut numbers = Numbers::new(step);
    let mut draw = |n: usize| (0..n).map(|_| numbers.uniform(-1.0, 1.0)).collect();
    (draw(BATCH * 7), draw(BATCH * 3))
}

fn train(program: &mut Program, optimizer: &Optimizer, step: u64) {
    let (x, t) = batch(step);
    let inputs = optimizer.inputs(step);
    let mut feed = values(&inputs);
    feed.push(("x", Value::F32(&x)));
    feed.push(("t", Value::F32(&t)));
    program.run(&feed).unwrap();
}

fn optimizer(params: &Params) -> Optimizer {
    let ema = Ema {
        decay: 0.9,
        warmup: true,
    };
    Optimizer::new(params, AdamW::default())
        .unwrap()
        .schedule(Schedule::cosine(20, 0.0).warmup(3))
        .clip_grad_norm(0.5)
        .ema(ema)
}

#[test]
fn a_step_on_the_gpu_is_that_of_the_interpreter() {
    let net = Net::new(1);
    let optimizer = optimizer(&net.params);
    let graph = Graph::new();
    let loss = net.loss(&graph, 0.0);
    let step = optimizer.minimize(&loss).unwrap();
    let norm = step.norm.clone().unwrap();
    let mut host = Host::new(&net.params);
    for t in 0..8 {
        let (x, target) = batch(t);
        let array = |shape: [usize; 2], v: Vec<f32>| {
            Array::new(shape, v.into_iter().map(f64::from).collect()).unwrap()
        };
        let mut inputs = scalars(&optimizer, t);
        inputs.push(("x".into(), array([BATCH, 7], x)));
        inputs.push(("t".into(), array([BATCH, 3], target)));
        host.run(&step.updates, &inputs);
    }
    let mut program = graph.compile(gpu(), &net.params, &[&loss, &norm]).unwrap();
    for t in 0..8 {
        train(&mut program, &optimizer, t);
    }
    for param in &net.weights {
        let got: Vec<f64> = param.get().unwrap().into_iter().map(f64::from).collect();
        // Adam divides by the root of tiny second moments: errors of float32
        // gradients reach the step at full relative size, a few 1e-6 per step.
        assert_close(param.name(), &got, &host.param(param), 2e-5);
    }
    assert_eq!(net.params.get("idle").unwrap(), vec![1.0; 100]);
    assert_ne!(net.mean.get().unwrap(), vec![0.0; 7]);
    // The averages are neither the parameters nor their start.
    let now = net.weights[0].get().unwrap();
    optimizer.swap_ema().unwrap();
    let averages = net.weights[0].get().unwrap();
    assert_ne!(now, averages);
    optimizer.swap_ema().unwrap();
    assert_eq!(net.weights[0].get().unwrap(), now);
}

#[test]
fn accumulation_is_one_large_batch() {
    let build = |params: &Params| {
        let rule = Sgd {
            lr: 0.5,
            momentum: 0.9,
            ..Sgd::default()
        };
        Optimizer::new(params, rule).unwrap()
    };
    let net = Net::new(2);
    let optimizer = build(&net.params);
    let (first, second) = (Graph::new(), Graph::new());
    let sums = optimizer.accumulate(&net.loss(&first, 0.0)).unwrap();
    optimizer.apply(&second, &sums, 3).unwrap();
    let mut accumulate = first.compile(gpu(), &net.params, &[]).unwrap();
    let mut apply = second.compile(gpu(), &net.params, &[]).unwrap();
    let whole = Net::new(2);
    let optimizer_of_whole = build(&whole.params);
    let graph = Graph::new();
    let losses: Vec<Tensor> = (0..3)
        .map(|i| {
            let on: Vec<Tensor> = whole.weights.iter().map(|p| p.on(&graph)).collect();
            let x = graph.input(&format!("x{i}"), [BATCH, 7]);
            let hidden = x.linear(&on[0], Some(&on[1]), ops::Activation::Tanh);
            let y = hidden.linear(&on[2], None, ops::Activation::None);
            let gap = y.sub(&graph.input(&format!("t{i}"), [BATCH, 3]));
            gap.square().mean(&[], false)
        })
        .collect();
    let loss = losses[0]
        .add(&losses[1])
        .add(&losses[2])
        .mul_scalar(1.0 / 3.0);
    optimizer_of_whole.minimize(&loss).unwrap();
    let mut program = graph.compile(gpu(), &whole.params, &[]).unwrap();
    for t in 0..2 {
        let inputs = optimizer.inputs(t);
        let batches: Vec<_> = (0..3).map(|i| batch(3 * t + i)).collect();
        for (x, target) in &batches {
            let feed = [("x", Value::F32(x)), ("t", Value::F32(target))];
            accumulate.step(&feed).unwrap();
        }
        apply.step(&values(&inputs)).unwrap();
        let names: Vec<_> = (0..3).map(|i| (format!("x{i}"), format!("t{i}"))).collect();
        let mut feed = values(&inputs);
        for ((x, target), (x_name, t_name)) in batches.iter().zip(&names) {
            feed.push((x_name, Value::F32(x)));
            feed.push((t_name, Value::F32(target)));
        }
        program.step(&feed).unwrap();
    }
    for (a, b) in net.weights.iter().zip(&whole.weights) {
        let wide =
            |p: &Param| -> Vec<f64> { p.get().unwrap().into_iter().map(f64::from).collect() };
        assert_close(a.name(), &wide(a), &wide(b), 1e-6);
    }
}

#[test]
fn a_resumed_run_has_the_same_bits() {
    let folder = Folder::new();
    let path = folder.file("run.safetensors");
    let start = |seed: u64| {
        let net = Net::new(seed);
        let optimizer = optimizer(&net.params);
        let graph = Graph::new();
        let loss = net.loss(&graph, 0.1);
        optimizer.minimize(&loss).unwrap();
        let program = graph.compile(gpu(), &net.params, &[&loss]).unwrap();
        (net, optimizer, program)
    };
    let bits = |net: &Net| -> Vec<u32> {
        let all = net.params.all();
        let values = all.iter().flat_map(|p| p.get().unwrap());
        values.map(f32::to_bits).collect()
    };
    let (net, rule, mut program) = start(1);
    program.set_random_state(77, 0);
    for step in 0..3 {
        train(&mut program, &rule, step);
    }
    let (seed, random_step) = program.random_state();
    let checkpoint = Checkpoint {
        step: 3,
        seed,
        random_step,
        ..Checkpoint::default()
    };
    checkpoint.save(&path, &net.params).unwrap();
    for step in 3..6 {
        train(&mut program, &rule, step);
    }
    let (resumed, rule, mut program) = start(2);
    let found = Checkpoint::load(&path, &resumed.params).unwrap();
    assert_eq!(found, checkpoint);
    program.set_random_state(found.seed, found.random_step);
    assert_ne!(bits(&net), bits(&resumed));
    for step in found.step..6 {
        train(&mut program, &rule, step);
    }
    assert_eq!(bits(&net), bits(&resumed));
    rule.swap_ema().unwrap();
    assert_ne!(bits(&net), bits(&resumed));
}

#[test]
fn values_follow_the_parameters() {
    let params = Params::new(0);
    let p = params.add("p", [70], Init::Ones).unwrap();
    let q = params
        .add("q", [3], Init::Values(vec![1.0, 2.0, 3.0]))
        .unwrap();
    let graph = Graph::new();
    let sum = p
        .on(&graph)
        .sum(&[], false)
        .add(&q.on(&graph).sum(&[], false));
    let mut program = graph.compile(gpu(), &params, &[&sum]).unwrap();
    assert_eq!(program.run(&[]).unwrap().scalar(0).unwrap(), 76.0);
    q.set(&[0.0, 0.0, 4.0]).unwrap();
    assert_eq!(program.run(&[]).unwrap().scalar(0).unwrap(), 74.0);
    assert_eq!(q.get().unwrap(), [0.0, 0.0, 4.0]);
    assert_eq!(p.get().unwrap(), [1.0; 70]);
    // Parameters added later get buffers of their own.
    let late = params.add("late", [2], Init::Constant(0.5)).unwrap();
    let graph = Graph::new();
    let sum = late
        .on(&graph)
        .sum(&[], false)
        .add(&q.on(&graph).sum(&[], false));
    let optimizer = Optimizer::new(&params, Adam::default()).unwrap();
    let mut second = graph.compile(gpu(), &params, &[&sum]).unwrap();
    assert_eq!(second.run(&[]).unwrap().scalar(0).unwrap(), 5.0);
    assert!(matches!(
        optimizer.minimize(&q.on(&graph)),
        Err(Error::Shape { .. })
    ));
    params.detach().unwrap();
    assert_eq!(q.get().unwrap(), [0.0, 0.0, 4.0]);
    q.set(&[1.0; 3]).unwrap();
    let mut third = graph.compile(gpu(), &params, &[&sum]).unwrap();
    assert_eq!(third.run(&[]).unwrap().scalar(0).unwrap(), 4.0);
    // The old program keeps the old buffers.
    assert_eq!(second.run(&[]).unwrap().scalar(0).unwrap(), 5.0);
}

#[test]
fn the_optimiser_is_one_dispatch_per_arena() {
    let params = Params::new(1);
    let w = params.add("w", [13, 7], Init::Ones).unwrap();
    let b = params.add("b", [13], Init::Zeros).unwrap();
    let steps = |optimise: bool, clip: bool| {
        let graph = Graph::new();
        let x = graph.input("x", [BATCH, 7]);
        let y = x.linear(&w.on(&graph), Some(&b.on(&graph)), ops::Activation::Tanh);
        let loss = y.square().mean(&[], false);
        let mut optimizer = Optimizer::new(&params, Adam::default()).unwrap();
        if clip {
            optimizer = optimizer.clip_grad_norm(1.0);
        }
        let grads = optimizer.grads(&loss).unwrap();
        let mut wanted = vec![loss];
        match optimise {
            true => drop(optimizer.step(&graph, &grads).unwrap()),
            false => wanted.extend(grads.into_iter().map(|(_, g)| g)),
        }
        let wanted: Vec<&Tensor> = wanted.iter().collect();
        let program = graph.compile(gpu(), &params, &wanted).unwrap();
        assert!(program.plan().copies.is_empty(), "{}", program.plan());
        program.plan().steps.len()
    };
    let gradients = steps(false, false);
    assert_eq!(steps(true, false), gradients + 1);
    // The square, its sum, the factor; with that the step may need one binding more
    // than a dispatch has, and then the subtraction stands alone.
    assert!(steps(true, true) <= gradients + 5);
}

/// Ten steps, a checkpoint, ten more in another process: the bits of twenty in one.
/// The test runs itself as that process, told by a variable where the checkpoint is.
#[test]
fn a_run_resumes_in_another_process() {
    const VARIABLE: &str = "FLOWGRAD_TEST_RESUME";
    let start = |seed: u64| {
        let net = Net::new(seed);
        let rule = optimizer(&net.params);
        let graph = Graph::new();
        let loss = net.loss(&graph, 0.1);
        rule.minimize(&loss).unwrap();
        let program = graph.compile(gpu(), &net.params, &[&loss]).unwrap();
        (net, rule, program)
    };
    let save = |net: &Net, program: &Program, step: u64, path: &std::path::Path| {
        let (seed, random_step) = program.random_state();
        let checkpoint = Checkpoint {
            step,
            seed,
            random_step,
            ..Checkpoint::default()
        };
        checkpoint.save(path, &net.params).unwrap();
    };
    if let Some(path) = std::env::var_os(VARIABLE).map(std::path::PathBuf::from) {
        let (net, rule, mut program) = start(5);
        let found = Checkpoint::load(&path, &net.params).unwrap();
        program.set_random_state(found.seed, found.random_step);
        for step in found.step..20 {
            train(&mut program, &rule, step);
        }
        save(&net, &program, 20, &path.with_extension("resumed"));
        return;
    }
    let folder = Folder::new();
    let half = folder.file("half.safetensors");
    let whole = folder.file("whole.safetensors");
    let (net, rule, mut program) = start(4);
    for step in 0..20 {
        if step == 10 {
            save(&net, &program, 10, &half);
        }
        train(&mut program, &rule, step);
    }
    save(&net, &program, 20, &whole);
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "training::a_run_resumes_in_another_process"])
        .env(VARIABLE, &half)
        .output()
        .unwrap();
    assert!(
        child.status.success(),
        "{}",
        String::from_utf8_lossy(&child.stdout)
    );
    // Moments, averages and counters are in the file, too. The order of a header's
    // entries is not fixed, so the files are compared as checkpoints.
    let load = |path: &std::path::Path| {
        let (net, _, _) = start(6);
        let counters = Checkpoint::load(path, &net.params).unwrap();
        let arenas = net.params.layout().arenas.len();
        let bits: Vec<u32> = (0..arenas)
            .flat_map(|a| net.params.arena_values(a).unwrap())
            .map(f32::to_bits)
            .collect();
        (counters, bits)
    };
    assert_eq!(load(&whole), load(&half.with_extension("resumed")));
    assert_ne!(load(&whole), load(&half));
}
