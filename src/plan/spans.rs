//! Which node positions units span, asked in logarithmic time.

/// Intervals of positions that only grow in number and length; of every position the
/// smallest start of those around it. A tree of minima over ranges of positions.
pub(super) struct Spans {
    leaves: usize,
    /// The smallest start of intervals that cover a node's whole range.
    tree: Vec<usize>,
}

impl Spans {
    pub fn new(positions: usize) -> Self {
        let leaves = positions.max(1);
        Spans {
            leaves,
            tree: vec![usize::MAX; 2 * leaves],
        }
    }

    /// Adds the interval from `first` to `last`, both included.
    pub fn add(&mut self, first: usize, last: usize) {
        let (mut l, mut r) = (
            first + self.leaves,
            last.min(self.leaves - 1) + self.leaves + 1,
        );
        while l < r {
            if l % 2 == 1 {
                self.tree[l] = self.tree[l].min(first);
                l += 1;
            }
            if r % 2 == 1 {
                r -= 1;
                self.tree[r] = self.tree[r].min(first);
            }
            (l, r) = (l / 2, r / 2);
        }
    }

    /// The smallest start of the intervals around a position; itself where there is none.
    pub fn first(&self, at: usize) -> usize {
        let mut first = at;
        let mut node = at.min(self.leaves - 1) + self.leaves;
        while node > 0 {
            first = first.min(self.tree[node]);
            node /= 2;
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_found() {
        for positions in [1, 2, 7, 8, 33] {
            let mut spans = Spans::new(positions);
            let mut plain: Vec<(usize, usize)> = Vec::new();
            for k in 0..40usize {
                let (a, b) = (k * 7 % positions, k * 5 % positions);
                let (first, last) = (a.min(b), a.max(b));
                spans.add(first, last);
                plain.push((first, last));
                for at in 0..positions {
                    let around = plain.iter().filter(|(f, l)| (*f..=*l).contains(&at));
                    let expected = around.map(|(f, _)| *f).min().unwrap_or(at);
                    assert_eq!(spans.first(at), expected, "{positions} {at}");
                }
            }
        }
    }
}
