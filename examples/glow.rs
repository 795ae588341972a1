//! A normalizing flow of images: NICE, RealNVP or Glow.
//!
//! `cargo run --release --example glow` trains a small Glow on the 8x8 digits that the
//! project ships; with `-- --data DIR` on images in MNIST's or CIFAR-10's file format.
//! Writes samples, samples by temperature, interpolations, reconstructions, the curve of
//! bits per dimension and the weights to `out/glow/`.

mod common;

use std::ops::Deref;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use common::flows::{self, Setup};
use common::{CommonArgs, Defaults, ImageArgs, Outcome};
use flowgrad::Params;
use flowgrad::flow::Memory;
use flowgrad::models::{
    Glow, GlowConfig, GlowConvention, ImageFlow, Nice, NiceConfig, RealNvp, RealNvpConfig,
};

/// Trains a normalizing flow on images and shows what it learnt.
///
/// Pixels `k` of `bins` levels enter as `(k + u) / bins - 0.5` with uniform noise `u`
/// (`--no-dequant`: u = 0); images are padded with zeros until height and width are
/// divisible by 2^levels (28x28 becomes 32x32). The loss is the mean of bits per
/// dimension over the batch. Adam with betas 0.9 and 0.999, eps 1e-8, no weight decay.
/// Batches come from the training file; the incomplete one at the end of an epoch is
/// left out. Data-dependent first values come from the first batch, unless weights are
/// loaded; `--steps 0 --save FILE` writes the weights that training starts from. Row `n`
/// of the CSV (from 0) holds the loss before update `n`. The architecture, layer by layer
/// with the names of its parameters, stands in the documentation of `models::Glow`,
/// `models::RealNvp` and `models::Nice`.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    common: CommonArgs,
    /// Which flow
    #[arg(long, value_enum, default_value_t = Model::Glow)]
    model: Model,
    #[command(flatten)]
    images: ImageArgs,
    /// Scales (Glow, RealNVP)
    #[arg(long, value_name = "N", default_value_t = 2)]
    levels: usize,
    /// Glow: steps per scale [default: 4]. NICE: couplings [default: 4]. RealNVP: residual
    /// blocks of a coupling's network [default: 1]
    #[arg(long, value_name = "N")]
    depth: Option<usize>,
    /// Width of the networks inside the couplings [default: Glow 64, NICE 200, RealNVP 32]
    #[arg(long, value_name = "N")]
    hidden: Option<usize>,
    /// What is kept for the gradient: store, rebuild, or checkpoint:K
    #[arg(long, value_name = "HOW", default_value = "store", value_parser = memory)]
    memory: Memory,
    /// Additive couplings instead of affine ones (Glow)
    #[arg(long)]
    additive: bool,
    /// Layout and parametrisation (Glow): this project's, or those of rosinality's PyTorch
    /// port, whose weights then load by name, or OpenAI's
    #[arg(long, value_enum, default_value_t = Convention::House)]
    convention: Convention,
    /// A model of each class (Glow)
    #[arg(long)]
    conditional: bool,
    /// No noise on the pixels
    #[arg(long)]
    no_dequant: bool,
    /// Steps over which the learning rate rises to its value
    #[arg(long, value_name = "N", default_value_t = 0)]
    warmup: u64,
    /// The largest norm of a gradient
    #[arg(long, value_name = "X")]
    clip: Option<f32>,
    /// Temperature of the samples, above 0; 1 samples the model itself
    #[arg(long, value_name = "X", default_value_t = 0.8)]
    temperature: f32,
    /// Write the log-likelihood of every held-out image here, in nats (NumPy format)
    #[arg(long, value_name = "FILE.npy")]
    eval_log_prob: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Model {
    Nice,
    Realnvp,
    Glow,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Convention {
    House,
    Rosinality,
    Openai,
}

fn memory(text: &str) -> Result<Memory, String> {
    match text.split_once(':') {
        None if text == "store" => Ok(Memory::Store),
        None if text == "rebuild" => Ok(Memory::Rebuild),
        Some(("checkpoint", k)) => match k.parse() {
            Ok(k) if k > 0 => Ok(Memory::Checkpoint(k)),
            _ => Err("checkpoint:K needs a whole number above 0".into()),
        },
        _ => Err("expected store, rebuild or checkpoint:K".into()),
    }
}

fn main() -> ExitCode {
    common::main(|| {
        let args: Args = common::parse(Defaults {
            name: "glow",
            steps: 600,
            batch: 64,
            lr: 1e-3,
        });
        args.common.try_paths()?;
        let gpu = args.common.gpu()?;
        if !(1..=8).contains(&args.levels) {
            return Err("--levels must be 1 to 8".into());
        }
        // Told before training rather than after it.
        if !(args.temperature > 0.0 && args.temperature.is_finite()) {
            return Err("--temperature must be a number above 0".into());
        }
        let sets = args.images.sets(1 << args.levels)?;
        let params = Params::new(args.common.seed);
        let classes = args.conditional.then(|| sets.train.classes());
        let model = args.build(&params, sets.image(), sets.bins, classes)?;
        let setup = Setup {
            params: &params,
            model: &model,
            train: &sets.train,
            test: &sets.test,
            title: args.model.title(),
            dequantize: !args.no_dequant,
            warmup: args.warmup,
            clip: args.clip,
            temperature: args.temperature,
            log_prob: args.eval_log_prob.as_deref(),
            load: &|params, file| match &model {
                Built::Glow(glow) => glow.load(params, file),
                _ => flows::load_exactly(params, file),
            },
        };
        flows::run(&args.common, &gpu, &setup)?.print(&args.common);
        Ok(())
    })
}

enum Built {
    Nice(Nice),
    RealNvp(RealNvp),
    Glow(Glow),
}

impl Deref for Built {
    type Target = ImageFlow;

    fn deref(&self) -> &ImageFlow {
        match self {
            Built::Nice(model) => model,
            Built::RealNvp(model) => model,
            Built::Glow(model) => model,
        }
    }
}

impl Model {
    fn title(self) -> &'static str {
        match self {
            Model::Nice => "NICE",
            Model::Realnvp => "RealNVP",
            Model::Glow => "Glow",
        }
    }
}

impl Args {
    fn build(
        &self,
        params: &Params,
        image: [usize; 3],
        bins: usize,
        classes: Option<usize>,
    ) -> Outcome<Built> {
        if self.model != Model::Glow && (classes.is_some() || self.additive) {
            return Err("--conditional and --additive belong to --model glow".into());
        }
        Ok(match self.model {
            Model::Nice => {
                let small = NiceConfig::digits();
                Built::Nice(Nice::new(
                    params,
                    NiceConfig {
                        image,
                        bins,
                        couplings: self.depth.unwrap_or(small.couplings),
                        hidden: self.hidden.unwrap_or(small.hidden),
                        memory: self.memory,
                        ..small
                    },
                )?)
            }
            Model::Realnvp => {
                let small = RealNvpConfig::digits();
                Built::RealNvp(RealNvp::new(
                    params,
                    RealNvpConfig {
                        image,
                        bins,
                        scales: self.levels,
                        blocks: self.depth.unwrap_or(small.blocks),
                        hidden: self.hidden.unwrap_or(small.hidden),
                        memory: self.memory,
                    },
                )?)
            }
            Model::Glow => {
                let small = GlowConfig::digits();
                Built::Glow(Glow::new(
                    params,
                    GlowConfig {
                        image,
                        bins,
                        levels: self.levels,
                        depth: self.depth.unwrap_or(small.depth),
                        hidden: self.hidden.unwrap_or(small.hidden),
                        affine: !self.additive,
                        convention: match self.convention {
                            Convention::House => GlowConvention::House,
                            Convention::Rosinality => GlowConvention::Rosinality,
                            Convention::Openai => GlowConvention::OpenAi,
                        },
                        classes,
                        memory: self.memory,
                        ..small
                    },
                )?)
            }
        })
    }
}
