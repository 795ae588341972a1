//! What a coupling transforms, how raw scales become scales, and where both lie in
//! memory: plain arithmetic on shapes for `coupling.rs`.

use crate::device::{DeviceClass, DeviceProfile};
use crate::graph::Spec;
use crate::{Error, Result, Shape};

/// How a raw value `s` becomes the logarithm `l` of a coupling's scale.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum CouplingScale {
    /// No scale: the coupling only adds (NICE), its log-determinant is 0.
    None,
    /// `l = s`
    Exp,
    /// `l = log sigmoid(s + offset)`; Glow has the offset 2.
    Sigmoid {
        /// Added to the raw value.
        offset: f32,
    },
    /// `l = clamp * tanh(s / clamp)`, so the scale lies within `e^-clamp .. e^clamp`;
    /// DenseFlow has 2.
    Tanh {
        /// The largest magnitude of `l`.
        clamp: f32,
    },
}

/// Which elements a coupling transforms; the others pass through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CouplingMask {
    /// The first `n` channels pass through, the rest is transformed.
    After(usize),
    /// The first `n` channels are transformed, the rest passes through.
    Before(usize),
    /// Channels 0, 2, 4 .. are transformed.
    Even,
    /// Channels 1, 3, 5 .. are transformed.
    Odd,
    /// In images `[N, C, H, W]`, positions with `(h + w) % 2 == parity` pass through.
    Checkerboard {
        /// 0 or 1.
        parity: usize,
    },
}

/// How the channels of a raw tensor are shared out among scales and shifts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RawLayout {
    /// All raw scales, then all shifts (rosinality's Glow).
    ScaleShift,
    /// All shifts, then all raw scales.
    ShiftScale,
    /// Raw scales on even channels, shifts on odd ones (DenseFlow).
    ScaleShiftInterleaved,
    /// Shifts on even channels, raw scales on odd ones (OpenAI's Glow).
    ShiftScaleInterleaved,
}

/// A coupling layer's conventions; see [`crate::Tensor::coupling`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CouplingParams {
    /// What is transformed.
    pub mask: CouplingMask,
    /// How raw values become scales.
    pub scale: CouplingScale,
    /// `y = (x + t) * scale` (Glow) instead of `y = x * scale + t`.
    pub shift_first: bool,
    /// Where raw scales and shifts lie.
    pub layout: RawLayout,
    /// Added to the scale, which then never falls below: `scale = e^l + minimum`, and the
    /// log-determinant sums its logarithm. 0 adds nothing; nflows has 1e-3.
    pub minimum: f32,
}

impl CouplingParams {
    /// `y = x e^s + t` of the masked elements, all raw scales before all shifts.
    pub fn new(mask: CouplingMask) -> Self {
        CouplingParams {
            mask,
            scale: CouplingScale::Exp,
            shift_first: false,
            layout: RawLayout::ScaleShift,
            minimum: 0.0,
        }
    }

    /// Glow's `y = (x + t) sigmoid(s + 2)`.
    pub fn glow(mask: CouplingMask) -> Self {
        CouplingParams {
            scale: CouplingScale::Sigmoid { offset: 2.0 },
            shift_first: true,
            ..CouplingParams::new(mask)
        }
    }

    /// NICE's `y = x + t`.
    pub fn additive(mask: CouplingMask) -> Self {
        CouplingParams {
            scale: CouplingScale::None,
            ..CouplingParams::new(mask)
        }
    }

    /// How many channels of `channels` are transformed (in part, for a checkerboard).
    pub fn transformed(&self, channels: usize) -> usize {
        self.mask.moved(channels).count
    }

    /// How many channels the raw tensor for `channels` channels has: twice
    /// [`CouplingParams::transformed`], or as many for [`CouplingScale::None`].
    pub fn raw_channels(&self, channels: usize) -> usize {
        match self.scale {
            CouplingScale::None => self.transformed(channels),
            _ => 2 * self.transformed(channels),
        }
    }
}

/// Channels `first`, `first + step`, ..
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ops) struct Channels {
    pub first: usize,
    pub step: usize,
    pub count: usize,
}

impl CouplingMask {
    pub(in crate::ops) fn moved(self, channels: usize) -> Channels {
        let (first, step, count) = match self {
            CouplingMask::After(n) => (n, 1, channels.saturating_sub(n)),
            CouplingMask::Before(n) => (0, 1, n.min(channels)),
            CouplingMask::Even => (0, 2, channels.div_ceil(2)),
            CouplingMask::Odd => (1, 2, channels / 2),
            CouplingMask::Checkerboard { .. } => (0, 1, channels),
        };
        Channels { first, step, count }
    }

    /// The channels that pass through whole.
    fn kept(self, channels: usize) -> Channels {
        match self {
            CouplingMask::After(n) => CouplingMask::Before(n),
            CouplingMask::Before(n) => CouplingMask::After(n),
            CouplingMask::Even => CouplingMask::Odd,
            CouplingMask::Odd => CouplingMask::Even,
            CouplingMask::Checkerboard { .. } => CouplingMask::Before(0),
        }
        .moved(channels)
    }
}

/// Where a coupling's elements lie, counted in elements; `cell` of them are taken at once.
#[derive(Debug)]
pub(in crate::ops) struct Places {
    pub samples: usize,
    /// Elements of an image, 1 for vectors.
    pub plane: usize,
    pub width: usize,
    pub moved: Channels,
    /// Raw channels of the first scale and shift, and the step to the next.
    pub scale_first: usize,
    pub shift_first: usize,
    pub raw_step: usize,
    pub x_sample: usize,
    pub raw_sample: usize,
    /// Transformed elements of a sample, and those that lie next to one another.
    pub elements: usize,
    pub run: usize,
    pub kept_elements: usize,
    pub kept_run: usize,
    pub kept_base: usize,
    pub cell: usize,
}

impl Places {
    /// Error: shapes or parameters that do not fit together.
    pub(in crate::ops) fn new(
        op: &str,
        params: &CouplingParams,
        x: &Spec,
        raw: &Spec,
    ) -> Result<Self> {
        let dims = x.shape.dims();
        let checker = match params.mask {
            CouplingMask::Checkerboard { parity } => Some(parity),
            _ => None,
        };
        if dims.len() < 2 || checker.is_some() && dims.len() != 4 {
            let wanted = match checker {
                Some(_) => "[N, C, H, W]",
                None => "[N, C, ..]",
            };
            return Err(Error::shape(
                op,
                format!("expected {wanted}, got {:?}", x.shape),
            ));
        }
        if checker.is_some_and(|p| p > 1) {
            return Err(Error::argument(op, "the parity must be 0 or 1"));
        }
        check_numbers(op, params)?;
        let channels = dims[1];
        let (moved, kept) = (params.mask.moved(channels), params.mask.kept(channels));
        let splits = match params.mask {
            CouplingMask::After(n) | CouplingMask::Before(n) => n < channels,
            _ => true,
        };
        if !splits || moved.count == 0 || checker.is_none() && kept.count == 0 {
            return Err(Error::shape(
                op,
                format!(
                    "the mask {:?} does not split the {channels} channels of {:?} into a part that passes through and one that is transformed",
                    params.mask, x.shape
                ),
            ));
        }
        let mut raw_dims = dims.to_vec();
        raw_dims[1] = params.raw_channels(channels);
        if raw.shape.dims() != raw_dims {
            return Err(Error::shape(
                op,
                format!(
                    "the raw scales and shifts for {:?} must have the shape {:?}, they have {:?}",
                    x.shape,
                    Shape::from(raw_dims),
                    raw.shape
                ),
            ));
        }
        let raw_places = scale_and_shift(params, channels);
        let raw_step = raw_places.step;
        let plane: usize = dims[2..].iter().product();
        // Whole channels side by side are walked as one run. A checkerboard goes on from one
        // channel to the next where the rows of a channel are even in number.
        let goes_on = checker.is_none() || dims[2].is_multiple_of(2);
        let whole = moved.step == 1 && raw_step == 1 && goes_on;
        let mut places = Places {
            samples: dims[0],
            plane,
            width: *dims.last().unwrap_or(&1),
            moved,
            scale_first: raw_places.scale,
            shift_first: raw_places.shift,
            raw_step,
            x_sample: channels * plane,
            raw_sample: raw_dims[1] * plane,
            elements: moved.count * plane,
            run: if whole { moved.count * plane } else { plane },
            kept_elements: kept.count * plane,
            kept_run: if kept.step == 1 {
                kept.count.max(1) * plane
            } else {
                plane
            },
            kept_base: kept.first * plane,
            cell: 1,
        };
        let starts = [
            places.run,
            moved.first * plane,
            raw_places.scale * plane,
            raw_places.shift * plane,
            places.x_sample,
            places.raw_sample,
            places.kept_run,
            places.kept_base,
        ];
        // Of a checkerboard's eight every other one moves, where none reaches into the next row.
        let fits = |cell: &usize| {
            let whole_rows = checker.is_none() || *cell < 8 || places.width.is_multiple_of(*cell);
            whole_rows && starts.iter().all(|e| e.is_multiple_of(*cell))
        };
        places.cell = [8, 4].into_iter().find(fits).unwrap_or(1);
        Ok(places)
    }

    /// The same in cells as `device` reads them: eight elements on software adapters only.
    pub(in crate::ops) fn on(mut self, device: &DeviceProfile) -> Self {
        if device.class != DeviceClass::Software {
            self.cell = self.cell.min(4);
        }
        self
    }

    /// Bytes that a kernel must move that touches `tensors` values per transformed
    /// element, and copies what passes through unless it works in place.
    pub(in crate::ops) fn bytes(&self, tensors: usize, in_place: bool) -> usize {
        let copied = if in_place { 0 } else { 2 * self.kept_elements };
        4 * self.samples * (tensors * self.elements + copied)
    }

    /// Calls `f(x, s, t, n)` with the positions of every transformed element, its raw
    /// scale and its shift, and the sample.
    pub(in crate::ops) fn each(
        &self,
        params: &CouplingParams,
        mut f: impl FnMut(usize, usize, usize, usize),
    ) {
        for n in 0..self.samples {
            for channel in 0..self.moved.count {
                for p in 0..self.plane {
                    if let CouplingMask::Checkerboard { parity } = params.mask
                        && (p / self.width + p % self.width) % 2 == parity
                    {
                        continue;
                    }
                    let x = self.moved.first + channel * self.moved.step;
                    let raw = |first: usize| {
                        n * self.raw_sample + (first + channel * self.raw_step) * self.plane + p
                    };
                    f(
                        n * self.x_sample + x * self.plane + p,
                        raw(self.scale_first),
                        raw(self.shift_first),
                        n,
                    );
                }
            }
        }
    }
}

/// Raw channels of the first scale and shift, and the step to the next.
pub(super) struct RawPlaces {
    pub scale: usize,
    pub shift: usize,
    pub step: usize,
}

/// Where raw scales and shifts lie in the raw tensor for `channels` channels.
pub(super) fn scale_and_shift(params: &CouplingParams, channels: usize) -> RawPlaces {
    let count = params.transformed(channels);
    let (scale, shift, step) = match (params.scale, params.layout) {
        (CouplingScale::None, _) => (0, 0, 1),
        (_, RawLayout::ScaleShift) => (0, count, 1),
        (_, RawLayout::ShiftScale) => (count, 0, 1),
        (_, RawLayout::ScaleShiftInterleaved) => (0, 1, 2),
        (_, RawLayout::ShiftScaleInterleaved) => (1, 0, 2),
    };
    RawPlaces { scale, shift, step }
}

fn check_numbers(op: &str, params: &CouplingParams) -> Result<()> {
    match params.scale {
        CouplingScale::Tanh { clamp } if !(clamp > 0.0 && clamp.is_finite()) => {
            let detail = format!("the bound of the log-scale is {clamp}; it must be above 0");
            return Err(Error::argument(op, detail));
        }
        CouplingScale::Sigmoid { offset } if !offset.is_finite() => {
            return Err(Error::argument(op, format!("the offset is {offset}")));
        }
        _ => {}
    }
    if !(params.minimum >= 0.0 && params.minimum.is_finite()) {
        return Err(Error::argument(
            op,
            format!(
                "the least scale is {}; it must be 0 or above",
                params.minimum
            ),
        ));
    }
    Ok(())
}
