//! Element types.

/// The element type of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit float: everything that is computed.
    F32,
    /// 16-bit float: storage only; two of them share a 32-bit word on the GPU, and
    /// kernels that read them compute in 32 bits.
    F16,
    /// Unsigned 32-bit integer: indices, labels, random bits.
    U32,
}

impl DType {
    /// The type's name in WGSL bindings.
    pub fn wgsl(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 | DType::U32 => "u32",
        }
    }

    /// Bytes that `n` elements take on the GPU (a multiple of four).
    pub fn bytes(self, n: usize) -> u64 {
        match self {
            DType::F32 | DType::U32 => 4 * n as u64,
            DType::F16 => 4 * n.div_ceil(2) as u64,
        }
    }
}

/// Values as pairs of 16-bit floats, rounded to the nearest, the first of a pair in the
/// low half of its word. Or what is wrong: a value that is not finite or beyond 65,504,
/// the largest there is.
pub(crate) fn halves(values: &[f32]) -> Result<Vec<u32>, String> {
    let largest = half::f16::MAX.to_f32();
    if let Some(at) = values.iter().position(|v| v.is_nan() || v.abs() > largest) {
        return Err(format!(
            "element {at} is {}, 16-bit floats end at {largest}",
            values[at]
        ));
    }
    let bits = |v: &f32| u32::from(half::f16::from_f32(*v).to_bits());
    let pair = |pair: &[f32]| bits(&pair[0]) | pair.get(1).map_or(0, bits) << 16;
    Ok(values.chunks(2).map(pair).collect())
}

/// The element at `i` of words that [`halves`] made.
pub(crate) fn half_at(words: &[u32], i: usize) -> f32 {
    half::f16::from_bits((words[i / 2] >> (16 * (i % 2))) as u16).to_f32()
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::U32 => "u32",
        })
    }
}
