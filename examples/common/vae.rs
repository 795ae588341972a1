//! Training and judging of the autoencoders of the example `vae`.

use flowgrad::models::{Autoencoder, Likelihood, Vae, VaeConfig};
use flowgrad::nn::Mode;
use flowgrad::ops::LossReduction;
use flowgrad::optim::{Adam, Optimizer};
use flowgrad::{Gpu, Graph, Params, Program, Tensor};

use super::{CommonArgs, Figures, ImageSets, Images, Outcome, Run, every, never, picture, plot};

/// Images in a batch of held-out ones.
const BATCH: usize = 200;

/// The same arguments for a network that is trained beside: a folder of its own, and no
/// files of the first one's.
pub fn aside(args: &CommonArgs, name: &str) -> CommonArgs {
    CommonArgs {
        out: args.out.join(name),
        save: None,
        load: None,
        resume: None,
        losses: None,
        ..args.clone()
    }
}

/// `[batch, C, H, W]` as the input `x`.
fn images(graph: &Graph, sets: &ImageSets, batch: usize) -> Tensor {
    let [channels, height, width] = sets.image();
    graph.input("x", [batch, channels, height, width])
}

/// Trains what has these losses of the input `x`.
fn fit(
    run: &mut Run<'_>,
    sets: &ImageSets,
    losses: &[&Tensor],
    judged: super::evaluation::Evaluation<'_>,
) -> Outcome {
    let adam = Adam {
        lr: f64::from(run.args.lr),
        ..Default::default()
    };
    let optimizer = Optimizer::new(&run.params, adam)?;
    optimizer.minimize(losses[0])?;
    let mut program = losses[0].graph().compile(&run.gpu, &run.params, losses)?;
    let what = "the number of training images";
    let mut batches = run.args.batches(sets.train.len(), what)?;
    let feed = |program: &mut Program, step| {
        let x = sets.scaled(&sets.train, &batches.batch(step))?;
        program.set_scalars(&optimizer.inputs(step))?;
        Ok(program.set_inputs(&[("x", (&x).into())])?)
    };
    run.train(&mut program, feed, judged)
}

/// Trains a VAE, whose bound is evaluated every so often.
pub fn train(run: &mut Run<'_>, sets: &ImageSets, config: VaeConfig) -> Outcome<(Vae, Judge)> {
    let vae = Vae::new(&run.params, config)?;
    let graph = Graph::new();
    let x = images(&graph, sets, run.args.batch);
    let out = vae.forward(&x, Mode::Train);
    let [nll, kl] = [&out.nll, &out.kl].map(|v| v.mean(&[], false));
    let mut judge = Judge::new(run, sets, &vae)?;
    let every_so_often = every(100, |_| judge.figures(sets));
    fit(run, sets, &[&out.loss, &nll, &kl], every_so_often)?;
    Ok((vae, judge))
}

/// Trains a plain autoencoder of the same shape; what it makes of the held-out images.
pub fn plain(run: &mut Run<'_>, sets: &ImageSets, config: VaeConfig) -> Outcome<Vec<f32>> {
    let net = Autoencoder::new(&run.params, config.network)?;
    let graph = Graph::new();
    let x = images(&graph, sets, run.args.batch);
    let logits = net.decode_logits(&net.encode(&x, Mode::Train), Mode::Train);
    let each = match config.likelihood {
        Likelihood::Bernoulli => logits.bce_with_logits(&x, None, LossReduction::None),
        Likelihood::Gaussian { .. } => logits.sigmoid().mse_loss(&x, LossReduction::None),
    };
    let loss = each.sum_samples().mean(&[], false);
    fit(run, sets, &[&loss], never())?;
    let graph = Graph::new();
    let batch = sets.test.len().min(BATCH);
    let x = images(&graph, sets, batch);
    let made = net.decode(&net.encode(&x, Mode::Eval), Mode::Eval);
    let mut program = graph.compile_pure(&run.gpu, &run.params, &[&made])?;
    let pixels = sets.test.image_len();
    let mut all = Vec::new();
    for (x, count) in held_out(sets, batch)? {
        let made = program.run(&[("x", (&x).into())])?.f32(0)?;
        all.extend_from_slice(&made[..count * pixels]);
    }
    Ok(all)
}

/// The held-out images in batches of one size, and how many of each count.
fn held_out(sets: &ImageSets, batch: usize) -> Outcome<Vec<(Vec<f32>, usize)>> {
    let mut all = Vec::new();
    for at in (0..sets.test.len()).step_by(batch) {
        let count = batch.min(sets.test.len() - at);
        let items: Vec<usize> = (0..batch).map(|i| at + i % count).collect();
        all.push((sets.scaled(&sets.test, &items)?, count));
    }
    Ok(all)
}

/// What looks at held-out images.
pub struct Judge {
    gpu: Gpu,
    params: Params,
    program: Program,
    batch: usize,
    /// What the means of the latents were decoded to.
    pub made: Vec<f32>,
    means: Vec<f32>,
}

impl Judge {
    fn new(run: &Run<'_>, sets: &ImageSets, vae: &Vae) -> Outcome<Self> {
        let batch = sets.test.len().min(BATCH);
        let graph = Graph::new();
        let x = images(&graph, sets, batch);
        let out = vae.forward(&x, Mode::Eval);
        let made = vae.decode(&out.posterior.mean, Mode::Eval);
        let outputs = [&out.nll, &out.kl, &out.posterior.mean, &made];
        Ok(Judge {
            program: graph.compile_pure(&run.gpu, &run.params, &outputs)?,
            gpu: run.gpu.clone(),
            params: run.params.clone(),
            batch,
            made: Vec::new(),
            means: Vec::new(),
        })
    }

    fn figures(&mut self, sets: &ImageSets) -> Outcome<Figures> {
        // The same draws in every evaluation.
        self.program.set_random_state(1, 0);
        (self.made, self.means) = (Vec::new(), Vec::new());
        let mut sums = [0.0f64; 2];
        for (x, count) in held_out(sets, self.batch)? {
            let out = self.program.run(&[("x", (&x).into())])?;
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum += out.f32(i)?[..count]
                    .iter()
                    .copied()
                    .map(f64::from)
                    .sum::<f64>();
            }
            for (i, all) in [(2, &mut self.means), (3, &mut self.made)] {
                let values = out.f32(i)?;
                all.extend_from_slice(&values[..values.len() / self.batch * count]);
            }
        }
        let [nll, kl] = sums.map(|s| s / sets.test.len() as f64);
        Ok(vec![
            ("test_nelbo_nats", nll + kl),
            ("test_reconstruction_nats", nll),
            ("test_kl_nats", kl),
        ])
    }

    /// The mean importance-weighted bound of the held-out images.
    pub fn importance(&self, sets: &ImageSets, vae: &Vae, samples: usize) -> Outcome<f64> {
        let batch = (BATCH / samples).clamp(1, sets.test.len());
        let graph = Graph::new();
        let x = images(&graph, sets, batch);
        let bound = vae.importance_bound(&x, samples, Mode::Eval);
        let mut program = graph.compile_pure(&self.gpu, &self.params, &[&bound])?;
        program.set_random_state(2, 0);
        let mut sum = 0.0;
        for (x, count) in held_out(sets, batch)? {
            let bounds = program.run(&[("x", (&x).into())])?.f32(0)?;
            sum += bounds[..count].iter().copied().map(f64::from).sum::<f64>();
        }
        Ok(sum / sets.test.len() as f64)
    }

    /// The means of the first two latents by class, and what a grid of them is decoded to.
    pub fn draw(&self, args: &CommonArgs, sets: &ImageSets, vae: &Vae) -> Outcome {
        let latent = vae.config().network.latent;
        let all: Vec<usize> = (0..sets.test.len()).collect();
        let labels = sets.test.labels(&all)?;
        let of_class = |class: usize| -> Vec<(f64, f64)> {
            let rows = self.means.chunks(latent).zip(&labels);
            let rows = rows.filter(|(_, label)| **label as usize == class);
            rows.map(|(z, _)| (f64::from(z[0]), f64::from(*z.get(1).unwrap_or(&0.0))))
                .collect()
        };
        let names: Vec<String> = (0..sets.test.classes()).map(|c| c.to_string()).collect();
        let classes = names.iter().enumerate();
        let series: Vec<_> = classes.map(|(c, n)| (n.as_str(), of_class(c))).collect();
        let title = "Latents of held-out images";
        plot::scatter(&args.out_file("latents.png")?, title, &series)?;

        // Two deviations of the prior to each side, the second latent upwards.
        let side = 20;
        let at = |i: usize| 4.0 * i as f32 / (side - 1) as f32 - 2.0;
        let mut grid = vec![0.0; side * side * latent];
        for (i, z) in grid.chunks_mut(latent).enumerate() {
            z[0] = at(i % side);
            if let Some(second) = z.get_mut(1) {
                *second = -at(i / side);
            }
        }
        let graph = Graph::new();
        let z = graph.constant([side * side, latent], &grid);
        let made = vae.decode(&z, Mode::Eval);
        let mut program = graph.compile_pure(&self.gpu, &self.params, &[&made])?;
        let [channels, height, width] = sets.image();
        let pixels = program.run(&[])?.f32(0)?;
        let shape = [side * side, channels, height, width];
        let scale = (24 / height).max(1);
        let picture = picture::grid(&Images::new(&pixels, shape)?, side, side, scale);
        picture::save(&picture, &args.out_file("manifold.png")?)
    }
}
