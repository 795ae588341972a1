//! Checkpoints of a training run, from which it goes on with the bits it would have had.

use std::path::Path;

use flowgrad::train::Checkpoint;
use flowgrad::{Params, Program};

use super::{CommonArgs, Outcome};

/// Metadata of a checkpoint holds 100 MB in all; a longer history is left out.
const LONGEST_HISTORY: usize = 32 << 20;

/// What was written down before, as CSV.
#[derive(Default)]
pub struct History {
    pub losses: String,
    pub evaluations: String,
}

/// Writes parameters, moments, the number of steps done, the random states of the
/// programs that train, and what was written down so far.
pub fn save(
    file: &Path,
    args: &CommonArgs,
    done: usize,
    params: &Params,
    programs: &[Program],
    history: History,
) -> Outcome {
    let states = programs.iter().map(|p| {
        let (seed, step) = p.random_state();
        format!("{seed}:{step}")
    });
    let mut checkpoint = Checkpoint {
        step: done as u64,
        seed: args.seed,
        random_step: programs.first().map_or(0, |p| p.random_state().1),
        ..Default::default()
    };
    let mut keep = |key: &str, value: String| checkpoint.extra.insert(key.into(), value);
    keep("random", states.collect::<Vec<_>>().join(" "));
    for (key, value) in settings(args) {
        keep(key, value);
    }
    for (key, value) in [
        ("losses", history.losses),
        ("evaluations", history.evaluations),
    ] {
        if value.len() <= LONGEST_HISTORY {
            keep(key, value);
        }
    }
    Ok(checkpoint.save(file, params)?)
}

/// Flags that make another run of it where they change.
fn settings(args: &CommonArgs) -> [(&'static str, String); 3] {
    [
        ("--batch", args.batch.to_string()),
        ("--lr", args.lr.to_string()),
        ("--no-shuffle", args.no_shuffle.to_string()),
    ]
}

/// Restores all that [`save`] wrote; steps done, and what was written down. The programs
/// must be compiled: the optimisers' moments come with them. Errors: another seed, or not
/// a checkpoint of this example.
pub fn load(
    file: &Path,
    args: &CommonArgs,
    params: &Params,
    programs: &mut [Program],
) -> Outcome<(usize, History)> {
    let checkpoint = Checkpoint::load(file, params)?;
    let told = |detail: String| format!("{}: {detail}", file.display());
    if checkpoint.seed != args.seed {
        let seed = checkpoint.seed;
        return Err(told(format!(
            "it was trained with --seed {seed}, this run has --seed {}; give --seed {seed}",
            args.seed
        ))
        .into());
    }
    let extra = |key: &str| checkpoint.extra.get(key).map_or("", String::as_str);
    let states: Vec<(u64, u32)> = extra("random").split(' ').filter_map(state).collect();
    if states.len() != programs.len() {
        return Err(told(format!(
            "it holds random states of {} programs, this example trains {}: another one wrote it",
            states.len(),
            programs.len()
        ))
        .into());
    }
    for (program, (seed, step)) in programs.iter_mut().zip(states) {
        program.set_random_state(seed, step);
    }
    for (key, value) in settings(args) {
        let before = extra(key);
        if before != value {
            eprintln!("note: {key} is {value}, it was {before} up to this checkpoint");
        }
    }
    let step = usize::try_from(checkpoint.step)
        .map_err(|_| told(format!("step {} is none", checkpoint.step)))?;
    let history = History {
        losses: extra("losses").into(),
        evaluations: extra("evaluations").into(),
    };
    Ok((step, history))
}

fn state(text: &str) -> Option<(u64, u32)> {
    let (seed, step) = text.split_once(':')?;
    Some((seed.parse().ok()?, step.parse().ok()?))
}
