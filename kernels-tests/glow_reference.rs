//! A state dict as rosinality/glow-pytorch saves it, loaded by name, against a plain
//! float64 implementation of that code that shares nothing with this crate.

use std::collections::{BTreeMap, HashMap};

use flowgrad::flow::Context;
use flowgrad::models::{Glow, GlowConfig, GlowConvention};
use flowgrad::{Graph, Params, Value};
use safetensors::tensor::{Dtype, TensorView};

use crate::support::{Numbers, gpu};

const IMAGE: [usize; 3] = [1, 4, 8];
const LEVELS: usize = 2;
const DEPTH: usize = 2;
const HIDDEN: usize = 3;

type State = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// All tensors of the port with its names and shapes, masks and flags included.
fn state() -> State {
    let mut numbers = Numbers::new(17);
    let mut state = State::new();
    let mut add = |name: String, shape: &[usize], lo: f32, hi: f32| {
        let count = shape.iter().product();
        let values = (0..count).map(|_| numbers.uniform(lo, hi)).collect();
        state.insert(name, (shape.to_vec(), values));
    };
    let mut channels = IMAGE[0];
    for b in 0..LEVELS {
        channels *= 4;
        let half = channels / 2;
        for k in 0..DEPTH {
            let name = |n: &str| format!("blocks.{b}.flows.{k}.{n}");
            let column = [1, channels, 1, 1];
            let matrix = [channels, channels];
            add(name("actnorm.loc"), &column, -0.2, 0.2);
            // Of both signs: the logarithm is that of the magnitude.
            add(name("actnorm.scale"), &column, -1.4, -0.7);
            add(name("invconv.w_l"), &matrix, -0.3, 0.3);
            add(name("invconv.w_u"), &matrix, -0.3, 0.3);
            add(name("invconv.w_s"), &[channels], -0.2, 0.2);
            let net = |n: &str| name(&format!("coupling.net.{n}"));
            add(net("0.weight"), &[HIDDEN, half, 3, 3], -0.4, 0.4);
            add(net("0.bias"), &[HIDDEN], -0.2, 0.2);
            add(net("2.weight"), &[HIDDEN, HIDDEN, 1, 1], -0.6, 0.6);
            add(net("2.bias"), &[HIDDEN], -0.2, 0.2);
            add(net("4.conv.weight"), &[channels, HIDDEN, 3, 3], -0.3, 0.3);
            add(net("4.conv.bias"), &[channels], -0.2, 0.2);
            add(net("4.scale"), &column, -0.1, 0.1);
        }
        let last = b + 1 == LEVELS;
        let [inputs, outputs] = if last {
            [channels, 2 * channels]
        } else {
            [half, channels]
        };
        let name = |n: &str| format!("blocks.{b}.prior.{n}");
        add(name("conv.weight"), &[outputs, inputs, 3, 3], -0.2, 0.2);
        add(name("conv.bias"), &[outputs], -0.2, 0.2);
        add(name("scale"), &[1, outputs, 1, 1], -0.1, 0.1);
        channels = half;
    }
    let mut channels = IMAGE[0];
    for b in 0..LEVELS {
        channels *= 4;
        let n = channels;
        let matrix = |of: &dyn Fn(usize, usize) -> bool| {
            let all = (0..n * n).map(|i| f32::from(of(i / n, i % n)));
            (vec![n, n], all.collect::<Vec<f32>>())
        };
        for k in 0..DEPTH {
            let name = |s: &str| format!("blocks.{b}.flows.{k}.invconv.{s}");
            // A cyclic permutation, which is not its own inverse.
            state.insert(name("w_p"), matrix(&|i, j| (i + 1) % n == j));
            state.insert(name("u_mask"), matrix(&|i, j| i < j));
            state.insert(name("l_mask"), matrix(&|i, j| i > j));
            state.insert(name("l_eye"), matrix(&|i, j| i == j));
            let sign = (0..n).map(|i| if i % 3 == 1 { -1.0 } else { 1.0 });
            state.insert(name("s_sign"), (vec![n], sign.collect()));
        }
        channels /= 2;
    }
    state
}

/// An image of one sample: channels, height, width, values.
#[derive(Clone)]
struct Planes(usize, usize, usize, Vec<f64>);

impl Planes {
    fn at(&self, c: usize, y: isize, x: isize, outside: f64) -> f64 {
        let inside = |v: isize, n: usize| usize::try_from(v).is_ok_and(|v| v < n);
        match inside(y, self.1) && inside(x, self.2) {
            true => self.3[(c * self.1 + y as usize) * self.2 + x as usize],
            false => outside,
        }
    }

    fn map(&self, channels: usize, of: impl Fn(usize, isize, isize) -> f64) -> Planes {
        let mut values = Vec::new();
        for c in 0..channels {
            for y in 0..self.1 as isize {
                for x in 0..self.2 as isize {
                    values.push(of(c, y, x));
                }
            }
        }
        Planes(channels, self.1, self.2, values)
    }
}

struct Port<'a>(&'a State);

impl Port<'_> {
    fn get(&self, name: &str) -> Vec<f64> {
        self.0[name].1.iter().map(|v| *v as f64).collect()
    }

    fn conv(&self, x: &Planes, name: &str, outside: f64) -> Planes {
        let shape = &self.0[&format!("{name}.weight")].0;
        let (weight, bias) = (
            self.get(&format!("{name}.weight")),
            self.get(&format!("{name}.bias")),
        );
        let k = shape[2];
        let r = (k / 2) as isize;
        x.map(shape[0], |o, y, column| {
            let mut sum = bias[o];
            for i in 0..x.0 {
                for dy in 0..k {
                    for dx in 0..k {
                        let value = x.at(i, y + dy as isize - r, column + dx as isize - r, outside);
                        sum += weight[((o * x.0 + i) * k + dy) * k + dx] * value;
                    }
                }
            }
            sum
        })
    }

    /// `ZeroConv2d`: pads with ones.
    fn zero_conv(&self, x: &Planes, name: &str) -> Planes {
        let y = self.conv(x, &format!("{name}.conv"), 1.0);
        let scale = self.get(&format!("{name}.scale"));
        y.map(y.0, |c, h, w| y.at(c, h, w, 0.0) * (3.0 * scale[c]).exp())
    }

    fn flow(&self, x: &Planes, name: &str) -> (Planes, f64) {
        let get = |n: &str| self.get(&format!("{name}.{n}"));
        let n = x.0;
        let pixels = (x.1 * x.2) as f64;
        let (loc, scale) = (get("actnorm.loc"), get("actnorm.scale"));
        let y = x.map(n, |c, h, w| scale[c] * (x.at(c, h, w, 0.0) + loc[c]));
        let mut log_det = pixels * scale.iter().map(|s| s.abs().ln()).sum::<f64>();

        let [p, l, u] = ["w_p", "w_l", "w_u"].map(|m| get(&format!("invconv.{m}")));
        let (s, sign) = (get("invconv.w_s"), get("invconv.s_sign"));
        let lower = |i: usize, j: usize| match i.cmp(&j) {
            std::cmp::Ordering::Greater => l[i * n + j],
            std::cmp::Ordering::Equal => 1.0,
            std::cmp::Ordering::Less => 0.0,
        };
        let upper = |i: usize, j: usize| match i.cmp(&j) {
            std::cmp::Ordering::Less => u[i * n + j],
            std::cmp::Ordering::Equal => sign[i] * s[i].exp(),
            std::cmp::Ordering::Greater => 0.0,
        };
        let mut weight = vec![0.0; n * n];
        for i in 0..n {
            for a in 0..n {
                for b in 0..n {
                    for j in 0..n {
                        weight[i * n + j] += p[i * n + a] * lower(a, b) * upper(b, j);
                    }
                }
            }
        }
        let z = y.map(n, |o, h, w| {
            (0..n).map(|i| weight[o * n + i] * y.at(i, h, w, 0.0)).sum()
        });
        log_det += pixels * s.iter().sum::<f64>();

        let half = n / 2;
        let a = z.map(half, |c, h, w| z.at(c, h, w, 0.0));
        let relu = |x: Planes| Planes(x.0, x.1, x.2, x.3.iter().map(|v| v.max(0.0)).collect());
        let net = |n: &str| format!("{name}.coupling.net.{n}");
        let hidden = relu(self.conv(&a, &net("0"), 0.0));
        let hidden = relu(self.conv(&hidden, &net("2"), 0.0));
        let raw = self.zero_conv(&hidden, &net("4"));
        let out = z.map(n, |c, h, w| {
            let v = z.at(c, h, w, 0.0);
            match c.checked_sub(half) {
                None => v,
                Some(i) => {
                    let s = 1.0 / (1.0 + (-raw.at(i, h, w, 0.0) - 2.0).exp());
                    (v + raw.at(half + i, h, w, 0.0)) * s
                }
            }
        });
        for v in &raw.3[..raw.3.len() / 2] {
            log_det -= (1.0 + (-v - 2.0).exp()).ln();
        }
        (out, log_det)
    }

    fn log_prob(&self, image: &[f32]) -> f64 {
        let [c, h, w] = IMAGE;
        let mut x = Planes(c, h, w, image.iter().map(|v| *v as f64).collect());
        let mut total = 0.0;
        for b in 0..LEVELS {
            let wide = Planes(4 * x.0, x.1 / 2, x.2 / 2, Vec::new());
            let mut y = wide.map(4 * x.0, |c, h, w| {
                let (dy, dx) = ((c / 2 % 2) as isize, (c % 2) as isize);
                x.at(c / 4, 2 * h + dy, 2 * w + dx, 0.0)
            });
            for k in 0..DEPTH {
                let (out, log_det) = self.flow(&y, &format!("blocks.{b}.flows.{k}"));
                y = out;
                total += log_det;
            }
            let prior = format!("blocks.{b}.prior");
            let half = y.0 / 2;
            let (moments, z) = if b + 1 == LEVELS {
                let zeros = y.map(y.0, |_, _, _| 0.0);
                (self.zero_conv(&zeros, &prior), y.clone())
            } else {
                let kept = y.map(half, |c, h, w| y.at(c, h, w, 0.0));
                let z = y.map(half, |c, h, w| y.at(half + c, h, w, 0.0));
                let moments = self.zero_conv(&kept, &prior);
                x = kept;
                (moments, z)
            };
            let count = z.3.len();
            for i in 0..count {
                let (mean, log_sd) = (moments.3[i], moments.3[count + i]);
                let unit = (z.3[i] - mean) / log_sd.exp();
                total -= 0.5 * (unit * unit + std::f64::consts::TAU.ln()) + log_sd;
            }
        }
        total
    }
}

/// Writes the state with `prefix` before every name.
fn write(state: &State, prefix: &str, without: &str) -> std::path::PathBuf {
    let mut bytes: Vec<(String, Vec<usize>, Vec<u8>, Dtype)> = Vec::new();
    for (name, (shape, values)) in state.iter().filter(|(n, _)| *n != without) {
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        bytes.push((format!("{prefix}{name}"), shape.clone(), data, Dtype::F32));
        if let Some(norm) = name.strip_suffix("actnorm.loc") {
            let flag = format!("{prefix}{norm}actnorm.initialized");
            bytes.push((flag, vec![], vec![1], Dtype::U8));
        }
    }
    let views: HashMap<&str, TensorView<'_>> = bytes
        .iter()
        .map(|(name, shape, data, dtype)| {
            let view = TensorView::new(*dtype, shape.clone(), data).expect("a view");
            (name.as_str(), view)
        })
        .collect();
    let name = format!("flowgrad-port-{}-{prefix}{without}", std::process::id());
    let file = std::env::temp_dir().join(name);
    safetensors::serialize_to_file(views, None, &file).expect("a file");
    file
}

#[test]
fn a_port_s_weights_give_its_likelihoods() {
    let params = Params::new(3);
    let config = GlowConfig {
        image: IMAGE,
        levels: LEVELS,
        depth: DEPTH,
        hidden: HIDDEN,
        convention: GlowConvention::Rosinality,
        ..GlowConfig::digits()
    };
    let glow = Glow::new(&params, config).expect("a model");
    let state = state();
    let missing = write(&state, "", "blocks.1.prior.scale");
    let error = glow.load(&params, &missing).expect_err("one is missing");
    assert!(
        error.to_string().contains("blocks.1.prior.scale"),
        "{error}"
    );
    let file = write(&state, "module.", "");
    glow.load(&params, &file).expect("loaded");
    for file in [missing, file] {
        std::fs::remove_file(file).expect("removed");
    }

    let mut numbers = Numbers::new(5);
    let images: Vec<f32> = (0..3 * 32).map(|_| numbers.uniform(-0.5, 0.5)).collect();
    let graph = Graph::new();
    let x = graph.input("x", [3, 1, 4, 8]);
    let log_prob = glow.flow.log_prob(&x, &Context::eval());
    let mut program = graph
        .compile(gpu(), &params, &[&log_prob])
        .expect("a program");
    let out = program.run(&[("x", Value::F32(&images))]).expect("a run");
    for (got, image) in out.f32(0).expect("floats").iter().zip(images.chunks(32)) {
        let exact = Port(&state).log_prob(image);
        assert!(
            (*got as f64 - exact).abs() < 2e-5 * exact.abs(),
            "{got}, expected {exact}"
        );
    }
}
