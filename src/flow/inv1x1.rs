//! Invertible 1x1 convolutions (Kingma, Dhariwal 2018, arXiv 1807.03039, section 3.2).

use super::{Bijector, Context, Mapped, for_all_samples, pixels};
use crate::ops::{ConvParams, Plu, factor};
use crate::{Error, Init, Param, Params, Result, Shape, Tensor};

/// A learned invertible matrix over the channels of every pixel, `z = W x`, for
/// `[N, C]` or `[N, C, H, W]`; `log_det = H * W * log |det W|`. It starts as a random
/// rotation, a pure function of the parameters' seed and scope.
///
/// * [`Inv1x1::plu`]: `W = P (tril(w_l, -1) + I) (triu(w_u, 1) + diag(s_sign exp(w_s)))`
///   with parameters `w_l`, `w_u` `[C, C]`, `w_s` `[C]` and fixed states `w_p` `[C, C]`,
///   `s_sign` `[C]` (the names of rosinality/glow-pytorch). The log-determinant is
///   `H * W * sum(w_s)`, `W` can never become singular, and its inverse is two
///   triangular systems.
/// * [`Inv1x1::full`]: a free parameter `weight` `[C, C, 1, 1]`. The graph computes
///   `log |det W|` and `W^-1` from the LU factors in float32; where that is not exact
///   enough, [`Inv1x1::log_abs_det`] gives the former in double precision. A singular
///   `W` gives a log-determinant of minus infinity and no inverse, see
///   [`Tensor::slogdet`] and [`Tensor::inverse`].
pub struct Inv1x1 {
    channels: usize,
    weight: Weight,
}

enum Weight {
    Plu(Box<Factors>),
    Full(Param),
}

struct Factors {
    p: Param,
    l: Param,
    u: Param,
    sign: Param,
    log_s: Param,
}

impl Inv1x1 {
    /// By the factors of the matrix. Errors: no channels or more than 2048, and see
    /// [`Params::add`].
    pub fn plu(params: &Params, channels: usize) -> Result<Self> {
        let n = Inv1x1::check_channels(channels)?;
        let name = params.full_name("weight");
        let rotation = Init::Orthogonal.values(params.seed(), &name, &Shape::from([n, n]));
        let rotation: Vec<f64> = rotation.into_iter().map(f64::from).collect();
        let f = factor(&rotation, n);
        let matrix = |keep: &dyn Fn(usize, usize) -> f64| {
            let all = (0..n * n).map(|i| keep(i / n, i % n) as f32);
            Init::Values(all.collect())
        };
        let diagonal = |of: fn(f64) -> f64| {
            let all = (0..n).map(|i| of(f.lu[i * n + i]) as f32);
            Init::Values(all.collect())
        };
        let below = |i, j| if i > j { f.lu[i * n + j] } else { 0.0 };
        let above = |i, j| if i < j { f.lu[i * n + j] } else { 0.0 };
        let p = |i, j| (f.perm[j] == i) as u32 as f64;
        let factors = Factors {
            p: params.add_state("w_p", [n, n], matrix(&p))?,
            l: params.add("w_l", [n, n], matrix(&below))?,
            u: params.add("w_u", [n, n], matrix(&above))?,
            sign: params.add_state("s_sign", [n], diagonal(f64::signum))?,
            log_s: params.add("w_s", [n], diagonal(|d| d.abs().ln()))?,
        };
        Ok(Inv1x1 {
            channels,
            weight: Weight::Plu(Box::new(factors)),
        })
    }

    /// By the matrix itself. Errors: as those of [`Inv1x1::plu`].
    pub fn full(params: &Params, channels: usize) -> Result<Self> {
        let n = Inv1x1::check_channels(channels)?;
        let weight = params.add("weight", [n, n, 1, 1], Init::Orthogonal)?;
        Ok(Inv1x1 {
            channels,
            weight: Weight::Full(weight),
        })
    }

    fn check_channels(channels: usize) -> Result<usize> {
        match channels {
            1..=2048 => Ok(channels),
            _ => Err(Error::argument(
                "Inv1x1",
                format!("{channels} channels; between 1 and 2048 can be mixed"),
            )),
        }
    }

    /// `log |det W|` in nats, per pixel, of the weights as they stand: for the full
    /// matrix by an LU factorisation in double precision on the host.
    ///
    /// Errors: those of [`Param::get`]; a singular matrix is [`Error::NonFinite`].
    pub fn log_abs_det(&self) -> Result<f64> {
        let (param, value) = match &self.weight {
            Weight::Plu(f) => {
                let sum: f64 = f.log_s.get()?.into_iter().map(f64::from).sum();
                (&f.log_s, sum)
            }
            Weight::Full(weight) => {
                let w: Vec<f64> = weight.get()?.into_iter().map(f64::from).collect();
                (weight, factor(&w, self.channels).log_det)
            }
        };
        match value.is_finite() {
            true => Ok(value),
            false => Err(Error::NonFinite {
                place: format!("log |det| of `{}`", param.name()),
                detail: format!("it is {value}: the matrix is singular"),
            }),
        }
    }

    /// `log |det W|` in nats, a scalar of the graph of `x`.
    #[track_caller]
    fn log_det(&self, x: &Tensor) -> Tensor {
        match &self.weight {
            Weight::Plu(f) => f.log_s.on(x.graph()).sum(&[], false),
            Weight::Full(weight) => self.matrix(weight, x).slogdet().1,
        }
    }

    #[track_caller]
    fn matrix(&self, weight: &Param, x: &Tensor) -> Tensor {
        weight.on(x.graph()).reshape([self.channels; 2])
    }

    /// `W` or `W^-1`, `[C, C]`.
    #[track_caller]
    fn weight(&self, x: &Tensor, inverse: bool) -> Tensor {
        match &self.weight {
            Weight::Plu(f) => {
                let all = [&f.p, &f.l, &f.u, &f.sign, &f.log_s];
                let [p, l, u, sign, log_s] = all.map(|w| w.on(x.graph()));
                let plu = Plu {
                    p: &p,
                    l: &l,
                    u: &u,
                    sign: &sign,
                    log_s: &log_s,
                };
                match inverse {
                    true => plu.inverse(),
                    false => plu.assemble(),
                }
            }
            Weight::Full(weight) if inverse => self.matrix(weight, x).inverse(),
            Weight::Full(weight) => self.matrix(weight, x),
        }
    }

    /// Poisoned, where `x` has the wrong shape.
    #[track_caller]
    fn refuse(&self, x: &Tensor) -> Option<Tensor> {
        let c = self.channels;
        let right = matches!(x.shape().rank(), 2 | 4) && x.dim(1) == c;
        (!right || x.check().is_err()).then(|| {
            let error = Error::shape(
                self.name(),
                format!(
                    "the input is {:?}, this layer takes [N, {c}] or [N, {c}, H, W]",
                    x.shape()
                ),
            );
            x.graph().poisoned(x.check().err().unwrap_or(error))
        })
    }

    #[track_caller]
    fn map(&self, x: &Tensor, inverse: bool) -> Mapped {
        if let Some(wrong) = self.refuse(x) {
            return Mapped {
                out: wrong.clone(),
                log_det: wrong,
            };
        }
        let [n, c, pixels] = [x.dim(0), self.channels, pixels(x)];
        let weight = self.weight(x, inverse).reshape([c, c, 1, 1]);
        let out = x
            .reshape([n, c, pixels, 1])
            .conv2d(&weight, None, &ConvParams::default())
            .reshape(x.shape());
        let sign = if inverse { -1.0 } else { 1.0 };
        let log_det = self.log_det(x).mul_scalar(sign * pixels as f32);
        Mapped {
            out,
            log_det: for_all_samples(&log_det, x),
        }
    }
}

impl Bijector for Inv1x1 {
    fn name(&self) -> &str {
        "inv1x1"
    }

    fn forward(&self, x: &Tensor, _: &Context<'_>) -> Mapped {
        self.map(x, false)
    }

    fn inverse(&self, z: &Tensor, _: &Context<'_>) -> Mapped {
        self.map(z, true)
    }

    fn pixel_log_det(&self, x: &Tensor, _: &Context<'_>) -> Tensor {
        if let Some(wrong) = self.refuse(x) {
            return wrong;
        }
        let log_det = self.log_det(x).reshape([1, 1, 1]);
        log_det.broadcast_to([x.dim(0), x.dim(2), x.dim(3)])
    }
}
