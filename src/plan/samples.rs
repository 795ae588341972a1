//! Ops with tensors beyond what a device binds at once, computed for some samples at a
//! time. A part binds windows of its tensors.

use super::places::ALIGN;
use crate::DType;
use crate::device::DeviceProfile;
use crate::graph::{Op, Samples, Spec};
use crate::{Result, Shape};

/// A piece of a tensor, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub offset: u64,
    pub bytes: u64,
}

/// An op as it is lowered: the whole of it, or some of its samples.
#[derive(Debug)]
pub(super) struct Part {
    pub inputs: Vec<Spec>,
    pub outputs: Vec<Spec>,
    /// What is bound of each; all of it where there is none.
    pub reads: Vec<Option<Window>>,
    pub writes: Vec<Option<Window>>,
}

/// The parts of an op, and whether their results are to be added up: then each writes its
/// window of memory for all of them.
#[derive(Debug)]
pub(super) struct Parts {
    pub parts: Vec<Part>,
    pub added: bool,
}

impl Parts {
    /// Bytes from one part's results to the next one's, where they are added up.
    pub fn stride(&self) -> u64 {
        let second = self.parts.get(1).and_then(|p| *p.writes.first()?);
        second.map_or(0, |w| w.offset)
    }

    /// Bytes of all results that are to be added up.
    pub fn sums(&self) -> Option<u64> {
        let last = self.parts.last().and_then(|p| *p.writes.first()?);
        last.filter(|_| self.added).map(|w| w.offset + w.bytes)
    }
}

/// The greatest common divisor.
fn common(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { common(b, a % b) }
}

/// The same with another first extent.
fn with_samples(spec: &Spec, samples: usize) -> Spec {
    let mut dims = spec.shape.dims().to_vec();
    if let Some(first) = dims.first_mut() {
        *first = samples;
    }
    Spec {
        shape: Shape::from(dims),
        dtype: spec.dtype,
    }
}

/// How an op is lowered. One whole part where everything can be bound, and where nothing
/// helps: then the limits are what errors name.
pub(super) fn parts(
    op: &dyn Op,
    inputs: &[Spec],
    outputs: &[Spec],
    profile: &DeviceProfile,
) -> Result<Parts> {
    let whole = || Parts {
        parts: vec![Part {
            inputs: inputs.to_vec(),
            outputs: outputs.to_vec(),
            reads: vec![None; inputs.len()],
            writes: vec![None; outputs.len()],
        }],
        added: false,
    };
    let all = || inputs.iter().chain(outputs);
    if all().all(|s| s.bytes() <= profile.max_binding) {
        return Ok(whole());
    }
    let (of, added) = match op.samples(inputs) {
        Some(Samples::Apart(of)) => (of, false),
        Some(Samples::Added(of)) if outputs.len() == 1 => (of, true),
        _ => return Ok(whole()),
    };
    let first = |s: &Spec| s.shape.dims().first().copied();
    let Some(samples) = of.first().and_then(|i| first(inputs.get(*i)?)) else {
        return Ok(whole());
    };
    let cut_outputs = if added { &[][..] } else { outputs };
    let cut: Vec<&Spec> = (of.iter().filter_map(|i| inputs.get(*i)))
        .chain(cut_outputs)
        .collect();
    if cut
        .iter()
        .any(|s| first(s) != Some(samples) || s.dtype == DType::F16)
    {
        return Ok(whole());
    }
    // As many as fit, in steps after which every window begins where bindings may.
    let align = ALIGN.max(profile.offset_alignment);
    let (mut step, mut most) = (1, samples as u64);
    for spec in &cut {
        let each = spec.bytes() / samples as u64;
        let apart = align / common(each, align);
        step = step / common(step, apart) * apart;
        most = most.min(profile.max_binding / each.max(1));
    }
    let count = (most / step * step) as usize;
    if count == 0 || count >= samples {
        return Ok(whole());
    }
    let window = |spec: &Spec, from: usize, len: usize| {
        let each = spec.bytes() / samples as u64;
        Some(Window {
            offset: each * from as u64,
            bytes: each * len as u64,
        })
    };
    let mut parts = Vec::new();
    for from in (0..samples).step_by(count) {
        let len = count.min(samples - from);
        let mut part = Part {
            inputs: inputs.to_vec(),
            outputs: Vec::new(),
            reads: vec![None; inputs.len()],
            writes: Vec::new(),
        };
        for i in &of {
            part.inputs[*i] = with_samples(&inputs[*i], len);
            part.reads[*i] = window(&inputs[*i], from, len);
        }
        let seen: Vec<&Spec> = part.inputs.iter().collect();
        part.outputs = op.infer(&seen)?;
        part.writes = match added {
            true => {
                let bytes = outputs[0].bytes();
                let offset = bytes.next_multiple_of(align) * parts.len() as u64;
                vec![Some(Window { offset, bytes })]
            }
            false => outputs.iter().map(|s| window(s, from, len)).collect(),
        };
        parts.push(part);
    }
    Ok(Parts { parts, added })
}
