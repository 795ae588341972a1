//! What a row is: a piece of work, the numbers that both sides get, and what either side
//! must do. Knows neither of them.

use burn::tensor::Device;
use flowgrad::Gpu;

pub type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Steps of a training whose losses are compared.
pub const COMPARED_STEPS: usize = 3;

/// One of the two that are compared.
pub trait Side {
    /// Runs once and waits until the device is done.
    fn run(&mut self) -> Outcome<()>;
    /// Runs once and returns the results. Called before anything is timed.
    fn results(&mut self) -> Outcome<Vec<Vec<f32>>>;
}

type Pair = (Box<dyn Side>, Box<dyn Side>);
type Build = Box<dyn Fn(&Gpu, &Device) -> Outcome<Pair>>;
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
    /// A row whose results agree to 1e-4.
    pub fn new(
        name: impl Into<String>,
        build: impl Fn(&Gpu, &Device) -> Outcome<Pair> + 'static,
    ) -> Self {
        Row {
            name: name.into(),
            build: Box::new(build),
            compare: Box::new(largest_difference),
            tolerance: 1e-4,
        }
    }
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

/// The largest difference of two lists of results, and the largest element.
pub fn largest_difference(ours: &[Vec<f32>], peer: &[Vec<f32>]) -> (f64, f64) {
    let same = ours.len() == peer.len() && ours.iter().zip(peer).all(|(a, b)| a.len() == b.len());
    if !same {
        return (f64::NAN, 0.0);
    }
    let mut largest = (0.0f64, 0.0f64);
    for (a, b) in ours.iter().flatten().zip(peer.iter().flatten()) {
        let difference = (f64::from(*a) - f64::from(*b)).abs();
        if difference.is_nan() {
            return (f64::NAN, 0.0);
        }
        largest = (
            largest.0.max(difference),
            largest.1.max(f64::from(*b).abs()),
        );
    }
    largest
}
