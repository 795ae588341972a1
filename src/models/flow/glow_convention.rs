//! In what implementations of Glow differ: layout, parametrisation, and what stands at an
//! image's border.

use crate::flow::{ActNormScale, PriorLayout};
use crate::ops::RawLayout;

/// Details in which implementations of Glow differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GlowConvention {
    /// This crate's: actnorm holds `log_scale`, convolutions pad with zeros, raw scales
    /// stand before shifts, the top's mean and log-deviation are one number per channel.
    House,
    /// rosinality/glow-pytorch: actnorm holds `scale` as it multiplies, convolutions that
    /// start as zero pad with ones, the top's prior is such a convolution over zeros; the
    /// last level's 1x1 convolutions are held as factors even with
    /// [`Mixing::Full`](super::Mixing::Full).
    Rosinality,
    /// openai/glow: actnorm holds a third of the log-scale, networks have actnorm instead
    /// of biases, 3x3 convolutions have one more input channel that marks the border,
    /// shifts and raw scales (means and log-deviations in splits) alternate.
    OpenAi,
}

impl GlowConvention {
    pub(super) fn border(self) -> Border {
        match self {
            GlowConvention::House => Border::Zeros,
            GlowConvention::Rosinality => Border::Ones,
            GlowConvention::OpenAi => Border::EdgeChannel,
        }
    }

    pub(super) fn actnorm(self) -> ActNormScale {
        match self {
            GlowConvention::House => ActNormScale::Log { factor: 1.0 },
            GlowConvention::Rosinality => ActNormScale::Multiplicative,
            GlowConvention::OpenAi => ActNormScale::Log { factor: 3.0 },
        }
    }

    pub(super) fn raw(self) -> RawLayout {
        match self {
            GlowConvention::OpenAi => RawLayout::ShiftScaleInterleaved,
            _ => RawLayout::ScaleShift,
        }
    }

    pub(super) fn split(self) -> PriorLayout {
        match self {
            GlowConvention::OpenAi => PriorLayout::Interleaved,
            _ => PriorLayout::Halves,
        }
    }
}

/// What a 3x3 convolution sees beyond the border of its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Border {
    /// Zeros.
    Zeros,
    /// Ones in every channel.
    Ones,
    /// Zeros, and one more input channel (the last one) that is 1 beyond the border and 0
    /// inside.
    EdgeChannel,
}
