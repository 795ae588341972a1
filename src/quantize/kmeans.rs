//! K-means on the host: a start for codebooks.

use crate::rng::Stream;
use crate::{Error, Result};

/// Clusters `rows` (`[N, dim]` row-major) into `codes` centres, `[codes, dim]`.
///
/// Starting centres are drawn with probability proportional to the squared distance
/// from those already there (k-means++, Arthur and Vassilvitskii 2007), then
/// `iterations` of Lloyd's algorithm; a centre without rows takes the row that is
/// furthest from its centre. The same seed gives the same centres.
///
/// Errors: fewer rows than centres, a length that is not a multiple of `dim`, values
/// that are not finite.
pub fn k_means(
    rows: &[f32],
    dim: usize,
    codes: usize,
    iterations: usize,
    seed: u64,
) -> Result<Vec<f32>> {
    if dim == 0 || codes == 0 || !rows.len().is_multiple_of(dim) || rows.len() / dim < codes {
        return Err(Error::argument(
            "k_means",
            format!(
                "{} values are given for rows of {dim}; {codes} centres need at least as many rows",
                rows.len()
            ),
        ));
    }
    if let Some(at) = rows.iter().position(|v| !v.is_finite()) {
        return Err(Error::NonFinite {
            place: "k_means".into(),
            detail: format!("element {} of row {} is {}", at % dim, at / dim, rows[at]),
        });
    }
    let rows: Vec<&[f32]> = rows.chunks(dim).collect();
    let mut centres = start(&rows, codes, seed);
    for _ in 0..iterations {
        let nearest: Vec<(usize, f64)> = rows.iter().map(|r| nearest(r, &centres, dim)).collect();
        let mut sums = vec![0.0; codes * dim];
        let mut counts = vec![0usize; codes];
        for (row, (k, _)) in rows.iter().zip(&nearest) {
            counts[*k] += 1;
            for (sum, v) in sums[k * dim..].iter_mut().zip(*row) {
                *sum += *v as f64;
            }
        }
        // Rows that stand in for empty clusters, furthest first.
        let mut far: Vec<usize> = (0..rows.len()).collect();
        far.sort_by(|a, b| nearest[*b].1.total_cmp(&nearest[*a].1));
        let mut far = far.into_iter();
        for k in 0..codes {
            let centre = &mut centres[k * dim..(k + 1) * dim];
            if counts[k] > 0 {
                for (c, sum) in centre.iter_mut().zip(&sums[k * dim..]) {
                    *c = sum / counts[k] as f64;
                }
            } else if let Some(row) = far.next() {
                for (c, v) in centre.iter_mut().zip(rows[row]) {
                    *c = *v as f64;
                }
            }
        }
    }
    Ok(centres.into_iter().map(|v| v as f32).collect())
}

fn distance(row: &[f32], centre: &[f64]) -> f64 {
    let square = |(a, b): (&f32, &f64)| (*a as f64 - b).powi(2);
    row.iter().zip(centre).map(square).sum()
}

fn nearest(row: &[f32], centres: &[f64], dim: usize) -> (usize, f64) {
    let distances = centres.chunks(dim).map(|c| distance(row, c)).enumerate();
    distances.fold(
        (0, f64::INFINITY),
        |best, d| if d.1 < best.1 { d } else { best },
    )
}

fn start(rows: &[&[f32]], codes: usize, seed: u64) -> Vec<f64> {
    let random = Stream::named(seed, "k_means");
    let mut centres: Vec<f64> = Vec::new();
    let mut least = vec![f64::INFINITY; rows.len()];
    for k in 0..codes {
        let total: f64 = least.iter().sum();
        let row = if k == 0 || total <= 0.0 {
            random.below(k as u64, rows.len())
        } else {
            let mut rest = random.uniform(k as u64) * total;
            let found = least.iter().position(|d| {
                rest -= d;
                rest < 0.0
            });
            found.unwrap_or(rows.len() - 1)
        };
        let centre: Vec<f64> = rows[row].iter().map(|v| *v as f64).collect();
        for (least, row) in least.iter_mut().zip(rows) {
            *least = least.min(distance(row, &centre));
        }
        centres.extend(centre);
    }
    centres
}
