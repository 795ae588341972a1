//! Learning-rate schedules: pure functions of the step.

/// A factor on the learning rate, by step. Steps count from 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    curve: Curve,
    warmup: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Curve {
    Constant,
    Cosine { steps: u64, floor: f64 },
    Exponential { gamma: f64 },
    Step { gamma: f64, every: u64 },
}

impl Default for Schedule {
    fn default() -> Self {
        Schedule::constant()
    }
}

impl Schedule {
    fn of(curve: Curve) -> Self {
        Schedule { curve, warmup: 0 }
    }

    /// Always 1.
    pub fn constant() -> Self {
        Self::of(Curve::Constant)
    }

    /// Half a cosine from 1 down to `floor` at step `steps` (warm-up included),
    /// then `floor` (Loshchilov, Hutter 2017, without restarts).
    pub fn cosine(steps: u64, floor: f64) -> Self {
        Self::of(Curve::Cosine { steps, floor })
    }

    /// `gamma^step`.
    pub fn exponential(gamma: f64) -> Self {
        Self::of(Curve::Exponential { gamma })
    }

    /// Times `gamma` after every `every` steps.
    pub fn step(gamma: f64, every: u64) -> Self {
        Self::of(Curve::Step {
            gamma,
            every: every.max(1),
        })
    }

    /// The first `steps` steps rise linearly, from `1 / steps` to 1; the curve
    /// begins behind them.
    pub fn warmup(mut self, steps: u64) -> Self {
        self.warmup = steps;
        self
    }

    /// The factor at `step`.
    pub fn factor(&self, step: u64) -> f64 {
        if step < self.warmup {
            return (step + 1) as f64 / self.warmup as f64;
        }
        let step = step - self.warmup;
        match self.curve {
            Curve::Constant => 1.0,
            Curve::Cosine { steps, floor } => {
                let length = steps.saturating_sub(self.warmup).max(1);
                let progress = step.min(length) as f64 / length as f64;
                let wave = 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
                floor + (1.0 - floor) * wave
            }
            Curve::Exponential { gamma } => gamma.powf(step as f64),
            Curve::Step { gamma, every } => gamma.powf((step / every) as f64),
        }
    }
}
