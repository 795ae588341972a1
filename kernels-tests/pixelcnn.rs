//! PixelCNN: nothing sees what comes after it, and what is drawn place by place from kept
//! activations is what whole forward passes say.

use flowgrad::models::{PixelBlock, PixelCnn, PixelCnnConfig, PixelSampler, VqVae};
use flowgrad::nn::Mode;
use flowgrad::ops::{Categorical, threefry};
use flowgrad::params::{Precision, Strict};
use flowgrad::{Error, Graph, Init, Params, Tensor, Value, tape};

use crate::params::Folder;
use crate::support::{Numbers, gpu};

fn small(block: PixelBlock, colours: usize, classes: Option<usize>) -> PixelCnnConfig {
    PixelCnnConfig {
        grid: [3, 4],
        colours,
        levels: 5,
        width: 12,
        kernel: 5,
        block,
        blocks: 2,
        head: 1,
        classes,
    }
}

fn variants() -> [PixelCnnConfig; 5] {
    use PixelBlock::{Gated, Residual};
    [
        small(Residual, 1, None),
        small(Gated, 1, Some(3)),
        small(Residual, 3, Some(2)),
        small(Gated, 3, None),
        // Nothing comes before anything within its reach.
        PixelCnnConfig {
            kernel: 1,
            ..small(Gated, 2, None)
        },
    ]
}

/// A prior whose logits differ: biases of classes are zeros at first.
fn prior(config: PixelCnnConfig, seed: u64) -> (Params, PixelCnn) {
    let params = Params::new(seed);
    let model = PixelCnn::new(&params, config).unwrap();
    let mut numbers = Numbers::new(seed);
    for param in params.trainable() {
        let n = param.shape().numel();
        let values: Vec<f32> = (0..n).map(|_| numbers.uniform(-0.6, 0.6)).collect();
        param.set(&values).unwrap();
    }
    (params, model)
}

fn codes(seed: u64, n: usize, levels: usize) -> Vec<u32> {
    let mut numbers = Numbers::new(seed);
    (0..n).map(|_| numbers.below(levels) as u32).collect()
}

/// Logits of whole grids: by grid and place in reading order, colours last.
fn logits(params: &Params, model: &PixelCnn, codes: &[u32], labels: &[u32]) -> Vec<Vec<f32>> {
    let config = model.config();
    let n = codes.len() / config.len();
    let graph = Graph::new();
    let x = graph.input_u32("x", config.shape(n));
    let labelled = config.classes.map(|_| graph.input_u32("labels", [n]));
    let y = model.logits(&x, labelled.as_ref(), Mode::Eval);
    let places = config.grid[0] * config.grid[1];
    let y = y.reshape([n, config.levels, config.colours, places]);
    let y = y.permute(&[0, 3, 2, 1]);
    let mut program = graph.compile(gpu(), params, &[&y]).unwrap();
    let mut fed = vec![("x", Value::U32(codes))];
    if labelled.is_some() {
        fed.push(("labels", Value::U32(labels)));
    }
    let y = program.run(&fed).unwrap().f32(0).unwrap();
    y.chunks(config.levels).map(<[f32]>::to_vec).collect()
}

/// Where the number `p` in reading order, colours last, lies in a grid.
fn index(config: &PixelCnnConfig, p: usize) -> usize {
    let places = config.grid[0] * config.grid[1];
    p % config.colours * places + p / config.colours
}

#[test]
fn nothing_sees_what_comes_after_it() {
    for config in variants() {
        let (params, model) = prior(config, 1);
        let (len, levels) = (config.len(), config.levels);
        let base = codes(2, len, levels);
        // Grid `1 + p` has another number at `p`.
        let mut grids = base.clone();
        for p in 0..len {
            let mut grid = base.clone();
            let at = index(&config, p);
            grid[at] = (grid[at] + 1) % levels as u32;
            grids.extend(grid);
        }
        let rows = logits(&params, &model, &grids, &vec![1; len + 1]);
        let mut reached = 0;
        for p in 0..len {
            for q in 0..len {
                let same = rows[q] == rows[(1 + p) * len + q];
                assert!(same || q > p, "{p} changes {q}: {config:?}");
                reached += usize::from(!same);
            }
        }
        // Each sees the one before it at least, if only its other colour.
        assert!(reached > len / 3, "{reached} of {config:?}");
        let before = match config.kernel {
            1 => len - 2,
            _ => len - 1 - config.colours,
        };
        assert!(rows[len - 1] != rows[(1 + before) * len + len - 1]);
    }
}

/// The class that `Tensor::categorical` draws for row `n`, by its documented numbers.
fn drawn(logits: &[f32], n: usize, state: (u64, u32), options: &Categorical) -> u32 {
    let (seed, step) = state;
    let key = threefry([seed as u32, (seed >> 32) as u32], [step, 1]);
    let mut sorted: Vec<f32> = logits.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let least = sorted[options.top_k.unwrap_or(logits.len()).min(logits.len()) - 1];
    let score = |(j, logit): (usize, &f32)| {
        let word = threefry(key, [j as u32 / 2, n as u32])[j % 2];
        let unit = (f64::from(word) + 0.5) / (1u64 << 32) as f64;
        let gumbel = -(-(-unit).ln_1p()).ln();
        let score = f64::from(*logit) / f64::from(options.temperature) + gumbel;
        (
            if *logit >= least {
                score
            } else {
                f64::NEG_INFINITY
            },
            j,
        )
    };
    let scores = logits.iter().enumerate().map(score);
    let best = scores.max_by(|a, b| a.0.total_cmp(&b.0));
    best.unwrap().1 as u32
}

#[test]
fn places_are_drawn_from_the_logits_of_whole_passes() {
    for (i, config) in variants().into_iter().enumerate() {
        let (params, model) = prior(config, 3);
        let options = Categorical {
            temperature: [1.0, 0.5][i % 2],
            top_k: [None, None, Some(3), Some(2), None][i],
        };
        let count = 5;
        let mut sampler = PixelSampler::new(gpu(), &model, &params, count, &options).unwrap();
        let labels: Vec<u32> = (0..count as u32).map(|n| n % 2).collect();
        let given = config.classes.map(|_| &labels[..]);
        let state = (0x1_2345_6789, 40);
        sampler.set_random_state(state.0, state.1);
        let got = sampler.sample(given).unwrap();
        assert_eq!(got.len(), count * config.len());
        let rows = logits(&params, &model, &got, &labels);
        for n in 0..count {
            for p in 0..config.len() {
                let at = (state.0, state.1 + p as u32);
                let expected = drawn(&rows[n * config.len() + p], n, at, &options);
                let found = got[n * config.len() + index(&config, p)];
                assert_eq!(found, expected, "grid {n}, number {p} of {config:?}");
            }
        }
        model.check_codes(&got).unwrap();
        // A second draw sees nothing of the first.
        sampler.set_random_state(state.0, state.1);
        assert_eq!(sampler.sample(given).unwrap(), got);
        // Further draws are others, and other weights are heeded without a new sampler.
        let before = sampler.sample(given).unwrap();
        let mut bias = vec![0.0; config.colours * config.levels];
        bias.iter_mut()
            .step_by(config.levels)
            .for_each(|b| *b = 50.0);
        params.set("out.bias", &bias).unwrap();
        let after = sampler.sample(given).unwrap();
        assert!(before.iter().any(|c| *c != 0) && after.iter().all(|c| *c == 0));
    }
}

/// Codes are read where they lie, by a program of another set.
#[test]
fn drawn_codes_stay_on_the_gpu() {
    let (params, model) = prior(small(PixelBlock::Gated, 1, None), 4);
    let options = Categorical::default();
    let mut sampler = PixelSampler::new(gpu(), &model, &params, 2, &options).unwrap();
    let graph = Graph::new();
    let other = Params::new(0);
    let table = other.add(
        "table",
        [5, 1],
        Init::Values(vec![0.0, 10.0, 20.0, 30.0, 40.0]),
    );
    let made = table
        .unwrap()
        .on(&graph)
        .gather_rows(&sampler.codes(&graph));
    let mut program = graph
        .compile(gpu(), &[&other, sampler.states()], &[&made])
        .unwrap();
    sampler.set_random_state(1, 0);
    sampler.draw(None).unwrap();
    let made = program.run(&[]).unwrap().f32(0).unwrap();
    sampler.set_random_state(1, 0);
    let codes = sampler.sample(None).unwrap();
    let expected: Vec<f32> = codes.iter().map(|c| 10.0 * *c as f32).collect();
    assert_eq!(made, expected);
}

#[test]
fn losses_are_cross_entropies_and_have_gradients() {
    for config in [variants()[1], variants()[2]] {
        let (params, model) = prior(config, 5);
        let n = 2;
        let x = codes(6, n * config.len(), config.levels);
        let labels = [1, 0];
        let rows = logits(&params, &model, &x, &labels);
        let mut expected = 0.0;
        for (i, row) in rows.iter().enumerate() {
            let (grid, p) = (i / config.len(), i % config.len());
            let code = x[grid * config.len() + index(&config, p)];
            let total: f64 = row.iter().map(|l| f64::from(*l).exp()).sum();
            expected += total.ln() - f64::from(row[code as usize]);
        }
        expected /= rows.len() as f64;

        let graph = Graph::new();
        let fed = graph.input_u32("x", config.shape(n));
        let labelled = config.classes.map(|_| graph.input_u32("labels", [n]));
        let loss = model.loss(&fed, labelled.as_ref(), Mode::Train);
        let all = params.trainable();
        let on: Vec<Tensor> = all.iter().map(|p| p.on(&graph)).collect();
        let grads = tape::backward(&loss, &on.iter().collect::<Vec<_>>()).unwrap();
        let mut wanted = vec![&loss];
        wanted.extend(&grads);
        let mut program = graph.compile(gpu(), &params, &wanted).unwrap();
        let mut inputs = vec![("x", Value::U32(&x))];
        if labelled.is_some() {
            inputs.push(("labels", Value::U32(&labels)));
        }
        let out = program.run(&inputs).unwrap();
        let loss = f64::from(out.scalar(0).unwrap());
        assert!((loss - expected).abs() < 1e-5, "{loss} and {expected}");
        let mut numbers = Numbers::new(7);
        for (i, param) in all.iter().enumerate() {
            let grad = out.f32(1 + i).unwrap();
            let before = param.get().unwrap();
            let direction: Vec<f32> = grad.iter().map(|_| numbers.uniform(-1.0, 1.0)).collect();
            let h = 1e-3;
            let mut at = |sign: f32| {
                let moved = before.iter().zip(&direction);
                let moved: Vec<f32> = moved.map(|(v, d)| v + sign * h * d).collect();
                param.set(&moved).unwrap();
                f64::from(program.run(&inputs).unwrap().scalar(0).unwrap())
            };
            let numeric = (at(1.0) - at(-1.0)) / (2.0 * f64::from(h));
            param.set(&before).unwrap();
            let exact: f64 = (grad.iter().zip(&direction))
                .map(|(g, d)| f64::from(*g) * f64::from(*d))
                .sum();
            // Differences of float32 losses, and kinks of ReLU: for what is wrong by far.
            assert!(
                (numeric - exact).abs() < 0.05 * exact.abs() + 2e-3,
                "{} of {config:?}: {numeric} and {exact}",
                param.name()
            );
        }

        // A number out of range is told by NaN, not left out.
        let mut beyond = x.clone();
        beyond[3] = config.levels as u32;
        inputs[0] = ("x", Value::U32(&beyond));
        assert!(program.run(&inputs).unwrap().scalar(0).unwrap().is_nan());
        let error = model.check_codes(&beyond).unwrap_err().to_string();
        assert!(error.contains("code 5 (number 3 of grid 0)"), "{error}");
    }
}

/// Masked taps are learnt by nobody: keras.io counts them, so the counts are its own.
#[test]
fn counts_are_those_of_the_published_prior() {
    let params = Params::new(0);
    PixelCnn::new(&params, PixelCnnConfig::keras([7, 7], 128)).unwrap();
    let block = 128 * 129 + (9 * 128 * 64 + 64) + (64 * 128 + 128);
    let expected = 49 * 128 * 128 + 128 + 2 * block + 2 * 128 * 129 + 128 * 129;
    assert_eq!(params.count(), expected);
}

#[test]
fn a_prior_knows_its_codebook() {
    let folder = Folder::new();
    let (set, other) = (Params::new(1), Params::new(2));
    let codebook = |set: &Params| VqVae::digits(set).unwrap().quantizer;
    let [first, second] = [&set, &other].map(codebook);
    let config = PixelCnnConfig {
        levels: 64,
        ..small(PixelBlock::Gated, 1, None)
    };
    let (params, model) = prior(config, 1);
    for _ in 0..2 {
        model.expect_codebook(first.codebook()).unwrap();
    }
    let file = folder.file("prior.safetensors");
    params.save(&file, Precision::F16).unwrap();
    let params = Params::new(9);
    let model = PixelCnn::new(&params, config).unwrap();
    params.load(&file, Strict::Yes).unwrap();
    model.expect_codebook(first.codebook()).unwrap();
    let error = model.expect_codebook(second.codebook()).unwrap_err();
    assert!(error.to_string().contains("another codebook"), "{error}");
    let (_, fewer) = prior(small(PixelBlock::Gated, 1, None), 1);
    let error = fewer.expect_codebook(first.codebook()).unwrap_err();
    assert!(error.to_string().contains("made for 5 codes"), "{error}");
}

#[test]
fn what_cannot_be_drawn_is_told() {
    let refused = |result: Result<(), Error>, words: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    let new = |config: PixelCnnConfig| PixelCnn::new(&Params::new(0), config).map(drop);
    let config = small(PixelBlock::Residual, 1, Some(3));
    refused(
        new(PixelCnnConfig {
            kernel: 4,
            ..config
        }),
        "no centre",
    );
    refused(
        new(PixelCnnConfig {
            levels: 0,
            ..config
        }),
        "levels is 0",
    );
    let colours = PixelCnnConfig {
        colours: 3,
        width: 15,
        ..config
    };
    refused(new(colours), "divisible by 6");

    let (params, model) = prior(config, 1);
    let sampler = |count: usize, temperature: f32| {
        let options = Categorical {
            temperature,
            top_k: None,
        };
        PixelSampler::new(gpu(), &model, &params, count, &options)
    };
    refused(sampler(2, 0.0).map(drop), "argmax");
    refused(sampler(0, 1.0).map(drop), "count is 0");
    let mut sampler = sampler(2, 1.0).unwrap();
    refused(sampler.sample(None).map(drop), "give labels");
    refused(sampler.sample(Some(&[1])).map(drop), "1 labels for 2");
    refused(sampler.sample(Some(&[1, 3])).map(drop), "label 3");
    refused(
        model.check_codes(&[0; 13]),
        "no whole number of grids [3, 4]",
    );

    let graph = Graph::new();
    let x = graph.input_u32("x", [2, 3, 5]);
    refused(model.logits(&x, None, Mode::Eval).check(), "[2, 3, 4]");
    let x = graph.input_u32("y", [2, 3, 4]);
    refused(model.logits(&x, None, Mode::Eval).check(), "give labels");
}
