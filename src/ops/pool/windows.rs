//! The windows of pooling, and how much of them an invocation takes: plain arithmetic on
//! shapes for `pool.rs` and `max_pool.rs`.

use crate::device::{DeviceClass, DeviceProfile};
use crate::graph::{Array, KernelBuilder, Spec};
use crate::ops::conv::window::same_padding;
use crate::{DType, Error, Result};

/// Parameters of [`crate::Tensor::max_pool2d`] and [`crate::Tensor::avg_pool2d`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolParams {
    /// The window.
    pub kernel: [usize; 2],
    /// Step between windows.
    pub stride: [usize; 2],
    /// Rows and columns around the image, at most half the window: minus infinity
    /// for the maximum, zero for the average.
    pub padding: [usize; 2],
    /// Whether the average divides by the window's area (the default) or by the
    /// number of pixels inside the image. The maximum ignores it.
    pub count_include_pad: bool,
    /// Whether windows that reach beyond the padded image count, too, as long as they begin
    /// inside the image (PyTorch's `ceil_mode`). What they cover beyond it counts for
    /// nothing: minus infinity, and not part of what the average divides by.
    pub ceil_mode: bool,
}

impl PoolParams {
    /// Windows of `kernel` at steps of `stride` without padding.
    pub fn new(kernel: [usize; 2], stride: [usize; 2]) -> Self {
        PoolParams {
            kernel,
            stride,
            padding: [0, 0],
            count_include_pad: true,
            ceil_mode: false,
        }
    }

    /// The windows of TensorFlow's `SAME` padding for images of `image` pixels: as many as
    /// strides begin inside the image, what is missing added half before and half behind
    /// (the odd one behind), averages over the pixels inside. Error: an even kernel at a
    /// stride of 1, which needs more behind than before.
    pub fn same(kernel: [usize; 2], stride: [usize; 2], image: [usize; 2]) -> Result<Self> {
        let mut padding = [0, 0];
        for axis in 0..2 {
            let (k, s) = (kernel[axis], stride[axis]);
            let [before, behind] = same_padding(image[axis], k, s, 1);
            if behind > before && s == 1 {
                return Err(Error::argument(
                    "PoolParams::same",
                    format!(
                        "kernel {kernel:?} at stride {stride:?} needs {before} before and \
                         {behind} behind the image; pad it with `Tensor::pad` instead"
                    ),
                ));
            }
            padding[axis] = before;
        }
        Ok(PoolParams {
            padding,
            count_include_pad: false,
            ceil_mode: true,
            ..PoolParams::new(kernel, stride)
        })
    }

    /// The same with rows and columns around the image.
    pub fn padding(mut self, padding: [usize; 2]) -> Self {
        self.padding = padding;
        self
    }

    /// The same with windows that reach beyond the padded image.
    pub fn ceil_mode(mut self) -> Self {
        self.ceil_mode = true;
        self
    }

    /// The output's extents for an image of `h` x `w`.
    pub(in crate::ops) fn output(&self, op: &str, [n, c, h, w]: [usize; 4]) -> Result<[usize; 4]> {
        const LARGEST: usize = 65_535;
        let argument =
            |name: &str, detail: String| Err(Error::argument(&format!("{op}, {name}"), detail));
        for (name, values) in [("kernel", self.kernel), ("stride", self.stride)] {
            if values.iter().any(|v| !(1..=LARGEST).contains(v)) {
                return argument(
                    name,
                    format!("{values:?} given, 1 to {LARGEST} are possible"),
                );
            }
        }
        if (0..2).any(|a| self.padding[a] > self.kernel[a] / 2) {
            return argument(
                "padding",
                format!(
                    "{:?} given, at most half the kernel {:?} is possible",
                    self.padding, self.kernel
                ),
            );
        }
        let size = |axis: usize, extent: usize| {
            let padded = extent + 2 * self.padding[axis];
            match padded.checked_sub(self.kernel[axis]) {
                Some(room) if !self.ceil_mode => Ok(room / self.stride[axis] + 1),
                Some(room) => {
                    let windows = room.div_ceil(self.stride[axis]) + 1;
                    // The last one must begin inside the image.
                    let last = (windows - 1) * self.stride[axis];
                    Ok(windows - usize::from(last >= extent + self.padding[axis]))
                }
                None => Err(Error::shape(
                    op,
                    format!(
                        "windows of {:?} do not fit into {h} x {w} with padding {:?}",
                        self.kernel, self.padding
                    ),
                )),
            }
        };
        Ok([n, c, size(0, h)?, size(1, w)?])
    }

    /// Rows or columns of an image that window `i` covers, cut at the borders.
    pub(in crate::ops) fn covers(
        &self,
        axis: usize,
        i: usize,
        extent: usize,
    ) -> std::ops::Range<usize> {
        let first = i * self.stride[axis];
        let end = (first + self.kernel[axis]).saturating_sub(self.padding[axis]);
        first.saturating_sub(self.padding[axis])..end.min(extent)
    }

    /// Rows or columns that window `i` covers of the padded image.
    pub(in crate::ops) fn padded(&self, axis: usize, i: usize, extent: usize) -> usize {
        let first = i * self.stride[axis];
        (first + self.kernel[axis]).min(extent + 2 * self.padding[axis]) - first
    }

    /// Appends what `Args` in `shaders/lib/pool.wgsl` reads, and tells the text how an
    /// invocation takes `take`. The kernel reads the windows where it `spreads`.
    pub(in crate::ops) fn args<'l, 'a>(
        &self,
        kernel: KernelBuilder<'l, 'a>,
        x: [usize; 4],
        y: [usize; 4],
        take: &Take,
    ) -> KernelBuilder<'l, 'a> {
        let mut kernel = kernel.arg("planes", x[0] * x[1]);
        for (name, [along_y, along_x]) in [
            ("in", [x[2], x[3]]),
            ("out", [y[2], y[3]]),
            ("kernel", self.kernel),
            ("stride", self.stride),
            ("padding", self.padding),
        ] {
            kernel = kernel
                .arg(format!("{name}_y"), along_y)
                .arg(format!("{name}_x"), along_x);
        }
        let Some(cell) = take.pixels else {
            return kernel;
        };
        let ([ky, kx], [sy, sx], [py, px]) = (self.kernel, self.stride, self.padding);
        let out = cell / sx;
        let (from, read, left, right) = match take.spreads {
            true => ("dy", out, kx > sx + px, px > 0),
            false => ("x", cell, px > 0, kx > sx + px),
        };
        kernel
            .define("CELL", cell)
            .define("OUT", out)
            .define("FROM", from)
            .define("N", read)
            .define("WRITTEN", take.each())
            .define("LEFT", u32::from(left))
            .define("RIGHT", u32::from(right))
            .define("KY", ky)
            .define("KX", kx)
            .define("SY", sy)
            .define("SX", sx)
            .define("PY", py)
            .define("PX", px)
            .define("ROWS", ky.div_ceil(sy))
            .define("COLUMNS", kx.div_ceil(sx))
    }

    /// How much an invocation takes of images `x` and windows `y`.
    pub(in crate::ops) fn take(
        &self,
        device: &DeviceProfile,
        x: [usize; 4],
        y: [usize; 4],
        spreads: bool,
    ) -> Take {
        let ([_, k], [_, s], [_, pad]) = (self.kernel, self.stride, self.padding);
        let fits = device.class == DeviceClass::Software
            && y[3] * s == x[3]
            && self.area() <= 25
            && pad <= 2
            // Windows reach two pixels beyond the piece at most, pixels two windows.
            && k <= s + pad + 2
            && k.div_ceil(s) <= 3 + pad / s;
        let whole = |cell: usize| [2, 4, 8].into_iter().any(|windows| windows * s == cell);
        let pixels = [8, 4]
            .into_iter()
            .find(|cell| fits && x[3].is_multiple_of(*cell) && whole(*cell));
        Take {
            pixels,
            spreads,
            stride: s,
        }
    }

    /// Windows that one pixel is in, at most.
    pub(in crate::ops) fn overlap(&self) -> usize {
        self.kernel[0].div_ceil(self.stride[0]) * (1 + self.kernel[1].div_ceil(self.stride[1]))
    }

    pub(in crate::ops) fn area(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }
}

/// What an invocation of a pooling kernel takes.
pub(in crate::ops) struct Take {
    /// So many neighbours of a row of pixels, see `shaders/lib/pool_row.wgsl`: 8 or 4 on
    /// software adapters, where windows and rows allow it. Otherwise a single result.
    pixels: Option<usize>,
    spreads: bool,
    stride: usize,
}

impl Take {
    /// Results of an invocation: pixels where the kernel spreads, otherwise windows.
    pub fn each(&self) -> usize {
        match self.pixels {
            Some(pixels) if self.spreads => pixels,
            Some(pixels) => pixels / self.stride,
            None => 1,
        }
    }
}

pub(in crate::ops) fn shape_of(a: &Array) -> [usize; 4] {
    [a.shape[0], a.shape[1], a.shape[2], a.shape[3]]
}

pub(in crate::ops) fn check_like(
    op: &str,
    what: &str,
    spec: &Spec,
    want: [usize; 4],
    dtype: DType,
) -> Result<()> {
    if spec.shape.dims() != want || spec.dtype != dtype {
        return Err(Error::shape(
            op,
            format!(
                "{what} must be {dtype} {want:?}, it is {} {:?}",
                spec.dtype, spec.shape
            ),
        ));
    }
    Ok(())
}
