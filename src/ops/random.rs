//! Random numbers from a counter: seed, step, stream and element determine each.
//!
//! Every random op of a graph is a stream of its own. A program's random state
//! holds the seed and a step that grows by one with every run, so two runs of one
//! program from the same state give the same bits on every adapter (normal
//! numbers to the accuracy of the adapter's logarithm).

use crate::device::DeviceClass;
use crate::graph::{Array, Graph, Lower, Op, Slot, Spec, Tensor};
use crate::{DType, Error, Result, Shape};

const SHADER: &str = include_str!("../../shaders/random.wgsl");

/// One word pair of Threefry2x32 with 20 rounds (Salmon et al. 2011), the
/// generator behind all random ops, e.g. to reproduce their numbers on the host.
pub fn threefry(key: [u32; 2], counter: [u32; 2]) -> [u32; 2] {
    const ROTATIONS: [[u32; 4]; 2] = [[13, 15, 26, 6], [17, 29, 16, 24]];
    let keys = [key[0], key[1], key[0] ^ key[1] ^ 0x1BD1_1BDA];
    let mut x = counter[0].wrapping_add(keys[0]);
    let mut y = counter[1].wrapping_add(keys[1]);
    for block in 0..5 {
        for by in ROTATIONS[block % 2] {
            x = x.wrapping_add(y);
            y = y.rotate_left(by) ^ x;
        }
        x = x.wrapping_add(keys[(block + 1) % 3]);
        y = y
            .wrapping_add(keys[(block + 2) % 3])
            .wrapping_add(block as u32 + 1);
    }
    [x, y]
}

/// What is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Draw {
    Bits,
    Uniform,
    Normal,
    Bernoulli(f32),
}

/// Independent random numbers from the random state (the only input).
#[derive(Debug)]
struct Random {
    draw: Draw,
    stream: u32,
    shape: Shape,
}

impl Op for Random {
    fn name(&self) -> &'static str {
        match self.draw {
            Draw::Bits => "random_bits",
            Draw::Uniform => "uniform",
            Draw::Normal => "normal",
            Draw::Bernoulli(_) => "bernoulli",
        }
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        if inputs[0] != &Spec::u32([4]) {
            return Err(Error::shape(
                self.name(),
                format!("the random state must be u32 [4], it is {:?}", inputs[0]),
            ));
        }
        if let Draw::Bernoulli(p) = self.draw
            && !(0.0..=1.0).contains(&p)
        {
            return Err(Error::argument(
                "bernoulli",
                format!("the probability is {p}; it must lie in 0..=1"),
            ));
        }
        Ok(vec![match self.draw {
            Draw::Bits => Spec::u32(&self.shape),
            _ => Spec::f32(&self.shape),
        }])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let state: Vec<u32> = inputs[0].data.iter().map(|v| *v as u32).collect();
        let key = threefry([state[0], state[1]], [state[2], self.stream]);
        let unit = |word: u32| (word >> 8) as f64 / (1 << 24) as f64;
        let mut data = Vec::with_capacity(self.shape.numel() + 1);
        for pair in 0..self.shape.numel().div_ceil(2) {
            let words = threefry(key, [pair as u32, 0]);
            data.extend(match self.draw {
                Draw::Bits => words.map(|w| w as f64),
                Draw::Uniform => words.map(unit),
                Draw::Bernoulli(p) => words.map(|w| (unit(w) < p as f64) as u8 as f64),
                Draw::Normal => {
                    let above_zero = ((words[0] >> 8) + 1) as f64 / (1 << 24) as f64;
                    let radius = (-2.0 * above_zero.ln()).sqrt();
                    let (sin, cos) = (std::f64::consts::TAU * unit(words[1])).sin_cos();
                    [radius * cos, radius * sin]
                }
            });
        }
        data.truncate(self.shape.numel());
        Ok(vec![Array::new(&self.shape, data)?])
    }

    fn stops_gradient(&self) -> bool {
        true
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let (kind, p) = match self.draw {
            Draw::Bits => ("bits", 0.0),
            Draw::Uniform => ("uniform", 0.0),
            Draw::Normal => ("normal", 0.0),
            Draw::Bernoulli(p) => ("bernoulli", p),
        };
        let numbers = self.shape.numel();
        // A software adapter has its price for every write of a lane.
        let four = cx.device().class == DeviceClass::Software
            && numbers.is_multiple_of(8)
            && self.draw != Draw::Bits;
        let (total, threads) = match four {
            true => (numbers / 8, numbers / 8),
            false => (numbers, numbers.div_ceil(2)),
        };
        let dtype = match self.draw {
            Draw::Bits => DType::U32,
            _ => DType::F32,
        };
        cx.kernel("random", SHADER)
            .variant(kind)
            .define("KIND", kind)
            .define("TYPE", dtype.wgsl())
            .define("FOUR", u32::from(four))
            .arg("total", total)
            .arg("stream", self.stream as usize)
            .arg_f32("p", p)
            .read(Slot::In(0))
            .write(Slot::Out(0))
            .bytes(4 * numbers)
            .threads(threads, 64)
    }
}

impl Graph {
    #[track_caller]
    fn random(&self, draw: Draw, shape: Shape) -> Tensor {
        let op = Random {
            draw,
            stream: self.next_random_stream(),
            shape,
        };
        let state = self.random_state();
        self.push1(op, &[&state])
    }

    /// Uniform numbers in `0.0..1.0`: multiples of 2^-24.
    #[track_caller]
    pub fn uniform(&self, shape: impl Into<Shape>) -> Tensor {
        self.random(Draw::Uniform, shape.into())
    }

    /// Standard normal numbers, by Box and Muller; none is above 5.8 in magnitude.
    #[track_caller]
    pub fn normal(&self, shape: impl Into<Shape>) -> Tensor {
        self.random(Draw::Normal, shape.into())
    }

    /// 1 with probability `p`, else 0. Error: `p` is not a probability.
    #[track_caller]
    pub fn bernoulli(&self, shape: impl Into<Shape>, p: f32) -> Tensor {
        self.random(Draw::Bernoulli(p), shape.into())
    }

    /// Random words, as u32.
    #[track_caller]
    pub fn random_bits(&self, shape: impl Into<Shape>) -> Tensor {
        self.random(Draw::Bits, shape.into())
    }

    /// Random whole numbers below `bound`, as u32 (`floor(uniform * bound)`, so
    /// bounds up to 2^24 are hit evenly). Error: a bound of 0 or above 2^24.
    #[track_caller]
    pub fn random_below(&self, shape: impl Into<Shape>, bound: usize) -> Tensor {
        if bound == 0 || bound > 1 << 24 {
            return self.poisoned(Error::argument(
                "random_below",
                format!("the bound is {bound}; it must lie in 1..=2^24"),
            ));
        }
        // A product that rounds up to the bound is brought back below it.
        self.uniform(shape)
            .mul_scalar(bound as f32)
            .floor()
            .clamp(0.0, (bound - 1) as f32)
            .to_u32()
    }
}
