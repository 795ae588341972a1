//! Host random numbers that are a pure function of key and position.
//!
//! SplitMix64 in counter mode (Steele, Lea, Flood 2014): number `i` of a stream
//! does not depend on which numbers were asked for before it, so initial values
//! and shuffles depend on nothing but the seed and a name or an epoch.

/// A stream of random numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stream {
    key: u64,
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Stream {
    /// The stream called `name` of `seed`.
    pub fn named(seed: u64, name: &str) -> Self {
        // FNV-1a: the same on every platform and in every version of the standard library.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
            (h ^ b as u64).wrapping_mul(0x100_0000_01b3)
        });
        Stream::numbered(seed, hash)
    }

    /// The stream number `number` of `seed`.
    pub fn numbered(seed: u64, number: u64) -> Self {
        let key = mix(mix(seed.wrapping_add(GOLDEN)) ^ number.wrapping_mul(GOLDEN));
        Stream { key }
    }

    /// 64 random bits at position `i`.
    pub fn bits(&self, i: u64) -> u64 {
        mix(self
            .key
            .wrapping_add(i.wrapping_add(1).wrapping_mul(GOLDEN)))
    }

    /// Uniform in `[0, 1)` at position `i`.
    pub fn uniform(&self, i: u64) -> f64 {
        (self.bits(i) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Standard normal at position `i` (Box-Muller; two uniforms of its own).
    pub fn normal(&self, i: u64) -> f64 {
        let u = 1.0 - self.uniform(i.wrapping_mul(2));
        let angle = std::f64::consts::TAU * self.uniform(i.wrapping_mul(2).wrapping_add(1));
        (-2.0 * u.ln()).sqrt() * angle.cos()
    }

    /// Uniform in `0..n` at position `i` (Lemire's multiply-shift; the bias of at
    /// most `n / 2^64` is of no account here).
    pub fn below(&self, i: u64, n: usize) -> usize {
        ((self.bits(i) as u128 * n as u128) >> 64) as usize
    }
}
