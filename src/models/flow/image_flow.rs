//! What all flows of images share: pixels to floats and back, bits per dimension.

use crate::flow::{Batch, Context, Flow, bits_per_dim};
use crate::{DType, Error, Gpu, Graph, Params, Result, Tensor};

/// A flow of images whose pixels are whole numbers `0 .. bins - 1`.
///
/// Pixels `k` become floats `(k + u) / bins - 0.5` with noise `u` uniform in `[0, 1)`
/// (uniform dequantisation; Theis et al. 2016, arXiv 1511.01844) or `u = 0`. The
/// log-density of that, minus `D ln(bins)`, bounds the log-probability of the discrete
/// image from below; all log-probabilities here are those of discrete images.
pub struct ImageFlow {
    /// The flow of the floats.
    pub flow: Flow,
    image: [usize; 3],
    bins: usize,
    classes: Option<usize>,
}

impl ImageFlow {
    /// A flow over `[N, C, H, W]` with `image` = channels, height, width. Errors: fewer
    /// than two levels of grey, an empty image.
    pub fn new(flow: Flow, image: [usize; 3], bins: usize) -> Result<Self> {
        image_size(image)?;
        if !(2..=1 << 16).contains(&bins) {
            return Err(Error::argument(
                "ImageFlow",
                format!("pixels of {bins} levels: 2 to 65536 are possible"),
            ));
        }
        Ok(ImageFlow {
            flow,
            image,
            bins,
            classes: None,
        })
    }

    /// The same flow, conditioned on one of `classes` classes.
    pub(super) fn with_classes(mut self, classes: Option<usize>) -> Self {
        self.classes = classes;
        self
    }

    /// Channels, height and width.
    pub fn image_shape(&self) -> [usize; 3] {
        self.image
    }

    /// Numbers in an image, `D`.
    pub fn dims(&self) -> usize {
        self.image.iter().product()
    }

    /// Levels of a pixel.
    pub fn bins(&self) -> usize {
        self.bins
    }

    /// The number of classes, for a conditional flow.
    pub fn classes(&self) -> Option<usize> {
        self.classes
    }

    /// An error that names the first class that this flow does not know.
    pub fn check_classes(&self, labels: &[u32]) -> Result<()> {
        let known = self.classes.unwrap_or(0);
        match labels.iter().position(|l| *l as usize >= known) {
            None => Ok(()),
            Some(at) => Err(Error::argument(
                "class",
                format!(
                    "class {} of image {at} is unknown; this flow has {known} classes",
                    labels[at]
                ),
            )),
        }
    }

    /// Pixels `[N, C, H, W]` (whole numbers as floats) as the flow sees them. Poisoned
    /// where the images have another shape.
    #[track_caller]
    pub fn scale(&self, pixels: &Tensor, dequantize: bool) -> Tensor {
        if let Err(e) = pixels.check() {
            return pixels.graph().poisoned(e);
        }
        if pixels.shape().rank() != 4 || pixels.shape().dims()[1..] != self.image {
            return pixels.graph().poisoned(Error::shape(
                "image",
                format!(
                    "the images are {:?}, this flow takes [N, {}, {}, {}]",
                    pixels.shape(),
                    self.image[0],
                    self.image[1],
                    self.image[2]
                ),
            ));
        }
        let noisy = match dequantize {
            true => pixels.add(&pixels.graph().uniform(pixels.shape())),
            false => pixels.clone(),
        };
        noisy.mul_scalar(1.0 / self.bins as f32).add_scalar(-0.5)
    }

    /// Floats of the flow as brightness from 0 to 1 (a pixel `k` at the middle of its bin:
    /// `(k + 0.5) / bins`), clamped.
    #[track_caller]
    pub fn brightness(&self, x: &Tensor) -> Tensor {
        x.add_scalar(0.5).clamp(0.0, 1.0)
    }

    /// The log-density of the floats, `[N]`, in nats.
    #[track_caller]
    fn density(&self, pixels: &Tensor, dequantize: bool, cx: &Context<'_>) -> Tensor {
        match self.missing_classes(pixels.graph(), cx) {
            Some(wrong) => wrong,
            None => self.flow.log_prob(&self.scale(pixels, dequantize), cx),
        }
    }

    /// Log-probability of every image `[N]`, in nats.
    #[track_caller]
    pub fn log_prob(&self, pixels: &Tensor, dequantize: bool, cx: &Context<'_>) -> Tensor {
        let discrete = self.dims() as f64 * (self.bins as f64).ln();
        self.density(pixels, dequantize, cx)
            .add_scalar(-discrete as f32)
    }

    /// Bits per dimension of every image, `[N]`.
    #[track_caller]
    pub fn bits_per_dim(&self, pixels: &Tensor, dequantize: bool, cx: &Context<'_>) -> Tensor {
        let log_prob = self.density(pixels, dequantize, cx);
        bits_per_dim(&log_prob, self.dims(), self.bins as f32)
    }

    /// What is trained: the mean of [`ImageFlow::bits_per_dim`].
    #[track_caller]
    pub fn loss(&self, pixels: &Tensor, dequantize: bool, cx: &Context<'_>) -> Tensor {
        self.bits_per_dim(pixels, dequantize, cx).mean(&[], false)
    }

    /// `n` images `[n, C, H, W]` with brightness from 0 to 1. Poisoned where the
    /// temperature is not above 0, or classes are needed and not given.
    #[track_caller]
    pub fn sample(&self, graph: &Graph, n: usize, temperature: f32, cx: &Context<'_>) -> Tensor {
        if let Some(wrong) = self.missing_classes(graph, cx) {
            return wrong;
        }
        self.brightness(&self.flow.sample(graph, n, temperature, cx))
    }

    /// Sets data-dependent first values from pixels `[n, C, H, W]`, without noise where
    /// `dequantize` is off. Errors: see [`crate::flow::FirstValues::set`], and those of a
    /// run.
    pub fn initialize(
        &self,
        gpu: &Gpu,
        params: &Params,
        pixels: &[f32],
        labels: Option<&[u32]>,
        dequantize: bool,
    ) -> Result<()> {
        let [c, h, w] = self.image;
        let n = pixels.len() / self.dims();
        let graph = Graph::new();
        let input = graph.input("x", [n.max(1), c, h, w]);
        let mut program = graph.compile_aside(gpu, params, &[&self.scale(&input, dequantize)])?;
        let scaled = program.run(&[("x", pixels.into())])?.f32(0)?;
        let mut batch = Batch::new(&scaled, [n, c, h, w]);
        if let Some(labels) = labels {
            self.check_classes(labels)?;
            batch = batch.with_condition(labels, [n]);
        }
        self.flow.initialize(gpu, params, &batch)
    }

    /// Poison where this flow needs classes and there are none.
    fn missing_classes(&self, graph: &Graph, cx: &Context<'_>) -> Option<Tensor> {
        let classes = self.classes?;
        let given = cx.condition().is_some_and(|c| c.dtype() == DType::U32);
        (!given).then(|| {
            graph.poisoned(Error::argument(
                "class",
                format!("this flow is conditioned on one of {classes} classes; give u32 [N] as the context's condition"),
            ))
        })
    }
}

/// The numbers in an image. Errors: none, or more than any device holds.
pub(super) fn image_size(image: [usize; 3]) -> Result<usize> {
    let size = image.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
    match size {
        Some(size) if (1..=1 << 28).contains(&size) => Ok(size),
        _ => Err(Error::argument(
            "image",
            format!("channels, height and width {image:?}: at least one number, at most 2^28"),
        )),
    }
}
