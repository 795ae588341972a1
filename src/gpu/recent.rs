//! A map of limited size that forgets what was not asked for the longest.

use std::collections::HashMap;
use std::hash::Hash;

pub(super) struct Recent<K, V> {
    /// With the time of the last question.
    entries: HashMap<K, (V, u64)>,
    clock: u64,
    most: usize,
}

impl<K: Hash + Eq + Clone, V> Recent<K, V> {
    pub fn new(most: usize) -> Self {
        Recent {
            entries: HashMap::new(),
            clock: 0,
            most: most.max(1),
        }
    }

    pub fn get(&mut self, key: &K) -> Option<&V> {
        self.clock += 1;
        let (value, asked) = self.entries.get_mut(key)?;
        *asked = self.clock;
        Some(value)
    }

    pub fn insert(&mut self, key: K, value: V) {
        self.clock += 1;
        self.entries.insert(key, (value, self.clock));
        while self.entries.len() > self.most {
            // Rarely, and over a thousand entries: a list of ages would be more to get wrong.
            let oldest = self.entries.iter().min_by_key(|(_, (_, asked))| *asked);
            let Some(oldest) = oldest.map(|(key, _)| key.clone()) else {
                return;
            };
            self.entries.remove(&oldest);
        }
    }

    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.entries.keys()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_asked_for_the_longest_goes_first() {
        let mut recent = Recent::new(3);
        for key in 0..3 {
            recent.insert(key, 10 * key);
        }
        assert_eq!(recent.get(&0), Some(&0));
        recent.insert(3, 30);
        assert_eq!(recent.get(&1), None);
        assert_eq!(recent.len(), 3);
        // A question for what is not there moves nothing.
        recent.insert(4, 40);
        let mut left: Vec<i32> = recent.keys().copied().collect();
        left.sort_unstable();
        assert_eq!(left, [0, 3, 4]);
        // An entry that is replaced takes no further place.
        recent.insert(3, 31);
        assert_eq!(recent.get(&3), Some(&31));
        assert_eq!(recent.len(), 3);
    }
}
