//! What a device allows: large pointwise work is cut into chunks, work on samples was
//! cut in `samples.rs`; everything else that exceeds a limit is an error before anything
//! is allocated.

use super::fused::{Reach, Walk};
use super::places::ALIGN;
use super::updates::overlap;
use super::{BufferPlan, Step};
use crate::device::DeviceProfile;
use crate::graph::Access;
use crate::{Error, Result};

/// Splits a pointwise dispatch whose operands exceed a binding, and sets its grid.
pub(super) fn chunk(
    mut step: Step,
    walk: &Walk,
    profile: &DeviceProfile,
    out: &mut Vec<Step>,
) -> Result<()> {
    let n = u64::from(step.args[0]);
    step.bytes = step
        .bindings
        .iter()
        .map(|(s, a)| s.bytes * if *a == Access::ReadWrite { 2 } else { 1 })
        .sum();
    let divisible = !walk.reach.contains(&Reach::Placed);
    let per_binding = profile.max_binding / ALIGN * ALIGN / 4;
    let size = if 4 * n > profile.max_binding && divisible {
        per_binding
    } else {
        n
    };
    let mut done = 0;
    while done < n {
        let count = size.min(n - done);
        let mut part = step.clone();
        part.args[0] = count as u32;
        part.flops = step.flops * count / n;
        part.bytes = step.bytes * count / n;
        for ((slice, _), reach) in part.bindings.iter_mut().zip(&walk.reach) {
            if *reach == Reach::Along && size < n {
                slice.offset += 4 * done;
                slice.bytes = 4 * count;
            }
        }
        let groups = count.div_ceil(64 * walk.each as u64);
        let y = groups.div_ceil(u64::from(profile.max_groups)).max(1);
        if y > u64::from(profile.max_groups) {
            return Err(Error::LimitExceeded {
                what: format!("{} (workgroups)", part.op),
                needed: groups,
                available: u64::from(profile.max_groups).pow(2),
            });
        }
        part.grid = [groups.div_ceil(y) as u32, y as u32, 1];
        out.push(part);
        done += count;
    }
    Ok(())
}

pub(super) fn check_limits(
    steps: &[Step],
    buffers: &[BufferPlan],
    profile: &DeviceProfile,
) -> Result<()> {
    for step in steps {
        if let Some((slice, _)) = step
            .bindings
            .iter()
            .find(|(s, _)| s.bytes > profile.max_binding)
        {
            return Err(Error::LimitExceeded {
                what: format!(
                    "a tensor of `{}` (bytes of one binding; pointwise chains are split, convolutions, pools and most reductions by samples: take fewer samples at a time, or smaller images, and add up)",
                    step.op
                ),
                needed: slice.bytes,
                available: profile.max_binding,
            });
        }
        if step.bindings.len() > profile.max_bindings {
            return Err(Error::LimitExceeded {
                what: format!("`{}` (storage bindings)", step.op),
                needed: step.bindings.len() as u64,
                available: profile.max_bindings as u64,
            });
        }
        for (i, (a, access_a)) in step.bindings.iter().enumerate() {
            for (b, access_b) in &step.bindings[i + 1..] {
                let reads = [access_a, access_b]
                    .iter()
                    .filter(|x| ***x == Access::Read)
                    .count();
                if a.buffer == b.buffer && (reads == 1 || reads == 0 && overlap(a, b)) {
                    return Err(Error::Graph(format!(
                        "`{}` would bind one buffer for reading and writing; this is a bug in the planner",
                        step.op
                    )));
                }
            }
        }
    }
    if let Some(large) = buffers.iter().find(|b| b.bytes > profile.max_buffer) {
        return Err(Error::LimitExceeded {
            what: format!("a buffer ({:?}, bytes)", large.role),
            needed: large.bytes,
            available: profile.max_buffer,
        });
    }
    Ok(())
}
