//! The rows: each names a piece of work and says how either side does it.

mod block;
mod codes;
mod conv;
mod coupling;
mod gemm;
mod glow;
mod resnet;
mod slogdet;
mod vqvae;

use burn::tensor::Device;
use flowgrad::Gpu;

use crate::measure::{Side, largest_difference};

type Pair = (Box<dyn Side>, Box<dyn Side>);
type Build = Box<dyn Fn(&Gpu, &Device) -> Result<Pair, Box<dyn std::error::Error>>>;
/// The largest difference of two lists of results, and the size it is relative to.
type Compare = Box<dyn Fn(&[Vec<f32>], &[Vec<f32>]) -> (f64, f64)>;

/// A piece of work.
pub struct Row {
    pub name: String,
    /// Makes ours and the peer's.
    pub build: Build,
    pub compare: Compare,
    /// How far results may differ, relative to the largest of them (or to 1).
    pub tolerance: f64,
}

impl Row {
    fn new(
        name: impl Into<String>,
        build: impl Fn(&Gpu, &Device) -> Result<Pair, Box<dyn std::error::Error>> + 'static,
    ) -> Self {
        Row {
            name: name.into(),
            build: Box::new(build),
            compare: Box::new(largest_difference),
            tolerance: 1e-4,
        }
    }
}

/// All rows in the order they are measured.
pub fn all() -> Vec<Row> {
    let mut rows = gemm::rows();
    rows.extend(conv::rows());
    rows.extend(block::rows());
    rows.extend(coupling::rows());
    rows.extend(codes::rows());
    rows.extend(slogdet::rows());
    rows.extend(glow::rows());
    rows.extend(vqvae::rows());
    rows.extend(resnet::rows());
    rows
}

/// Numbers that both sides get.
#[derive(Clone)]
pub struct Data {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

impl Data {
    /// Uniform in +-1, the same for the same seed.
    pub fn random(seed: u64, shape: &[usize]) -> Self {
        // splitmix64
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let values = (0..shape.iter().product()).map(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let bits = ((z ^ (z >> 31)) >> 40) as f32;
            bits / (1u32 << 23) as f32 - 1.0
        });
        Data {
            shape: shape.to_vec(),
            values: values.collect(),
        }
    }

    /// The same numbers, each multiplied.
    pub fn scaled(mut self, by: f32) -> Self {
        self.values.iter_mut().for_each(|v| *v *= by);
        self
    }
}
