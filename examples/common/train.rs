//! The kit of every example that trains: steps with progress, evaluation every so often,
//! curves, CSV, figures, weights, checkpoints, and Ctrl-C that loses none of them.
//!
//! ```text
//! let mut run = Run::start(&args.common, "Digits", &["loss", "accuracy"])?;
//! let (gpu, params) = (run.gpu.clone(), run.params.clone());
//! // .. the model over `params`, its loss, `optimizer.minimize(&loss)?` ..
//! let mut program = graph.compile(&gpu, &params, &[&loss, &accuracy])?;
//! let mut batches = args.common.batches(train.len(), "the number of training images")?;
//! let feed = |program: &mut Program, step| {
//!     let x = train.pixels(&batches.batch(step))?;
//!     program.set_scalars(&optimizer.inputs(step))?;
//!     Ok(program.set_inputs(&[("x", (&x).into())])?)
//! };
//! let judge = every(100, |_| Ok(vec![("test_accuracy", accuracy_of(&test)?)]));
//! run.train(&mut program, feed, judge)?;
//! // .. pictures ..
//! run.report()?.print(&args.common);
//! ```
//!
//! Several programs in one loop (a critic's and a generator's steps), each as often as it
//! likes:
//!
//! ```text
//! let mut programs = [critic, generator];
//! let step = |[critic, generator]: &mut [Program; 2], step| {
//!     // .. runs them ..
//!     Ok(vec![critic_loss, generator_loss])
//! };
//! run.train_with(&mut programs, step, never())?;
//! ```
//!
//! `examples/classifier.rs` is the shortest whole example.
//!
//! A resumed run gives the bits of one that was never stopped if a step depends on nothing
//! but its number, the parameters and the programs' random states. So host-side choices
//! come from the step (`Batches::batch` does, and `Stream`s seeded by it), whatever else
//! has to live on is a state of the parameter set, and evaluations set the random state
//! of their programs first.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use flowgrad::params::{Precision, Strict};
use flowgrad::{Gpu, Outputs, Params, Program};

use super::evaluation::{Evaluated, Evaluation};
use super::resume::{self, History};
use super::{Busy, CommonArgs, Losses, Outcome, Progress, Report, plot, report, stopped};

/// One training run: what it is made with, what it wrote down, and how it ends.
pub struct Run<'a> {
    pub args: &'a CommonArgs,
    pub gpu: Gpu,
    /// Everything that is trained or saved: several networks are scopes of one set.
    pub params: Params,
    /// What the progress bar calls it.
    pub label: String,
    /// The picture of the losses in the output directory, and how many columns it shows.
    pub curve: Option<(&'static str, usize)>,
    /// Whether the weights go to `model.safetensors` in the output directory.
    pub keep_weights: bool,
    /// Whether the table has a row with the last evaluation, for examples that do not word
    /// its figures themselves.
    pub tell_figures: bool,
    /// The losses of every step.
    pub losses: Losses,
    title: String,
    loaded: bool,
    evaluated: Evaluated,
    started: Instant,
    took: Took,
    plans: Vec<Planned>,
}

/// Times and steps of this process.
#[derive(Default)]
struct Took {
    setup: f64,
    training: f64,
    /// The step that it began with.
    begun: usize,
    /// Steps done, with those before it was resumed.
    done: usize,
}

/// What a plan asks for.
struct Planned {
    dispatches: usize,
    flops: u64,
    temporary: u64,
    total: u64,
}

impl<'a> Run<'a> {
    /// A run on the adapter that was asked for, over a new parameter set. All destinations
    /// are tried at once. `columns` are the losses of a step, the total first.
    pub fn start(args: &'a CommonArgs, title: &str, columns: &[&str]) -> Outcome<Self> {
        args.try_paths()?;
        Run::over(args, &args.gpu()?, &Params::new(args.seed), title, columns)
    }

    /// The same on this device and over this set.
    pub fn over(
        args: &'a CommonArgs,
        gpu: &Gpu,
        params: &Params,
        title: &str,
        columns: &[&str],
    ) -> Outcome<Self> {
        args.try_paths()?;
        Ok(Run {
            args,
            gpu: gpu.clone(),
            params: params.clone(),
            label: "training".into(),
            curve: Some(("loss.png", columns.len())),
            keep_weights: true,
            tell_figures: true,
            losses: Losses::new(columns),
            title: title.into(),
            loaded: false,
            evaluated: Evaluated::default(),
            started: Instant::now(),
            took: Took::default(),
            plans: Vec::new(),
        })
    }

    /// Loads `--load` now and by `load`; without this it is loaded by name when training
    /// begins.
    pub fn load_by(
        &mut self,
        load: impl FnOnce(&Params, &Path) -> flowgrad::Result<()>,
    ) -> Outcome {
        if let Some(file) = &self.args.load {
            load(&self.params, file)?;
            self.loaded = true;
        }
        Ok(())
    }

    /// Trains one program, whose first outputs are the scalars of the columns; `feed` gives
    /// it the inputs of a step. The next step is fed while the last one computes.
    pub fn train(
        &mut self,
        program: &mut Program,
        mut feed: impl FnMut(&mut Program, u64) -> Outcome,
        evaluation: Evaluation<'_>,
    ) -> Outcome {
        let columns = self.losses.columns().to_vec();
        self.steps(
            std::array::from_mut(program),
            evaluation,
            1,
            |[program], step| {
                feed(program, step)?;
                Ok(program.submit(&[])?)
            },
            |[program], step, ticket| scalars(&program.wait(ticket)?, &columns, step),
        )
    }

    /// Trains by several programs, or by one in another way: `step` runs them as often as
    /// it likes and gives the values of the columns. All of `programs` belong to what a
    /// checkpoint holds; others, for evaluation, do not.
    pub fn train_with<const N: usize>(
        &mut self,
        programs: &mut [Program; N],
        step: impl FnMut(&mut [Program; N], u64) -> Outcome<Vec<f32>>,
        evaluation: Evaluation<'_>,
    ) -> Outcome {
        let columns = self.losses.columns().to_vec();
        let read = |_: &mut _, step, values: Vec<f32>| {
            if values.len() != columns.len() {
                let found = values.len();
                return Err(format!("{found} values for the columns {columns:?}").into());
            }
            match values.iter().zip(&columns).find(|(v, _)| !v.is_finite()) {
                Some((v, name)) => Err(format!("{name} at step {step} is {v}").into()),
                None => Ok(values),
            }
        };
        self.steps(programs, evaluation, 0, step, read)
    }

    /// All steps, up to `ahead` of them started before the one whose values are read.
    fn steps<const N: usize, T>(
        &mut self,
        programs: &mut [Program; N],
        mut evaluation: Evaluation<'_>,
        ahead: usize,
        mut start: impl FnMut(&mut [Program; N], u64) -> Outcome<T>,
        mut read: impl FnMut(&mut [Program; N], u64, T) -> Outcome<Vec<f32>>,
    ) -> Outcome {
        self.begin(programs)?;
        let total = self.args.steps;
        let judged = evaluation.interval(self.args);
        let due =
            |every: usize, done: usize| every > 0 && done.is_multiple_of(every) && done < total;
        let mut progress = Progress::resumed(&self.label, total, self.took.begun);
        let began = Instant::now();
        let mut aside = Duration::ZERO;
        let mut pending = VecDeque::new();
        let trained = (|| {
            for step in self.took.begun..total {
                if progress.stopped() {
                    break;
                }
                pending.push_back((step, start(programs, step as u64)?));
                let evaluates = due(judged, step + 1);
                let saves = due(self.args.checkpoint_every.unwrap_or(0), step + 1);
                let ahead = if evaluates || saves { 0 } else { ahead };
                while pending.len() > ahead {
                    self.record(&mut pending, programs, &mut read, &mut progress)?;
                }
                let pause = Instant::now();
                if evaluates {
                    self.evaluated.take(&mut evaluation, step + 1)?;
                    progress.note(&format!("step {}: {}", step + 1, self.evaluated.told()));
                }
                if saves {
                    self.save_checkpoint(programs)?;
                }
                aside += pause.elapsed();
            }
            while !pending.is_empty() {
                self.record(&mut pending, programs, &mut read, &mut progress)?;
            }
            Ok(())
        })();
        self.took.training = (began.elapsed() - aside).as_secs_f64();
        progress.finish();
        // The curve up to a loss that is not finite tells more than the error alone.
        trained.and(self.write_losses())?;
        self.keep(programs)?;
        let busy = Busy::new("evaluating");
        self.evaluated.take(&mut evaluation, self.took.done)?;
        drop(busy);
        self.evaluated.write(self.args, &self.title)
    }

    fn record<const N: usize, T>(
        &mut self,
        pending: &mut VecDeque<(usize, T)>,
        programs: &mut [Program; N],
        read: &mut impl FnMut(&mut [Program; N], u64, T) -> Outcome<Vec<f32>>,
        progress: &mut Progress,
    ) -> Outcome {
        if let Some((step, started)) = pending.pop_front() {
            let values = read(programs, step as u64, started)?;
            self.losses.push(step, &values);
            self.took.done = step + 1;
            progress.step(step + 1, values.first().copied());
        }
        Ok(())
    }

    /// Weights or a checkpoint, where training starts from one.
    fn begin(&mut self, programs: &mut [Program]) -> Outcome {
        if let (Some(file), false) = (&self.args.load, self.loaded) {
            self.params.load(file, Strict::Yes)?;
        }
        if let Some(file) = &self.args.resume {
            let (step, history) = resume::load(file, self.args, &self.params, programs)?;
            self.took.begun = step;
            self.losses.extend(&history.losses)?;
            self.evaluated.restore(&history.evaluations)?;
        }
        self.took.done = self.took.begun;
        self.plans = programs.iter().map(Planned::of).collect();
        self.took.setup = self.started.elapsed().as_secs_f64();
        Ok(())
    }

    fn save_checkpoint(&self, programs: &[Program]) -> Outcome {
        let file = self.args.out_file("checkpoint.safetensors")?;
        let history = History {
            losses: self.losses.csv(),
            evaluations: self.evaluated.csv(),
        };
        resume::save(
            &file,
            self.args,
            self.took.done,
            &self.params,
            programs,
            history,
        )
    }

    fn write_losses(&self) -> Outcome {
        if let Some(file) = &self.args.losses {
            self.losses.write(file)?;
        }
        if let (Some((name, shown)), true) = (self.curve, self.losses.len() > 1) {
            let all = self.losses.all();
            let shown = &all[..shown.min(all.len())];
            plot::losses(&self.args.out_file(name)?, &self.title, shown)?;
        }
        Ok(())
    }

    /// What is kept of a run, before anything is evaluated or drawn that could fail.
    fn keep(&self, programs: &[Program]) -> Outcome {
        if stopped() || self.args.checkpoint_every.is_some() {
            self.save_checkpoint(programs)?;
        }
        if self.keep_weights {
            let file = self.args.out_file("model.safetensors")?;
            self.params.save(file, Precision::F32)?;
        }
        if let Some(file) = &self.args.save {
            self.params.save(file, Precision::F32)?;
        }
        Ok(())
    }

    /// A figure of the last evaluation; NaN where it has none of this name.
    pub fn figure(&self, name: &str) -> f64 {
        let found = self.evaluated.last().iter().find(|(n, _)| *n == name);
        found.map_or(f64::NAN, |(_, v)| *v)
    }

    /// Seconds of training, without evaluations.
    pub fn seconds(&self) -> f64 {
        self.took.training
    }

    /// What every run has to report, for the example to add to.
    pub fn report(&self) -> Report {
        let here = self.took.done - self.took.begun;
        let rate = match here {
            0 => 0.0,
            n => n as f64 / self.took.training,
        };
        let sum = |of: fn(&Planned) -> u64| self.plans.iter().map(of).sum::<u64>();
        let plans = self.plans.iter().map(Planned::told);
        let mut table = Report::new();
        table
            .row("adapter", self.gpu.summary())
            .row("parameters", report::count(self.params.count() as u64))
            .row("plan", plans.collect::<Vec<_>>().join("\n"))
            .row("set-up", report::seconds(self.took.setup))
            .row(
                "time per step",
                match here {
                    0 => "-".into(),
                    _ => report::seconds(1.0 / rate),
                },
            );
        if self.tell_figures && !self.evaluated.last().is_empty() {
            table.row("evaluation", self.evaluated.told());
        }
        table
            .row("written to", self.args.out.display())
            .figure("seconds", self.started.elapsed().as_secs_f64())
            .figure("steps_per_second", rate)
            .figure("seconds_setup", self.took.setup)
            .figure("peak_bytes", sum(|p| p.total))
            .figure("peak_activation_bytes", sum(|p| p.temporary))
            .figure("dispatches_per_step", sum(|p| p.dispatches as u64))
            .figure("parameters", self.params.count())
            .steps(self.took.done, self.args.steps)
            .figure("adapter", self.gpu.name());
        if let Some(last) = self.losses.last() {
            table.figure("final_loss", f64::from(last[0]));
        }
        for (name, value) in self.evaluated.last() {
            table.figure(name, *value);
        }
        table
    }
}

impl Planned {
    fn of(program: &Program) -> Self {
        let plan = program.plan();
        let memory = plan.memory();
        Planned {
            dispatches: plan.steps.len(),
            flops: plan.flops(),
            temporary: memory.temporary,
            total: memory.total(),
        }
    }

    fn told(&self) -> String {
        format!(
            "{} dispatches a step, {} at most in use, {} of it for activations, {:.1} MFLOP",
            self.dispatches,
            report::bytes(self.total),
            report::bytes(self.temporary),
            self.flops as f64 / 1e6
        )
    }
}

/// The first outputs of a program, which are scalars. Error: one is not finite.
fn scalars(out: &Outputs, names: &[String], step: u64) -> Outcome<Vec<f32>> {
    if out.check_finite(&[]).is_err() {
        let named: Vec<String> = names
            .iter()
            .map(|n| format!("{n} at step {step}"))
            .collect();
        out.check_finite(&named.iter().map(String::as_str).collect::<Vec<_>>())?;
    }
    let values = (0..names.len()).map(|i| out.scalar(i));
    Ok(values.collect::<flowgrad::Result<_>>()?)
}
