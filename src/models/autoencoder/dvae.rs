//! The discrete VAE of DALL-E (Ramesh et al. 2021, arXiv 2102.12092): a categorical
//! distribution over codes for every place of a grid, relaxed by Gumbel-softmax in training.

use std::f64::consts::LN_2;

use crate::ops::ConvParams;
use crate::{Error, Init, Param, Params, Result, Tensor};

/// The description of a [`Dvae`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DvaeConfig {
    /// Channels of an image.
    pub channels: usize,
    /// Channels of the first and finest group; the three that follow have 2, 4 and 8 times
    /// as many.
    pub hidden: usize,
    /// Channels of the decoder's first layer.
    pub start: usize,
    /// Residual blocks of a group.
    pub blocks: usize,
    /// The number of codes.
    pub codes: usize,
}

/// Groups of blocks in both networks; three of them halve or double the image.
const GROUPS: usize = 4;

impl DvaeConfig {
    /// That of the published weights: 8,192 codes on a grid of an eighth of the image's
    /// sides, 53,786,240 + 43,829,766 parameters.
    pub fn dalle() -> Self {
        DvaeConfig {
            channels: 3,
            hidden: 256,
            start: 128,
            blocks: 2,
            codes: 8192,
        }
    }

    fn check(&self) -> Result<()> {
        let least = [
            ("channels", self.channels, 1),
            ("hidden", self.hidden, 4),
            ("start", self.start, 1),
            ("blocks", self.blocks, 1),
            ("codes", self.codes, 2),
        ];
        match least.into_iter().find(|(_, value, least)| value < least) {
            Some((name, value, least)) => Err(Error::argument(
                "DvaeConfig",
                format!("{name} is {value}; it must be {least} or more"),
            )),
            None if !self.hidden.is_multiple_of(4) => Err(Error::argument(
                "DvaeConfig",
                format!("hidden is {}; blocks take a quarter of it", self.hidden),
            )),
            None => Ok(()),
        }
    }
}

/// A convolution that keeps the image's sides; its parameters are called `w`
/// `[out, in, k, k]` and `b` `[out]`, normal with deviation `1 / sqrt(in k^2)` and 0 at
/// first.
struct Conv {
    w: Param,
    b: Param,
    kernel: usize,
}

impl Conv {
    fn new(params: &Params, inputs: usize, outputs: usize, kernel: usize) -> Result<Self> {
        let normal = Init::Normal {
            mean: 0.0,
            std: ((inputs * kernel * kernel) as f32).powf(-0.5),
        };
        Ok(Conv {
            w: params.add("w", [outputs, inputs, kernel, kernel], normal)?,
            b: params.add("b", [outputs], Init::Zeros)?,
            kernel,
        })
    }

    #[track_caller]
    fn apply(&self, x: &Tensor) -> Tensor {
        let options = ConvParams {
            padding: [(self.kernel - 1) / 2; 4],
            ..Default::default()
        };
        let (w, b) = (self.w.on(x.graph()), self.b.on(x.graph()));
        let y = x.conv2d(&w, Some(&b), &options);
        x.graph().observe(self.w.scope_name(), "conv2d", x, &y);
        y
    }
}

/// `id(x) + gain * conv_4(relu(conv_3(relu(conv_2(relu(conv_1(relu(x))))))))`.
struct Block {
    identity: Option<Conv>,
    path: Vec<Conv>,
    gain: f32,
}

impl Block {
    fn new(
        params: &Params,
        [inputs, outputs]: [usize; 2],
        kernels: [usize; 4],
        gain: f32,
    ) -> Result<Self> {
        let inner = outputs / 4;
        let widths = [inputs, inner, inner, inner, outputs];
        let path = params.scope("res_path");
        Ok(Block {
            identity: match inputs == outputs {
                true => None,
                false => Some(Conv::new(&params.scope("id_path"), inputs, outputs, 1)?),
            },
            path: (0..4)
                .map(|i| {
                    let scope = path.scope(format!("conv_{}", i + 1));
                    Conv::new(&scope, widths[i], widths[i + 1], kernels[i])
                })
                .collect::<Result<_>>()?,
            gain,
        })
    }

    #[track_caller]
    fn apply(&self, x: &Tensor) -> Tensor {
        let convs = self.path.iter();
        let path = convs.fold(x.clone(), |x, conv| conv.apply(&x.relu()));
        let identity = match &self.identity {
            Some(conv) => conv.apply(x),
            None => x.clone(),
        };
        identity.add(&path.mul_scalar(self.gain))
    }
}

/// One of the two networks.
struct Network {
    input: Conv,
    groups: Vec<Vec<Block>>,
    output: Conv,
    /// What lies between two groups.
    between: fn(&Tensor) -> Tensor,
}

impl Network {
    /// `widths` are the channels of what the first group gets and of what each gives.
    fn new(
        params: &Params,
        config: &DvaeConfig,
        input: Conv,
        widths: [usize; GROUPS + 1],
        kernels: [usize; 4],
        outputs: usize,
        between: fn(&Tensor) -> Tensor,
    ) -> Result<Self> {
        let total = (GROUPS * config.blocks) as f32;
        let gain = 1.0 / (total * total);
        let groups = (0..GROUPS)
            .map(|g| {
                let scope = params.scope(format!("group_{}", g + 1));
                (0..config.blocks)
                    .map(|b| {
                        let first = widths[if b == 0 { g } else { g + 1 }];
                        let scope = scope.scope(format!("block_{}", b + 1));
                        Block::new(&scope, [first, widths[g + 1]], kernels, gain)
                    })
                    .collect()
            })
            .collect::<Result<_>>()?;
        let last = params.scope("output").scope("conv");
        Ok(Network {
            input,
            groups,
            output: Conv::new(&last, widths[GROUPS], outputs, 1)?,
            between,
        })
    }

    /// From what the first layer gives.
    #[track_caller]
    fn apply(&self, start: &Tensor) -> Tensor {
        let mut x = start.clone();
        for (g, blocks) in self.groups.iter().enumerate() {
            x = blocks.iter().fold(x, |x, block| block.apply(&x));
            if g + 1 < GROUPS {
                x = (self.between)(&x);
            }
        }
        self.output.apply(&x.relu())
    }
}

/// The discrete VAE of DALL-E, of images `[N, C, H, W]` whose sides are multiples of 8.
///
/// Names as in the published modules, below `encoder` and `decoder`:
/// `blocks.input.{w,b}`, `blocks.group_{1..4}.block_{1..}.id_path.{w,b}` (where channels
/// change), `.res_path.conv_{1..4}.{w,b}`, `blocks.output.conv.{w,b}`.
pub struct Dvae {
    config: DvaeConfig,
    encoder: Network,
    decoder: Network,
}

/// What is trained, and its parts, all in nats per image.
#[derive(Debug, Clone)]
pub struct DvaeLoss {
    /// `-log p(x | codes)` under the logit-Laplace distribution, `[]`.
    pub reconstruction_loss: Tensor,
    /// The divergence of the encoder's distribution from the uniform one over codes, `[]`.
    pub kl: Tensor,
    /// `reconstruction_loss + weight * kl`, `[]`.
    pub loss: Tensor,
}

/// Pixels keep this far from 0 and 1, where logits are infinite.
const MARGIN: f32 = 0.1;

impl Dvae {
    /// Errors: see [`Params::add`]; extents that are too small.
    pub fn new(params: &Params, config: DvaeConfig) -> Result<Self> {
        config.check()?;
        let h = config.hidden;
        let encoder = params.scope("encoder").scope("blocks");
        let decoder = params.scope("decoder").scope("blocks");
        let first = Conv::new(&encoder.scope("input"), config.channels, h, 7)?;
        let last = Conv::new(&decoder.scope("input"), config.codes, config.start, 1)?;
        Ok(Dvae {
            encoder: Network::new(
                &encoder,
                &config,
                first,
                [h, h, 2 * h, 4 * h, 8 * h],
                [3, 3, 3, 1],
                config.codes,
                |x| x.max_pool2d(&crate::ops::PoolParams::new([2, 2], [2, 2])),
            )?,
            decoder: Network::new(
                &decoder,
                &config,
                last,
                [config.start, 8 * h, 4 * h, 2 * h, h],
                [1, 3, 3, 3],
                2 * config.channels,
                |x| x.upsample_nearest2d([2, 2]),
            )?,
            config,
        })
    }

    /// Its description.
    pub fn config(&self) -> &DvaeConfig {
        &self.config
    }

    /// Logits of the codes, `[N, codes, H / 8, W / 8]`, of images `[N, C, H, W]` with
    /// pixels in 0..1. Error: sides that are no multiples of 8, other channels.
    #[track_caller]
    pub fn encode(&self, images: &Tensor) -> Tensor {
        let fits = matches!(images.shape().dims(), [_, c, h, w]
            if *c == self.config.channels && h.is_multiple_of(8) && w.is_multiple_of(8) && h * w > 0);
        if images.check().is_ok() && !fits {
            return images.graph().poisoned(Error::shape(
                "Dvae::encode",
                format!(
                    "images must be [N, {}, H, W] with sides that are multiples of 8, they are {:?}; crop or pad them",
                    self.config.channels,
                    images.shape()
                ),
            ));
        }
        let mapped = images.mul_scalar(1.0 - 2.0 * MARGIN).add_scalar(MARGIN);
        self.encoder.apply(&self.encoder.input.apply(&mapped))
    }

    /// The most likely codes, `[N, H / 8, W / 8]` of u32.
    #[track_caller]
    pub fn codes(&self, images: &Tensor) -> Tensor {
        self.encode(images).argmax(Some(1))
    }

    /// Images `[N, C, 8 h, 8 w]` with pixels in 0..1 from codes `[N, h, w]` of u32. A code
    /// that does not exist decodes like none at all.
    #[track_caller]
    pub fn decode(&self, codes: &Tensor) -> Tensor {
        let graph = codes.graph();
        if codes.check().is_ok() && codes.shape().rank() != 3 {
            let detail = format!("codes must be [N, h, w], they are {:?}", codes.shape());
            return graph.poisoned(Error::shape("Dvae::decode", detail));
        }
        // A 1x1 convolution of one-hot vectors is a look-up.
        let input = &self.decoder.input;
        let table = input
            .w
            .on(graph)
            .reshape([self.config.start, self.config.codes]);
        let rows = table.transpose(0, 1).gather_rows(codes);
        let start = rows.add(&input.b.on(graph)).permute(&[0, 3, 1, 2]);
        self.pixels(&self.decoder.apply(&start))
    }

    /// The decoder's first half are the logits of the pixels' medians.
    #[track_caller]
    fn pixels(&self, stats: &Tensor) -> Tensor {
        let medians = stats.slice(1, 0, self.config.channels).sigmoid();
        let spread = medians
            .add_scalar(-MARGIN)
            .mul_scalar(1.0 / (1.0 - 2.0 * MARGIN));
        spread.clamp(0.0, 1.0)
    }

    /// The relaxed bound for images in 0..1: codes are drawn by Gumbel-softmax at this
    /// temperature, the divergence is that of the encoder's categorical distribution and is
    /// weighted by `kl_weight` (in the paper 1 to 1/16 and 0 to 6.6 while it trains).
    ///
    /// The logit-Laplace density of a mapped pixel `x` is
    /// `1 / (2 b x (1 - x)) e^(-|logit x - m| / b)`. Error: a temperature that is not
    /// positive.
    #[track_caller]
    pub fn loss(&self, images: &Tensor, temperature: f32, kl_weight: f32) -> DvaeLoss {
        let graph = images.graph();
        if !(temperature > 0.0 && temperature.is_finite()) {
            let wrong = graph.poisoned(Error::argument(
                "Dvae::loss",
                format!("the temperature is {temperature}; it must be positive and finite"),
            ));
            return DvaeLoss {
                reconstruction_loss: wrong.clone(),
                kl: wrong.clone(),
                loss: wrong,
            };
        }
        let logits = self.encode(images);
        // -log(-log u), with u away from both ends.
        let u = graph.uniform(logits.shape());
        let u = u.mul_scalar(1.0 - 2e-7).add_scalar(1e-7);
        let gumbel = u.log().neg().log().neg();
        let soft = logits.add(&gumbel).mul_scalar(1.0 / temperature).softmax(1);
        let stats = self.decoder.apply(&self.decoder.input.apply(&soft));

        let c = self.config.channels;
        let (medians, log_b) = (stats.slice(1, 0, c), stats.slice(1, c, c));
        let x = images.mul_scalar(1.0 - 2.0 * MARGIN).add_scalar(MARGIN);
        let rest = x.neg().add_scalar(1.0);
        let logit = x.log().sub(&rest.log());
        let away = logit.sub(&medians).abs().mul(&log_b.neg().exp());
        let volume = x.mul(&rest).log().add_scalar(LN_2 as f32);
        let n = images.dim(0).max(1) as f32;
        let sum = away.add(&log_b).add(&volume).sum(&[], false);
        let reconstruction_loss = sum.mul_scalar(1.0 / n);

        let log_q = logits.log_softmax(1);
        let uniform = (self.config.codes as f32).ln();
        let kl = log_q.exp().mul(&log_q.add_scalar(uniform)).sum(&[], false);
        let kl = kl.mul_scalar(1.0 / n);
        let loss = reconstruction_loss.add(&kl.mul_scalar(kl_weight));
        DvaeLoss {
            reconstruction_loss,
            kl,
            loss,
        }
    }
}
