//! Densities of the plane that are easy to draw and hard to learn: the usual test bench
//! of normalizing flows (Grathwohl et al. 2019, FFJORD; Durkan et al. 2019).

use std::f64::consts::{PI, TAU};

use crate::rng::Stream;

/// A density of the plane. All are centred, reach about 3 from the origin, and can be
/// sampled without end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plane {
    /// Two half circles that reach into one another.
    TwoMoons,
    /// Every second square of a 4 x 4 board of side 6; its entropy is `log 18` nats.
    Checkerboard,
    /// Four rings around the origin, with as many points on each.
    Rings,
    /// Five bent blades.
    Pinwheel,
}

impl Plane {
    /// All of them.
    pub const ALL: [Plane; 4] = [
        Plane::TwoMoons,
        Plane::Checkerboard,
        Plane::Rings,
        Plane::Pinwheel,
    ];

    /// The name in lower case, words joined by underscores.
    pub fn name(self) -> &'static str {
        match self {
            Plane::TwoMoons => "two_moons",
            Plane::Checkerboard => "checkerboard",
            Plane::Rings => "rings",
            Plane::Pinwheel => "pinwheel",
        }
    }

    /// `n` points `[n, 2]`, row-major; a pure function of the seed, in which the first
    /// points do not depend on how many there are.
    pub fn sample(self, n: usize, seed: u64) -> Vec<f32> {
        let stream = Stream::named(seed, self.name());
        let mut points = Vec::with_capacity(2 * n);
        for i in 0..n as u64 {
            // Numbers of its own for every point; a normal one takes two places.
            let uniform = |k: u64| stream.uniform(8 * i + k);
            let normal = |k: u64| stream.normal(4 * i + k);
            let (x, y) = match self {
                Plane::TwoMoons => {
                    let (sin, cos) = (PI * uniform(0)).sin_cos();
                    let (x, y) = match uniform(1) < 0.5 {
                        true => (cos, sin),
                        false => (1.0 - cos, 0.5 - sin),
                    };
                    let noise = |k: u64| 0.1 * normal(k);
                    (2.0 * (x + noise(1)) - 1.0, 2.0 * (y + noise(2)) - 0.5)
                }
                Plane::Checkerboard => {
                    let (x, y) = (4.0 * uniform(0), uniform(1));
                    let row = 2.0 * (2.0 * uniform(2)).floor() + (x.floor() % 2.0);
                    (1.5 * (x - 2.0), 1.5 * (y + row - 2.0))
                }
                Plane::Rings => {
                    let radius = 0.75 * (1.0 + (4.0 * uniform(0)).floor());
                    let (sin, cos) = (TAU * uniform(1)).sin_cos();
                    (
                        radius * cos + 0.08 * normal(1),
                        radius * sin + 0.08 * normal(2),
                    )
                }
                Plane::Pinwheel => {
                    let blade = TAU * (5.0 * uniform(0)).floor() / 5.0;
                    let (along, across) = (1.0 + 0.3 * normal(1), 0.1 * normal(2));
                    let (sin, cos) = (blade + 0.25 * along.exp()).sin_cos();
                    (
                        2.0 * (along * cos - across * sin),
                        2.0 * (along * sin + across * cos),
                    )
                }
            };
            points.extend([x as f32, y as f32]);
        }
        points
    }
}
