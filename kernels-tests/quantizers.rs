//! All quantisers by what they promise together (masks, codes that decode, counts), and
//! each by its own formulas, worked out here in float64.

use flowgrad::nn::Mode;
use flowgrad::quantize::{
    Decay, Estimator, Fsq, GumbelConfig, GumbelQuantizer, Heads, Lfq, Metric, QuantizeDropout,
    Quantized, Quantizer, Residual, SimVq, Temperature, VectorQuantizer, VqConfig, rotate_to,
};
use flowgrad::{Graph, Init, Params, Result, Tensor, Value, tape};

use crate::support::{Data, Numbers, Tol, build_case, check_op, gpu};

type Any = Box<dyn Quantizer>;

/// A description with codes as wide apart as the vectors.
fn config(dim: usize) -> VqConfig {
    let mut config = VqConfig::new(5, dim);
    config.init = Some(Init::Uniform { lo: -1.0, hi: 1.0 });
    config
}

/// One of each kind, of vectors of width 4.
fn all(params: &Params) -> Vec<(&'static str, Any)> {
    let made = || -> Result<Vec<(&'static str, Any)>> {
        let at = |name: &str| params.scope(name);
        let mut cosine = config(4);
        cosine.metric = Metric::Cosine;
        let mut rotated = config(4);
        rotated.estimator = Estimator::Rotation;
        let averaged = |dim| config(dim).moving_average();
        let separate = (0..2).map(|h| VectorQuantizer::new(&at("separate").scope(h), averaged(2)));
        let grouped = (0..2).map(|h| Residual::new(&at("grouped").scope(h), 3, &config(2)));
        let shared = VectorQuantizer::new(&at("shared"), config(2))?;
        let gumbel = GumbelConfig::new(4, 5, 3);
        Ok(vec![
            (
                "gradient",
                Box::new(VectorQuantizer::new(&at("gradient"), config(4))?),
            ),
            (
                "cosine",
                Box::new(VectorQuantizer::new(&at("cosine"), cosine)?),
            ),
            (
                "rotated",
                Box::new(VectorQuantizer::new(&at("rotated"), rotated)?),
            ),
            (
                "averaged",
                Box::new(VectorQuantizer::new(&at("averaged"), averaged(4))?),
            ),
            ("simvq", Box::new(SimVq::new(&at("simvq"), 5, 4)?)),
            (
                "separate",
                Box::new(Heads::separate(separate.collect::<Result<_>>()?)?),
            ),
            ("shared", Box::new(Heads::shared(shared, 2)?)),
            (
                "residual",
                Box::new(Residual::new(&at("residual"), 3, &averaged(4))?),
            ),
            (
                "grouped",
                Box::new(Heads::separate(grouped.collect::<Result<_>>()?)?),
            ),
            ("fsq", Box::new(Fsq::new(&[5, 4, 3, 2])?)),
            (
                "lfq",
                Box::new(Lfq::new(4)?.inv_temperature(1.0)?.scale(0.5)?),
            ),
            (
                "gumbel",
                Box::new(GumbelQuantizer::new(&at("gumbel"), gumbel)?),
            ),
        ])
    };
    made().expect("quantisers")
}

/// Everything a quantiser gives, and the gradient of all of it by `x`.
fn outputs(q: &Quantized, x: &Tensor) -> Vec<Tensor> {
    let weights = Data::f32(q.quantized.shape(), 9);
    let Data::F32 { values, .. } = &weights else {
        unreachable!()
    };
    // The same weight for a vector wherever it stands: by channel alone.
    let width = q.quantized.dim(1);
    let mut column = vec![1; q.quantized.shape().rank()];
    column[1] = width;
    let weight = x.graph().constant(column, &values[..width]);
    let sum = q.quantized.mul(&weight).sum(&[], false).add(&q.loss);
    let grads = tape::backward(&sum, &[x]).expect("gradients");
    vec![
        q.quantized.clone(),
        q.indices.clone(),
        q.counts.clone(),
        q.loss.clone(),
        q.codebook_loss.clone(),
        q.commitment_loss.clone(),
        q.entropy_loss.clone(),
        q.perplexity.clone(),
        q.usage.clone(),
        grads[0].clone(),
    ]
}

fn values(data: Data) -> Vec<f32> {
    match data {
        Data::F32 { values, .. } => values,
        Data::U32 { values, .. } => values.iter().map(|v| *v as f32).collect(),
    }
}

/// What the GPU gives for `x`, in the order of [`outputs`], all as f32.
fn run(
    quantizer: &Any,
    params: &Params,
    x: &Data,
    valid: Option<&Data>,
    mode: Mode,
) -> Vec<Vec<f32>> {
    let graph = Graph::new();
    let input = x.input(&graph, "x");
    let mask = valid.map(|v| v.input(&graph, "valid"));
    let q = quantizer.forward_masked(&input, mask.as_ref(), mode);
    let wanted = outputs(&q, &input);
    let wanted: Vec<&Tensor> = wanted.iter().collect();
    let mut program = graph.compile(gpu(), params, &wanted).expect("a program");
    let x = values(x.clone());
    let valid = valid.cloned().map(values).unwrap_or_default();
    let mut inputs = vec![("x", Value::F32(&x))];
    if !valid.is_empty() {
        inputs.push(("valid", Value::F32(&valid)));
    }
    let out = program.run(&inputs).expect("a run");
    let as_f32 = |i: usize| match i {
        1 => (out.u32(1).expect("u32").iter())
            .map(|v| *v as f32)
            .collect(),
        _ => out.f32(i).expect("f32"),
    };
    (0..wanted.len()).map(as_f32).collect()
}

#[track_caller]
fn close(what: &str, a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len(), "{what}");
    for (a, b) in a.iter().zip(b) {
        assert!(
            (a - b).abs() <= 2e-5 * b.abs().max(0.1),
            "{what}: {a} and {b}"
        );
    }
}

/// Images `[2, 4, 3, 2]` with padding of NaN and infinity, its mask, and the vectors that
/// count as rows.
fn padded() -> (Data, Data, Data) {
    let Data::F32 { values, .. } = Data::f32([12, 4], 31) else {
        unreachable!()
    };
    let valid: Vec<f32> = (0..12).map(|i| [1.0, 0.0, -0.5, 2.0, 0.0][i % 5]).collect();
    let mut image = vec![0.0; 48];
    let mut rows = Vec::new();
    for (i, row) in values.chunks(4).enumerate() {
        for (d, v) in row.iter().enumerate() {
            let padding = if d == 0 { f32::NAN } else { f32::INFINITY };
            let v = if valid[i] == 0.0 { padding } else { *v };
            image[(i / 6 * 4 + d) * 6 + i % 6] = v;
        }
        if valid[i] != 0.0 {
            rows.extend(row);
        }
    }
    (
        Data::values([2, 4, 3, 2], &image),
        Data::values([2, 3, 2], &valid),
        Data::values([rows.len() / 4, 4], &rows),
    )
}

#[test]
fn padded_positions_count_nowhere() {
    let (image, mask, rows) = padded();
    let valid = values(mask.clone());
    let (ours, theirs) = (Params::new(3), Params::new(3));
    for ((name, a), (_, b)) in all(&ours).into_iter().zip(all(&theirs)) {
        // Gumbel's training draws other numbers for other shapes.
        let mode = if name == "gumbel" {
            Mode::Eval
        } else {
            Mode::Train
        };
        let with = run(&a, &ours, &image, Some(&mask), mode);
        let alone = run(&b, &theirs, &rows, None, mode);
        for i in 2..9 {
            close(&format!("{name}: {i}"), &with[i], &alone[i]);
        }
        // `[N, C, h, w]` as rows, those that count.
        let taken = |v: &[f32], channels: usize| {
            let mut rows = Vec::new();
            for place in 0..12 {
                let row = (0..channels).map(|c| v[(place / 6 * channels + c) * 6 + place % 6]);
                let row: Vec<f32> = row.collect();
                match valid[place] == 0.0 {
                    true => assert!(row.iter().all(|v| *v == 0.0), "{name}: {row:?}"),
                    false => rows.extend(row),
                }
            }
            rows
        };
        let channels = with[0].len() / 12;
        close(name, &taken(&with[0], channels), &alone[0]);
        close(&format!("{name}: gradient"), &taken(&with[9], 4), &alone[9]);
        let books = a.books();
        let mut indices = Vec::new();
        for (place, codes) in with[1].chunks(books).enumerate() {
            match valid[place] == 0.0 {
                true => assert!(codes.iter().all(|c| *c == a.codes() as f32), "{name}"),
                false => indices.extend_from_slice(codes),
            }
        }
        assert_eq!(indices, alone[1], "{name}");
    }
    // Codebooks kept by moving averages, too.
    for name in ours.names() {
        let (a, b) = (
            ours.get(&name).expect("ours"),
            theirs.get(&name).expect("theirs"),
        );
        close(&name, &a, &b);
    }
}

#[test]
fn a_batch_of_padding_changes_nothing() {
    let (image, _, _) = padded();
    let none = Data::values([2, 3, 2], &[0.0; 12]);
    let params = Params::new(3);
    let quantizers = all(&params);
    let before: Vec<_> = params
        .names()
        .iter()
        .map(|n| params.get(n))
        .collect::<Result<_>>()
        .expect("all");
    for (name, quantizer) in &quantizers {
        let mode = if *name == "gumbel" {
            Mode::Eval
        } else {
            Mode::Train
        };
        let out = run(quantizer, &params, &image, Some(&none), mode);
        for (i, values) in out.iter().enumerate().filter(|(i, _)| ![1, 7].contains(i)) {
            assert!(values.iter().all(|v| *v == 0.0), "{name}: {i}: {values:?}");
        }
    }
    let after: Vec<_> = params
        .names()
        .iter()
        .map(|n| params.get(n))
        .collect::<Result<_>>()
        .expect("all");
    assert_eq!(before, after);
}

#[test]
fn codes_decode_to_what_was_quantised() {
    let params = Params::new(5);
    for (name, quantizer) in all(&params) {
        let graph = Graph::new();
        let x = graph.input("x", [2, 4, 3, 2]);
        let q = quantizer.forward(&x, Mode::Eval);
        let decoded = quantizer.decode(&q.indices);
        assert_eq!(decoded.shape(), q.quantized.shape(), "{name}");
        let books = quantizer.books();
        let beyond = vec![quantizer.codes() as u32; 3 * books];
        let shape: &[usize] = if books == 1 { &[3] } else { &[3, books] };
        let beyond = quantizer.decode(&graph.constant_u32(shape, &beyond));
        let wanted = [
            &q.quantized,
            &decoded,
            &beyond,
            &q.indices,
            &q.counts,
            &q.usage,
        ];
        let mut program = graph.compile(gpu(), &params, &wanted).expect("a program");
        let x = values(Data::f32([2, 4, 3, 2], 8));
        let out = program.run(&[("x", Value::F32(&x))]).expect("a run");
        let f32s = |i| out.f32(i).expect("f32");
        close(name, &f32s(0), &f32s(1));
        assert!(f32s(2).iter().all(|v| *v == 0.0), "{name}: {:?}", f32s(2));
        let indices = out.u32(3).expect("u32");
        assert_eq!(indices.len(), 12 * books, "{name}");
        quantizer.check_codes(&indices).expect("codes in range");
        let error = quantizer.check_codes(&[0, quantizer.codes() as u32]);
        assert!(error.expect_err(name).to_string().contains("position 1"));
        // Counts by hand; heads that share a codebook share their counts.
        let k = quantizer.codes();
        let counts = f32s(4);
        let rows = counts.len() / k;
        let mut counted = vec![0.0; counts.len()];
        for (i, code) in indices.iter().enumerate() {
            counted[if rows == 1 { 0 } else { i % books * k } + *code as usize] += 1.0;
        }
        assert_eq!(counts, counted, "{name}");
        let used = counted.iter().filter(|c| **c > 0.0).count() as f32;
        close(name, &f32s(5), &[used / counts.len() as f32]);
    }
}

#[test]
fn the_rotation_trick_turns_gradients() {
    // From (3, 0) to (0, 2): a quarter turn and 2/3 of the length, so the gradient (1, 2)
    // becomes 2/3 (2, -1). Opposite vectors are reflected; a row of zeros keeps lengths.
    let rows = Data::values([4, 2], &[3.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.6, 0.8]);
    let codes = Data::values([4, 2], &[0.0, 2.0, -1.0, 0.0, 0.0, 2.0, 1.2, 1.6]);
    let graph = Graph::new();
    let (x, q) = (rows.input(&graph, "x"), codes.input(&graph, "q"));
    let out = rotate_to(&x, &q);
    let dy = graph.constant([4, 2], &[1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0]);
    let grads = tape::backward(&out.mul(&dy).sum(&[], false), &[&x]).expect("a gradient");
    let mut program =
        (graph.compile(gpu(), &Params::new(1), &[&out, &grads[0]])).expect("a program");
    let (rows, codes) = (values(rows), values(codes));
    let out = program.run(&[("x", Value::F32(&rows)), ("q", Value::F32(&codes))]);
    let out = out.expect("a run");
    assert_eq!(out.f32(0).expect("f32"), codes);
    let wanted = [4.0 / 3.0, -2.0 / 3.0, -1.0, 2.0, 1.0, -2.0, 2.0, 4.0];
    close("gradient", &out.f32(1).expect("f32"), &wanted);
}

/// `-sum p ln p`
fn entropy(p: &[f64]) -> f64 {
    p.iter().filter(|p| **p > 0.0).map(|p| -p * p.ln()).sum()
}

/// LFQ's two entropies over all codes of `x` `[M, bits]`, by the definition.
fn lfq_entropies(x: &[f64], bits: usize, inv_temperature: f64, scale: f64) -> (f64, f64) {
    let m = x.len() / bits;
    let mut mean = vec![0.0; 1 << bits];
    let mut own = 0.0;
    for row in x.chunks(bits) {
        let logit = |k: usize| -> f64 {
            let sign = |i: usize| {
                if k >> (bits - 1 - i) & 1 == 1 {
                    scale
                } else {
                    -scale
                }
            };
            2.0 * inv_temperature
                * row
                    .iter()
                    .enumerate()
                    .map(|(i, v)| v * sign(i))
                    .sum::<f64>()
        };
        let weights: Vec<f64> = (0..1 << bits).map(|k| logit(k).exp()).collect();
        let total: f64 = weights.iter().sum();
        let p: Vec<f64> = weights.iter().map(|w| w / total).collect();
        own += entropy(&p) / m as f64;
        mean.iter_mut()
            .zip(&p)
            .for_each(|(m_k, p)| *m_k += p / m as f64);
    }
    (own, entropy(&mean))
}

#[test]
fn the_entropies_without_a_lookup_are_those_of_all_codes() {
    for (bits, joint) in [(1, 12), (2, 12), (5, 12), (5, 2)] {
        let lfq = Lfq::new(bits).and_then(|l| l.inv_temperature(0.7));
        let lfq = lfq
            .and_then(|l| l.scale(0.5))
            .and_then(|l| l.joint_bits(joint));
        let lfq = lfq
            .and_then(|l| l.weights(0.3, 0.8, 0.5))
            .expect("a quantiser");
        let x = Data::uniform([7, bits], 3, -2.0, 2.0);
        let build = |_: &Graph, x: &[Tensor]| {
            let q = lfq.forward(&x[0], Mode::Train);
            vec![q.entropy_loss, q.commitment_loss, q.loss]
        };
        // The term is a difference of entropies that are nearly equal for one bit.
        check_op(
            &format!("lfq {bits} {joint}"),
            std::slice::from_ref(&x),
            build,
            Tol::rel(3e-5),
        );

        let rows = x.array().data;
        let (own, mut all) = lfq_entropies(&rows, bits, 0.7, 0.5);
        if joint == 2 {
            // Groups of 2, 2 and 1 bits.
            all = [(0, 2), (2, 2), (4, 1)].iter().fold(0.0, |sum, (from, n)| {
                let part = rows.chunks(5).flat_map(|r| r[*from..from + n].to_vec());
                sum + lfq_entropies(&part.collect::<Vec<_>>(), *n, 0.7, 0.5).1
            });
        }
        let got = build_case("lfq", &[x], build, false).reference();
        assert!(
            (got[0].data[0] - (own - 0.8 * all)).abs() < 1e-6,
            "{bits} {joint}: {:?}",
            got[0].data
        );
        let commitment =
            rows.iter().map(|v| (v.abs() - 0.5).powi(2)).sum::<f64>() / rows.len() as f64;
        assert!((got[1].data[0] - commitment).abs() < 1e-6);
        let loss = 0.3 * (own - 0.8 * all) + 0.5 * commitment;
        assert!((got[2].data[0] - loss).abs() < 1e-6);
    }
    let graph = Graph::new();
    let x = graph.constant([2, 3], &[0.5, -1.0, 2.0, -0.1, 0.0, 0.3]);
    let q = Lfq::new(3).expect("bits").forward(&x, Mode::Eval);
    let mut program = graph
        .compile(gpu(), &Params::new(1), &[&q.indices, &q.quantized])
        .expect("a program");
    let out = program.run(&[]).expect("a run");
    assert_eq!(out.u32(0).expect("u32"), [0b101, 0b001]);
    assert_eq!(out.f32(1).expect("f32"), [1.0, -1.0, 1.0, -1.0, -1.0, 1.0]);
    assert!(Lfq::new(0).is_err() && Lfq::new(25).is_err());
    assert!(Lfq::new(2).and_then(|l| l.scale(0.0)).is_err());
    assert!(
        Lfq::new(2)
            .and_then(|l| l.inv_temperature(f32::NAN))
            .is_err()
    );
    assert!(Lfq::new(2).and_then(|l| l.weights(-1.0, 1.0, 1.0)).is_err());
    assert!(Lfq::new(2).and_then(|l| l.joint_bits(0)).is_err());
}

#[test]
fn a_frozen_codebook_learns_through_its_map() {
    let params = Params::new(2);
    let vq = SimVq::new(&params, 3, 2).expect("a quantiser");
    params
        .set("codebook", &[1.0, 0.0, 0.0, 1.0, -1.0, -1.0])
        .expect("codes");
    // C W^T: the codes (2, 1), (0, 3), (-2, -4).
    params
        .set("code_transform.weight", &[2.0, 0.0, 1.0, 3.0])
        .expect("a map");
    let graph = Graph::new();
    let x = graph.constant([2, 2], &[3.0, 1.0, -1.0, -5.0]);
    let q = vq.forward(&x, Mode::Train);
    let transform = params.trainable().swap_remove(0).on(&graph);
    let grads = tape::backward(&q.loss, &[&transform]).expect("a gradient");
    let mut program = graph
        .compile(gpu(), &params, &[&q.quantized, &q.loss, &grads[0]])
        .expect("a program");
    let out = program.run(&[]).expect("a run");
    assert_eq!(out.f32(0).expect("f32"), [2.0, 1.0, -2.0, -4.0]);
    // Squares 1, 0, 1, 1 of four, 1.25 times.
    assert_eq!(out.scalar(1).expect("a loss"), 1.25 * 0.75);
    // (q - x) / 2 = (-0.5, 0), (-0.5, 0.5), times the frozen rows (1, 0), (-1, -1).
    assert_eq!(out.f32(2).expect("f32"), [0.0, 0.5, -0.5, -0.5]);
    assert_eq!(params.trainable().len(), 1);
    assert!(
        SimVq::new(&params.scope("wrong"), 3, 2)
            .and_then(|v| v.beta(-1.0))
            .is_err()
    );
}

#[test]
fn stages_quantise_what_is_left() {
    let params = Params::new(2);
    let residual = Residual::new(&params, 2, &VqConfig::new(2, 2)).expect("stages");
    params
        .set("layers.0.embedding.weight", &[4.0, 0.0, 0.0, 4.0])
        .expect("codes");
    params
        .set("layers.1.embedding.weight", &[1.0, 0.0, 0.0, -1.0])
        .expect("codes");
    let graph = Graph::new();
    let x = graph.input("x", [2, 2]);
    let q = residual.forward(&x, Mode::Eval);
    let first = residual.decode(&q.indices.slice(1, 0, 1));
    let dy = graph.constant([2, 2], &[1.0, 2.0, 3.0, 4.0]);
    let grads = tape::backward(&q.quantized.mul(&dy).sum(&[], false), &[&x]).expect("a gradient");
    let wanted = [
        &q.indices,
        &q.quantized,
        &q.commitment_loss,
        &first,
        &grads[0],
    ];
    let mut program = graph.compile(gpu(), &params, &wanted).expect("a program");
    let out = program
        .run(&[("x", Value::F32(&[5.5, 0.0, 0.0, 2.5]))])
        .expect("a run");
    assert_eq!(out.u32(0).expect("u32"), [0, 0, 1, 1]);
    assert_eq!(out.f32(1).expect("f32"), [5.0, 0.0, 0.0, 3.0]);
    // What is left: (1.5, 0), (0, -1.5), then (0.5, 0), (0, -0.5): means of four squares.
    assert_eq!(out.scalar(2).expect("a loss"), 4.5 / 4.0 + 0.5 / 4.0);
    assert_eq!(out.f32(3).expect("f32"), [4.0, 0.0, 0.0, 4.0]);
    // Once, not once for each stage.
    assert_eq!(out.f32(4).expect("f32"), [1.0, 2.0, 3.0, 4.0]);

    // k-means, stage by stage: what is left is smaller each time.
    let rows = values(Data::f32([40, 2], 6));
    residual.start_from(&rows, 1).expect("a start");
    let size = |name| -> f32 {
        let codes = params.get(name).expect("codes");
        codes.iter().map(|v| v * v).sum()
    };
    assert!(size("layers.1.embedding.weight") < size("layers.0.embedding.weight"));

    let mut cosine = VqConfig::new(2, 2);
    cosine.metric = Metric::Cosine;
    assert!(Residual::new(&params.scope("a"), 2, &cosine).is_err());
    assert!(Residual::new(&params.scope("b"), 0, &VqConfig::new(2, 2)).is_err());
    let three = x.graph().constant_u32([1, 3], &[0, 0, 0]);
    assert!(residual.decode(&three).check().is_err());
}

#[test]
fn stages_are_left_out_by_draw() {
    let params = Params::new(2);
    let config = config(2).moving_average();
    let dropout = QuantizeDropout {
        keep: 2,
        multiple_of: 2,
    };
    let residual = Residual::new(&params, 5, &config).and_then(|r| r.dropout(dropout));
    let residual = residual.expect("stages");
    let graph = Graph::new();
    let x = graph.input("x", [6, 2]);
    let q = residual.forward(&x, Mode::Train);
    let mut program = graph
        .compile(gpu(), &params, &[&q.indices, &q.counts, &q.perplexity])
        .expect("a program");
    let rows = values(Data::f32([6, 2], 4));
    let mut seen = [0; 6];
    for _ in 0..40 {
        let last = || params.get("layers.4.ema_cluster_size").expect("sizes");
        let before = last();
        let out = program.run(&[("x", Value::F32(&rows))]).expect("a run");
        let (indices, counts) = (out.u32(0).expect("u32"), out.f32(1).expect("f32"));
        let kept = counts
            .chunks(5)
            .filter(|c| c.iter().sum::<f32>() == 6.0)
            .count();
        for row in indices.chunks(5) {
            assert!(row[..kept].iter().all(|c| *c < 5) && row[kept..].iter().all(|c| *c == 5));
        }
        assert!(counts[kept * 5..].iter().all(|c| *c == 0.0));
        assert!(out.scalar(2).expect("perplexity") >= 1.0);
        assert_eq!(last() == before, kept < 5, "{kept} stages");
        seen[kept] += 1;
    }
    // 2 stay 2, 3 and 4 become 4, 5 stay 5.
    assert!(seen[2] > 3 && seen[4] > 10 && seen[5] > 3, "{seen:?}");
    assert_eq!(seen[0] + seen[1] + seen[3], 0, "{seen:?}");
    let wrong = |keep, multiple_of| {
        let residual = Residual::new(&Params::new(1), 2, &VqConfig::new(2, 2));
        residual
            .and_then(|r| r.dropout(QuantizeDropout { keep, multiple_of }))
            .is_err()
    };
    assert!(wrong(0, 1) && wrong(3, 1) && wrong(1, 0) && !wrong(2, 1));
}

#[test]
fn heads_start_each_from_its_channels() {
    let params = Params::new(2);
    let head =
        |h: usize| VectorQuantizer::new(&params.scope(h), VqConfig::new(1, 2)).expect("a head");
    let heads = Heads::separate(vec![head(0), head(1)]).expect("heads");
    heads
        .start_from(&[1.0, 2.0, 30.0, 40.0, 3.0, 4.0, 50.0, 60.0], 0)
        .expect("a start");
    assert_eq!(params.get("0.embedding.weight").expect("codes"), [2.0, 3.0]);
    assert_eq!(
        params.get("1.embedding.weight").expect("codes"),
        [40.0, 50.0]
    );
    let shared = Heads::shared(head(2), 2).expect("heads");
    shared
        .start_from(&[1.0, 2.0, 3.0, 6.0], 0)
        .expect("a start");
    assert_eq!(params.get("2.embedding.weight").expect("codes"), [2.0, 4.0]);
    assert!(Heads::<VectorQuantizer>::separate(vec![]).is_err());
    let wide = VectorQuantizer::new(&params.scope("wide"), VqConfig::new(1, 3)).expect("a head");
    assert!(Heads::separate(vec![head(3), wide]).is_err());
    assert!(Heads::shared(head(4), 0).is_err());
    assert!(
        Fsq::new(&[3])
            .expect("levels")
            .start_from(&[1.0], 0)
            .is_err()
    );
}

#[test]
fn gumbel_draws_by_its_logits() {
    let params = Params::new(3);
    let config = GumbelConfig::new(2, 3, 2);
    let vq = GumbelQuantizer::new(&params.scope("q"), config.clone()).expect("a quantiser");
    params
        .set("q.proj.weight", &[1.0, 0.0, 0.0, 1.0, 0.0, 0.0])
        .expect("weights");
    params.set("q.proj.bias", &[0.0, 0.0, 0.5]).expect("a bias");
    params
        .set("q.embed.weight", &[1.0, 0.0, 0.0, 1.0, -1.0, 2.0])
        .expect("codes");
    let n = 6000;
    let graph = Graph::new();
    let x = graph.constant([1, 2], &[1.0, -0.5]).broadcast_to([n, 2]);
    let train = vq.forward(&x, Mode::Train);
    let eval = vq.forward(&x, Mode::Eval);
    let codes = params.trainable().swap_remove(2).on(&graph);
    let logits = params.trainable().swap_remove(1).on(&graph);
    let sum = train.quantized.sum(&[0], false).slice(0, 1, 1).reshape([]);
    let grads = tape::backward(&sum, &[&codes, &logits]).expect("gradients");
    let wanted = [
        &train.counts,
        &eval.counts,
        &train.entropy_loss,
        &train.loss,
        &grads[0],
        &grads[1],
    ];
    let mut program = graph.compile(gpu(), &params, &wanted).expect("a program");
    program.set_scalars(&vq.inputs(0)).expect("a temperature");
    let out = program.run(&[]).expect("a run");
    let weights = [1f64, -0.5, 0.5].map(f64::exp);
    let total: f64 = weights.iter().sum();
    let p = weights.map(|w| w / total);
    let counts = out.f32(0).expect("f32");
    for (count, p) in counts.iter().zip(p) {
        let deviation = (n as f64 * p * (1.0 - p)).sqrt();
        assert!(
            (f64::from(*count) - n as f64 * p).abs() < 4.0 * deviation,
            "{counts:?} {p}"
        );
    }
    assert_eq!(out.f32(1).expect("f32"), [n as f32, 0.0, 0.0]);
    let divergence = 3f64.ln() - entropy(&p);
    assert!((f64::from(out.scalar(2).expect("a term")) - divergence).abs() < 1e-5);
    assert!((f64::from(out.scalar(3).expect("a loss")) - 5e-4 * divergence).abs() < 1e-8);
    // A code gets the gradient of the vectors that it stands for alone.
    let wanted: Vec<f32> = counts.iter().flat_map(|c| [0.0, *c]).collect();
    assert_eq!(out.f32(4).expect("f32"), wanted);
    // The logits get that of the mixture: code 2 makes more of channel 1 than the others.
    let g = out.f32(5).expect("f32");
    assert!(g[2] > 0.0 && g[0] < 0.0, "{g:?}");

    let mut soft = config.clone();
    soft.straight_through = false;
    let soft = GumbelQuantizer::new(&params.scope("soft"), soft).expect("a quantiser");
    params
        .set("soft.embed.weight", &[1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
        .expect("codes");
    let graph = Graph::new();
    let q = soft.forward(&graph.constant([3, 2], &[0.1; 6]), Mode::Train);
    let mut program = graph
        .compile(gpu(), &params, &[&q.quantized])
        .expect("a program");
    program.set_scalars(&soft.inputs(0)).expect("a temperature");
    let mixed = program.run(&[]).expect("a run").f32(0).expect("f32");
    assert!(
        mixed.iter().step_by(2).all(|v| *v > 0.0 && *v < 1.0),
        "{mixed:?}"
    );

    let mut cold = config.clone();
    cold.temperature = Temperature::constant(0.0);
    let error = GumbelQuantizer::new(&params.scope("cold"), cold)
        .err()
        .expect("an error");
    assert!(error.to_string().contains("above 0"), "{error}");
    let mut wrong = config;
    wrong.kl_weight = f32::NAN;
    assert!(GumbelQuantizer::new(&params.scope("wrong"), wrong).is_err());
}

#[test]
fn temperatures_fall_as_told() {
    let falling = |decay| Temperature {
        start: 1.0,
        end: 0.25,
        steps: 100,
        decay,
    };
    let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
    near(falling(Decay::Linear).at(50), 0.625);
    near(falling(Decay::Exponential).at(50), 0.5);
    near(
        falling(Decay::Cosine).at(25),
        0.25 + 0.75 * 0.853_553_390_593_273_8,
    );
    for decay in [Decay::Linear, Decay::Exponential, Decay::Cosine] {
        near(falling(decay).at(0), 1.0);
        near(falling(decay).at(100), 0.25);
        near(falling(decay).at(u64::MAX), 0.25);
    }
    near(Temperature::dalle(150_000).at(150_000), 1.0 / 16.0);
    near(Temperature::constant(2.0).at(0), 2.0);
}

#[test]
fn wrong_vectors_and_masks_tell() {
    let params = Params::new(5);
    let mut numbers = Numbers::new(1);
    for (name, quantizer) in all(&params) {
        let graph = Graph::new();
        let width = 5 + numbers.below(3);
        let x = graph.input("x", [2, 4, 3]);
        let wide = quantizer.forward(&graph.input("wide", [2, width, 3]), Mode::Train);
        let error = wide.loss.check().expect_err(name).to_string();
        assert!(
            error.contains("width") && wide.indices.check().is_err(),
            "{name}: {error}"
        );
        let mask = graph.input("mask", [2, 4]);
        let masked = quantizer.forward_masked(&x, Some(&mask), Mode::Train);
        let error = masked.quantized.check().expect_err(name).to_string();
        assert!(error.contains("mask"), "{name}: {error}");
        let floats = graph.input("floats", [2, quantizer.books()]);
        assert!(quantizer.decode(&floats).check().is_err(), "{name}");
    }
}
