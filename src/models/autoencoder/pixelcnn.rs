//! PixelCNN: a distribution over grids of codes or of pixels, each given those before it in
//! reading order (van den Oord et al. 2016, arXiv 1601.06759 and 1606.05328).

use crate::nn::{Centre, Colours, Layer, MaskedConv2d, Mode};
use crate::ops::{CrossEntropy, LossReduction};
use crate::{Error, Init, Param, Params, Result, Tensor};

/// What a [`PixelCnn`] consists of between its first layer and its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PixelBlock {
    /// 1x1, ReLU, masked 3x3 to half the channels, ReLU, 1x1, ReLU, added to the input.
    Residual,
    /// Masked 3x3 to twice the channels, `tanh(first half) * sigmoid(second half)`, 1x1,
    /// added to the input.
    Gated,
}

/// The description of a [`PixelCnn`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PixelCnnConfig {
    /// Rows and columns.
    pub grid: [usize; 2],
    /// Values at a place: 1 for codes and grey images, 3 for RGB, where red comes before
    /// green before blue.
    pub colours: usize,
    /// Values there are: the codes of a codebook, or the levels of a pixel.
    pub levels: usize,
    /// Channels.
    pub width: usize,
    /// Extent of the first layer's kernel; odd.
    pub kernel: usize,
    /// The kind of blocks.
    pub block: PixelBlock,
    /// The number of blocks.
    pub blocks: usize,
    /// 1x1 layers behind the blocks, before the last.
    pub head: usize,
    /// Classes to draw from; none for a prior of everything.
    pub classes: Option<usize>,
}

impl PixelCnnConfig {
    /// The prior of the keras.io example on VQ-VAEs: width 128, kernel 7, two residual
    /// blocks, two layers in the head.
    pub fn keras(grid: [usize; 2], levels: usize) -> Self {
        PixelCnnConfig {
            grid,
            colours: 1,
            levels,
            width: 128,
            kernel: 7,
            block: PixelBlock::Residual,
            blocks: 2,
            head: 2,
            classes: None,
        }
    }

    /// The same with gated blocks.
    pub fn gated(grid: [usize; 2], levels: usize) -> Self {
        PixelCnnConfig {
            block: PixelBlock::Gated,
            ..PixelCnnConfig::keras(grid, levels)
        }
    }

    /// Numbers of a grid.
    pub fn len(&self) -> usize {
        self.grid[0] * self.grid[1] * self.colours
    }

    /// Whether grids have no place.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The extents of `n` grids: `[n, rows, columns]`, with colours `[n, colours, rows,
    /// columns]`.
    pub fn shape(&self, n: usize) -> Vec<usize> {
        let [rows, cols] = self.grid;
        match self.colours {
            1 => vec![n, rows, cols],
            colours => vec![n, colours, rows, cols],
        }
    }

    fn check(&self) -> Result<()> {
        let wrong = |detail: String| Err(Error::argument("PixelCnnConfig", detail));
        for (what, n) in [
            ("rows", self.grid[0]),
            ("columns", self.grid[1]),
            ("colours", self.colours),
            ("levels", self.levels),
            ("width", self.width),
            ("classes", self.classes.unwrap_or(1)),
        ] {
            if n == 0 {
                return wrong(format!("{what} is 0; it must be 1 or more"));
            }
        }
        let parts = match self.block {
            PixelBlock::Residual => 2 * self.colours,
            PixelBlock::Gated => self.colours,
        };
        if !self.width.is_multiple_of(parts) {
            return wrong(format!(
                "the width is {}; it must be divisible by {parts}, so that every colour has as many channels",
                self.width
            ));
        }
        Ok(())
    }

    /// A colour for each of `channels`, in equal groups.
    fn colours_of(&self, channels: usize) -> Vec<u32> {
        let each = channels / self.colours;
        (0..channels).map(|i| (i / each) as u32).collect()
    }
}

/// A masked convolution with a bias for each class, where there are any.
pub(super) struct Masked {
    pub conv: MaskedConv2d,
    /// `[classes, outputs]`
    pub class: Option<Param>,
}

impl Masked {
    /// `halves`: the outputs are two halves, coloured alike.
    fn new(
        params: &Params,
        config: &PixelCnnConfig,
        [inputs, outputs]: [usize; 2],
        kernel: usize,
        centre: Centre,
        halves: bool,
    ) -> Result<Self> {
        let of = |n: usize| config.colours_of(n);
        let colours = (config.colours > 1).then(|| Colours {
            inputs: of(inputs),
            outputs: match halves {
                true => [of(outputs / 2), of(outputs / 2)].concat(),
                false => of(outputs),
            },
        });
        let io = [inputs, outputs];
        let conv = MaskedConv2d::new(params, io, [kernel; 2], centre, colours.as_ref())?;
        Ok(Masked { conv, class: None })
    }

    fn by_class(mut self, params: &Params, config: &PixelCnnConfig) -> Result<Self> {
        if let Some(classes) = config.classes {
            let outputs = self.conv.bias().shape().dims()[0];
            self.class = Some(params.add("class", [classes, outputs], Init::Zeros)?);
        }
        Ok(self)
    }
}

struct Block {
    kind: PixelBlock,
    layers: Vec<Masked>,
}

/// A distribution over grids of u32 numbers below `levels`: codes of a VQ-VAE or levels of
/// pixels. `[N, H, W]`, with colours `[N, C, H, W]`.
///
/// | layer | |
/// |---|---|
/// | `first` | one-hot numbers, masked conv 7x7 of type A, ReLU |
/// | `blocks.{i}.{0,1,2}` | [`PixelBlock::Residual`], or `blocks.{i}.{0,1}` [`PixelBlock::Gated`]; masks of type B |
/// | `head.{i}` | conv 1x1, ReLU |
/// | `out` | conv 1x1 to the logits of all levels (of every colour) |
///
/// Parameters `weight` `[out, in, kh, kw]` and `bias`; `class` `[classes, out]` is added to
/// what `first` and the masked 3x3 layers give before their activation. `codebook` `[8]` is
/// a state: see [`PixelCnn::expect_codebook`]. With colours every layer's channels are in
/// equal groups, red, green and blue, and kernels of 1x1 are masked, too. A single stack:
/// places above and to the right of the first kernel's reach are not seen.
pub struct PixelCnn {
    config: PixelCnnConfig,
    pub(super) first: Masked,
    blocks: Vec<Block>,
    head: Vec<Masked>,
    pub(super) out: Masked,
    codebook: Param,
}

impl PixelCnn {
    /// The network over `params`. Errors: numbers that are 0, an even kernel, a width that
    /// does not divide into the colours; see [`Params::add`].
    pub fn new(params: &Params, config: PixelCnnConfig) -> Result<Self> {
        config.check()?;
        let (width, levels) = (config.width, config.colours * config.levels);
        let layer = |scope: &Params, io: [usize; 2]| {
            Masked::new(scope, &config, io, 1, Centre::Seen, false)
        };
        let spatial = |scope: &Params, outputs: usize, halves: bool| {
            Masked::new(scope, &config, [width, outputs], 3, Centre::Seen, halves)?
                .by_class(scope, &config)
        };
        let block = |i: usize| -> Result<Block> {
            let scope = |k: usize| params.scope("blocks").scope(i).scope(k);
            let layers = match config.block {
                PixelBlock::Residual => vec![
                    layer(&scope(0), [width; 2])?,
                    spatial(&scope(1), width / 2, false)?,
                    layer(&scope(2), [width / 2, width])?,
                ],
                PixelBlock::Gated => vec![
                    spatial(&scope(0), 2 * width, true)?,
                    layer(&scope(1), [width; 2])?,
                ],
            };
            let kind = config.block;
            Ok(Block { kind, layers })
        };
        let scope = params.scope("first");
        let hidden = Centre::Hidden;
        let first = Masked::new(
            &scope,
            &config,
            [levels, width],
            config.kernel,
            hidden,
            false,
        )?;
        let head = |i: usize| layer(&params.scope("head").scope(i), [width; 2]);
        Ok(PixelCnn {
            config,
            first: first.by_class(&scope, &config)?,
            blocks: (0..config.blocks).map(block).collect::<Result<_>>()?,
            head: (0..config.head).map(head).collect::<Result<_>>()?,
            out: layer(&params.scope("out"), [width, levels])?,
            codebook: params.add_state("codebook", [8], Init::Zeros)?,
        })
    }

    /// The description it was made from.
    pub fn config(&self) -> &PixelCnnConfig {
        &self.config
    }

    /// All layers in the order in which [`PixelCnn::network`] applies them.
    pub(super) fn layers(&self) -> Vec<&Masked> {
        let blocks = self.blocks.iter().flat_map(|b| &b.layers);
        let first = std::iter::once(&self.first);
        let last = std::iter::once(&self.out);
        first.chain(blocks).chain(&self.head).chain(last).collect()
    }

    /// What follows the first layer, whose output is `x`, for maps and for single places:
    /// channels are axis 1, and `apply` is told which layer it is.
    #[track_caller]
    pub(super) fn network(
        &self,
        x: &Tensor,
        mut apply: impl FnMut(usize, &Masked, &Tensor) -> Tensor,
    ) -> Tensor {
        let mut at = 0;
        let mut next = |layer: &Masked, x: &Tensor| {
            at += 1;
            apply(at, layer, x)
        };
        let mut x = x.relu();
        for block in &self.blocks {
            let mut y = x.clone();
            for (k, layer) in block.layers.iter().enumerate() {
                y = next(layer, &y);
                y = match (block.kind, k) {
                    (PixelBlock::Residual, _) => y.relu(),
                    (PixelBlock::Gated, 0) => {
                        let width = self.config.width;
                        let half = |i: usize| y.slice(1, i * width, width);
                        half(0).tanh().mul(&half(1).sigmoid())
                    }
                    (PixelBlock::Gated, _) => y,
                };
            }
            x = x.add(&y);
        }
        for layer in &self.head {
            x = next(layer, &x).relu();
        }
        next(&self.out, &x)
    }

    /// Why labels do not fit, if they do not.
    pub(super) fn check_labels(&self, labels: Option<&Tensor>, rows: usize) -> Result<()> {
        let wrong = |detail: String| Err(Error::argument("PixelCnn", detail));
        match (labels, self.config.classes) {
            (None, None) => Ok(()),
            (Some(labels), Some(_)) if labels.shape().dims() == [rows] => Ok(()),
            (Some(labels), Some(_)) => wrong(format!(
                "expected a label for each of {rows} grids, got {:?}",
                labels.shape()
            )),
            (None, Some(n)) => wrong(format!("it draws from {n} classes; give labels")),
            (Some(_), None) => wrong("it knows no classes; give no labels".into()),
        }
    }

    /// Logits of the levels at every place, `[N, K, H, W]` (with colours `[N, K, C, H,
    /// W]`), from u32 numbers of the shape of [`PixelCnnConfig::shape`] and, where it has
    /// classes, u32 labels `[N]`. The logits of a place depend on the numbers before it in
    /// reading order only, and on those of earlier colours at the place. Numbers out of
    /// range count as none, labels out of range as no class.
    #[track_caller]
    pub fn logits(&self, codes: &Tensor, labels: Option<&Tensor>, mode: Mode) -> Tensor {
        let (rows, graph) = (codes.dim(0), codes.graph());
        let PixelCnnConfig {
            grid: [height, width],
            colours,
            levels,
            ..
        } = self.config;
        if codes.shape().dims() != self.config.shape(rows) {
            let (expected, found) = (self.config.shape(rows), codes.shape());
            let error = Error::shape("PixelCnn", format!("expected {expected:?}, got {found:?}"));
            return graph.poisoned(codes.check().err().unwrap_or(error));
        }
        if let Err(e) = self.check_labels(labels, rows) {
            return graph.poisoned(e);
        }
        let hot = codes
            .reshape([rows, colours, height, width])
            .one_hot(levels);
        let x = hot
            .permute(&[0, 1, 4, 2, 3])
            .reshape([rows, colours * levels, height, width]);
        let apply = |layer: &Masked, x: &Tensor| {
            let y = layer.conv.forward(x, mode);
            match (&layer.class, labels) {
                (Some(table), Some(labels)) => {
                    let bias = table.on(graph).gather_rows(labels);
                    let channels = bias.dim(1);
                    y.add(&bias.reshape([rows, channels, 1, 1]))
                }
                _ => y,
            }
        };
        let y = self.network(&apply(&self.first, &x), |_, layer, x| apply(layer, x));
        match colours {
            1 => y,
            _ => y
                .reshape([rows, colours, levels, height, width])
                .permute(&[0, 2, 1, 3, 4]),
        }
    }

    /// `-log p` of each number in nats, of the shape of `codes`; NaN where one is out of
    /// range.
    #[track_caller]
    pub fn nll(&self, codes: &Tensor, labels: Option<&Tensor>, mode: Mode) -> Tensor {
        let logits = self.logits(codes, labels, mode);
        let each = CrossEntropy {
            reduction: LossReduction::None,
            ..Default::default()
        };
        let nats = logits.cross_entropy(codes, &each);
        let levels = codes.to_f32().full_like(self.config.levels as f32);
        let known = codes.to_f32().less(&levels);
        known.select(&nats, &nats.full_like(f32::NAN))
    }

    /// The mean of [`PixelCnn::nll`], nats per number: what is trained.
    #[track_caller]
    pub fn loss(&self, codes: &Tensor, labels: Option<&Tensor>, mode: Mode) -> Tensor {
        self.nll(codes, labels, mode).mean(&[], false)
    }

    /// Error: `codes` are not whole grids, or one of them is out of range.
    pub fn check_codes(&self, codes: &[u32]) -> Result<()> {
        let (each, levels) = (self.config.len(), self.config.levels);
        let wrong = |detail: String| Err(Error::argument("PixelCnn", detail));
        if !codes.len().is_multiple_of(each) {
            let expected = self.config.shape(1);
            return wrong(format!(
                "{} codes are no whole number of grids {:?}",
                codes.len(),
                &expected[1..]
            ));
        }
        match codes.iter().position(|c| *c as usize >= levels) {
            None => Ok(()),
            Some(at) => wrong(format!(
                "code {} (number {} of grid {}) is out of range: there are {levels}, from 0",
                codes[at],
                at % each,
                at / each
            )),
        }
    }

    /// Ties this prior to a codebook `[K, D]`: the first one it is told of is noted in the
    /// state `codebook`, which is saved and loaded with the weights. Errors: it has not as
    /// many codes as there are levels, or is not the one that was noted.
    pub fn expect_codebook(&self, codebook: &Param) -> Result<()> {
        let wrong = |detail: String| Err(Error::argument("PixelCnn", detail));
        let codes = codebook.shape().dims().first().copied().unwrap_or(0);
        if codes != self.config.levels {
            return wrong(format!(
                "it was made for {} codes, `{}` has {codes}",
                self.config.levels,
                codebook.name()
            ));
        }
        let print: Vec<f32> = fingerprint(&codebook.get()?);
        let noted = self.codebook.get()?;
        if noted.iter().all(|v| *v == 0.0) {
            return self.codebook.set(&print);
        }
        match noted == print {
            true => Ok(()),
            false => wrong(format!(
                "it was trained for another codebook than `{}`: load the autoencoder whose codes it learnt, or train it anew",
                codebook.name()
            )),
        }
    }
}

/// FNV-1a of the values' bits, a byte in each number (exact in 16-bit files, too); never
/// all zeros.
fn fingerprint(values: &[f32]) -> Vec<f32> {
    let bytes = values.iter().flat_map(|v| v.to_bits().to_le_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let bytes = (hash | 1).to_le_bytes();
    bytes.iter().map(|b| f32::from(*b)).collect()
}
