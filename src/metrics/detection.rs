//! How well scores tell two kinds of samples apart.

use crate::{Error, Result};

/// What a threshold on scores makes of two kinds of samples; larger scores speak for
/// positives. Samples of equal score pass a threshold together.
///
/// For outliers, as OpenOOD counts them, positives are the samples that belong to the
/// training distribution. All are fractions, not percents.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Detection {
    /// Area under the ROC curve: how often a positive scores higher than a negative, ties
    /// counted half.
    pub auroc: f64,
    /// Negatives above the highest threshold that at least 95 % of the positives pass.
    pub fpr95: f64,
    /// Average precision, `sum (R_k - R_(k-1)) P_k` over thresholds from high to low.
    pub ap: f64,
    /// The same with the negatives as positives, by scores of the other sign.
    pub ap_out: f64,
    /// Area under precision by recall, trapezoidal, from recall 0 at precision 1.
    pub aupr_in: f64,
    /// The same with the negatives as positives.
    pub aupr_out: f64,
}

impl Detection {
    /// Of `scores`, of which `positive` tells the kind. Errors: unequal numbers, NaN among
    /// the scores, only one kind.
    pub fn new(scores: &[f32], positive: &[bool]) -> Result<Self> {
        let fail = |detail: String| Err(Error::argument("metrics::Detection", detail));
        if scores.len() != positive.len() {
            let (scores, kinds) = (scores.len(), positive.len());
            return fail(format!("{scores} scores of {kinds} samples"));
        }
        if let Some(i) = scores.iter().position(|s| s.is_nan()) {
            return fail(format!("the score of sample {i} is NaN"));
        }
        let total = positive.iter().filter(|p| **p).count();
        if total == 0 || total == scores.len() {
            let all = scores.len();
            return fail(format!(
                "{total} of {all} samples are positive: both kinds are needed"
            ));
        }
        let mut order: Vec<(f32, bool)> = scores
            .iter()
            .copied()
            .zip(positive.iter().copied())
            .collect();
        // Zeros of either sign are equal.
        order.sort_by(|a, b| (b.0 + 0.0).total_cmp(&(a.0 + 0.0)));
        let mut groups: Vec<[u64; 2]> = Vec::new();
        let mut last = None;
        for (score, positive) in order {
            if last != Some(score) {
                groups.push([0; 2]);
                last = Some(score);
            }
            if let Some(group) = groups.last_mut() {
                group[usize::from(!positive)] += 1;
            }
        }
        let inside = Curve::of(groups.iter().copied());
        let outside = Curve::of(groups.iter().rev().map(|[p, n]| [*n, *p]));
        Ok(Detection {
            auroc: inside.auroc,
            fpr95: inside.fpr95,
            ap: inside.ap,
            ap_out: outside.ap,
            aupr_in: inside.aupr,
            aupr_out: outside.aupr,
        })
    }
}

/// One pass over the thresholds, the highest first.
struct Curve {
    auroc: f64,
    fpr95: f64,
    ap: f64,
    aupr: f64,
}

impl Curve {
    /// Of the positives and negatives of each score.
    fn of(groups: impl Iterator<Item = [u64; 2]> + Clone) -> Self {
        let [all_p, all_n] = groups
            .clone()
            .fold([0; 2], |[p, n], group| [p + group[0], n + group[1]]);
        let (mut hits, mut alarms) = (0, 0);
        let (mut before, mut precision_before) = (0.0, 1.0);
        // Pairs in the right order, twice, so that half a pair is a whole number.
        let mut pairs = 0u128;
        let mut fpr95 = None;
        let (mut ap, mut aupr) = (0.0, 0.0);
        for [p, n] in groups {
            pairs += u128::from(n) * u128::from(2 * hits + p);
            hits += p;
            alarms += n;
            if fpr95.is_none() && 20 * hits >= 19 * all_p {
                fpr95 = Some(alarms as f64 / all_n as f64);
            }
            let precision = hits as f64 / (hits + alarms) as f64;
            let recall = hits as f64 / all_p as f64;
            ap += (recall - before) * precision;
            aupr += (recall - before) * 0.5 * (precision + precision_before);
            (before, precision_before) = (recall, precision);
        }
        Curve {
            auroc: pairs as f64 / (2.0 * all_p as f64 * all_n as f64),
            fpr95: fpr95.unwrap_or(1.0),
            ap,
            aupr,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_counted_is_an_error() {
        assert!(Detection::new(&[1.0], &[true, false]).is_err());
        assert!(Detection::new(&[1.0, f32::NAN], &[true, false]).is_err());
        assert!(Detection::new(&[1.0, 2.0], &[true, true]).is_err());
        assert!(Detection::new(&[], &[]).is_err());
    }

    #[test]
    fn zeros_of_either_sign_and_infinities_are_scores() {
        let tied = Detection::new(&[0.0, -0.0], &[true, false]).unwrap();
        assert_eq!(tied.auroc, 0.5);
        let apart = Detection::new(&[f32::INFINITY, f32::NEG_INFINITY], &[true, false]).unwrap();
        assert_eq!((apart.auroc, apart.fpr95), (1.0, 0.0));
    }
}
