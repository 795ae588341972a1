//! What the planner knows about a device: plain data, no GPU type.

mod choices;

pub use choices::Choices;

/// Which kind of adapter a kernel variant is chosen for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeviceClass {
    /// The CPU plays GPU (lavapipe, WARP).
    Software,
    /// Shares memory with the CPU.
    Integrated,
    /// Has memory of its own.
    Discrete,
}

impl DeviceClass {
    /// The default of [`DeviceProfile::dispatch_flops`], for slow adapters of the class.
    pub fn dispatch_flops(self) -> u64 {
        match self {
            DeviceClass::Software => 4 << 30,
            DeviceClass::Integrated => 32 << 30,
            DeviceClass::Discrete => 256 << 30,
        }
    }
}

/// Limits and features that lowering and planning depend on.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceProfile {
    /// The kind of adapter.
    pub class: DeviceClass,
    /// Lanes of a subgroup where subgroup operations may be used.
    pub subgroup_size: Option<u32>,
    /// `shader-f16` is available.
    pub f16: bool,
    /// `shader-int64` is available.
    pub int64: bool,
    /// Bytes of immediate data, 0 where there are none.
    pub immediates: u32,
    /// Timestamp queries inside passes are available.
    pub timestamps: bool,
    /// Largest storage binding, in bytes.
    pub max_binding: u64,
    /// Largest buffer, in bytes.
    pub max_buffer: u64,
    /// Storage bindings per dispatch.
    pub max_bindings: usize,
    /// Workgroups per grid dimension.
    pub max_groups: u32,
    /// Invocations per workgroup.
    pub max_invocations: u32,
    /// Bytes of workgroup memory.
    pub workgroup_memory: u32,
    /// Alignment of binding offsets, in bytes.
    pub offset_alignment: u64,
    /// Floating-point operations from which a convolution on a software adapter reads
    /// packed copies of its operands. Their kernels are long: what they save on small
    /// convolutions is less than the driver's compiler takes for them.
    pub packed_conv_flops: u64,
    /// Floating-point operations of a subgroup from which one on a software adapter takes
    /// its number when it starts, and not beforehand: `shaders/lib/grid.wgsl` says why.
    pub dealt_flops: u64,
    /// Floating-point operations that one dispatch should not exceed, where an op can be
    /// split: about a tenth of a second. Watchdogs reset GPUs after about two.
    pub dispatch_flops: u64,
    /// Measured choices among the variants of kernels; empty unless the device was tuned.
    pub choices: Choices,
}

/// The default of [`DeviceProfile::packed_conv_flops`].
pub const PACKED_CONV_FLOPS: u64 = 1 << 25;

/// The default of [`DeviceProfile::dealt_flops`]: fifteen microseconds of a core, to
/// which taking a number, and a subgroup that finds nothing to do, are little.
pub const DEALT_FLOPS: u64 = 1 << 19;

impl DeviceProfile {
    /// WebGPU's default limits without any optional feature: what every adapter can do.
    pub fn baseline() -> Self {
        DeviceProfile {
            class: DeviceClass::Integrated,
            subgroup_size: None,
            f16: false,
            int64: false,
            immediates: 0,
            timestamps: false,
            max_binding: 128 << 20,
            max_buffer: 256 << 20,
            max_bindings: 8,
            max_groups: 65_535,
            max_invocations: 256,
            workgroup_memory: 16 << 10,
            offset_alignment: 256,
            packed_conv_flops: PACKED_CONV_FLOPS,
            dealt_flops: DEALT_FLOPS,
            dispatch_flops: DeviceClass::Integrated.dispatch_flops(),
            choices: Choices::default(),
        }
    }
}

impl DeviceProfile {
    /// Whether kernels read two floats as one 64-bit integer, see `shaders/lib/wide.wgsl`.
    /// Elsewhere than on software adapters memory is read in whole transactions anyway.
    pub(crate) fn reads_pairs(&self) -> bool {
        self.int64 && self.class == DeviceClass::Software
    }

    /// Elements of `total` that one invocation of a kernel takes which only moves data: 8
    /// where every read and write of a lane has its price.
    pub(crate) fn elements_each(&self, total: usize) -> usize {
        match self.class {
            DeviceClass::Software if total >= 4096 && total.is_multiple_of(8) => 8,
            _ => 1,
        }
    }
}

/// Iterations that one invocation may spend in all its loops together. Lavapipe
/// silently ends loops after 65,535; kernels split their work to stay below this.
pub const LOOP_BUDGET: u64 = 60_000;

/// What an adapter can do at most, as measured on it.
///
/// A dispatch cannot take less than the longest of: its operations at the peak of
/// arithmetic, its bytes at the bandwidth of a copy, the cost of a dispatch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Roof {
    /// Floating-point operations a second, of multiply-adds in registers alone.
    pub flops: f64,
    /// Bytes a second, read and written bytes counted, of a copy between buffers
    /// that no cache holds.
    pub bytes: f64,
    /// Seconds of a dispatch that does next to nothing, in a chain of such.
    pub dispatch: f64,
}

impl Roof {
    /// The least time that this much work can take, in seconds.
    pub fn seconds(&self, flops: u64, bytes: u64, dispatches: usize) -> f64 {
        (flops as f64 / self.flops)
            .max(bytes as f64 / self.bytes)
            .max(dispatches as f64 * self.dispatch)
    }
}

impl std::fmt::Display for Roof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.1} GFLOP/s, {:.2} GB/s, {:.1} us a dispatch",
            self.flops / 1e9,
            self.bytes / 1e9,
            self.dispatch * 1e6
        )
    }
}
