//! What is evaluated while something trains, how often, and the record of it.

use super::{CommonArgs, Losses, Outcome, plot};

/// Named figures of an evaluation; names as they stand in the JSON object.
pub type Figures = Vec<(&'static str, f64)>;

/// What is evaluated, and how often.
pub struct Evaluation<'a> {
    every: usize,
    take: Option<Box<dyn FnMut(u64) -> Outcome<Figures> + 'a>>,
}

/// Has figures taken every `every` steps (`--eval-every` goes first; 0: never then) and
/// after the last one. `take` is told how many steps are done.
pub fn every<'a>(every: usize, take: impl FnMut(u64) -> Outcome<Figures> + 'a) -> Evaluation<'a> {
    Evaluation {
        every,
        take: Some(Box::new(take)),
    }
}

/// Nothing is evaluated.
pub fn never() -> Evaluation<'static> {
    Evaluation {
        every: 0,
        take: None,
    }
}

impl Evaluation<'_> {
    /// Steps between two evaluations, 0 for none before the end.
    pub fn interval(&self, args: &CommonArgs) -> usize {
        match self.take {
            Some(_) => args.eval_every.unwrap_or(self.every),
            None => 0,
        }
    }
}

/// All figures that were taken.
#[derive(Default)]
pub struct Evaluated {
    record: Option<Losses>,
    last: Figures,
    /// The steps that were done when `last` was taken.
    at: Option<usize>,
}

impl Evaluated {
    /// Figures after `done` steps, if there is something to evaluate.
    pub fn take(&mut self, evaluation: &mut Evaluation<'_>, done: usize) -> Outcome {
        let Some(take) = &mut evaluation.take else {
            return Ok(());
        };
        // An interrupt may come just after an evaluation.
        if self.at == Some(done) {
            return Ok(());
        }
        self.last = take(done as u64)?;
        self.at = Some(done);
        let names: Vec<&str> = self.last.iter().map(|(name, _)| *name).collect();
        let values: Vec<f32> = self.last.iter().map(|(_, v)| *v as f32).collect();
        let record = self.record.get_or_insert_with(|| Losses::new(&names));
        if record.columns() != names {
            return Err(format!("evaluated {names:?}, before {:?}", record.columns()).into());
        }
        record.push(done, &values);
        Ok(())
    }

    /// Those of the last evaluation.
    pub fn last(&self) -> &Figures {
        &self.last
    }

    /// The last ones in words.
    pub fn told(&self) -> String {
        let each = self.last.iter().map(|(name, v)| format!("{name} {v:.4}"));
        each.collect::<Vec<_>>().join(", ")
    }

    /// The record as CSV; empty without one.
    pub fn csv(&self) -> String {
        self.record.as_ref().map_or(String::new(), Losses::csv)
    }

    /// Goes on behind what [`Evaluated::csv`] wrote.
    pub fn restore(&mut self, csv: &str) -> Outcome {
        if !csv.is_empty() {
            let mut record = Losses::like(csv);
            record.extend(csv)?;
            self.record = Some(record);
        }
        Ok(())
    }

    /// Writes and draws the record, where it is more than the last figures.
    pub fn write(&self, args: &CommonArgs, title: &str) -> Outcome {
        let Some(record) = self.record.as_ref().filter(|r| r.len() > 1) else {
            return Ok(());
        };
        record.write(&args.out_file("evaluations.csv")?)?;
        let file = args.out_file("evaluations.png")?;
        plot::lines(&file, title, "step", "", &record.all())
    }
}
