//! The autoencoders of DALL-E and VQGAN: published counts and names, small ones against
//! the float64 reference, and that they learn.

use flowgrad::graph::{Array, Feed, evaluate};
use flowgrad::models::{Dvae, DvaeConfig, VqGan, VqGanConfig};
use flowgrad::nn::Mode;
use flowgrad::optim::{Adam, Optimizer};
use flowgrad::{Graph, Params, Tensor, Value, tape};

use crate::support::{Data, assert_close, gpu};

/// Elements of all parameters whose names begin so.
fn count(params: &Params, beginning: &str) -> usize {
    let all = params.all();
    let own = all.iter().filter(|p| p.name().starts_with(beginning));
    own.map(|p| p.shape().numel()).sum()
}

fn has(params: &Params, names: &[&str]) {
    let all = params.names();
    for name in names {
        assert!(all.iter().any(|n| n == name), "{name} of {all:?}");
    }
}

fn small_dvae() -> DvaeConfig {
    DvaeConfig {
        channels: 3,
        hidden: 8,
        start: 6,
        blocks: 1,
        codes: 12,
    }
}

fn small_vqgan() -> VqGanConfig {
    VqGanConfig {
        channels: 3,
        width: 32,
        multipliers: vec![1, 2],
        blocks: 1,
        attention: vec![1],
        latent: 12,
        codes: [16, 8],
    }
}

#[test]
fn published_counts_and_names() {
    let params = Params::new(0);
    Dvae::new(&params, DvaeConfig::dalle()).expect("a model");
    assert_eq!(count(&params, "encoder."), 53_786_240);
    assert_eq!(count(&params, "decoder."), 43_829_766);
    has(
        &params,
        &[
            "encoder.blocks.input.w",
            "encoder.blocks.group_2.block_1.id_path.w",
            "encoder.blocks.group_2.block_1.res_path.conv_3.b",
            "decoder.blocks.group_4.block_2.res_path.conv_4.w",
            "decoder.blocks.output.conv.b",
        ],
    );
    for codes in [1024, 16_384] {
        let params = Params::new(0);
        VqGan::new(&params, VqGanConfig::f16(codes)).expect("a model");
        assert_eq!(count(&params, "encoder."), 29_298_176);
        assert_eq!(count(&params, "decoder."), 42_449_795);
        assert_eq!(
            count(&params, "quant_conv.") + count(&params, "post_quant_conv."),
            131_584
        );
        assert_eq!(count(&params, "quantize."), 256 * codes);
        has(
            &params,
            &[
                "encoder.down.2.block.0.nin_shortcut.weight",
                "encoder.down.4.attn.1.proj_out.bias",
                "encoder.down.3.downsample.conv.weight",
                "encoder.mid.attn_1.norm.weight",
                "decoder.up.4.attn.2.q.weight",
                "decoder.up.1.upsample.conv.bias",
                "decoder.norm_out.bias",
                "quantize.embedding.weight",
            ],
        );
    }
}

/// What the GPU gives for `wanted` of one input `x`, beside the reference.
fn compare(what: &str, params: &Params, wanted: &[&Tensor], x: &Data) {
    let graph = wanted[0].graph();
    let all = params.all();
    let value = |_: u64, i: usize| {
        let param = all.iter().find(|p| p.index() == i)?;
        let values = param.get().ok()?.into_iter().map(f64::from).collect();
        Array::new(param.shape(), values).ok()
    };
    let feed = Feed {
        inputs: [("x".to_string(), x.array())].into(),
        param: Some(&value),
        ..Feed::default()
    };
    let expected = evaluate(wanted, &feed).expect("a reference");
    let mut program = graph
        .compile_pure(gpu(), params, wanted)
        .expect("a program");
    let Data::F32 { values, .. } = x else {
        panic!("integers")
    };
    let got = program.run(&[("x", Value::F32(values))]).expect("results");
    for (i, expected) in expected.iter().enumerate() {
        let name = format!("{what}: output {i}");
        assert_close(&name, &got.f32(i).expect("floats"), expected, 2e-4);
    }
}

#[test]
fn small_ones_agree_with_float64() {
    let params = Params::new(3);
    let dvae = Dvae::new(&params, small_dvae()).expect("a model");
    let graph = Graph::new();
    let x = graph.input("x", [2, 3, 16, 8]);
    let codes = graph.constant_u32([1, 2, 1], &[3, 11]);
    let (logits, decoded) = (dvae.encode(&x), dvae.decode(&codes));
    assert_eq!(logits.shape().dims(), [2, 12, 2, 1]);
    assert_eq!(decoded.shape().dims(), [1, 3, 16, 8]);
    let grad = tape::backward(&logits.square().sum(&[], false), &[&x]).expect("a gradient");
    let data = Data::uniform([2, 3, 16, 8], 4, 0.05, 0.95);
    compare("dVAE", &params, &[&logits, &decoded, &grad[0]], &data);

    let params = Params::new(4);
    let vqgan = VqGan::new(&params, small_vqgan()).expect("a model");
    let graph = Graph::new();
    let x = graph.input("x", [1, 3, 10, 6]);
    let latent = vqgan.encode(&x, Mode::Eval);
    assert_eq!(latent.shape().dims(), [1, 8, 5, 3]);
    let decoded = vqgan.decode(&latent, Mode::Eval);
    let grad = tape::backward(&decoded.square().sum(&[], false), &[&x]).expect("a gradient");
    let data = Data::f32([1, 3, 10, 6], 5);
    compare("VQGAN", &params, &[&latent, &decoded, &grad[0]], &data);
}

#[test]
fn codes_decode_to_what_their_vectors_do() {
    let params = Params::new(5);
    let model = VqGan::new(&params, small_vqgan()).expect("a model");
    let graph = Graph::new();
    let x = graph.input("x", [1, 3, 8, 8]);
    let out = model.forward(&x, Mode::Eval);
    let again = model.decode_codes(&model.codes(&x, Mode::Eval), Mode::Eval);
    let wanted = [&out.reconstruction, &again];
    let mut program = graph
        .compile_pure(gpu(), &params, &wanted)
        .expect("a program");
    let Data::F32 { values, .. } = Data::f32([1, 3, 8, 8], 6) else {
        panic!("integers")
    };
    let got = program.run(&[("x", Value::F32(&values))]).expect("results");
    let (a, b) = (got.f32(0).expect("floats"), got.f32(1).expect("floats"));
    let far = a
        .iter()
        .zip(&b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(far < 1e-5, "{far}");
}

#[test]
fn both_learn_one_batch() {
    let Data::F32 { values, .. } = Data::uniform([2, 3, 16, 16], 7, 0.1, 0.9) else {
        panic!("integers")
    };
    let train = |params: &Params, loss: &Tensor| -> (f32, f32) {
        let optimizer = Optimizer::new(
            params,
            Adam {
                lr: 3e-3,
                ..Adam::default()
            },
        )
        .expect("an optimiser");
        optimizer.minimize(loss).expect("a step");
        let graph = loss.graph();
        let mut program = graph.compile(gpu(), params, &[loss]).expect("a program");
        let mut losses = Vec::new();
        for step in 0..25 {
            program
                .set_scalars(&optimizer.inputs(step))
                .expect("a learning rate");
            let got = program.run(&[("x", Value::F32(&values))]).expect("a run");
            losses.push(got.f32(0).expect("a loss")[0]);
        }
        (losses[0], losses[24])
    };
    let params = Params::new(8);
    let model = Dvae::new(&params, small_dvae()).expect("a model");
    let graph = Graph::new();
    let x = graph.input("x", [2, 3, 16, 16]);
    let loss = model.loss(&x, 1.0, 1.0);
    let (first, last) = train(&params, &loss.loss);
    assert!(last < 0.8 * first, "dVAE: {first} to {last}");

    let params = Params::new(9);
    let model = VqGan::new(&params, small_vqgan()).expect("a model");
    let graph = Graph::new();
    let x = graph.input("x", [2, 3, 16, 16]);
    let loss = model.forward(&x, Mode::Train).loss;
    let (first, last) = train(&params, &loss);
    assert!(last < 0.8 * first, "VQGAN: {first} to {last}");
}

#[test]
fn wrong_inputs_are_told() {
    let params = Params::new(0);
    let dvae = Dvae::new(&params.scope("dvae"), small_dvae()).expect("a model");
    let vqgan = VqGan::new(&params.scope("vqgan"), small_vqgan()).expect("a model");
    let graph = Graph::new();
    let odd = graph.input("x", [1, 3, 15, 16]);
    let refused = |y: &Tensor, part: &str| {
        let error = y.check().expect_err("an error").to_string();
        assert!(error.contains(part), "{error}");
    };
    refused(&dvae.encode(&odd), "multiples of 8");
    refused(&vqgan.encode(&odd, Mode::Eval), "multiples of 2");
    let even = graph.input("even", [1, 3, 16, 16]);
    refused(&dvae.loss(&even, 0.0, 1.0).loss, "temperature is 0");
    refused(&dvae.decode(&graph.constant_u32([2], &[0, 1])), "[N, h, w]");
    let told = |error: flowgrad::Error, part: &str| {
        assert!(error.to_string().contains(part), "{error}");
    };
    let bad = DvaeConfig {
        hidden: 6,
        ..small_dvae()
    };
    told(
        Dvae::new(&Params::new(0), bad).err().expect("an error"),
        "a quarter",
    );
    let bad = VqGanConfig {
        attention: vec![2],
        ..small_vqgan()
    };
    told(
        VqGan::new(&Params::new(0), bad).err().expect("an error"),
        "level 2",
    );
}
