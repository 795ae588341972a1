//! Random graphs: planning tricks must not change a single bit.

use flowgrad::device::DeviceProfile;
use flowgrad::optim::{Adam, Optimizer};
use flowgrad::plan::{Plan, PlanOptions};
use flowgrad::{Graph, Init, Params, Tensor, Value, tape};
use proptest::prelude::*;

use crate::shaders::writes_are_exclusive;
use crate::support::{Numbers, gpu};

/// One step of a random graph; operands are picked by number among the tensors so far.
#[derive(Debug, Clone)]
enum Step {
    Unary(usize, usize),
    Binary(usize, usize, usize),
    Product(usize, usize),
    Fold(usize, usize),
    View(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let pick = 0..64usize;
    prop_oneof![
        (0..6usize, pick.clone()).prop_map(|(f, a)| Step::Unary(f, a)),
        (0..4usize, pick.clone(), pick.clone()).prop_map(|(f, a, b)| Step::Binary(f, a, b)),
        (pick.clone(), pick.clone()).prop_map(|(a, b)| Step::Product(a, b)),
        (0..4usize, pick.clone()).prop_map(|(f, a)| Step::Fold(f, a)),
        (0..5usize, pick).prop_map(|(f, a)| Step::View(f, a)),
    ]
}

const N: usize = 6;

/// All tensors are [N, N], so that everything fits everything.
fn apply(step: &Step, all: &[Tensor]) -> Tensor {
    let get = |i: usize| &all[i % all.len()];
    match *step {
        Step::Unary(f, a) => {
            let x = get(a);
            match f {
                0 => x.tanh(),
                1 => x.sigmoid(),
                2 => x.mul_scalar(0.5),
                3 => x.sin(),
                4 => x.stop_gradient(),
                _ => x.relu(),
            }
        }
        Step::Binary(f, a, b) => {
            let (x, y) = (get(a), get(b));
            match f {
                0 => x.add(y),
                1 => x.sub(y),
                2 => x.tanh().mul(y),
                _ => x.maximum(y),
            }
        }
        Step::Product(a, b) => get(a).tanh().matmul(get(b)).mul_scalar(0.3),
        Step::Fold(f, a) => {
            let x = get(a);
            match f {
                0 => x.softmax(1),
                1 => x.sub(&x.mean(&[0], true)),
                2 => x.add(&x.max(&[1], true)).mul_scalar(0.5),
                _ => x.cumsum(0).mul_scalar(0.3),
            }
        }
        Step::View(f, a) => {
            let x = get(a);
            match f {
                0 => x.transpose(0, 1),
                1 => x.flip(&[1]),
                2 => x.reshape([N * N]).reshape([N, N]),
                3 => x.slice(0, 0, 1).broadcast_to([N, N]),
                _ => Tensor::concat(&[&x.slice(1, 3, 3), &x.slice(1, 0, 3)], 1),
            }
        }
    }
}

/// Found by the test below: units that ended before another began depended on it
/// all the same, through a third one that spanned both.
#[test]
fn units_that_span_others_make_no_cycle() {
    let mut steps = vec![
        Step::Fold(0, 0),
        Step::Binary(0, 0, 4),
        Step::Binary(2, 52, 19),
    ];
    steps.extend([
        Step::Unary(0, 0),
        Step::Product(19, 6),
        Step::Product(6, 20),
    ]);
    steps.push(Step::Unary(0, 22));
    steps.extend(vec![Step::Unary(0, 0); 5]);
    steps.extend([Step::View(0, 20), Step::Binary(2, 15, 14)]);
    steps.extend(vec![Step::Unary(0, 0); 13]);
    steps.push(Step::Fold(0, 33));
    let (graph, wanted) = build(&steps);
    let wanted: Vec<&Tensor> = wanted.iter().collect();
    let plan = graph.plan(gpu().profile(), &[], &wanted, &options(true, true));
    assert!(plan.is_ok(), "{:?}", plan.err());
}

/// The graph, and what is asked of it: some tensors, a loss, its gradients.
fn build(steps: &[Step]) -> (Graph, Vec<Tensor>) {
    let graph = Graph::new();
    let inputs: Vec<Tensor> = ["a", "b"].iter().map(|n| graph.input(n, [N, N])).collect();
    let mut all = inputs.clone();
    for step in steps {
        let next = apply(step, &all);
        all.push(next);
    }
    let last = all[all.len() - 1].clone();
    let middle = all[all.len() / 2].clone();
    let loss = last.add(&middle).square().mean(&[], false);
    let mut wanted = vec![loss.clone(), last, middle, inputs[0].clone()];
    wanted.extend(tape::backward(&loss, &inputs.iter().collect::<Vec<_>>()).unwrap());
    (graph, wanted)
}

fn options(reuse: bool, fuse: bool) -> PlanOptions {
    PlanOptions {
        reuse,
        fuse,
        ..Default::default()
    }
}

fn bits(graph: &Graph, wanted: &[&Tensor], options: &PlanOptions) -> Vec<Vec<u32>> {
    let params = Params::new(0);
    let mut program = graph
        .compile_with(gpu(), &[&params], wanted, options)
        .unwrap();
    let mut numbers = Numbers::new(5);
    let mut data = || -> Vec<f32> { (0..N * N).map(|_| numbers.uniform(-1.0, 1.0)).collect() };
    let (a, b) = (data(), data());
    let all = [("a", Value::F32(&a)), ("b", Value::F32(&b))];
    let used: Vec<String> = program
        .plan()
        .inputs
        .iter()
        .map(|i| i.name.clone())
        .collect();
    let given: Vec<(&str, Value<'_>)> = all
        .into_iter()
        .filter(|(n, _)| used.iter().any(|u| u == n))
        .collect();
    // Twice: what the first run leaves in shared buffers must not matter.
    program.run(&given).unwrap();
    let outputs = program.run(&given).unwrap();
    (0..wanted.len())
        .map(|i| outputs.bits(i).to_vec())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..Default::default() })]

    #[test]
    fn plans_of_random_graphs_hold_their_promises(steps in prop::collection::vec(step(), 1..40)) {
        let (graph, wanted) = build(&steps);
        let wanted: Vec<&Tensor> = wanted.iter().collect();
        for reuse in [false, true] {
            for fuse in [false, true] {
                let options = options(reuse, fuse);
                let plan = graph.plan(gpu().profile(), &[], &wanted, &options).unwrap();
                for step in &plan.steps {
                    prop_assert!(writes_are_exclusive(step), "{} {:?}", step.kernel, step.bindings);
                }
                prop_assert!(reads_follow_writes(&plan), "a step reads what nothing wrote");
            }
        }
        let shared = graph.plan(gpu().profile(), &[], &wanted, &options(true, true)).unwrap();
        let unshared = graph.plan(gpu().profile(), &[], &wanted, &options(false, true)).unwrap();
        prop_assert!(shared.memory().temporary <= unshared.memory().temporary);
    }
}

/// Every temporary is written before it is read.
fn reads_follow_writes(plan: &Plan) -> bool {
    use flowgrad::graph::Access;
    use flowgrad::plan::Role;
    let mut written = vec![false; plan.buffers.len()];
    let temporary = |b: usize| plan.buffers[b].role == Role::Temporary;
    for step in &plan.steps {
        for (slice, access) in &step.bindings {
            if *access != Access::Write && temporary(slice.buffer) && !written[slice.buffer] {
                return false;
            }
        }
        for (slice, access) in &step.bindings {
            if *access != Access::Read {
                written[slice.buffer] = true;
            }
        }
    }
    plan.outputs
        .iter()
        .all(|(s, _)| !temporary(s.buffer) || written[s.buffer])
}

proptest! {
    // Each case compiles several programs, so there are few.
    #![proptest_config(ProptestConfig { cases: 6, ..Default::default() })]

    #[test]
    fn buffer_reuse_does_not_change_bits(steps in prop::collection::vec(step(), 5..30)) {
        let (graph, wanted) = build(&steps);
        let wanted: Vec<&Tensor> = wanted.iter().collect();
        let exact = bits(&graph, &wanted, &options(false, true));
        prop_assert_eq!(&exact, &bits(&graph, &wanted, &options(true, true)), "buffer reuse");
    }
}

/// Seconds of this thread on a core, where the system tells: others' work does not count.
fn seconds_on_a_core() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanoseconds: u64 = text.split_whitespace().next()?.parse().ok()?;
    (nanoseconds > 0).then_some(nanoseconds as f64 * 1e-9)
}

/// Seconds to plan a training step of a chain of so many layers, and its nodes.
fn time_to_plan(layers: usize) -> (f64, usize) {
    let params = Params::new(0);
    let graph = Graph::new();
    let mut x = graph.input("x", [8, 16]);
    for k in 0..layers {
        let scope = params.scope(k);
        let weight = scope.add("weight", [16, 16], Init::Ones).unwrap();
        let bias = scope.add("bias", [16], Init::Zeros).unwrap();
        let inside = x.matmul(&weight.on(&graph)).add(&bias.on(&graph)).tanh();
        x = x.add(&inside.mul_scalar(0.1)).sigmoid();
    }
    let loss = x.square().mean(&[], false);
    let adam = Optimizer::new(&params, Adam::default()).unwrap();
    adam.minimize(&loss).unwrap();
    let profile = DeviceProfile::baseline();
    let maps = [flowgrad::exec::arena_map(&params)];
    let start = std::time::Instant::now();
    let core = seconds_on_a_core();
    let plan = graph.plan(&profile, &maps, &[&loss], &PlanOptions::default());
    let seconds = match (core, seconds_on_a_core()) {
        (Some(before), Some(after)) => after - before,
        _ => start.elapsed().as_secs_f64(),
    };
    assert!(plan.unwrap().steps.len() > layers);
    (seconds, graph.len())
}

#[test]
fn planning_time_grows_with_the_nodes() {
    let fastest = |layers: usize| {
        let all = (0..3).map(|_| time_to_plan(layers));
        all.reduce(|a, b| (a.0.min(b.0), a.1)).unwrap()
    };
    let ((short, few), (long, many)) = (fastest(60), fastest(480));
    let growth = (long / short) / (many as f64 / few as f64);
    println!("{few} nodes {short:.4} s, {many} nodes {long:.4} s: {growth:.2}");
    // Quadratic would be 8. Clocks of the wall count what others do, too.
    let most = seconds_on_a_core().map_or(2.5, |_| 1.5);
    assert!(
        growth < most,
        "{few} nodes take {short} s, {many} take {long} s"
    );
}
