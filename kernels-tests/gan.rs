//! A GAN with both steps in one program over one set: two optimisers, and a batch norm
//! in the discriminator that sees real and generated batches. The reference composes
//! losses from tensor methods, differentiates them one by one in float64, and steps with
//! plain loops.

use std::collections::BTreeMap;

use flowgrad::graph::{Array, Feed, evaluate};
use flowgrad::nn::{BatchNorm2d, Layer, Linear, Mode, Sequential};
use flowgrad::ops::Activation;
use flowgrad::optim::{Adam, Optimizer, Sgd};
use flowgrad::{Graph, Params, Tensor, Value, tape};

use crate::optim::values;
use crate::support::{Numbers, gpu};

const BATCH: usize = 16;
const WIDTH: usize = 12;
const DISCRIMINATOR: Adam = Adam {
    lr: 0.01,
    betas: (0.5, 0.9),
    eps: 1e-3,
    // Damps the players' circling around one another.
    weight_decay: 0.1,
};
const GENERATOR: Sgd = Sgd {
    lr: 0.1,
    momentum: 0.5,
    nesterov: false,
    weight_decay: 0.0,
};

type Values = BTreeMap<String, Vec<f64>>;

fn generator(params: &Params) -> flowgrad::Result<Sequential> {
    let first = Linear::new(&params.scope("0"), 2, WIDTH)?;
    Ok(Sequential::new()
        .with(first.activation(Activation::LeakyRelu(0.2)))
        .with(Linear::new(&params.scope("1"), WIDTH, 2)?))
}

fn discriminator(params: &Params) -> flowgrad::Result<Discriminator> {
    let body = Sequential::new()
        // A bias before a batch norm would get rounding errors for a gradient.
        .with(Linear::without_bias(&params.scope("0"), 2, WIDTH)?)
        .with(BatchNorm2d::new(&params.scope("1"), WIDTH)?)
        .with(Activation::LeakyRelu(0.2))
        .with(Linear::new(&params.scope("2"), WIDTH, 1)?);
    // A batch norm sees no means; this does.
    let means = Linear::without_bias(&params.scope("3"), 2, 1)?;
    Ok(Discriminator { body, means })
}

struct Discriminator {
    body: Sequential,
    means: Linear,
}

impl Layer for Discriminator {
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        self.body.forward(x, mode).add(&self.means.forward(x, mode))
    }
}

/// The losses of both players, from logits of real and generated samples.
fn losses(real: &Tensor, fake: &Tensor) -> [Tensor; 2] {
    let mean = |t: Tensor| t.softplus().mean(&[], false);
    [mean(real.neg()).add(&mean(fake.clone())), mean(fake.neg())]
}

/// A ring sector away from the origin, and noise.
fn batch(numbers: &mut Numbers) -> (Vec<f32>, Vec<f32>) {
    let mut real = Vec::new();
    for _ in 0..BATCH {
        let angle = numbers.uniform(0.0, 2.0);
        let radius = numbers.uniform(1.5, 2.0);
        real.extend([radius * angle.cos(), radius * angle.sin() + 1.0]);
    }
    let noise = (0..2 * BATCH).map(|_| numbers.uniform(-1.0, 1.0));
    (real, noise.collect())
}

/// Losses and statistics of one step in float64; `p` and the moments move on.
fn exact_step(
    p: &mut Values,
    moments: &mut Values,
    real: &[f32],
    noise: &[f32],
    t: f64,
) -> [f64; 2] {
    let graph = Graph::new();
    let shape = |name: &str, len: usize| match name {
        "g.0.weight" | "d.0.weight" => vec![WIDTH, 2],
        "g.1.weight" => vec![2, WIDTH],
        "d.2.weight" => vec![1, WIDTH],
        "d.3.weight" => vec![1, 2],
        _ => vec![len],
    };
    let leaves: BTreeMap<&str, Tensor> = p
        .iter()
        .map(|(name, v)| (name.as_str(), graph.input(name, shape(name, v.len()))))
        .collect();
    let linear = |x: &Tensor, name: &str| {
        let y = x.matmul_with(&leaves[format!("{name}.weight").as_str()], false, true);
        match leaves.get(format!("{name}.bias").as_str()) {
            Some(bias) => y.add(bias),
            None => y,
        }
    };
    let mut statistics = Vec::new();
    let mut judge = |x: &Tensor| {
        let h = linear(x, "d.0");
        let mean = h.mean(&[0], true);
        let var = h.sub(&mean).square().mean(&[0], true);
        statistics.push(mean.clone());
        statistics.push(var.clone());
        let normed = h.sub(&mean).div(&var.add_scalar(1e-5).sqrt());
        let normed = normed.mul(&leaves["d.1.weight"]).add(&leaves["d.1.bias"]);
        linear(&normed.leaky_relu(0.2), "d.2").add(&linear(x, "d.3"))
    };
    let (x, z) = (graph.input("x", [BATCH, 2]), graph.input("z", [BATCH, 2]));
    let fake = linear(&linear(&z, "g.0").leaky_relu(0.2), "g.1");
    let (on_real, on_fake) = (judge(&x), judge(&fake));
    let losses = losses(&on_real, &on_fake);
    let mut wanted: Vec<Tensor> = losses.to_vec();
    wanted.extend(statistics);
    let mut trained = Vec::new();
    for (player, loss) in ["d.", "g."].iter().zip(&losses) {
        let mine = leaves.iter().filter(|(name, _)| name.starts_with(player));
        let mine: Vec<_> = mine.filter(|(name, _)| !name.contains("running")).collect();
        let tensors: Vec<&Tensor> = mine.iter().map(|(_, t)| *t).collect();
        wanted.extend(tape::backward(loss, &tensors).expect("gradients"));
        trained.extend(mine.iter().map(|(name, _)| name.to_string()));
    }
    let single = |v: &[f32]| v.iter().copied().map(f64::from).collect::<Vec<f64>>();
    let mut inputs: Vec<(String, Array)> = p
        .iter()
        .map(|(n, v)| {
            (
                n.clone(),
                Array::new(shape(n, v.len()), v.clone()).expect("whole"),
            )
        })
        .collect();
    for (name, data) in [("x", real), ("z", noise)] {
        inputs.push((
            name.into(),
            Array::new([BATCH, 2], single(data)).expect("whole"),
        ));
    }
    let feed = Feed {
        inputs: inputs.into_iter().collect(),
        ..Feed::default()
    };
    let found = evaluate(&wanted.iter().collect::<Vec<_>>(), &feed).expect("values");
    // PyTorch's order: the real batch moves the statistics first.
    let unbiased = BATCH as f64 / (BATCH as f64 - 1.0);
    for (i, new) in found[2..6].iter().enumerate() {
        let (name, factor) = [("d.1.running_mean", 1.0), ("d.1.running_var", unbiased)][i % 2];
        let state = p.get_mut(name).expect("a state").iter_mut();
        state
            .zip(&new.data)
            .for_each(|(s, v)| *s = 0.9 * *s + 0.1 * factor * v);
    }
    for (name, grad) in trained.iter().zip(&found[6..]) {
        let p = p.get_mut(name).expect("a parameter");
        let [m, v] = [0, 1].map(|i| {
            let zeros = vec![0.0; p.len()];
            moments.remove(&format!("{name}.{i}")).unwrap_or(zeros)
        });
        let (mut m, mut v) = (m, v);
        for i in 0..p.len() {
            let g = grad.data[i];
            if name.starts_with("g.") {
                m[i] = GENERATOR.momentum * m[i] + g;
                p[i] -= GENERATOR.lr * m[i];
                continue;
            }
            let g = g + DISCRIMINATOR.weight_decay * p[i];
            let (b1, b2) = DISCRIMINATOR.betas;
            m[i] = b1 * m[i] + (1.0 - b1) * g;
            v[i] = b2 * v[i] + (1.0 - b2) * g * g;
            let (mean, square) = (m[i] / (1.0 - b1.powf(t)), v[i] / (1.0 - b2.powf(t)));
            p[i] -= DISCRIMINATOR.lr * mean / (square.sqrt() + DISCRIMINATOR.eps);
        }
        moments.insert(format!("{name}.0"), m);
        moments.insert(format!("{name}.1"), v);
    }
    [found[0].data[0], found[1].data[0]]
}

fn mean(values: &[f32], axis: usize) -> f64 {
    let each = values.iter().skip(axis).step_by(2);
    each.map(|v| f64::from(*v)).sum::<f64>() / (values.len() / 2) as f64
}

#[test]
fn both_players_train_in_one_program() {
    let params = Params::new(11);
    let (g, d) = (params.scope("g"), params.scope("d"));
    let (make, judge) = (generator(&g).expect("G"), discriminator(&d).expect("D"));
    let for_d = Optimizer::new(&d, DISCRIMINATOR).expect("for D").named("d");
    let for_g = Optimizer::new(&g, GENERATOR).expect("for G").named("g");

    let graph = Graph::new();
    let fake = make.forward(&graph.input("z", [BATCH, 2]), Mode::Train);
    let on_real = judge.forward(&graph.input("x", [BATCH, 2]), Mode::Train);
    let on_fake = judge.forward(&fake, Mode::Train);
    let [of_d, of_g] = losses(&on_real, &on_fake);
    for_d.minimize(&of_d).expect("D's step");
    for_g.minimize(&of_g).expect("G's step");
    let mut program = graph
        .compile(gpu(), &params, &[&of_d, &of_g, &fake])
        .expect("a program");

    let mut exact: Values = BTreeMap::new();
    for name in params.names() {
        let values = params.get(&name).expect("values").into_iter();
        exact.insert(name, values.map(f64::from).collect());
    }
    let mut moments = Values::new();
    let mut numbers = Numbers::new(17);
    let (mut first, mut late, mut data) = (Vec::new(), Vec::new(), Vec::new());
    for step in 0..360 {
        let (real, noise) = batch(&mut numbers);
        let mut scalars = for_d.inputs(step);
        scalars.extend(for_g.inputs(step));
        let mut feed = values(&scalars);
        feed.extend([("x", Value::F32(&real)), ("z", Value::F32(&noise))]);
        let run = program.run(&feed).expect("a step");
        match step {
            0 => first = run.f32(2).expect("samples"),
            240.. => {
                late.extend(run.f32(2).expect("samples"));
                data.extend(real.clone());
            }
            _ => {}
        }
        let found = [
            run.scalar(0).expect("a loss"),
            run.scalar(1).expect("a loss"),
        ];
        assert!(
            found.iter().all(|l| l.is_finite()),
            "step {step}: {found:?}"
        );
        if step >= 4 {
            continue;
        }
        let losses = exact_step(&mut exact, &mut moments, &real, &noise, step as f64 + 1.0);
        for (found, loss) in found.iter().zip(losses) {
            assert!(
                (f64::from(*found) - loss).abs() < 1e-5,
                "{found}, exact {loss}"
            );
        }
        for (name, exact) in &exact {
            for (found, exact) in params.get(name).expect("values").iter().zip(exact) {
                let apart = (f64::from(*found) - exact).abs();
                assert!(
                    apart < 2e-5 * (1.0 + exact.abs()),
                    "{name}, step {step}: {found}, exact {exact}"
                );
            }
        }
    }
    // The generator has gone where the data are.
    let apart = |samples: &[f32]| {
        let along = |axis: usize| mean(samples, axis) - mean(&data, axis);
        along(0).hypot(along(1))
    };
    let (start, end) = (apart(&first), apart(&late));
    assert!(
        start > 1.5 && end < 0.3 * start,
        "{start} at first, {end} now"
    );
}
