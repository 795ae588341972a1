//! Multi-scale flows: after every level half of the channels is factored out (Dinh et
//! al. 2017, arXiv 1605.08803, section 3.6), under a prior that the other half predicts.

use super::{Bijector, Chain, Context, Mapped, Network, no_log_det};
use crate::ops::{CouplingMask, CouplingParams, CouplingScale, RawLayout};
use crate::{Error, Tensor};

/// Where mean and log-deviation lie in what a prior's network gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PriorLayout {
    /// All means, then all log-deviations (rosinality's Glow).
    Halves,
    /// Means on even channels, log-deviations on odd ones (OpenAI's Glow).
    Interleaved,
}

/// Standardises the last channels by what a network makes of the first ones: the first
/// `keep` channels pass through as `z1`, the others become
/// `eps = (z2 - mean(z1)) / exp(log_sd(z1))`, with `log_det = -sum(log_sd)`. Under a
/// standard normal `eps` this is the learned prior `N(z2; mean, exp(log_sd))`.
pub struct Split {
    keep: usize,
    params: CouplingParams,
    network: Option<Box<dyn Network>>,
}

impl Split {
    /// Without a network: the factored channels are `eps` as they are (RealNVP).
    pub fn plain(keep: usize) -> Self {
        Split {
            keep,
            params: CouplingParams::new(CouplingMask::After(keep)),
            network: None,
        }
    }

    /// The network takes `keep` channels and gives twice as many as are factored out.
    pub fn new(keep: usize, layout: PriorLayout, network: impl Network + 'static) -> Self {
        let params = CouplingParams {
            scale: CouplingScale::Exp,
            layout: match layout {
                PriorLayout::Halves => RawLayout::ShiftScale,
                PriorLayout::Interleaved => RawLayout::ShiftScaleInterleaved,
            },
            ..CouplingParams::new(CouplingMask::After(keep))
        };
        Split {
            keep,
            params,
            network: Some(Box::new(network)),
        }
    }

    /// `z1`, `eps`, and the log-determinant `[N]`.
    #[track_caller]
    pub fn split(&self, x: &Tensor, cx: &Context<'_>) -> (Tensor, Tensor, Tensor) {
        let Mapped { out, log_det } = self.forward(x, cx);
        let rest = out.dim(1).saturating_sub(self.keep);
        (
            out.slice(1, 0, self.keep),
            out.slice(1, self.keep, rest),
            log_det,
        )
    }

    /// What [`Split::split`] took apart, and the log-determinant of joining.
    #[track_caller]
    pub fn join(&self, z1: &Tensor, eps: &Tensor, cx: &Context<'_>) -> Mapped {
        self.inverse(&Tensor::concat(&[z1, eps], 1), cx)
    }
}

impl Bijector for Split {
    fn name(&self) -> &str {
        "split"
    }

    fn forward(&self, x: &Tensor, cx: &Context<'_>) -> Mapped {
        self.map(x, |network, kept| {
            x.coupling_inverse(&network.apply(kept, cx), &self.params)
        })
    }

    fn inverse(&self, z: &Tensor, cx: &Context<'_>) -> Mapped {
        self.map(z, |network, kept| {
            z.coupling(&network.apply(kept, cx), &self.params)
        })
    }
}

impl Split {
    #[track_caller]
    fn map(
        &self,
        x: &Tensor,
        couple: impl FnOnce(&dyn Network, &Tensor) -> (Tensor, Tensor),
    ) -> Mapped {
        let (out, log_det) = match &self.network {
            Some(network) => couple(&**network, &x.slice(1, 0, self.keep)),
            None => (x.clone(), no_log_det(x)),
        };
        Mapped { out, log_det }
    }
}

/// Standardises a tensor by mean and log-deviation that do not depend on it, but may on
/// position and condition: `eps = (z - mean) / exp(log_sd)`. The network sees zeros
/// `[1, C, H, W]` and gives means and log-deviations `[1 or N, 2 C, H, W]`.
pub struct TopPrior {
    layout: PriorLayout,
    network: Box<dyn Network>,
}

impl TopPrior {
    /// Around a network.
    pub fn new(layout: PriorLayout, network: impl Network + 'static) -> Self {
        TopPrior {
            layout,
            network: Box::new(network),
        }
    }

    /// Mean and log-deviation for the shape of `z`.
    fn moments(&self, z: &Tensor, cx: &Context<'_>) -> (Tensor, Tensor) {
        let mut dims = z.shape().dims().to_vec();
        if let Some(samples) = dims.first_mut() {
            *samples = 1;
        }
        let raw = self.network.apply(&z.graph().full(dims, 0.0), cx);
        let channels = z.dim(1);
        match self.layout {
            PriorLayout::Halves => (raw.slice(1, 0, channels), raw.slice(1, channels, channels)),
            PriorLayout::Interleaved => (
                raw.slice_step(1, 0, channels, 2),
                raw.slice_step(1, 1, channels, 2),
            ),
        }
    }

    /// The sum of the log-deviations of every sample.
    fn total(log_sd: &Tensor, z: &Tensor) -> Tensor {
        let axes: Vec<isize> = (1..z.shape().rank() as isize).collect();
        log_sd.sum(&axes, false).broadcast_to([z.dim(0)])
    }
}

impl Bijector for TopPrior {
    fn name(&self) -> &str {
        "prior"
    }

    fn forward(&self, x: &Tensor, cx: &Context<'_>) -> Mapped {
        let (mean, log_sd) = self.moments(x, cx);
        Mapped {
            out: x.sub(&mean).mul(&log_sd.neg().exp()),
            log_det: TopPrior::total(&log_sd, x).neg(),
        }
    }

    fn inverse(&self, z: &Tensor, cx: &Context<'_>) -> Mapped {
        let (mean, log_sd) = self.moments(z, cx);
        Mapped {
            out: z.mul(&log_sd.exp()).add(&mean),
            log_det: TopPrior::total(&log_sd, z),
        }
    }
}

struct Level {
    chain: Chain,
    split: Split,
    /// Channels, height and width of what is factored out.
    factored: [usize; 3],
}

/// Levels of bijectors with a [`Split`] behind each but the last: `[N, C, H, W]` to
/// latents `[N, C H W]`, those factored out first in front. All latents are meant to be
/// standard normal, so one temperature scales the noise of all levels.
pub struct MultiScale {
    levels: Vec<Level>,
    top: Chain,
    /// Channels, height and width of what the top gives.
    last: [usize; 3],
}

impl MultiScale {
    /// The last level alone: `top` gives tensors of `last` = channels, height, width.
    pub fn new(top: Chain, last: [usize; 3]) -> Self {
        MultiScale {
            levels: Vec::new(),
            top,
            last,
        }
    }

    /// Adds a level in front of the top, behind those added before. `factored` is the
    /// shape of what its split factors out.
    pub fn level(mut self, chain: Chain, split: Split, factored: [usize; 3]) -> Self {
        self.levels.push(Level {
            chain,
            split,
            factored,
        });
        self
    }

    /// The number of dimensions of all latents.
    pub fn dims(&self) -> usize {
        let factored = self.levels.iter().map(|l| size(l.factored));
        factored.sum::<usize>() + size(self.last)
    }

    fn encode(&self, x: &Tensor, cx: &Context<'_>) -> Mapped {
        let samples = x.dim(0);
        let mut out = x.clone();
        let mut log_det: Option<Tensor> = None;
        let sum = |log_det: &mut Option<Tensor>, more: &Tensor| {
            *log_det = Some(match log_det.take() {
                Some(sum) => sum.add(more),
                None => more.clone(),
            });
        };
        let mut latents = Vec::new();
        for level in &self.levels {
            let mapped = level.chain.forward(&out, cx);
            sum(&mut log_det, &mapped.log_det);
            let (kept, eps, by_split) = level.split.split(&mapped.out, cx);
            level.observe_split("split", &mapped.out, &eps, &by_split);
            sum(&mut log_det, &by_split);
            latents.push(eps.reshape([samples, size(level.factored)]));
            out = kept;
        }
        let mapped = self.top.forward(&out, cx);
        sum(&mut log_det, &mapped.log_det);
        latents.push(mapped.out.reshape([samples, size(self.last)]));
        Mapped {
            out: Tensor::concat(&latents.iter().collect::<Vec<_>>(), 1),
            log_det: log_det.unwrap_or(mapped.log_det),
        }
    }
}

impl Level {
    fn observe_split(&self, kind: &str, input: &Tensor, output: &Tensor, log_det: &Tensor) {
        let name = format!("{} split", self.chain.name());
        let graph = input.graph();
        graph.observe_step(&name, kind, input, output, log_det);
    }
}

fn size([c, h, w]: [usize; 3]) -> usize {
    c * h * w
}

impl Bijector for MultiScale {
    fn name(&self) -> &str {
        "multi-scale"
    }

    fn forward(&self, x: &Tensor, cx: &Context<'_>) -> Mapped {
        let graph = x.graph();
        let from = graph.observed_so_far();
        let mapped = self.encode(x, cx);
        graph.place_observed(from, |inner| format!("{} {inner}", self.name()));
        mapped
    }

    fn inverse(&self, z: &Tensor, cx: &Context<'_>) -> Mapped {
        if z.check().is_ok() && (z.shape().rank() != 2 || z.dim(1) != self.dims()) {
            let wrong = z.graph().poisoned(Error::shape(
                self.name(),
                format!(
                    "the latents are {:?}, expected [N, {}]",
                    z.shape(),
                    self.dims()
                ),
            ));
            return Mapped {
                out: wrong.clone(),
                log_det: wrong,
            };
        }
        let from = z.graph().observed_so_far();
        let samples = z.dim(0);
        let mut end = self.dims();
        let mut take = |[c, h, w]: [usize; 3]| {
            end -= c * h * w;
            z.slice(1, end, c * h * w).reshape([samples, c, h, w])
        };
        let Mapped {
            mut out,
            mut log_det,
        } = self.top.inverse(&take(self.last), cx);
        for level in self.levels.iter().rev() {
            let eps = take(level.factored);
            let joined = level.split.join(&out, &eps, cx);
            level.observe_split("inverse split", &eps, &joined.out, &joined.log_det);
            let mapped = level.chain.inverse(&joined.out, cx);
            log_det = log_det.add(&joined.log_det).add(&mapped.log_det);
            out = mapped.out;
        }
        z.graph()
            .place_observed(from, |inner| format!("{} {inner}", self.name()));
        Mapped { out, log_det }
    }

    fn is_reversible(&self) -> bool {
        let mut chains = self.levels.iter().map(|l| &l.chain).chain([&self.top]);
        chains.all(|c| c.is_reversible())
    }
}
