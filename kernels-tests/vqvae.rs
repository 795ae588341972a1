//! The VQ-VAE with residual blocks: counts, names, and its forward pass put together from
//! bare ops under the published names.

use flowgrad::models::{VqVae, VqVaeConfig};
use flowgrad::nn::Mode;
use flowgrad::ops::{ConvParams, ConvTransposeParams};
use flowgrad::params::{LoadRules, Precision, WeightsFile};
use flowgrad::{Graph, Params, Tensor, Value, tape};

use crate::params::Folder;
use crate::support::{Data, gpu};

fn small(shared: bool, rectified: bool) -> VqVaeConfig {
    let mut config = VqVaeConfig::cifar(0.5);
    config.image = [8, 12];
    config.hidden = 6;
    config.residual_hidden = 3;
    config.shared_blocks = shared;
    config.rectified_shortcut = rectified;
    config.quantizer.codes = 7;
    config.quantizer.dim = 5;
    config
}

#[test]
fn counts_and_names_are_the_published_ones() {
    let count = |shared| {
        let params = Params::new(1);
        let mut config = VqVaeConfig::cifar(0.0633);
        config.shared_blocks = shared;
        let model = VqVae::residual(&params, &config).expect("a model");
        assert_eq!(model.codes_shape(), [8, 8]);
        let all = params.all();
        let counted = all.iter().filter(|p| !p.name().contains("_ema_"));
        (
            counted.map(|p| p.shape().numel()).sum::<usize>(),
            params.names(),
        )
    };
    let (numbers, names) = count(true);
    assert_eq!(numbers, 612_931);
    let wanted = [
        "_encoder._conv_1.weight",
        "_encoder._conv_1.bias",
        "_encoder._conv_2.weight",
        "_encoder._conv_2.bias",
        "_encoder._conv_3.weight",
        "_encoder._conv_3.bias",
        "_encoder._residual_stack._layers.0._block.1.weight",
        "_encoder._residual_stack._layers.0._block.3.weight",
        "_pre_vq_conv.weight",
        "_pre_vq_conv.bias",
        "_vq_vae._embedding.weight",
        "_vq_vae._ema_cluster_size",
        "_vq_vae._ema_w",
        "_decoder._conv_1.weight",
        "_decoder._conv_1.bias",
        "_decoder._residual_stack._layers.0._block.1.weight",
        "_decoder._residual_stack._layers.0._block.3.weight",
        "_decoder._conv_trans_1.weight",
        "_decoder._conv_trans_1.bias",
        "_decoder._conv_trans_2.weight",
        "_decoder._conv_trans_2.bias",
    ];
    assert_eq!(names, wanted);
    let (numbers, names) = count(false);
    assert_eq!(numbers, 612_931 + 2 * 40_960);
    assert!(names.contains(&"_decoder._residual_stack._layers.1._block.3.weight".to_string()));
}

/// The network from bare ops.
fn reference(params: &Params, graph: &Graph, x: &Tensor, config: &VqVaeConfig) -> [Tensor; 2] {
    let get = |name: String| params.find(&name).expect(&name).on(graph);
    let conv = |x: &Tensor, name: &str, stride: usize, padding: usize, bias: bool| {
        let options = ConvParams {
            stride: [stride; 2],
            padding: [padding; 4],
            ..Default::default()
        };
        let bias = bias.then(|| get(format!("{name}.bias")));
        x.conv2d(&get(format!("{name}.weight")), bias.as_ref(), &options)
    };
    let up = |x: &Tensor, name: &str| {
        let options = ConvTransposeParams {
            stride: [2; 2],
            padding: [1; 4],
            ..Default::default()
        };
        let bias = get(format!("{name}.bias"));
        x.conv_transpose2d(&get(format!("{name}.weight")), Some(&bias), &options)
    };
    let stack = |mut x: Tensor, part: &str| {
        for i in 0..2 {
            let i = if config.shared_blocks { 0 } else { i };
            let block = format!("{part}._residual_stack._layers.{i}._block");
            let h = conv(&x.relu(), &format!("{block}.1"), 1, 1, false);
            let h = conv(&h.relu(), &format!("{block}.3"), 1, 0, false);
            let kept = if config.rectified_shortcut {
                x.relu()
            } else {
                x
            };
            x = kept.add(&h);
        }
        x.relu()
    };
    let h = conv(x, "_encoder._conv_1", 2, 1, true).relu();
    let h = conv(&h, "_encoder._conv_2", 2, 1, true).relu();
    let h = stack(conv(&h, "_encoder._conv_3", 1, 1, true), "_encoder");
    let latent = conv(&h, "_pre_vq_conv", 1, 0, true);
    let rows = latent.permute(&[0, 2, 3, 1]).reshape([12, 5]);
    let codebook = get("_vq_vae._embedding.weight".into());
    let codes = codebook.gather_rows(&rows.codebook_nearest(&codebook));
    let codes = codes.reshape([2, 2, 3, 5]).permute(&[0, 3, 1, 2]);
    let h = stack(conv(&codes, "_decoder._conv_1", 1, 1, true), "_decoder");
    let h = up(&h, "_decoder._conv_trans_1").relu();
    [latent, up(&h, "_decoder._conv_trans_2")]
}

#[test]
fn it_is_what_its_layers_say() {
    let Data::F32 { values, .. } = Data::f32([2, 3, 8, 12], 5) else {
        unreachable!()
    };
    let mut made = Vec::new();
    for (shared, rectified) in [(true, true), (true, false), (false, true), (false, false)] {
        let config = small(shared, rectified);
        let params = Params::new(3);
        let model = VqVae::residual(&params, &config).expect("a model");
        let graph = Graph::new();
        let x = graph.input("x", [2, 3, 8, 12]);
        let out = model.forward(&x, Mode::Eval);
        let [latent, image] = reference(&params, &graph, &x, &config);
        let error = image.sub(&x).square().mean(&[], false);
        let wanted = [
            &out.latent,
            &latent,
            &out.reconstruction,
            &image,
            &out.mse,
            &error,
        ];
        let mut program = graph.compile(gpu(), &params, &wanted).expect("a program");
        let out = program.run(&[("x", Value::F32(&values))]).expect("a run");
        for pair in 0..3 {
            let (a, b) = (
                out.f32(2 * pair).expect("f32"),
                out.f32(2 * pair + 1).expect("f32"),
            );
            assert_eq!(a.len(), b.len());
            let far = a.iter().zip(&b).filter(|(a, b)| (*a - *b).abs() > 1e-5);
            assert_eq!(far.count(), 0, "{shared} {rectified} {pair}");
        }
        made.push(out.f32(0).expect("f32"));
    }
    assert!(
        made[0] != made[1] && made[0] != made[2],
        "the switches do nothing"
    );
}

#[test]
fn every_weight_gets_a_gradient_and_checkpoints_with_all_names_load() {
    let params = Params::new(3);
    let model = VqVae::residual(&params, &small(true, true)).expect("a model");
    let graph = Graph::new();
    let out = model.forward(&graph.input("x", [2, 3, 8, 12]), Mode::Train);
    let trained = params.trainable();
    let on: Vec<Tensor> = trained.iter().map(|p| p.on(&graph)).collect();
    let grads = tape::backward(&out.loss, &on.iter().collect::<Vec<_>>()).expect("gradients");
    let sizes: Vec<Tensor> = grads.iter().map(|g| g.square().sum(&[], false)).collect();
    let wanted: Vec<&Tensor> = sizes.iter().collect();
    let mut program = graph.compile(gpu(), &params, &wanted).expect("a program");
    let Data::F32 { values, .. } = Data::f32([2, 3, 8, 12], 5) else {
        unreachable!()
    };
    let out = program.run(&[("x", Value::F32(&values))]).expect("a run");
    for (i, param) in trained.iter().enumerate() {
        assert!(out.scalar(i).expect("a sum") > 0.0, "{}", param.name());
    }

    // zalando's files hold the shared block once for each layer.
    let folder = Folder::new();
    let file = folder.file("all.safetensors");
    let separate = Params::new(8);
    VqVae::residual(&separate, &small(false, true)).expect("a model");
    separate.save(&file, Precision::F32).expect("a file");
    let open = || WeightsFile::open(&file).expect("a file");
    assert!(params.load_by(open(), &LoadRules::default()).is_err());
    let second = ["_encoder", "_decoder"].map(|p| format!("{p}._residual_stack._layers.1."));
    let rules = LoadRules::default().skip_beginning(&[&second[0], &second[1]]);
    params.load_by(open(), &rules).expect("what fits");
    let name = "_decoder._residual_stack._layers.0._block.1.weight";
    assert_eq!(
        params.get(name).expect("ours"),
        separate.get(name).expect("theirs")
    );
}

#[test]
fn descriptions_that_cannot_be_tell() {
    let refused = |change: fn(&mut VqVaeConfig)| {
        let mut config = small(true, true);
        change(&mut config);
        VqVae::residual(&Params::new(1), &config).is_err()
    };
    assert!(!refused(|_| ()));
    assert!(refused(|c| c.image = [30, 32]));
    assert!(refused(|c| c.image = [0, 32]));
    assert!(refused(|c| c.hidden = 7));
    assert!(refused(|c| c.variance = 0.0));
}
