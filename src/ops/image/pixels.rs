//! Pictures of 8 bits a channel, as files and cameras give them, to normalised floats.

use crate::graph::{Array, Lower, Op, Slot, Spec, Tensor};
use crate::{DType, Error, Result};

const SHADER: &str = include_str!("../../../shaders/image/pixels.wgsl");

/// Pictures as bytes: rows from top to bottom, the bytes of a pixel next to each other, one
/// picture behind the other without gaps. What they become is `(byte / 255 - mean) / std`.
#[derive(Debug, Clone, PartialEq)]
pub struct PixelFormat {
    /// Height and width.
    pub size: [usize; 2],
    /// Bytes of a pixel: 1 for grey, 3 for RGB, 4 for RGBA.
    pub bytes: usize,
    /// What is subtracted from each channel, one number for every channel that is used; the
    /// bytes behind these, such as alpha, are passed over.
    pub mean: Vec<f32>,
    /// What each channel is divided by then.
    pub std: Vec<f32>,
}

impl PixelFormat {
    /// Red, green and blue, as numbers in 0..=1.
    pub fn rgb(size: [usize; 2]) -> Self {
        PixelFormat {
            size,
            bytes: 3,
            mean: vec![0.0; 3],
            std: vec![1.0; 3],
        }
    }

    /// The same with a fourth byte that is passed over.
    pub fn rgba(size: [usize; 2]) -> Self {
        PixelFormat {
            bytes: 4,
            ..PixelFormat::rgb(size)
        }
    }

    /// One byte a pixel, as a number in 0..=1.
    pub fn grey(size: [usize; 2]) -> Self {
        PixelFormat {
            size,
            bytes: 1,
            mean: vec![0.0],
            std: vec![1.0],
        }
    }

    /// The same with other means and deviations.
    pub fn normalized(mut self, mean: &[f32], std: &[f32]) -> Self {
        (self.mean, self.std) = (mean.to_vec(), std.to_vec());
        self
    }

    /// The same with the means and deviations of torchvision's ImageNet networks.
    pub fn imagenet(self) -> Self {
        self.normalized(&[0.485, 0.456, 0.406], &[0.229, 0.224, 0.225])
    }

    /// The same with those of CIFAR-10 that OpenOOD's networks have.
    pub fn cifar10(self) -> Self {
        self.normalized(&[0.4914, 0.4822, 0.4465], &[0.2470, 0.2435, 0.2616])
    }

    /// Bytes of a picture.
    pub fn picture_bytes(&self) -> usize {
        let [height, width] = self.size;
        height.saturating_mul(width).saturating_mul(self.bytes)
    }

    /// Words of an input that holds so many pictures.
    pub fn words(&self, pictures: usize) -> usize {
        self.picture_bytes().saturating_mul(pictures).div_ceil(4)
    }

    /// Bytes as an input's words, whatever the byte order of this machine; the last one
    /// filled up with zeros.
    pub fn pack(bytes: &[u8]) -> Vec<u32> {
        let word = |four: &[u8]| {
            let byte = |i: usize| u32::from(four.get(i).copied().unwrap_or(0));
            byte(0) | byte(1) << 8 | byte(2) << 16 | byte(3) << 24
        };
        bytes.chunks(4).map(word).collect()
    }

    /// Errors: what [`Tensor::pixels`] is poisoned by.
    pub(crate) fn check(&self) -> Result<()> {
        let wrong = |detail: String| Err(Error::argument("PixelFormat", detail));
        let channels = self.mean.len();
        if !(1..=4).contains(&self.bytes) || !(1..=self.bytes).contains(&channels) {
            return wrong(format!(
                "{channels} channels of {} bytes a pixel: 1 to 4 bytes and as many channels at \
                 most are possible",
                self.bytes
            ));
        }
        if self.std.len() != channels {
            let given = self.std.len();
            return wrong(format!(
                "{channels} means and {given} deviations were given"
            ));
        }
        let finite = self.mean.iter().all(|v| v.is_finite());
        if !finite || self.std.iter().any(|v| !v.is_normal()) {
            return wrong(format!(
                "means must be finite, deviations not zero: {self:?}"
            ));
        }
        if self.size.contains(&0) || self.picture_bytes() > 1 << 30 {
            return wrong(format!(
                "pictures of {:?} pixels, 1 to 2^28 are possible",
                self.size
            ));
        }
        Ok(())
    }
}

/// `[N, C, H, W]` from the words of `n` pictures.
#[derive(Debug)]
struct Pixels {
    n: usize,
    format: PixelFormat,
}

impl Pixels {
    /// What a byte is multiplied with, and what is added then.
    fn scale(&self, channel: usize) -> [f32; 2] {
        let (mean, std) = (self.format.mean[channel], self.format.std[channel]);
        let (mean, std) = (f64::from(mean), f64::from(std));
        [(1.0 / (255.0 * std)) as f32, (-mean / std) as f32]
    }

    fn shape(&self) -> [usize; 4] {
        let [height, width] = self.format.size;
        [self.n, self.format.mean.len(), height, width]
    }
}

impl Op for Pixels {
    fn name(&self) -> &'static str {
        "pixels"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        self.format.check()?;
        let words = self.format.words(self.n);
        if inputs[0].dtype != DType::U32 || inputs[0].shape.dims() != [words] {
            return Err(Error::shape(
                self.name(),
                format!(
                    "{} pictures of {:?} pixels with {} bytes are u32 [{words}], not {} {:?}",
                    self.n, self.format.size, self.format.bytes, inputs[0].dtype, inputs[0].shape
                ),
            ));
        }
        Ok(vec![Spec::f32(self.shape())])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let [_, _, height, width] = self.shape();
        Ok(vec![Array::from_fn(self.shape(), |i| {
            let pixel = (i[0] * height + i[2]) * width + i[3];
            let at = pixel * self.format.bytes + i[1];
            let byte = (inputs[0].data[at / 4] as u32) >> (8 * (at % 4)) & 255;
            let [scale, shift] = self.scale(i[1]).map(f64::from);
            f64::from(byte) * scale + shift
        })])
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let [n, channels, height, width] = self.shape();
        let total = n * height * width;
        let mut kernel = cx
            .kernel(self.name(), SHADER)
            .define("BYTES", self.format.bytes)
            .define("CHANNELS", channels)
            .arg("total", total)
            .arg("plane", height * width);
        for channel in 0..channels {
            let [scale, shift] = self.scale(channel);
            kernel = kernel
                .arg_f32(format!("scale{channel}"), scale)
                .arg_f32(format!("shift{channel}"), shift);
        }
        kernel
            .read(Slot::In(0))
            .write(Slot::Out(0))
            .flops(2 * total * channels)
            .threads(total, 64)
    }
}

impl Tensor {
    /// `u32` [[`PixelFormat::words`]], the bytes of `n` pictures of 8 bits a channel
    /// ([`PixelFormat::pack`]), as normalised floats `[n, C, H, W]`: a quarter of what floats
    /// would take on their way to the device, and nothing for the CPU to do. Has no gradient.
    ///
    /// Poisoned by: other types and shapes, other than 1 to 4 bytes a pixel, channels that are
    /// not among them, as many deviations as means not given, a deviation of 0.
    #[track_caller]
    pub fn pixels(&self, n: usize, format: &PixelFormat) -> Tensor {
        let format = format.clone();
        self.graph().push1(Pixels { n, format }, &[self])
    }
}
