//! The vector quantiser: layouts, learning by gradient and by moving averages,
//! resets, starts. Its formulas are tested with the reference vectors.

use flowgrad::graph::{Feed, evaluate};
use flowgrad::nn::Mode;
use flowgrad::quantize::{CodebookUpdate, Fsq, Metric, VectorQuantizer, VqConfig, k_means};
use flowgrad::{Graph, Init, Params, Value, tape};

use crate::support::{Data, Numbers, gpu};

/// Rows around `centres` points on a circle of radius 4.
fn clusters(centres: usize, each: usize, seed: u64) -> Vec<f32> {
    let mut numbers = Numbers::new(seed);
    let rows = (0..centres * each).flat_map(|i| {
        let angle = std::f32::consts::TAU * (i % centres) as f32 / centres as f32;
        [4.0 * angle.cos(), 4.0 * angle.sin()]
    });
    rows.map(|v| v + numbers.uniform(-0.1, 0.1)).collect()
}

fn nearest_distance(row: &[f32], centres: &[f32]) -> f32 {
    let square = |c: &[f32]| (row[0] - c[0]).powi(2) + (row[1] - c[1]).powi(2);
    centres.chunks(2).map(square).fold(f32::INFINITY, f32::min)
}

#[test]
fn images_and_rows_agree() {
    let params = Params::new(1);
    let mut config = VqConfig::new(5, 3);
    config.init = Some(Init::Normal {
        mean: 0.0,
        std: 1.0,
    });
    for metric in [Metric::Euclidean, Metric::Cosine] {
        config.metric = metric;
        let scope = params.scope(format!("{metric:?}"));
        let vq = VectorQuantizer::new(&scope, config.clone()).expect("a quantiser");
        let graph = Graph::new();
        let image = graph.input("x", [2, 3, 4, 5]);
        let rows = image.permute(&[0, 2, 3, 1]).reshape([40, 3]);
        let a = vq.forward(&image, Mode::Eval);
        let b = vq.forward(&rows, Mode::Eval);
        assert_eq!(a.quantized.shape(), image.shape());
        assert_eq!(a.indices.shape().dims(), [2, 4, 5]);
        assert_eq!(b.indices.shape().dims(), [40]);
        let looked_up = vq.lookup(&a.indices);
        let back = a.quantized.permute(&[0, 2, 3, 1]).reshape([40, 3]);
        let wanted = [
            &back,
            &b.quantized,
            &a.loss,
            &b.loss,
            &a.quantized,
            &looked_up,
            &a.perplexity,
            &b.perplexity,
        ];
        let mut program = graph.compile(gpu(), &params, &wanted).expect("a program");
        let Data::F32 { values, .. } = Data::f32([2, 3, 4, 5], 3) else {
            unreachable!()
        };
        let out = program.run(&[("x", Value::F32(&values))]).expect("a run");
        for pair in 0..4 {
            let (left, right) = (out.f32(2 * pair), out.f32(2 * pair + 1));
            let (left, right) = (left.expect("f32"), right.expect("f32"));
            for (l, r) in left.iter().zip(&right) {
                assert!(
                    (l - r).abs() <= 1e-6 * r.abs().max(1.0),
                    "pair {pair}: {l} {r}"
                );
            }
        }
    }
    let names = params.names();
    assert_eq!(names[0], "Euclidean.embedding.weight");
}

#[test]
fn moving_averages_find_the_clusters() {
    let params = Params::new(4);
    let mut config = VqConfig::new(8, 2);
    config.update = CodebookUpdate::MovingAverage {
        decay: 0.8,
        eps: 1e-5,
    };
    // A full cluster gives a code 8 rows; codes that share one get fewer.
    config.reset_below = Some(5.0);
    let vq = VectorQuantizer::new(&params, config).expect("a quantiser");
    assert!(params.trainable().is_empty());
    assert_eq!(
        params.names(),
        ["embedding.weight", "ema_cluster_size", "ema_w"]
    );
    let graph = Graph::new();
    let out = vq.forward(&graph.input("x", [64, 2]), Mode::Train);
    let wanted = [&out.perplexity, &out.loss, &out.counts];
    let mut program = graph.compile(gpu(), &params, &wanted).expect("a program");
    let rows = clusters(8, 8, 5);
    let mut last = (0.0, 0.0);
    for _ in 0..60 {
        let out = program.run(&[("x", Value::F32(&rows))]).expect("a run");
        last = (
            out.scalar(0).expect("perplexity"),
            out.scalar(1).expect("loss"),
        );
        assert_eq!(out.f32(2).expect("counts").iter().sum::<f32>(), 64.0);
    }
    // Without resets codes that start near zero would stay unused or share clusters.
    assert!(last.0 > 7.99, "perplexity {}", last.0);
    let codes = params.get("embedding.weight").expect("codes");
    let far = rows
        .chunks(2)
        .filter(|r| nearest_distance(r, &codes) > 0.05)
        .count();
    assert_eq!(far, 0, "rows far from every code, loss {}", last.1);
}

#[test]
fn gradients_pull_codes_and_unused_ones_are_reset_on_call() {
    let params = Params::new(6);
    let mut config = VqConfig::new(4, 2);
    config.reset_below = Some(0.995);
    config.init = Some(Init::Values(vec![
        1.0, 1.0, 90.0, 90.0, -90.0, 0.0, 0.0, 90.0,
    ]));
    let vq = VectorQuantizer::new(&params, config).expect("a quantiser");
    assert_eq!(params.trainable().len(), 1);
    let rows = [1.5, 1.0, 1.0, 2.0];

    let train = Graph::new();
    let x = train.input("x", [2, 2]);
    let out = vq.forward(&x, Mode::Train);
    let code = vq.codebook().on(&train);
    let grads = tape::backward(&out.loss, &[&code, &x]).expect("gradients");
    let wanted = [&grads[0], &grads[1], &out.quantized];
    let mut program = train.compile(gpu(), &params, &wanted).expect("a program");
    let got = program.run(&[("x", Value::F32(&rows))]).expect("a run");
    // Means over four elements: 2 (e - x) / 4 summed over both rows, 0.25 of it back.
    assert_eq!(
        got.f32(0).expect("f32"),
        [-0.25, -0.5, 0., 0., 0., 0., 0., 0.]
    );
    assert_eq!(got.f32(1).expect("f32"), [0.0625, 0.0, 0.0, 0.125]);
    assert_eq!(got.f32(2).expect("f32"), [1.0; 4]);
    // 0.99 + 0.01 * 2 for the used code, 0.99 for the others.
    let sizes = params.get("ema_cluster_size").expect("sizes");
    assert!((sizes[0] - 1.01).abs() < 1e-6 && (sizes[3] - 0.99).abs() < 1e-6);

    let reset = Graph::new();
    let count = vq.reset_unused(&reset.input("x", [2, 2]));
    let mut program = reset.compile(gpu(), &params, &[&count]).expect("a program");
    let got = program.run(&[("x", Value::F32(&rows))]).expect("a run");
    assert_eq!(got.scalar(0).expect("a count"), 3.0);
    let codes = params.get("embedding.weight").expect("codes");
    assert_eq!(codes[..2], [1.0, 1.0]);
    for code in codes[2..].chunks(2) {
        assert!(rows.chunks(2).any(|r| r == code), "{code:?}");
    }
    let sizes = params.get("ema_cluster_size").expect("sizes");
    assert_eq!(sizes[1..], [1.0; 3]);
}

#[test]
fn the_loss_of_moving_averages_does_not_move_codes() {
    let params = Params::new(7);
    let vq = VectorQuantizer::new(&params, VqConfig::new(4, 2).moving_average()).expect("vq");
    let graph = Graph::new();
    let x = graph.input("x", [3, 2]);
    let out = vq.forward(&x, Mode::Train);
    let code = vq.codebook().on(&graph);
    let grads = tape::backward(&out.loss.add(&out.quantized.sum(&[], false)), &[&code, &x]);
    let grads = grads.expect("gradients");
    let codes: Vec<f64> = (0..8).map(f64::from).collect();
    let feed = Feed {
        inputs: [("x".to_string(), Data::f32([3, 2], 1).array())].into(),
        param: Some(&|_, i| {
            let shape: &[usize] = if i == 1 { &[4] } else { &[4, 2] };
            let n = shape.iter().product();
            flowgrad::graph::Array::new(shape, codes[..n].to_vec()).ok()
        }),
        ..Feed::default()
    };
    let got = evaluate(&[&grads[0], &grads[1]], &feed).expect("values");
    assert!(got[0].data.iter().all(|v| *v == 0.0));
    assert!(got[1].data.iter().all(|v| *v != 0.0));
}

#[test]
fn k_means_finds_clusters_and_repeats_itself() {
    let rows = clusters(7, 9, 2);
    let centres = k_means(&rows, 2, 7, 10, 3).expect("centres");
    assert_eq!(centres, k_means(&rows, 2, 7, 10, 3).expect("centres"));
    for row in rows.chunks(2) {
        assert!(nearest_distance(row, &centres) < 0.05);
    }
    // Fewer different rows than centres: no centre is lost, none is not a number.
    let same = k_means(&[1.0; 12], 2, 4, 5, 0).expect("centres");
    assert_eq!(same, [1.0; 8]);
    assert!(k_means(&rows, 2, 64, 1, 0).is_err());
    assert!(k_means(&rows, 4, 2, 1, 0).is_err());
    assert!(k_means(&rows, 0, 2, 1, 0).is_err());
    assert!(k_means(&[f32::NAN, 0.0], 2, 1, 1, 0).is_err());

    let params = Params::new(1);
    let vq = VectorQuantizer::new(&params, VqConfig::new(7, 2).moving_average()).expect("vq");
    vq.start_from(&rows, 3).expect("a start");
    assert_eq!(params.get("embedding.weight").expect("codes"), centres);
    assert_eq!(params.get("ema_w").expect("sums"), centres);
}

#[test]
fn wrong_arguments_tell() {
    let params = Params::new(1);
    let mut number = 0;
    let mut refused = |change: fn(&mut VqConfig)| {
        let mut config = VqConfig::new(4, 2).moving_average();
        change(&mut config);
        number += 1;
        VectorQuantizer::new(&params.scope(number), config).is_err()
    };
    assert!(!refused(|_| ()));
    assert!(refused(|c| c.codes = 0));
    assert!(refused(|c| c.beta = f32::NAN));
    assert!(refused(|c| c.reset_below = Some(0.0)));
    assert!(refused(|c| c.update = CodebookUpdate::MovingAverage {
        decay: 1.0,
        eps: 1e-5
    }));
    assert!(refused(|c| c.update = CodebookUpdate::MovingAverage {
        decay: 0.9,
        eps: 0.0
    }));
    let vq = VectorQuantizer::new(&params.scope("vq"), VqConfig::new(4, 2)).expect("vq");
    let graph = Graph::new();
    let x = graph.input("x", [5, 3]);
    assert!(vq.forward(&x, Mode::Train).loss.check().is_err());
    assert!(vq.forward(&x, Mode::Train).indices.check().is_err());
    assert!(vq.reset_unused(&x).check().is_err());
    assert!(vq.lookup(&x).check().is_err());
    assert!(Fsq::new(&[]).is_err());
    assert!(Fsq::new(&[8, 1]).is_err());
    assert!(Fsq::new(&[4096, 4097]).is_err());
    let fsq = Fsq::new(&[8, 5]).expect("levels");
    assert_eq!(fsq.codes(), 40);
    assert!(fsq.forward(&x).indices.check().is_err());
}
