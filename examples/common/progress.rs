//! A progress bar, a sign of life where nothing can be counted, and the record of losses.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Outcome;
use super::interrupt::{Listening, stopped};

/// How often a line is printed where there is no terminal to draw on.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shows steps, loss, steps a second and the time left on stderr: as a bar on a
/// terminal, as a line every few seconds elsewhere (logs, CI).
pub struct Progress {
    bar: ProgressBar,
    terminal: bool,
    total: usize,
    start: Instant,
    /// The end of the first step, which also compiled pipelines and would make
    /// the rate of a short run look too low.
    first: Option<(usize, Instant)>,
    line: Option<Instant>,
    smooth: Option<f32>,
    /// Where it began.
    begun: usize,
    done: usize,
    _listening: Listening,
}

impl Progress {
    /// A bar for `total` steps with a word in front. While it lives, the first Ctrl-C only
    /// makes [`Progress::stopped`] true.
    pub fn new(what: &str, total: usize) -> Self {
        Progress::resumed(what, total, 0)
    }

    /// The same with `begun` steps done before.
    pub fn resumed(what: &str, total: usize, begun: usize) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = ProgressBar::with_draw_target(
            Some(total as u64),
            if terminal {
                ProgressDrawTarget::stderr_with_hz(10)
            } else {
                ProgressDrawTarget::hidden()
            },
        );
        if let Ok(style) =
            ProgressStyle::with_template("{prefix} [{bar:32}] {pos}/{len}  {msg}  {eta} left")
        {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(what.to_string());
        Progress {
            bar,
            terminal,
            total,
            start: Instant::now(),
            first: None,
            line: None,
            smooth: None,
            begun,
            done: begun,
            _listening: Listening::start(),
        }
    }

    /// Whether no further step is wanted.
    pub fn stopped(&self) -> bool {
        stopped()
    }

    /// `done` steps are behind us; the last known loss, if there is one.
    pub fn step(&mut self, done: usize, loss: Option<f32>) {
        self.done = done;
        let now = Instant::now();
        let first = *self.first.get_or_insert((done, now));
        if let Some(loss) = loss {
            // A running mean, so that the eye can follow it; NaN shows at once.
            self.smooth = Some(match self.smooth {
                Some(old) if old.is_finite() => old + 0.1 * (loss - old),
                _ => loss,
            });
        }
        let message = || {
            let loss = self
                .smooth
                .map_or(String::new(), |l| format!("loss {l:.4}  "));
            let passed = now.duration_since(first.1).as_secs_f64();
            let rate = if done > first.0 && passed > 0.0 {
                (done - first.0) as f64 / passed
            } else {
                done.saturating_sub(self.begun) as f64
                    / now.duration_since(self.start).as_secs_f64().max(1e-9)
            };
            (format!("{loss}{rate:.1} steps/s"), rate)
        };
        if self.terminal {
            self.bar.set_message(message().0);
            self.bar.set_position(done as u64);
        } else if self
            .line
            .is_none_or(|t| now.duration_since(t) >= LINE_EVERY)
            || done >= self.total
        {
            let (text, rate) = message();
            let left = self.total.saturating_sub(done) as f64 / rate.max(1e-9);
            let prefix = self.bar.prefix();
            eprintln!("{prefix} {done}/{}  {text}  {left:.0} s left", self.total);
            self.line = Some(now);
        }
    }

    /// Prints a line that the bar does not overwrite.
    pub fn note(&self, text: &str) {
        if self.terminal {
            self.bar.println(text);
        } else {
            eprintln!("{text}");
        }
    }

    /// Ends the bar; the seconds it ran.
    pub fn finish(self) -> f64 {
        match stopped() {
            true => self.bar.abandon(),
            false => self.bar.finish(),
        }
        self.start.elapsed().as_secs_f64()
    }
}

/// Shows that something goes on which has no steps to count: a wheel on a terminal, a line
/// every few seconds elsewhere. It ends when this is dropped.
pub struct Busy {
    bar: ProgressBar,
    lines: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Busy {
    /// Says what goes on.
    pub fn new(what: &str) -> Self {
        let bar = ProgressBar::new_spinner();
        let lines = match std::io::stderr().is_terminal() {
            true => {
                bar.set_message(format!("{what} .."));
                bar.enable_steady_tick(Duration::from_millis(100));
                None
            }
            false => {
                bar.set_draw_target(ProgressDrawTarget::hidden());
                let (end, ended) = std::sync::mpsc::channel();
                let what = what.to_string();
                let start = Instant::now();
                let line = move || {
                    while ended.recv_timeout(LINE_EVERY) == Err(RecvTimeoutError::Timeout) {
                        eprintln!("{what} .. {:.0} s", start.elapsed().as_secs_f64());
                    }
                };
                Some((end, std::thread::spawn(line)))
            }
        };
        Busy { bar, lines }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        if let Some((end, thread)) = self.lines.take() {
            drop(end);
            let _ = thread.join();
        }
    }
}

/// The losses of every step, with the parts they are made of.
pub struct Losses {
    columns: Vec<String>,
    rows: Vec<(usize, Vec<f32>)>,
}

impl Losses {
    /// A record with these columns beside the step, the total loss first.
    pub fn new(columns: &[&str]) -> Self {
        Losses {
            columns: columns.iter().map(|c| c.to_string()).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds the losses of one step, in the order of the columns.
    pub fn push(&mut self, step: usize, values: &[f32]) {
        self.rows.push((step, values.to_vec()));
    }

    /// The columns beside the step.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// An empty record with the columns of a CSV that was written by [`Losses::csv`].
    pub fn like(csv: &str) -> Self {
        let head = csv.lines().next().unwrap_or("");
        Losses::new(&head.split(',').skip(1).collect::<Vec<_>>())
    }

    /// Adds the rows of such a CSV. Errors: other columns, or no numbers.
    pub fn extend(&mut self, csv: &str) -> Outcome {
        let mut lines = csv.lines();
        let Some(head) = lines.next() else {
            return Ok(());
        };
        if Losses::like(head).columns != self.columns {
            return Err(format!("its columns are {head}, expected {:?}", self.columns).into());
        }
        for line in lines {
            let mut cells = line.split(',');
            let step: usize = cells.next().unwrap_or("").parse()?;
            let values: Vec<f32> = cells.map(str::parse).collect::<Result<_, _>>()?;
            if values.len() != self.columns.len() {
                return Err(format!("`{line}` does not fit the columns {head}").into());
            }
            self.push(step, &values);
        }
        Ok(())
    }

    /// Steps recorded.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// The last step's values.
    pub fn last(&self) -> Option<&[f32]> {
        self.rows.last().map(|(_, values)| values.as_slice())
    }

    /// Step and value of one column.
    pub fn series(&self, column: usize) -> Vec<(f64, f64)> {
        self.rows
            .iter()
            .filter_map(|(step, v)| Some((*step as f64, *v.get(column)? as f64)))
            .filter(|(_, v)| !v.is_nan())
            .collect()
    }

    /// Name and series of every column, for [`super::plot::losses`].
    pub fn all(&self) -> Vec<(&str, Vec<(f64, f64)>)> {
        let named = self.columns.iter().enumerate();
        named.map(|(i, c)| (c.as_str(), self.series(i))).collect()
    }

    /// The record as CSV. Values are written so that they read back exactly.
    pub fn csv(&self) -> String {
        let mut text = format!("step,{}\n", self.columns.join(","));
        for (step, values) in &self.rows {
            text.push_str(&step.to_string());
            for value in values {
                text.push_str(&format!(",{value}"));
            }
            text.push('\n');
        }
        text
    }

    /// Writes the record as a CSV file.
    pub fn write(&self, file: &Path) -> Outcome {
        super::write_file(file, self.csv().as_bytes())
    }
}
