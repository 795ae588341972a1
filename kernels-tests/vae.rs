//! Autoencoders and VAEs: published counts, and every number of a forward pass and its
//! gradient against the documented network written out in float64.

use std::collections::HashMap;
use std::f64::consts::TAU;

use flowgrad::models::{Autoencoder, AutoencoderConfig, Likelihood, Vae, VaeConfig};
use flowgrad::nn::Mode;
use flowgrad::params::{LoadRules, Precision, WeightsFile};
use flowgrad::{Error, Graph, Params, Tensor, Value, tape};

use crate::params::Folder;
use crate::support::{Numbers, gpu};

const IMAGE: [usize; 3] = [2, 8, 4];
const ROWS: usize = 3;
const LATENT: usize = 3;

fn small(dense: Option<usize>, likelihood: Likelihood) -> VaeConfig {
    VaeConfig {
        network: AutoencoderConfig {
            image: IMAGE,
            widths: [3, 5],
            dense,
            latent: LATENT,
        },
        likelihood,
        beta: 0.7,
    }
}

/// All variants: with and without dense layers, both likelihoods.
fn variants() -> [VaeConfig; 4] {
    let gaussian = Likelihood::Gaussian { variance: 0.3 };
    [
        small(Some(4), Likelihood::Bernoulli),
        small(Some(4), gaussian),
        small(None, Likelihood::Bernoulli),
        small(None, gaussian),
    ]
}

fn numbers(seed: u64, n: usize, lo: f32, hi: f32) -> Vec<f32> {
    let mut numbers = Numbers::new(seed);
    (0..n).map(|_| numbers.uniform(lo, hi)).collect()
}

/// Images, and noise for `samples` draws of each.
fn data(samples: usize) -> (Vec<f32>, Vec<f32>) {
    let pixels = ROWS * IMAGE.iter().product::<usize>();
    let noise = ROWS * samples * LATENT;
    (numbers(1, pixels, 0.0, 1.0), numbers(2, noise, -1.5, 1.5))
}

/// A map `[channels, height, width]`.
struct Map {
    extents: [usize; 3],
    data: Vec<f64>,
}

/// The network as its documentation has it, for one image at a time.
struct Reference {
    config: VaeConfig,
    values: HashMap<String, Vec<f64>>,
}

impl Reference {
    fn new(params: &Params, config: VaeConfig) -> Self {
        let value = |name: String| {
            let values = params.get(&name).expect("a parameter");
            (name, values.iter().map(|v| f64::from(*v)).collect())
        };
        Reference {
            config,
            values: params.names().into_iter().map(value).collect(),
        }
    }

    fn linear(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let weight = &self.values[&format!("{name}.weight")];
        let rows = weight.chunks(x.len());
        let biased = rows.zip(&self.values[&format!("{name}.bias")]);
        biased
            .map(|(w, b)| b + w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>())
            .collect()
    }

    /// A 3x3 convolution of stride 2; what lies behind the last row and column is 0.
    fn down(&self, name: &str, x: &Map) -> Map {
        let [channels, height, width] = x.extents;
        let weight = &self.values[&format!("{name}.weight")];
        let mut data = Vec::new();
        for (o, bias) in self.values[&format!("{name}.bias")].iter().enumerate() {
            for (r, c) in (0..height / 2).flat_map(|r| (0..width / 2).map(move |c| (r, c))) {
                let mut sum = *bias;
                for i in 0..channels {
                    for (dr, dc) in (0..3).flat_map(|a| (0..3).map(move |b| (a, b))) {
                        let (y, x_) = (2 * r + dr, 2 * c + dc);
                        if y < height && x_ < width {
                            let w = weight[((o * channels + i) * 3 + dr) * 3 + dc];
                            sum += w * x.data[(i * height + y) * width + x_];
                        }
                    }
                }
                data.push(sum.max(0.0));
            }
        }
        let outputs = data.len() / (height / 2 * (width / 2));
        Map {
            extents: [outputs, height / 2, width / 2],
            data,
        }
    }

    /// A 3x3 transposed convolution: what input (y, x) gives lies from
    /// `stride * (y, x) - before` on.
    fn up(&self, name: &str, x: &Map, stride: usize, before: usize, relu: bool) -> Map {
        let [channels, height, width] = x.extents;
        let weight = &self.values[&format!("{name}.weight")];
        let bias = &self.values[&format!("{name}.bias")];
        let (rows, cols) = (stride * height, stride * width);
        let mut data = vec![0.0; bias.len() * rows * cols];
        for (o, plane) in data.chunks_mut(rows * cols).enumerate() {
            plane.fill(bias[o]);
            for i in 0..channels {
                for (y, x_) in (0..height).flat_map(|a| (0..width).map(move |b| (a, b))) {
                    for (dr, dc) in (0..3).flat_map(|a| (0..3).map(move |b| (a, b))) {
                        let (r, c) = (stride * y + dr, stride * x_ + dc);
                        let inside = |at: usize, n: usize| (before..before + n).contains(&at);
                        if inside(r, rows) && inside(c, cols) {
                            let w = weight[((i * bias.len() + o) * 3 + dr) * 3 + dc];
                            plane[(r - before) * cols + c - before] +=
                                w * x.data[(i * height + y) * width + x_];
                        }
                    }
                }
            }
        }
        if relu {
            data.iter_mut().for_each(|v| *v = v.max(0.0));
        }
        Map {
            extents: [bias.len(), rows, cols],
            data,
        }
    }

    /// Mean and logarithm of the variance.
    fn encode(&self, image: &[f32]) -> [Vec<f64>; 2] {
        let x = Map {
            extents: IMAGE,
            data: image.iter().map(|v| f64::from(*v)).collect(),
        };
        let map = self.down("encoder.1", &self.down("encoder.0", &x));
        let mut flat = map.data;
        if self.config.network.dense.is_some() {
            flat = self.linear("encoder.2", &flat);
            flat.iter_mut().for_each(|v| *v = v.max(0.0));
        }
        // A convolution over the whole map is a product with what is flattened.
        ["encoder.z_mean", "encoder.z_log_var"].map(|name| self.linear(name, &flat))
    }

    fn logits(&self, z: &[f64]) -> Vec<f64> {
        let [_, second] = self.config.network.widths;
        let [height, width] = [IMAGE[1] / 4, IMAGE[2] / 4];
        let mut start = match self.config.network.dense {
            Some(_) => self.linear("decoder.0", z),
            None => {
                let weight = &self.values["decoder.0.weight"];
                let plane = height * width;
                let at = |k: usize| {
                    let sum = z.iter().enumerate();
                    let sum = sum.map(|(i, z)| z * weight[i * second * plane + k]);
                    sum.sum::<f64>() + self.values["decoder.0.bias"][k / plane]
                };
                (0..second * plane).map(at).collect()
            }
        };
        start.iter_mut().for_each(|v| *v = v.max(0.0));
        let map = Map {
            extents: [second, height, width],
            data: start,
        };
        let map = self.up("decoder.1", &map, 2, 0, true);
        let map = self.up("decoder.2", &map, 2, 0, true);
        self.up("decoder.3", &map, 1, 1, false).data
    }

    fn nll(&self, image: &[f32], z: &[f64]) -> f64 {
        let logits = self.logits(z);
        let each = image.iter().zip(&logits).map(|(x, l)| {
            let (x, p) = (f64::from(*x), 1.0 / (1.0 + (-l).exp()));
            match self.config.likelihood {
                Likelihood::Bernoulli => -x * p.ln() - (1.0 - x) * (1.0 - p).ln(),
                Likelihood::Gaussian { variance } => {
                    let v = f64::from(variance);
                    (x - p).powi(2) / (2.0 * v) + 0.5 * (TAU * v).ln()
                }
            }
        });
        each.sum()
    }

    /// Of one image and one draw: nll, divergence, log q - log p.
    fn parts(&self, image: &[f32], noise: &[f32]) -> [f64; 3] {
        let [mean, log_var] = self.encode(image);
        let (mut z, mut kl, mut ratio) = (Vec::new(), 0.0, 0.0);
        for ((m, l), e) in mean.iter().zip(&log_var).zip(noise) {
            let (e, s) = (f64::from(*e), (0.5 * l).exp());
            z.push(m + s * e);
            kl -= 0.5 * (1.0 + l - m * m - s * s);
            let q = -0.5 * e * e - s.ln() - 0.5 * TAU.ln();
            let p = -0.5 * (m + s * e).powi(2) - 0.5 * TAU.ln();
            ratio += q - p;
        }
        [self.nll(image, &z), kl, ratio]
    }

    fn loss(&self, x: &[f32], noise: &[f32]) -> f64 {
        let rows = x.chunks(x.len() / ROWS).zip(noise.chunks(LATENT));
        let parts = rows.map(|(x, e)| self.parts(x, e));
        let each = parts.map(|[nll, kl, _]| nll + f64::from(self.config.beta) * kl);
        each.sum::<f64>() / ROWS as f64
    }
}

fn close(what: &str, got: &[f32], expected: &[f64]) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(*g) - e).abs();
        assert!(error <= 3e-6 * (1.0 + e.abs()), "{what} {i}: {g} and {e}");
    }
}

fn inputs(graph: &Graph, samples: &[usize]) -> (Tensor, Tensor) {
    let [c, h, w] = IMAGE;
    let noise = [&[ROWS], samples, &[LATENT]].concat();
    (
        graph.input("x", [ROWS, c, h, w]),
        graph.input("noise", noise),
    )
}

#[test]
fn counts_and_names_are_published_ones() {
    let count = |config: VaeConfig| {
        let params = Params::new(0);
        Vae::new(&params, config).unwrap();
        ["encoder", "decoder"].map(|part| params.scope(part).count())
    };
    let config = VaeConfig::new([1, 28, 28]);
    assert_eq!(count(config), [69_076, 65_089]);
    let network = config.network.convolutional();
    let bottleneck = [2 * (3136 * 2 + 2), 2 * 3136 + 64];
    let convs = [320 + 18_496, 36_928 + 18_464 + 289];
    let expected = [0, 1].map(|i| convs[i] + bottleneck[i]);
    assert_eq!(count(VaeConfig { network, ..config }), expected);
    let params = Params::new(0);
    Autoencoder::new(&params, AutoencoderConfig::mnist()).unwrap();
    assert_eq!(params.scope("encoder").count(), 69_076 - 34);
    assert_eq!(params.scope("decoder").count(), 65_089);
}

#[test]
fn every_part_of_the_bound_is_that_of_float64() {
    for config in variants() {
        let params = Params::new(3);
        let vae = Vae::new(&params, config).unwrap();
        let reference = Reference::new(&params, config);
        let graph = Graph::new();
        let (x, noise) = inputs(&graph, &[]);
        let out = vae.forward_with(&x, &noise, Mode::Train);
        let again = vae.reconstruct(&x, Mode::Eval);
        let bits = vae.bits_per_dim(&out.elbo());
        let wanted = [
            &out.nll,
            &out.kl,
            &out.log_ratio,
            &out.loss,
            &out.reconstruction,
            &again,
            &bits,
        ];
        let mut program = graph.compile(gpu(), &params, &wanted).unwrap();
        let (pixels, drawn) = data(1);
        let fed = [("x", Value::F32(&pixels)), ("noise", Value::F32(&drawn))];
        let got = program.run(&fed).unwrap();
        let images = pixels.chunks(pixels.len() / ROWS);
        let parts: Vec<[f64; 3]> = images
            .clone()
            .zip(drawn.chunks(LATENT))
            .map(|(x, e)| reference.parts(x, e))
            .collect();
        for (i, what) in ["nll", "kl", "log ratio"].into_iter().enumerate() {
            let expected: Vec<f64> = parts.iter().map(|p| p[i]).collect();
            close(
                &format!("{what} of {config:?}"),
                &got.f32(i).unwrap(),
                &expected,
            );
        }
        let loss = reference.loss(&pixels, &drawn);
        close("loss", &got.f32(3).unwrap(), &[loss]);
        let bits: Vec<f64> = parts
            .iter()
            .map(|[nll, kl, _]| (nll + kl) / (64.0 * 2f64.ln()))
            .collect();
        close("bits", &got.f32(6).unwrap(), &bits);
        // Pixels by the drawn latents, then by their means.
        for (output, scale) in [(4, 1.0), (5, 0.0)] {
            let expected = images.clone().zip(drawn.chunks(LATENT)).flat_map(|(x, e)| {
                let [mean, log_var] = reference.encode(x);
                let z: Vec<f64> = (0..LATENT)
                    .map(|i| mean[i] + scale * f64::from(e[i]) * (0.5 * log_var[i]).exp())
                    .collect();
                let logits = reference.logits(&z);
                logits.into_iter().map(|l| 1.0 / (1.0 + (-l).exp()))
            });
            let expected: Vec<f64> = expected.collect();
            close("pixels", &got.f32(output).unwrap(), &expected);
        }
    }
}

#[test]
fn gradients_are_finite_differences() {
    for config in variants() {
        let params = Params::new(4);
        let vae = Vae::new(&params, config).unwrap();
        let graph = Graph::new();
        let (x, noise) = inputs(&graph, &[]);
        let loss = vae.forward_with(&x, &noise, Mode::Train).loss;
        let all = params.trainable();
        let on: Vec<Tensor> = all.iter().map(|p| p.on(&graph)).collect();
        let grads = tape::backward(&loss, &on.iter().collect::<Vec<_>>()).unwrap();
        let wanted: Vec<&Tensor> = grads.iter().collect();
        let mut program = graph.compile(gpu(), &params, &wanted).unwrap();
        let (pixels, drawn) = data(1);
        let fed = [("x", Value::F32(&pixels)), ("noise", Value::F32(&drawn))];
        let got = program.run(&fed).unwrap();
        let mut reference = Reference::new(&params, config);
        let mut numbers = Numbers::new(9);
        for (i, param) in all.iter().enumerate() {
            let grad = got.f32(i).unwrap();
            let direction: Vec<f64> = grad
                .iter()
                .map(|_| f64::from(numbers.uniform(-1.0, 1.0)))
                .collect();
            let mut at = |step: f64| {
                let values = reference.values.get_mut(param.name()).unwrap();
                let before = values.clone();
                for (v, d) in values.iter_mut().zip(&direction) {
                    *v += step * d;
                }
                let loss = reference.loss(&pixels, &drawn);
                *reference.values.get_mut(param.name()).unwrap() = before;
                loss
            };
            let numeric = (at(1e-6) - at(-1e-6)) / 2e-6;
            let along = grad.iter().zip(&direction);
            let exact: f64 = along.map(|(g, d)| f64::from(*g) * d).sum();
            let size = grad
                .iter()
                .map(|g| f64::from(*g).powi(2))
                .sum::<f64>()
                .sqrt();
            assert!(
                (numeric - exact).abs() < 2e-5 * (size + 1e-2),
                "{} of {config:?}: {numeric} and {exact}",
                param.name()
            );
            assert!(size > 0.0, "{} of {config:?} has no gradient", param.name());
        }
    }
}

#[test]
fn bounds_by_importance_weights() {
    for config in variants() {
        let params = Params::new(5);
        let vae = Vae::new(&params, config).unwrap();
        let reference = Reference::new(&params, config);
        let samples = 7;
        let graph = Graph::new();
        let (x, noise) = inputs(&graph, &[samples]);
        let bound = vae.importance_bound_with(&x, &noise, Mode::Eval);
        let one = graph.input("one", [ROWS, LATENT]);
        let single = vae.importance_bound_with(&x, &one.reshape([ROWS, 1, LATENT]), Mode::Eval);
        let out = vae.forward_with(&x, &one, Mode::Eval);
        let estimate = out.nll.add(&out.log_ratio).neg();
        let wanted = [&bound, &single, &estimate];
        let mut program = graph.compile(gpu(), &params, &wanted).unwrap();
        let (pixels, drawn) = data(samples);
        let got = program
            .run(&[
                ("x", Value::F32(&pixels)),
                ("noise", Value::F32(&drawn)),
                ("one", Value::F32(&drawn[..ROWS * LATENT])),
            ])
            .unwrap();
        let images = pixels.chunks(pixels.len() / ROWS);
        let expected: Vec<f64> = images
            .zip(drawn.chunks(samples * LATENT))
            .map(|(x, draws)| {
                let weights = draws.chunks(LATENT).map(|e| {
                    let [nll, _, ratio] = reference.parts(x, e);
                    (-nll - ratio).exp()
                });
                (weights.sum::<f64>() / samples as f64).ln()
            })
            .collect();
        close("bound", &got.f32(0).unwrap(), &expected);
        let single: Vec<f64> = got.f32(1).unwrap().iter().map(|v| f64::from(*v)).collect();
        close("one sample", &got.f32(2).unwrap(), &single);
    }
}

/// Averages over many draws: more samples give a higher bound, and all of them lie above
/// the evidence lower bound; the drawn ratio averages to the divergence.
#[test]
fn more_samples_tighten_the_bound() {
    let mut config = small(Some(4), Likelihood::Bernoulli);
    config.network.latent = 2;
    let params = Params::new(6);
    let vae = Vae::new(&params, config).unwrap();
    // A posterior that is far from the true one, so that the bounds lie apart.
    params.set("encoder.z_mean.bias", &[1.5, -1.0]).unwrap();
    let graph = Graph::new();
    let [c, h, w] = IMAGE;
    let n = 128;
    let x = graph.input("x", [1, c, h, w]).broadcast_to([n, c, h, w]);
    let out = vae.forward(&x, Mode::Eval);
    let bounds = [1, 4, 16].map(|k| vae.importance_bound(&x, k, Mode::Eval).mean(&[], false));
    let elbo = out.elbo().mean(&[], false);
    let [kl, ratio] = [&out.kl, &out.log_ratio].map(|v| v.mean(&[], false));
    let wanted = [&elbo, &bounds[0], &bounds[1], &bounds[2], &kl, &ratio];
    let mut program = graph.compile(gpu(), &params, &wanted).unwrap();
    let (pixels, _) = data(1);
    let got = program.run(&[("x", Value::F32(&pixels[..64]))]).unwrap();
    let [elbo, one, four, sixteen, kl, ratio] = [0, 1, 2, 3, 4, 5].map(|i| got.scalar(i).unwrap());
    // Standard errors are about 0.1.
    assert!((elbo - one).abs() < 0.3, "{elbo} and {one}");
    assert!((kl - ratio).abs() < 0.3, "{kl} and {ratio}");
    assert!(
        four > one + 0.3 && sixteen > four + 0.1,
        "{one} {four} {sixteen}"
    );
}

#[test]
fn lines_begin_and_end_where_they_should() {
    let params = Params::new(7);
    let vae = Vae::new(&params, small(None, Likelihood::Bernoulli)).unwrap();
    let graph = Graph::new();
    let (from, to) = (
        graph.input("from", [2, LATENT]),
        graph.input("to", [2, LATENT]),
    );
    let line = vae.interpolate(&from, &to, 3, Mode::Eval);
    let middle = from.add(&to).mul_scalar(0.5);
    let ends = [&from, &middle, &to].map(|z| vae.decode(z, Mode::Eval));
    let sampled = vae.sample(&graph, 5, Mode::Eval);
    assert_eq!(sampled.shape().dims(), [5, 2, 8, 4]);
    let wanted = [&line, &ends[0], &ends[1], &ends[2], &sampled];
    let mut program = graph.compile(gpu(), &params, &wanted).unwrap();
    let (a, b) = (numbers(1, 6, -2.0, 2.0), numbers(2, 6, -2.0, 2.0));
    let fed = [("from", Value::F32(&a)), ("to", Value::F32(&b))];
    let got = program.run(&fed).unwrap();
    let line = got.f32(0).unwrap();
    for step in 0..3 {
        let end = got.f32(1 + step).unwrap();
        for row in 0..2 {
            let at = (3 * row + step) * 64;
            let end: Vec<f64> = end[64 * row..][..64]
                .iter()
                .map(|v| f64::from(*v))
                .collect();
            close("line", &line[at..at + 64], &end);
        }
    }
    // Drawn anew in every run.
    let second = program.run(&fed).unwrap();
    assert_ne!(second.bits(4), got.bits(4));
    assert_eq!(second.bits(0), got.bits(0));
}

#[test]
fn a_vae_goes_on_from_a_plain_autoencoder_and_back() {
    let folder = Folder::new();
    let config = small(Some(4), Likelihood::Bernoulli);
    let plain = Params::new(1);
    let autoencoder = Autoencoder::new(&plain, config.network).unwrap();
    let file = folder.file("plain.safetensors");
    plain.save(&file, Precision::F32).unwrap();
    let params = Params::new(2);
    let vae = Vae::new(&params, config).unwrap();
    let rules = LoadRules::default();
    let load = |params: &Params, file: &std::path::Path, rules: &LoadRules| {
        params.load_by(WeightsFile::open(file).unwrap(), rules)
    };
    assert!(load(&params, &file, &rules).is_err());
    let rules = rules.may_miss(&["encoder.z_log_var"]);
    load(&params, &file, &rules).unwrap();

    let pixels = data(1).0;
    let means = |params: &Params, made: &dyn Fn(&Tensor) -> Tensor| {
        let graph = Graph::new();
        let made = made(&inputs(&graph, &[]).0);
        let mut program = graph.compile(gpu(), params, &[&made]).unwrap();
        let out = program.run(&[("x", Value::F32(&pixels))]).unwrap();
        out.bits(0).to_vec()
    };
    let of_plain = |x: &Tensor| autoencoder.decode(&autoencoder.encode(x, Mode::Eval), Mode::Eval);
    let of_vae = |x: &Tensor| vae.reconstruct(x, Mode::Eval);
    assert_eq!(means(&plain, &of_plain), means(&params, &of_vae));

    let file = folder.file("vae.safetensors");
    params.save(&file, Precision::F32).unwrap();
    let back = Params::new(3);
    Autoencoder::new(&back, config.network).unwrap();
    let rules = LoadRules::default().skip_ending(&["z_log_var.weight", "z_log_var.bias"]);
    load(&back, &file, &rules).unwrap();
    assert_eq!(
        back.get("decoder.3.weight").unwrap(),
        plain.get("decoder.3.weight").unwrap()
    );
}

#[test]
fn what_does_not_fit_is_told() {
    let new = |config: VaeConfig| Vae::new(&Params::new(0), config).map(drop);
    let mut odd = VaeConfig::new([1, 30, 28]);
    let refused = |config: VaeConfig, words: &str| {
        let error = new(config).unwrap_err();
        assert!(matches!(error, Error::Argument { .. }), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    };
    refused(odd, "30x28");
    odd.network.image = [0, 28, 28];
    refused(odd, "empty");
    odd = VaeConfig::new([1, 28, 28]);
    odd.network.latent = 0;
    refused(odd, "latent");
    odd = VaeConfig::new([1, 28, 28]);
    odd.beta = -1.0;
    refused(odd, "beta");
    odd.beta = 1.0;
    odd.likelihood = Likelihood::Gaussian { variance: 0.0 };
    refused(odd, "variance");

    let vae = Vae::new(&Params::new(0), VaeConfig::new([1, 8, 8])).unwrap();
    let graph = Graph::new();
    let told = |tensor: &Tensor, words: &str| {
        let error = tensor.check().unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    let x = graph.input("x", [4, 1, 8, 8]);
    let wrong = graph.input("wrong", [4, 1, 12, 8]);
    told(&vae.forward(&wrong, Mode::Eval).loss, "[N, 1, 8, 8]");
    told(&vae.importance_bound(&wrong, 2, Mode::Eval), "[N, 1, 8, 8]");
    told(&vae.importance_bound(&x, 0, Mode::Eval), "samples is 0");
    let z = graph.input("z", [4, 3]);
    told(&vae.decode(&z, Mode::Eval), "latents [N, 2]");
    told(&vae.importance_bound_with(&x, &z, Mode::Eval), "noise");
    told(&vae.interpolate(&z, &z, 4, Mode::Eval), "latents [N, 2]");
    let z = graph.input("z2", [4, 2]);
    told(&vae.interpolate(&z, &z, 1, Mode::Eval), "steps is 1");
}
