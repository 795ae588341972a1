//! Element types.

/// The element type of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit float: everything that is computed.
    F32,
    /// 16-bit float: storage only; two of them share a 32-bit word on the GPU.
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

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::U32 => "u32",
        })
    }
}
