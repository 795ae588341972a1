//! A variational autoencoder with two latents, drawn: where it puts the digits, and what
//! lies between them.
//!
//! `cargo run --release --example vae` learns the 8x8 digits that the project ships, with
//! `-- --data DIR` images in MNIST's or CIFAR-10's file format. Writes to `out/vae/`:
//! `latents.png` (held-out images by class), `manifold.png` (what the decoder makes of a
//! grid of latents), `reconstructions.png` (originals, PCA, a plain autoencoder of the same
//! width, the VAE), `loss.png`, `evaluations.png` (the bound), and with `--collapse`
//! `collapse.png`.

mod common;

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use common::pca::Pca;
use common::vae::{aside, plain, train};
use common::{CommonArgs, Defaults, ImageArgs, Images, Outcome, Run, picture};
use flowgrad::Params;
use flowgrad::models::{AutoencoderConfig, Likelihood, VaeConfig};

/// Learns a variational autoencoder of images.
///
/// The network of the keras.io example (`models::Vae`), with dense layers at the bottleneck
/// or without; pixels at the scale 0..1. The loss is `reconstruction + beta * KL` in nats per
/// image, Adam with betas 0.9 and 0.999. Beside it a plain autoencoder of the same width is
/// trained for as many steps and compared with principal components.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    images: ImageArgs,
    /// The bottleneck: two dense layers, or convolutions over the whole map
    #[arg(long, value_enum, default_value_t = Model::Dense)]
    model: Model,
    /// Binary cross-entropy, or squared error over twice `--variance`
    #[arg(long, value_enum, default_value_t = Decoder::Bce)]
    decoder: Decoder,
    /// Variance of a pixel with `--decoder mse`; 0.5 is the squared error summed over pixels
    #[arg(long, value_name = "X", default_value_t = 0.1)]
    variance: f32,
    /// Latents
    #[arg(long, value_name = "N", default_value_t = 2)]
    latent: usize,
    /// Weight of the divergence
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    beta: f32,
    /// Draws for the importance-weighted bound; 0 leaves it out
    #[arg(long, value_name = "K", default_value_t = 8)]
    importance: usize,
    /// Train the same network with the squared error averaged over pixels, too, and draw its
    /// latents beside: the posterior collapses onto the prior
    #[arg(long)]
    collapse: bool,
    /// Train neither a plain autoencoder nor principal components for comparison
    #[arg(long)]
    alone: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Model {
    Conv,
    Dense,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Decoder {
    Bce,
    Mse,
}

fn main() -> ExitCode {
    common::main(|| {
        run(&common::parse(Defaults {
            name: "vae",
            steps: 1000,
            batch: 64,
            lr: 2e-3,
        }))
    })
}

fn run(args: &Args) -> Outcome {
    let sets = args.images.sets(4)?;
    let [channels, height, width] = sets.image();
    let pixels = channels * height * width;
    let config = config(args, sets.image());
    let columns = ["loss", "reconstruction", "kl"];
    let mut run = Run::start(&args.common, "VAE", &columns)?;
    let (vae, judge) = train(&mut run, &sets, config)?;
    judge.draw(&args.common, &sets, &vae)?;
    let mut report = run.report();
    let bits = run.figure("test_nelbo_nats") / (pixels as f64 * std::f64::consts::LN_2);
    report.row("bits per dimension", format!("{bits:.4}"));
    report.figure("test_bits_per_dim", bits);
    if args.importance > 0 {
        let bound = judge.importance(&sets, &vae, args.importance)?;
        let name = format!("bound, {} draws", args.importance);
        report.row(&name, format!("{bound:.3} nats"));
        report.figure("test_importance_bound_nats", bound);
    }
    let gpu = run.gpu.clone();

    // Rows of a picture: originals, and what each made of them.
    let all: Vec<usize> = (0..sets.test.len()).collect();
    let originals = sets.scaled(&sets.test, &all)?;
    let mut made = vec![("VAE", "vae_test_mse", judge.made.clone())];
    if !args.alone && !common::stopped() {
        let some: Vec<usize> = (0..sets.train.len().min(4000)).collect();
        let pca = Pca::new(&sets.scaled(&sets.train, &some)?, pixels, args.latent);
        let beside = aside(&args.common, "plain");
        let params = Params::new(beside.seed);
        let mut run = Run::over(&beside, &gpu, &params, "Autoencoder", &["loss"])?;
        let coded = plain(&mut run, &sets, config)?;
        made.insert(0, ("PCA", "pca_test_mse", pca.reconstruct(&originals)));
        made.insert(1, ("plain autoencoder", "plain_test_mse", coded));
    }
    let count = sets.test.len().min(12);
    let mut rows = originals[..count * pixels].to_vec();
    for (name, key, values) in &made {
        let squares = originals.iter().zip(values);
        let squares = squares.map(|(a, b)| f64::from(a - b).powi(2));
        let error = squares.sum::<f64>() / originals.len() as f64;
        report.row(&format!("test MSE, {name}"), format!("{error:.5}"));
        report.figure(key, error);
        rows.extend_from_slice(&values[..count * pixels]);
    }
    let lines = made.len() + 1;
    let images = Images::new(&rows, [lines * count, channels, height, width])?;
    let picture = picture::grid(&images, lines, count, (64 / height).max(1));
    picture::save(&picture, &args.common.out_file("reconstructions.png")?)?;

    if args.collapse && !common::stopped() {
        let beside = aside(&args.common, "collapsed");
        let collapsed = VaeConfig {
            likelihood: Likelihood::mean_squares(pixels),
            ..config
        };
        let params = Params::new(beside.seed);
        let mut run = Run::over(&beside, &gpu, &params, "VAE, squares averaged", &columns)?;
        let (vae, judge) = train(&mut run, &sets, collapsed)?;
        judge.draw(&beside, &sets, &vae)?;
        let kl = run.figure("test_kl_nats");
        report.row("KL, squares averaged", format!("{kl:.4} nats"));
        report.figure("collapsed_test_kl_nats", kl);
        let mut rows = Vec::new();
        for name in ["latents.png", "manifold.png"] {
            let files = [&args.common, &beside].map(|a| a.out.join(name));
            rows.push(picture::beside(&files)?);
        }
        let file = args.common.out_file("collapse.png")?;
        picture::save(&picture::stacked(&rows), &file)?;
    }
    report.print(&args.common);
    Ok(())
}

fn config(args: &Args, image: [usize; 3]) -> VaeConfig {
    let mut network = AutoencoderConfig::new(image);
    network.latent = args.latent;
    if args.model == Model::Conv {
        network = network.convolutional();
    }
    let variance = args.variance;
    VaeConfig {
        network,
        likelihood: match args.decoder {
            Decoder::Bce => Likelihood::Bernoulli,
            Decoder::Mse => Likelihood::Gaussian { variance },
        },
        beta: args.beta,
    }
}
