//! A picture as a grid of codes, and back: the autoencoders of DALL-E and VQGAN in full.
//!
//! `cargo run --release --example tokenize -- PICTURE --weights FILE` (a PNG or JPEG of any
//! size), or `--random-weights` to see how long it takes. Writes the codes as
//! `out/tokenize/codes.npy`, a map of them and the decoded picture.

mod common;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{ArgGroup, Parser, ValueEnum};
use common::tokenize::{Coder, Picture, Programs};
use common::{Busy, Outcome, Report, picture, report};
use flowgrad::exec::Storage;
use flowgrad::models::{DvaeConfig, Tiling, VqGanConfig};
use flowgrad::params::WeightsFile;
use flowgrad::{Gpu, GpuOptions, Params};

/// Takes a picture apart into codes and puts it together again.
///
/// Pictures larger than a tile are cut into tiles that overlap; sides that are no multiples
/// of what a code stands for are padded with their last row or column.
#[derive(Parser)]
#[command(group = ArgGroup::new("values").required(true))]
struct Args {
    /// The picture, PNG or JPEG
    picture: PathBuf,
    /// Which network
    #[arg(long, value_enum, default_value_t = Model::Vqgan)]
    model: Model,
    /// Weights under the published names
    #[arg(long, value_name = "FILE", group = "values")]
    weights: Option<PathBuf>,
    /// Take first values instead: the picture is lost, the time is that of the real ones
    #[arg(long, group = "values")]
    random_weights: bool,
    /// Codes of the VQGAN's codebook
    #[arg(long, value_name = "N", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(2..=1 << 20))]
    codes: u32,
    /// Keep the weights as 16-bit floats, in half the memory
    #[arg(long)]
    f16: bool,
    /// Pixels of a tile's sides
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(16..=4096))]
    tile: u32,
    /// Codes of a tile's edge that are thrown away
    #[arg(long, value_name = "N", default_value_t = 2)]
    margin: usize,
    /// Seed of the first values
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Use the adapter whose name contains this (see the example `doctor`)
    #[arg(long, value_name = "NAME")]
    adapter: Option<String>,
    /// Directory for codes and pictures
    #[arg(long, value_name = "DIR", default_value = "out/tokenize")]
    out: PathBuf,
    /// Print all figures as one JSON object in the last line
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Model {
    /// The discrete VAE of DALL-E: 8,192 codes, one for 8x8 pixels
    Dvae,
    /// The autoencoder of VQGAN: one code for 16x16 pixels
    Vqgan,
}

fn main() -> ExitCode {
    common::main(|| run(&Args::parse()))
}

fn run(args: &Args) -> Outcome {
    common::try_dir(&args.out)?;
    let whole = Picture::open(&args.picture)?;
    let params = Params::new(args.seed);
    let coder = match args.model {
        Model::Dvae => Coder::dvae(&params, DvaeConfig::dalle())?,
        Model::Vqgan => Coder::vqgan(&params, VqGanConfig::f16(args.codes as usize))?,
    };
    if let Some(file) = &args.weights {
        params.load_by(WeightsFile::open(file)?, &coder.rules())?;
    }
    let gpu = Gpu::with(GpuOptions {
        adapter: args.adapter.clone(),
        ..GpuOptions::default()
    })?;
    let factor = coder.factor();
    let padded = whole.padded(factor);
    let grid = padded.size.map(|extent| extent / factor);
    let tiling = Tiling::new((args.tile as usize).div_ceil(factor), args.margin)?;
    let extents = tiling.extents(grid);
    let tiles = tiling.tiles(grid).len();

    let compile = |weights: Storage| -> Outcome<Programs> {
        let _busy = Busy::new("compile");
        coder.programs(&gpu, &params, extents, weights)
    };
    let storage = match args.f16 {
        true => Storage::F16,
        false => Storage::F32,
    };
    let mut programs = compile(storage)?;
    let start = Instant::now();
    let codes = programs.encode(&padded, &tiling)?;
    let encode_seconds = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let decoded = programs.decode(&codes, &tiling)?;
    let decode_seconds = start.elapsed().as_secs_f64();

    let shown = decoded.cropped(whole.size);
    let file = |name: &str| args.out.join(name);
    common::write_file(&file("codes.npy"), &codes.npy())?;
    picture::save(&shown.rgb(), &file("decoded.png"))?;
    picture::save(&whole.beside(&shown).rgb(), &file("beside.png"))?;
    let map = picture::code_maps(&codes.data, [1, grid[0], grid[1]], 1, 1, factor)?;
    picture::save(&map, &file("codes.png"))?;

    let mut table = Report::new();
    let (used, perplexity) = codes.variety();
    let mse = whole.mse(&shown);
    let bits = (coder.codes() as f64).log2() * codes.data.len() as f64;
    let bits_per_pixel = bits / (whole.size[0] * whole.size[1]) as f64;
    let numbers: usize = params.all().iter().map(|p| p.shape().numel()).sum();
    table
        .row("adapter", gpu.summary())
        .row("parameters", report::count(numbers as u64))
        .row(
            "weights of both networks",
            report::bytes(programs.weight_bytes()),
        )
        .row(
            "activations of a tile",
            report::bytes(programs.activation_bytes()),
        )
        .row(
            "picture",
            format!("{} x {} pixels", whole.size[1], whole.size[0]),
        )
        .row(
            "codes",
            format!(
                "{} x {} in {tiles} tiles, {used} different ones, perplexity {perplexity:.1}",
                grid[1], grid[0]
            ),
        )
        .row("bits per pixel", format!("{bits_per_pixel:.4}"))
        .row("mean squared error", format!("{mse:.5} of pixels in 0..1"))
        .row("compile", report::seconds(programs.compile_seconds))
        .row("encode", report::seconds(encode_seconds))
        .row("decode", report::seconds(decode_seconds))
        .figure("parameters", numbers)
        .figure("weight_bytes", programs.weight_bytes())
        .figure("activation_bytes", programs.activation_bytes())
        .figure("tiles", tiles)
        .figure("codes_used", used)
        .figure("perplexity", perplexity)
        .figure("bits_per_pixel", bits_per_pixel)
        .figure("mse", mse)
        .figure("compile_seconds", programs.compile_seconds)
        .figure("encode_seconds", encode_seconds)
        .figure("decode_seconds", decode_seconds);
    if args.f16 {
        drop(programs);
        let exact = compile(Storage::F32)?.decode(&codes, &tiling)?;
        let farthest = exact.cropped(whole.size).farthest(&shown);
        table
            .row(
                "farthest from 32-bit weights",
                format!("{farthest:.5} of pixels in 0..1"),
            )
            .figure("f16_farthest", farthest);
    }
    table.row("written to", args.out.display());
    table.print_with(args.json);
    Ok(())
}
