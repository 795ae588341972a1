//! Classifiers for examples: published networks with somebody's weights, and a small one that
//! learns the shipped digits.

use std::path::Path;

use clap::ValueEnum;
use flowgrad::data::{Batches, ImageSet, Order, Split};
use flowgrad::models::{
    Inference, ResNet, ResNetConfig, ResNetNames, WideResNet, WideResNetConfig,
};
use flowgrad::nn::{Layer, Mode};
use flowgrad::ops::{CrossEntropy, PixelFormat};
use flowgrad::optim::{Adam, Optimizer};
use flowgrad::params::{LoadRules, WeightsFile};
use flowgrad::{Gpu, Graph, Params};
use image::imageops::FilterType;

use super::{Outcome, Progress, digits_dir};

/// Published networks.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Model {
    Resnet18,
    Resnet34,
    Resnet50,
    /// ResNet-18 with a 3x3 stem
    Cifar18,
    /// The same of pre-activation blocks
    Preact18,
    Cifar20,
    Cifar32,
    Cifar44,
    Cifar56,
    Cifar110,
    /// Wide ResNet-28-10 with batch norm
    Wide,
    /// Wide ResNet-28-10 without
    Jem,
}

/// A network and what it is given.
pub struct Ready {
    pub inference: Inference,
    /// Its bytes as the network takes them.
    pub picture: Vec<u8>,
    /// Its class, where that is known.
    pub truth: Option<u8>,
    /// The share of held-out images that the network tells apart, where it learnt them here.
    pub accuracy: Option<f64>,
}

/// A published network with the weights of a file, for a picture. `change` may normalise
/// otherwise.
pub fn loaded(
    gpu: &Gpu,
    model: Model,
    file: &Path,
    picture: &Path,
    change: impl FnOnce(PixelFormat) -> PixelFormat,
) -> Outcome<Ready> {
    let weights = WeightsFile::open(file)?;
    let tensors = weights.names();
    let ends = |end: &str| tensors.iter().find(|n| n.ends_with(end));
    let head = ends("fc.weight").or_else(|| ends("linear.weight"));
    let classes = head
        .and_then(|n| weights.shape(n))
        .and_then(|s| s.first().copied());
    let classes = classes.ok_or_else(|| format!("{}: no `fc` or `linear`", file.display()))?;
    let names = match (ends("downsample.0.weight"), ends("linear.weight")) {
        (Some(_), _) => ResNetNames::Torchvision,
        (None, Some(_)) => ResNetNames::Kuangliu,
        (None, None) => ResNetNames::OpenOod,
    };
    let params = Params::new(0);
    let side = match model {
        Model::Resnet18 | Model::Resnet34 | Model::Resnet50 => 224,
        _ => 32,
    };
    let config = match model {
        Model::Resnet18 => ResNetConfig::resnet18(),
        Model::Resnet34 => ResNetConfig::resnet34(),
        Model::Resnet50 => ResNetConfig::resnet50(),
        Model::Preact18 => ResNetConfig::preact18(),
        Model::Cifar20 => ResNetConfig::cifar(20)?,
        Model::Cifar32 => ResNetConfig::cifar(32)?,
        Model::Cifar44 => ResNetConfig::cifar(44)?,
        Model::Cifar56 => ResNetConfig::cifar(56)?,
        Model::Cifar110 => ResNetConfig::cifar(110)?,
        Model::Cifar18 | Model::Wide | Model::Jem => ResNetConfig::resnet18_cifar(),
    };
    let wide =
        |config: WideResNetConfig| WideResNet::new(&params, WideResNetConfig { classes, ..config });
    let net: Box<dyn Layer> = match model {
        Model::Wide => Box::new(wide(WideResNetConfig::wrn28_10())?),
        Model::Jem => Box::new(wide(WideResNetConfig::jem())?),
        _ => Box::new(ResNet::new(
            &params,
            ResNetConfig {
                names,
                classes,
                ..config
            },
        )?),
    };
    let rules = ["state_dict.", "model.", "module."].into_iter();
    params.load_by(
        weights,
        &rules.fold(LoadRules::default(), |r, p| r.strip(p)),
    )?;
    let mut format = PixelFormat::rgb([side; 2]);
    format = match model {
        _ if side == 224 => format.imagenet(),
        Model::Jem => format.normalized(&[0.5; 3], &[0.5; 3]),
        _ => format.cifar10(),
    };
    let picture = open(picture)?;
    let picture = match side {
        224 => {
            let (w, h) = (picture.width().max(1), picture.height().max(1));
            let by = |extent: u32| (256 * u64::from(extent) / u64::from(w.min(h))) as u32;
            let resized = picture.resize_exact(by(w), by(h), FilterType::Triangle);
            resized.crop_imm((by(w) - 224) / 2, (by(h) - 224) / 2, 224, 224)
        }
        _ => picture.resize_exact(32, 32, FilterType::Triangle),
    };
    Ok(Ready {
        inference: Inference::new(gpu, &params, change(format), move |x| {
            net.forward(x, Mode::Eval)
        })?,
        picture: picture.to_rgb8().into_raw(),
        truth: None,
        accuracy: None,
    })
}

fn open(file: &Path) -> Outcome<image::DynamicImage> {
    let wrong = |e: &dyn std::fmt::Display| format!("{}: {e}", file.display());
    let reader = image::ImageReader::open(file).map_err(|e| wrong(&e))?;
    let reader = reader.with_guessed_format().map_err(|e| wrong(&e))?;
    Ok(reader.decode().map_err(|e| wrong(&e))?)
}

/// A thin residual network that learns the shipped digits (white on black, 17 levels), and
/// `picture` as one of them, or the first held-out one.
pub fn learnt(gpu: &Gpu, seed: u64, steps: usize, picture: Option<&Path>) -> Outcome<Ready> {
    const BATCH: usize = 64;
    let train = ImageSet::mnist(digits_dir(), Split::Train)?;
    let test = ImageSet::mnist(digits_dir(), Split::Test)?;
    let [_, channels, height, width] = train.shape;
    let params = Params::new(seed);
    let config = ResNetConfig {
        channels,
        width: 16,
        blocks: vec![1, 1],
        ..ResNetConfig::resnet18_cifar()
    };
    let net = ResNet::new(&params, config)?;
    let graph = Graph::new();
    let labels = graph.input_u32("labels", [BATCH]);
    let x = graph
        .input("x", [BATCH, channels, height, width])
        .mul_scalar(1.0 / 16.0);
    let logits = net.forward(&x, Mode::Train);
    let loss = logits.cross_entropy(&labels, &CrossEntropy::default());
    let adam = Optimizer::new(&params, Adam::default())?;
    adam.minimize(&loss)?;
    let mut program = graph.compile(gpu, &params, &[&loss])?;
    let mut batches = Batches::new(train.len(), BATCH, Order::Shuffled { seed }, true)?;
    let mut progress = Progress::new("learn digits", steps);
    for step in 0..steps as u64 {
        let items = batches.batch(step);
        program.set_scalars(&adam.inputs(step))?;
        program.step(&[
            ("x", (&train.pixels(&items)?).into()),
            ("labels", (&train.labels(&items)?).into()),
        ])?;
        progress.step(step as usize + 1, None);
        if progress.stopped() {
            return Err("stopped".into());
        }
    }
    progress.finish();
    let format = PixelFormat::grey([height, width]).normalized(&[0.0], &[16.0 / 255.0]);
    let mut inference = Inference::new(gpu, &params, format, move |x| net.forward(x, Mode::Eval))?;
    let logits = inference.run(&test.images)?;
    let right = logits.chunks(10).zip(&test.labels).filter(|(row, label)| {
        let best = (0..10).max_by(|a, b| row[*a].total_cmp(&row[*b]));
        best == Some(usize::from(**label))
    });
    let accuracy = right.count() as f64 / test.len() as f64;
    let (picture, truth) = match picture {
        Some(file) => {
            let small = open(file)?.resize_exact(width as u32, height as u32, FilterType::Triangle);
            let grey = small.to_luma8().into_raw();
            (
                grey.iter()
                    .map(|v| (u16::from(*v) * 16 / 255) as u8)
                    .collect(),
                None,
            )
        }
        None => (
            test.images[..height * width].to_vec(),
            test.labels.first().copied(),
        ),
    };
    Ok(Ready {
        inference,
        picture,
        truth,
        accuracy: Some(accuracy),
    })
}
