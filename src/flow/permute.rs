//! Maps that only move elements: fixed permutations of channels, squeezing, flattening.

use super::{Bijector, Context, Mapped, no_log_det};
use crate::ops::ConvParams;
use crate::rng::Stream;
use crate::{Error, Result, Tensor};

/// A fixed permutation of axis 1: output channel `i` is input channel `order[i]`.
pub struct Permutation {
    order: Vec<u32>,
    back: Vec<u32>,
}

impl Permutation {
    /// Error: `order` is not a permutation of `0..order.len()`.
    pub fn new(order: &[usize]) -> Result<Self> {
        let mut back = vec![u32::MAX; order.len()];
        for (to, from) in order.iter().enumerate() {
            match back.get_mut(*from) {
                Some(place) if *place == u32::MAX => *place = to as u32,
                _ => {
                    return Err(Error::argument(
                        "Permutation",
                        format!(
                            "entry {to} is {from}: every channel of 0..{} must occur once",
                            order.len()
                        ),
                    ));
                }
            }
        }
        Ok(Permutation {
            order: order.iter().map(|i| *i as u32).collect(),
            back,
        })
    }

    /// The channels in reverse order.
    pub fn reverse(channels: usize) -> Self {
        let order: Vec<u32> = (0..channels as u32).rev().collect();
        Permutation {
            back: order.clone(),
            order,
        }
    }

    /// A random order, a pure function of the seed.
    pub fn shuffle(channels: usize, seed: u64) -> Self {
        let stream = Stream::named(seed, "permutation");
        let mut order: Vec<u32> = (0..channels as u32).collect();
        for i in (1..channels).rev() {
            order.swap(i, stream.below(i as u64, i + 1));
        }
        let mut back = vec![0; channels];
        for (to, from) in order.iter().enumerate() {
            back[*from as usize] = to as u32;
        }
        Permutation { order, back }
    }

    fn apply(&self, x: &Tensor, order: &[u32]) -> Mapped {
        let n = order.len();
        if x.check().is_ok() && (x.shape().rank() < 2 || x.dim(1) != n) {
            let wrong = x.graph().poisoned(Error::shape(
                self.name(),
                format!(
                    "the input is {:?}, this layer permutes {n} channels",
                    x.shape()
                ),
            ));
            return Mapped {
                out: wrong.clone(),
                log_det: wrong,
            };
        }
        let reversed = order.iter().rev().enumerate().all(|(i, c)| i as u32 == *c);
        let out = match reversed {
            true => x.flip(&[1]),
            // A product with ones and zeros is exact, and a kernel there already is.
            false => {
                let mut matrix = vec![0.0; n * n];
                for (to, from) in order.iter().enumerate() {
                    matrix[to * n + *from as usize] = 1.0;
                }
                let weight = x.graph().constant([n, n, 1, 1], &matrix);
                let [batch, pixels] = [x.dim(0), super::pixels(x)];
                x.reshape([batch, n, pixels, 1])
                    .conv2d(&weight, None, &ConvParams::default())
                    .reshape(x.shape())
            }
        };
        Mapped {
            out,
            log_det: no_log_det(x),
        }
    }
}

impl Bijector for Permutation {
    fn name(&self) -> &str {
        "permutation"
    }

    fn forward(&self, x: &Tensor, _: &Context<'_>) -> Mapped {
        self.apply(x, &self.order)
    }

    fn inverse(&self, z: &Tensor, _: &Context<'_>) -> Mapped {
        self.apply(z, &self.back)
    }

    fn pixel_log_det(&self, x: &Tensor, _: &Context<'_>) -> Tensor {
        x.graph().full([x.dim(0), x.dim(2), x.dim(3)], 0.0)
    }
}

/// Blocks of 2x2 pixels become channels: `[N, C, H, W]` to `[N, 4 C, H/2, W/2]`.
/// Output channel `4 c + 2 dy + dx` holds the pixels at `(dy, dx)` in their block.
pub struct Squeeze;

impl Squeeze {
    /// The squeezed tensor. Poisoned where `H` or `W` is odd.
    #[track_caller]
    pub fn squeeze(x: &Tensor) -> Tensor {
        let [n, c, h, w] = match x.shape().dims() {
            [n, c, h, w] if h % 2 == 0 && w % 2 == 0 => [*n, *c, *h, *w],
            _ => return wrong(x, "[N, C, H, W] with even H and W"),
        };
        x.reshape([n, c, h / 2, 2, w / 2, 2])
            .permute(&[0, 1, 3, 5, 2, 4])
            .reshape([n, 4 * c, h / 2, w / 2])
    }

    /// The way back. Poisoned where the channels are no multiple of 4.
    #[track_caller]
    pub fn unsqueeze(z: &Tensor) -> Tensor {
        let [n, c, h, w] = match z.shape().dims() {
            [n, c, h, w] if c % 4 == 0 => [*n, *c / 4, *h, *w],
            _ => return wrong(z, "[N, 4 C, H, W]"),
        };
        z.reshape([n, c, 2, 2, h, w])
            .permute(&[0, 1, 4, 2, 5, 3])
            .reshape([n, c, 2 * h, 2 * w])
    }
}

#[track_caller]
fn wrong(x: &Tensor, want: &str) -> Tensor {
    match x.check() {
        Err(_) => x.clone(),
        Ok(()) => x.graph().poisoned(Error::shape(
            "squeeze",
            format!("the input is {:?}, this layer takes {want}", x.shape()),
        )),
    }
}

impl Bijector for Squeeze {
    fn name(&self) -> &str {
        "squeeze"
    }

    fn forward(&self, x: &Tensor, _: &Context<'_>) -> Mapped {
        Mapped {
            out: Squeeze::squeeze(x),
            log_det: no_log_det(x),
        }
    }

    fn inverse(&self, z: &Tensor, _: &Context<'_>) -> Mapped {
        Mapped {
            out: Squeeze::unsqueeze(z),
            log_det: no_log_det(z),
        }
    }

    /// Zeros for every block of 2x2 pixels, `[N, H/2, W/2]`.
    fn pixel_log_det(&self, x: &Tensor, _: &Context<'_>) -> Tensor {
        let half = |axis| x.dim(axis).div_ceil(2);
        x.graph().full([x.dim(0), half(2), half(3)], 0.0)
    }
}

/// Images `[N, C, H, W]` as vectors `[N, C H W]`.
pub struct Flatten {
    event: [usize; 3],
}

impl Flatten {
    /// For images of `event` = channels, height, width.
    pub fn new(event: [usize; 3]) -> Self {
        Flatten { event }
    }
}

impl Bijector for Flatten {
    fn name(&self) -> &str {
        "flatten"
    }

    fn forward(&self, x: &Tensor, _: &Context<'_>) -> Mapped {
        Mapped {
            out: x.reshape([x.dim(0), self.event.iter().product()]),
            log_det: no_log_det(x),
        }
    }

    fn inverse(&self, z: &Tensor, _: &Context<'_>) -> Mapped {
        let [c, h, w] = self.event;
        Mapped {
            out: z.reshape([z.dim(0), c, h, w]),
            log_det: no_log_det(z),
        }
    }
}
