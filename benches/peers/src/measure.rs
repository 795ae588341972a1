//! Timing both sides of a row in turns.

use std::time::{Duration, Instant};

use burn::tensor::Device;
use flowgrad::Gpu;

use crate::row::{Outcome, Row, Side};

/// Short rows are repeated until this time is spent, or `MOST` times.
const SPEND: Duration = Duration::from_millis(500);
const MOST: usize = 101;
/// Runs shorter than this, in milliseconds, are timed after one that is not: in a turn's
/// first few milliseconds the scheduler may keep both threads of a software adapter, which
/// slept while the other side had its turn, on one core.
const SHORT: f64 = 100.0;
/// Runs of either side before the first timed one.
const WARM_UP: usize = 3;
/// What was measured of one row.
pub struct Measured {
    name: String,
    ours: Times,
    peer: Times,
    pub max_abs_diff: f64,
    pub tolerance: f64,
}

/// Times of one side in milliseconds, sorted.
struct Times(Vec<f64>);

impl Times {
    fn median(&self) -> f64 {
        self.0[self.0.len() / 2]
    }

    /// Half the distance between the quartiles, as a fraction of the median.
    fn spread(&self) -> f64 {
        let at = |q: usize| self.0[(self.0.len() - 1) * q / 4];
        (at(3) - at(1)) / 2.0 / self.median()
    }
}

pub const HEADER: &str = "\
| row | ours ms | burn ms | ratio | max abs diff |
|---|---|---|---|---|";

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let side = |t: &Times| format!("{:.3} +-{:.0} %", t.median(), 100.0 * t.spread());
        write!(
            f,
            "| {} | {} | {} | {:.2} | {:.1e} |",
            self.name,
            side(&self.ours),
            side(&self.peer),
            self.ratio(),
            self.max_abs_diff
        )
    }
}

impl Measured {
    fn ratio(&self) -> f64 {
        self.peer.median() / self.ours.median()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "name": self.name,
            "ours_ms": self.ours.median(),
            "peer_ms": self.peer.median(),
            "ratio": self.ratio(),
            "max_abs_diff": self.max_abs_diff,
        })
    }
}

/// Times our side of one row.
pub fn alone(row: &Row, gpu: &Gpu, device: &Device, repeats: usize) -> Outcome<serde_json::Value> {
    let (mut ours, _) = (row.build)(gpu, device)?;
    for _ in 0..WARM_UP {
        ours.run()?;
    }
    let mut times = Vec::new();
    let start = Instant::now();
    while times.len() < repeats || (times.len() < MOST && start.elapsed() < SPEND) {
        times.push(timed(ours.as_mut())?);
    }
    times.sort_by(f64::total_cmp);
    Ok(serde_json::json!({ "name": row.name, "ours_ms": Times(times).median() }))
}

/// Compares and times one row.
pub fn measure(row: &Row, gpu: &Gpu, device: &Device, repeats: usize) -> Outcome<Measured> {
    let (mut ours, mut peer) = (row.build)(gpu, device)?;
    let (mine, theirs) = (ours.results()?, peer.results()?);
    let (max_abs_diff, size) = (row.compare)(&mine, &theirs);
    for _ in 0..WARM_UP {
        ours.run()?;
        peer.run()?;
    }
    let mut times = [Vec::new(), Vec::new()];
    let start = Instant::now();
    while times[0].len() < repeats || (times[0].len() < MOST && start.elapsed() < SPEND) {
        // Whoever comes second finds caches that the other one filled.
        let order = if times[0].len() % 2 == 0 {
            [0, 1]
        } else {
            [1, 0]
        };
        for side in order {
            let mut turn = || match side {
                0 => timed(ours.as_mut()),
                _ => timed(peer.as_mut()),
            };
            let mut time = turn()?;
            if time < SHORT {
                time = turn()?;
            }
            times[side].push(time);
        }
    }
    let [ours, peer] = times.map(|mut t| {
        t.sort_by(f64::total_cmp);
        Times(t)
    });
    Ok(Measured {
        name: row.name.clone(),
        ours,
        peer,
        max_abs_diff,
        tolerance: row.tolerance * size.max(1.0),
    })
}

/// Milliseconds of one run.
fn timed(side: &mut dyn Side) -> Outcome<f64> {
    let start = Instant::now();
    side.run()?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}
