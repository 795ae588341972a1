//! Products of odd extents on adapters with subgroups: operands are copied into whole
//! vec4s first, then multiplied by the kernel of `shuffle.rs`.

use super::problem::Product;
use super::shuffle::Shuffle;
use crate::Result;
use crate::device::DeviceProfile;
use crate::graph::{Lower, Slot};
use crate::ops::variant::Variant;

/// Operations of one product of a batch from which copies of operands with odd extents
/// pay: they are then read in vectors.
const LARGE: usize = 1 << 25;

pub(in crate::ops) struct Packed;

impl Variant<Product> for Packed {
    fn name(&self) -> &'static str {
        "packed"
    }

    fn possible(&self, p: &Product, device: &DeviceProfile) -> bool {
        let lanes = device.subgroup_size.unwrap_or(0) as usize;
        let most = device.max_binding as usize / 4;
        let packed = |extent: usize| p.batch * (extent + 128) * (p.k + 4);
        (4..=64).contains(&lanes) && packed(p.m.max(p.n)) <= most
    }

    /// What can be read where it lies is not worth copying.
    fn pays(&self, p: &Product, device: &DeviceProfile) -> bool {
        !Shuffle::reads(p, device) && p.m >= 64 && p.n >= 64 && p.flops() / p.batch.max(1) >= LARGE
    }

    fn lower(&self, p: &Product, cx: &mut Lower<'_>) -> Result<()> {
        p.shuffle_to(cx, true, None, Slot::Out(0))
    }
}
