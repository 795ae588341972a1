//! The flags that every example takes.

use std::path::{Path, PathBuf};

use clap::{Args, Parser};
use flowgrad::data::{Batches, Order};
use flowgrad::{Gpu, GpuOptions};

use super::Outcome;

/// Flags of every example; put into its own arguments by `#[command(flatten)]`
/// and read by [`parse`], which fills in the example's [`Defaults`].
#[derive(Args, Debug, Clone)]
pub struct CommonArgs {
    /// Seed of the initial weights, the order of the data and all random numbers
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Training steps; 0 trains nothing
    #[arg(long, value_name = "N")]
    pub steps: usize,
    /// Images (or points) in a batch
    #[arg(long, value_name = "N", value_parser = batch)]
    pub batch: usize,
    /// Learning rate
    #[arg(long, value_name = "X", value_parser = positive)]
    pub lr: f32,
    /// Write the weights here after training (safetensors)
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,
    /// Start from these weights (safetensors)
    #[arg(long, value_name = "FILE")]
    pub load: Option<PathBuf>,
    /// Go on from a checkpoint of this example: weights, moments, step and random numbers.
    /// With the same other flags it gives the bits of a run that was never stopped
    #[arg(long, value_name = "FILE", conflicts_with = "load")]
    pub resume: Option<PathBuf>,
    /// Write checkpoint.safetensors to the output directory every N steps and after the
    /// last one; without this only where training is stopped by Ctrl-C
    #[arg(long, value_name = "N", value_parser = above_zero)]
    pub checkpoint_every: Option<usize>,
    /// Evaluate every N steps; 0 only after the last one
    #[arg(long, value_name = "N")]
    pub eval_every: Option<usize>,
    /// Write the loss of every step here
    #[arg(long, value_name = "FILE.csv")]
    pub losses: Option<PathBuf>,
    /// Take the batches in file order
    #[arg(long)]
    pub no_shuffle: bool,
    /// Use the adapter whose name contains this (see the example `doctor`)
    #[arg(long, value_name = "NAME")]
    pub adapter: Option<String>,
    /// Directory for pictures and weights
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Print all figures as one JSON object in the last line
    #[arg(long)]
    pub json: bool,
}

impl CommonArgs {
    /// The adapter that was asked for, or the best there is.
    pub fn gpu(&self) -> flowgrad::Result<Gpu> {
        Gpu::with(GpuOptions {
            adapter: self.adapter.clone(),
            ..GpuOptions::default()
        })
    }

    /// Tries all paths that are written to in the end, and whether those that are read can
    /// be opened. To be called before anything that takes long.
    pub fn try_paths(&self) -> Outcome {
        for file in [&self.load, &self.resume].into_iter().flatten() {
            std::fs::File::open(file)
                .map_err(|e| format!("{}: cannot be read: {e}", file.display()))?;
        }
        super::try_dir(&self.out)?;
        let files = [&self.save, &self.losses];
        files
            .into_iter()
            .flatten()
            .try_for_each(|f| super::try_file(f))
    }

    /// The batch size, if it is not larger than `most`, which is `what`. Error: it is;
    /// a smaller batch than was asked for would be another experiment.
    pub fn batch_of(&self, most: usize, what: &str) -> Outcome<usize> {
        match self.batch <= most {
            true => Ok(self.batch),
            false => Err(format!("--batch {} is more than {most}, {what}", self.batch).into()),
        }
    }

    /// Batches of `len` items in the order that was asked for; `what` is as for
    /// [`CommonArgs::batch_of`]. The incomplete one at the end of an epoch is left out.
    pub fn batches(&self, len: usize, what: &str) -> Outcome<Batches> {
        let order = match self.no_shuffle {
            true => Order::File,
            false => Order::Shuffled { seed: self.seed },
        };
        Ok(Batches::new(len, self.batch_of(len, what)?, order, true)?)
    }

    /// Whether training starts from first values rather than from a file.
    pub fn fresh(&self) -> bool {
        self.load.is_none() && self.resume.is_none()
    }

    /// `name` in the output directory, which is made where it is missing.
    pub fn out_file(&self, name: impl AsRef<Path>) -> Outcome<PathBuf> {
        super::make_dir(&self.out)?;
        Ok(self.out.join(name))
    }
}

/// What an example does without flags; `--help` shows it.
pub struct Defaults {
    /// The example's name: it writes to `out/NAME`.
    pub name: &'static str,
    /// Training steps.
    pub steps: usize,
    /// Images (or points) in a batch.
    pub batch: usize,
    /// Learning rate.
    pub lr: f32,
}

/// The program's arguments, with the example's own defaults. Prints help or a
/// usage error and ends the program where that was asked for or needed.
pub fn parse<T: Parser>(defaults: Defaults) -> T {
    // Once in a program: the arguments live as long as it does.
    let filled = |arg: clap::Arg, value: String| {
        arg.required(false)
            .default_value(&*Box::leak(value.into_boxed_str()))
    };
    let command = T::command()
        .mut_arg("steps", |a| filled(a, defaults.steps.to_string()))
        .mut_arg("batch", |a| filled(a, defaults.batch.to_string()))
        .mut_arg("lr", |a| filled(a, defaults.lr.to_string()))
        .mut_arg("out", |a| filled(a, format!("out/{}", defaults.name)));
    let mut matches = command.get_matches();
    T::from_arg_matches_mut(&mut matches).unwrap_or_else(|e| e.exit())
}

/// Larger ones are typing errors, or would be when memory is asked for them.
const MAX_BATCH: usize = 1 << 20;

fn batch(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if (1..=MAX_BATCH).contains(&n) => Ok(n),
        _ => Err(format!("must be a whole number from 1 to {MAX_BATCH}")),
    }
}

fn above_zero(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if n > 0 => Ok(n),
        _ => Err("must be a whole number above 0".into()),
    }
}

fn positive(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(x) if x > 0.0 && x.is_finite() => Ok(x),
        _ => Err("must be a number above 0".into()),
    }
}
