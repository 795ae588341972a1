//! Principal components of images, on the host: the linear autoencoder to hold others
//! against.

/// The mean of rows and their first principal directions.
pub struct Pca {
    mean: Vec<f32>,
    /// Orthonormal, the largest variance first.
    directions: Vec<Vec<f64>>,
}

impl Pca {
    /// Finds `count` directions of `rows` of `dims` numbers each by subspace iteration: the
    /// covariance is never written down.
    pub fn new(rows: &[f32], dims: usize, count: usize) -> Self {
        let n = (rows.len() / dims).max(1) as f64;
        let mut mean = vec![0.0f64; dims];
        for row in rows.chunks_exact(dims) {
            mean.iter_mut()
                .zip(row)
                .for_each(|(m, v)| *m += f64::from(*v) / n);
        }
        let mean: Vec<f32> = mean.into_iter().map(|m| m as f32).collect();
        // Some more directions than wanted make the wanted ones settle sooner.
        let kept = (count + 4).min(dims);
        let start = |k: usize| (0..dims).map(move |i| ((i * (k + 3) + k) as f64 * 1.7).sin());
        let mut directions: Vec<Vec<f64>> = (0..kept).map(|k| start(k).collect()).collect();
        orthonormalise(&mut directions);
        for _ in 0..30 {
            let mut next = vec![vec![0.0; dims]; kept];
            for row in rows.chunks_exact(dims) {
                for (old, new) in directions.iter().zip(&mut next) {
                    let along = project(row, &mean, old);
                    for ((to, v), m) in new.iter_mut().zip(row).zip(&mean) {
                        *to += along * f64::from(v - m);
                    }
                }
            }
            orthonormalise(&mut next);
            directions = next;
        }
        directions.truncate(count);
        Pca { mean, directions }
    }

    /// What is left of rows after they went through the directions.
    pub fn reconstruct(&self, rows: &[f32]) -> Vec<f32> {
        let each = rows.chunks_exact(self.mean.len()).flat_map(|row| {
            let mut made: Vec<f64> = self.mean.iter().map(|m| f64::from(*m)).collect();
            for direction in &self.directions {
                let along = project(row, &self.mean, direction);
                made.iter_mut()
                    .zip(direction)
                    .for_each(|(to, d)| *to += along * d);
            }
            made.into_iter().map(|v| v as f32)
        });
        each.collect()
    }
}

fn project(row: &[f32], mean: &[f32], direction: &[f64]) -> f64 {
    let centred = row.iter().zip(mean).map(|(v, m)| f64::from(v - m));
    centred.zip(direction).map(|(v, d)| v * d).sum()
}

/// Gram and Schmidt, in order: directions of larger variance stay in front.
fn orthonormalise(directions: &mut [Vec<f64>]) {
    for i in 0..directions.len() {
        let (before, rest) = directions.split_at_mut(i);
        let current = &mut rest[0];
        // Twice, because rounding leaves something of the others behind.
        for other in before.iter().chain(before.iter()) {
            let along: f64 = current.iter().zip(other).map(|(a, b)| a * b).sum();
            current
                .iter_mut()
                .zip(other)
                .for_each(|(a, b)| *a -= along * b);
        }
        let length = current.iter().map(|v| v * v).sum::<f64>().sqrt();
        // Rows of fewer directions than asked for have nothing more to give.
        let scale = if length > 1e-9 { 1.0 / length } else { 0.0 };
        current.iter_mut().for_each(|v| *v *= scale);
    }
}
