//! From good inputs to nearly good ones.

/// Deterministic mutations of inputs.
pub struct Mutator {
    state: u64,
    words: &'static [&'static str],
}

/// Whole numbers that sit at an edge.
const EDGES: [u64; 12] = [
    0,
    1,
    0x7f,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 40,
    1 << 62,
    i64::MAX as u64,
    u64::MAX,
];

/// Longer inputs are cut.
const LONGEST: usize = 1 << 14;

impl Mutator {
    /// Mutations for the parser of this name, which likes these `words`.
    pub fn new(name: &str, seed: u64, words: &'static [&'static str]) -> Self {
        let mix = |s: u64, b: u8| (s ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
        let state = name.bytes().fold(0xcbf2_9ce4_8422_2325 ^ seed, mix);
        Mutator { state, words }
    }

    /// SplitMix64.
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`; 0 where that is 0.
    fn below(&mut self, n: usize) -> usize {
        (self.random() % n.max(1) as u64) as usize
    }

    /// A mutation of one of the pool, every second time of one of the `good` ones that
    /// stand first in it.
    pub fn next(&mut self, pool: &[Vec<u8>], good: usize) -> Vec<u8> {
        let among = [good, pool.len()][self.below(2)];
        let mut bytes = pool[self.below(among)].clone();
        // Mostly few changes: what is nearly right gets farthest.
        let changes = 1 + self.below(4) * self.below(4);
        for _ in 0..changes {
            self.change(&mut bytes, pool);
        }
        bytes.truncate(LONGEST);
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, pool: &[Vec<u8>]) {
        let at = self.below(bytes.len());
        match self.below(13) {
            0 | 1 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
            2 if !bytes.is_empty() => bytes[at] = self.random() as u8,
            3 if !bytes.is_empty() => bytes[at] = bytes[at].wrapping_add(1),
            4 => {
                let byte = self.random() as u8;
                bytes.insert(at, byte);
            }
            5 => {
                let end = (at + 1 + self.below(16)).min(bytes.len());
                bytes.drain(at..end);
            }
            6 => bytes.truncate(at),
            // A part once more, somewhere else or many times over.
            7 => {
                let end = (at + 1 + self.below(32)).min(bytes.len());
                let part = bytes[at..end].to_vec();
                let times = if self.below(8) == 0 {
                    self.below(200)
                } else {
                    1
                };
                let to = self.below(bytes.len());
                bytes.splice(to..to, part.repeat(times));
            }
            // The rest of another one.
            8 => {
                let other = &pool[self.below(pool.len())];
                let from = self.below(other.len());
                bytes.truncate(at);
                bytes.extend(&other[from..]);
            }
            // A binary number, in one of both orders.
            9 => {
                let width = [1, 2, 4, 8][self.below(4)];
                let edge = EDGES[self.below(EDGES.len())].wrapping_sub(self.below(3) as u64);
                let number = match self.below(2) {
                    0 => edge.to_le_bytes()[..width].to_vec(),
                    _ => edge.to_be_bytes()[8 - width..].to_vec(),
                };
                let end = (at + width).min(bytes.len());
                bytes.splice(at..end, number);
            }
            // A number in digits.
            10 => {
                let Some(start) = (at..bytes.len()).find(|i| bytes[*i].is_ascii_digit()) else {
                    return;
                };
                let run = bytes[start..].iter().take_while(|b| b.is_ascii_digit());
                let end = start + run.count();
                let text = EDGES[self.below(EDGES.len())].to_string();
                bytes.splice(start..end, text.bytes());
            }
            _ if !self.words.is_empty() => {
                let word = self.words[self.below(self.words.len())];
                let end = (at + self.below(2) * word.len()).min(bytes.len());
                bytes.splice(at..end, word.bytes());
            }
            _ => bytes.push(self.random() as u8),
        }
    }
}
