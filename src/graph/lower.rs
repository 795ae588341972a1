//! What an op says when it is lowered: dispatches as plain data.
//!
//! This is the one place where grids are folded, workgroup counts checked, and
//! the loop budget of software adapters enforced.

use std::borrow::Cow;
use std::sync::Arc;

use super::Spec;
use crate::device::{DeviceClass, DeviceProfile, LOOP_BUDGET};
use crate::{DType, Error, Result};

/// A value a dispatch touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Slot {
    /// Input `i` of the op.
    In(usize),
    /// Output `i` of the op.
    Out(usize),
    /// Scratch memory of the op, from [`Lower::scratch`].
    Scratch(usize),
}

/// How a dispatch touches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// `var<storage, read>`
    Read,
    /// `var<storage, read_write>`, every element the value needs is written.
    Write,
    /// `var<storage, read_write>`, read before it is written.
    ReadWrite,
}

/// One binding of a dispatch, in the order of `@binding(i)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bind {
    /// Which value.
    pub slot: Slot,
    /// How it is touched.
    pub access: Access,
}

/// One dispatch: a kernel, its bindings and its grid.
#[derive(Debug, Clone)]
pub struct Dispatch {
    /// The kernel's name, that of its shader file.
    pub kernel: String,
    /// Which variant of it (empty where there is only one).
    pub variant: String,
    /// The WGSL text before preprocessing.
    pub source: Arc<str>,
    /// Values for `${NAME}` and `#if NAME`, part of the pipeline's identity.
    pub defines: Vec<(String, String)>,
    /// The bindings in order.
    pub bindings: Vec<Bind>,
    /// The words of `struct Args`.
    pub args: Vec<u32>,
    /// What each of them is called there.
    pub arg_names: Vec<Cow<'static, str>>,
    /// Workgroups.
    pub grid: [u32; 3],
    /// Floating-point operations, for the profiler.
    pub flops: u64,
    /// Bytes that must be moved at least, for the profiler.
    pub bytes: u64,
    /// Loop iterations of one invocation at most, nested loops multiplied.
    pub trips: u64,
    /// Whether the program's tickets are bound too, after everything else: see
    /// `shaders/lib/grid.wgsl`.
    pub dealt: bool,
}

/// Collects the dispatches of one op.
pub struct Lower<'a> {
    op: &'static str,
    inputs: Vec<Spec>,
    outputs: Vec<Spec>,
    device: &'a DeviceProfile,
    dispatches: Vec<Dispatch>,
    scratch: Vec<u64>,
    /// Which scratch memory holds 16-bit floats.
    halves: Vec<usize>,
    in_place: Vec<usize>,
}

impl<'a> Lower<'a> {
    /// A collector for an op with these inputs and outputs.
    pub fn new(
        op: &'static str,
        inputs: Vec<Spec>,
        outputs: Vec<Spec>,
        device: &'a DeviceProfile,
    ) -> Self {
        Lower {
            op,
            inputs,
            outputs,
            device,
            dispatches: Vec::new(),
            scratch: Vec::new(),
            halves: Vec::new(),
            in_place: Vec::new(),
        }
    }

    /// The same with outputs that overwrite their inputs.
    pub(crate) fn overwriting(mut self, outputs: Vec<usize>) -> Self {
        self.in_place = outputs;
        self
    }

    /// Whether output `i` overwrites the input that [`Op::in_place`](super::Op::in_place)
    /// pairs it with.
    pub fn in_place(&self, i: usize) -> bool {
        self.in_place.contains(&i)
    }

    /// Shape and type of input `i`.
    pub fn input(&self, i: usize) -> &Spec {
        &self.inputs[i]
    }

    /// The number of inputs.
    pub fn inputs(&self) -> usize {
        self.inputs.len()
    }

    /// Shape and type of output `i`.
    pub fn output(&self, i: usize) -> &Spec {
        &self.outputs[i]
    }

    /// Whether a slot holds 16-bit floats.
    pub fn is_f16(&self, slot: Slot) -> bool {
        match slot {
            Slot::In(i) => self.inputs[i].dtype == DType::F16,
            Slot::Scratch(i) => self.halves.contains(&i),
            Slot::Out(_) => false,
        }
    }

    /// The device that is planned for.
    pub fn device(&self) -> &'a DeviceProfile {
        self.device
    }

    /// Memory of `bytes` that lives only during this op.
    pub fn scratch(&mut self, bytes: u64) -> Slot {
        self.scratch.push(bytes.max(4));
        Slot::Scratch(self.scratch.len() - 1)
    }

    /// Memory for so many floats (an even number), stored as those of `slot` are.
    pub(crate) fn scratch_like(&mut self, slot: Slot, floats: u64) -> Slot {
        let half = self.is_f16(slot);
        let scratch = self.scratch(if half { 2 } else { 4 } * floats);
        if half {
            self.halves.push(self.scratch.len() - 1);
        }
        scratch
    }

    /// Starts a dispatch of the kernel `name` with the given WGSL text.
    pub fn kernel(&mut self, name: &str, source: &str) -> KernelBuilder<'_, 'a> {
        let wide = self.device.reads_pairs();
        KernelBuilder {
            dispatch: Dispatch {
                kernel: name.into(),
                variant: String::new(),
                source: source.into(),
                defines: vec![("WIDE".into(), u32::from(wide).to_string())],
                bindings: Vec::new(),
                args: Vec::new(),
                arg_names: Vec::new(),
                grid: [1, 1, 1],
                flops: 0,
                bytes: 0,
                trips: 1,
                dealt: false,
            },
            lower: self,
            stored: Vec::new(),
            shuffles: 0,
        }
    }

    /// What was emitted: the dispatches, and the sizes of scratch memory.
    pub fn finish(self) -> (Vec<Dispatch>, Vec<u64>) {
        (self.dispatches, self.scratch)
    }
}

/// Describes one dispatch; [`KernelBuilder::groups`] or
/// [`KernelBuilder::threads`] ends it.
pub struct KernelBuilder<'l, 'a> {
    lower: &'l mut Lower<'a>,
    dispatch: Dispatch,
    /// What the text was told the storage of.
    stored: Vec<Slot>,
    /// Lanes of a subgroup that shuffles take values from.
    shuffles: usize,
}

impl KernelBuilder<'_, '_> {
    /// Names the variant, for plans and tests.
    pub fn variant(mut self, name: impl Into<String>) -> Self {
        self.dispatch.variant = name.into();
        self
    }

    /// Sets `${name}` in the text. Every set of values compiles to its own pipeline.
    pub fn define(mut self, name: &str, value: impl ToString) -> Self {
        self.dispatch.defines.push((name.into(), value.to_string()));
        self
    }

    /// Tells the text how the floats of `slot` are stored, by the defines `TYPE_name`,
    /// `HALF_name` and `HALF` that `shaders/lib/half.wgsl` explains.
    pub fn stored(mut self, name: &str, slot: Slot) -> Self {
        self.stored.push(slot);
        let half = self.lower.is_f16(slot);
        let kernel = match half {
            true => self.define("HALF", 1),
            false => self,
        };
        kernel
            .define(&format!("TYPE_{name}"), if half { "u32" } else { "f32" })
            .define(&format!("HALF_{name}"), u32::from(half))
    }

    /// The kernel shuffles, and takes values from the first `lanes` lanes of a subgroup. A
    /// lane that does not exist has no value: some drivers give zeros then, others whatever
    /// stands in a register. So a device whose subgroups have fewer refuses the dispatch.
    pub fn shuffles(mut self, lanes: usize) -> Self {
        self.shuffles = lanes;
        self.define("SHUFFLES", lanes)
    }

    /// The next word of `struct Args`, and what it is called there: the crate's tests
    /// compare names and order for every kernel.
    pub fn arg(self, name: impl Into<Cow<'static, str>>, value: usize) -> Self {
        self.word(name.into(), value as u32)
    }

    /// The next word of `struct Args`, a signed one.
    pub fn arg_i32(self, name: impl Into<Cow<'static, str>>, value: isize) -> Self {
        self.word(name.into(), value as i32 as u32)
    }

    /// The next word of `struct Args`, a float.
    pub fn arg_f32(self, name: impl Into<Cow<'static, str>>, value: f32) -> Self {
        self.word(name.into(), value.to_bits())
    }

    fn word(mut self, name: Cow<'static, str>, word: u32) -> Self {
        self.dispatch.args.push(word);
        self.dispatch.arg_names.push(name);
        self
    }

    /// The next binding, read only.
    pub fn read(self, slot: Slot) -> Self {
        self.bind(slot, Access::Read)
    }

    /// The next binding, written.
    pub fn write(self, slot: Slot) -> Self {
        self.bind(slot, Access::Write)
    }

    /// The next binding.
    pub fn bind(mut self, slot: Slot, access: Access) -> Self {
        self.dispatch.bindings.push(Bind { slot, access });
        self
    }

    /// Floating-point operations of the dispatch.
    pub fn flops(mut self, flops: usize) -> Self {
        self.dispatch.flops = flops as u64;
        self
    }

    /// Bytes the dispatch must move; by default all bindings once.
    pub fn bytes(mut self, bytes: usize) -> Self {
        self.dispatch.bytes = bytes as u64;
        self
    }

    /// The loop iterations of one invocation at most, nested loops multiplied.
    pub fn trips(mut self, trips: usize) -> Self {
        self.dispatch.trips = trips as u64;
        self
    }

    /// Ends the dispatch with at least `total` invocations in workgroups of
    /// `size` along x. Large grids are folded into y: the shader finds its flat
    /// index with `flat_index` from `shaders/lib/grid.wgsl`.
    pub fn threads(self, total: usize, size: usize) -> Result<()> {
        self.flat_groups(total.div_ceil(size.max(1)))
    }

    /// Ends the dispatch like [`threads`](Self::threads), for subgroups that work for long.
    /// Software adapters give every thread of theirs the same number of workgroups
    /// beforehand and wait for the slowest. There the grid has more subgroups than are
    /// needed, each takes the next number when it starts (`shaders/lib/grid.wgsl`), and a
    /// thread that came late or is slow takes fewer.
    pub(crate) fn dealt(mut self, total: usize, size: usize) -> Result<()> {
        let device = self.lower.device;
        let lanes = device.subgroup_size.unwrap_or(1) as usize;
        let subgroups = total.div_ceil(lanes);
        let pays = device.class == DeviceClass::Software
            && lanes > 1
            && size.is_multiple_of(lanes)
            && (size / lanes).is_power_of_two()
            && self.dispatch.flops / subgroups.max(1) as u64 >= device.dealt_flops
            && self.dispatch.bindings.len() < device.max_bindings;
        if !pays {
            return self.threads(total, size);
        }
        self.dispatch.dealt = true;
        let tickets = self.dispatch.bindings.len();
        // At least a quarter more, so that one thread can do as much more than its share;
        // a power of two, so that counters may overflow.
        let subgroups = (subgroups + subgroups / 4).next_power_of_two();
        let groups = (subgroups * lanes).div_ceil(size);
        let x = groups.min(1 << device.max_groups.ilog2());
        self.define("DEALT", lanes)
            .define("TICKETS", tickets)
            .groups([x, groups / x, 1])
    }

    /// Ends the dispatch with at least `groups` workgroups, folded into y where
    /// x does not suffice: the shader finds its number with `flat_group`.
    pub fn flat_groups(self, groups: usize) -> Result<()> {
        let max = self.lower.device.max_groups as usize;
        let y = groups.div_ceil(max).max(1);
        let x = groups.div_ceil(y);
        self.groups([x, y, 1])
    }

    /// Ends the dispatch with exactly this grid of workgroups.
    pub fn groups(mut self, grid: [usize; 3]) -> Result<()> {
        let max = self.lower.device.max_groups;
        let what = |s: &str| format!("{} ({}): {s}", self.lower.op, self.dispatch.kernel);
        if let Some(too_many) = grid.iter().find(|g| **g > max as usize) {
            return Err(Error::LimitExceeded {
                what: what("workgroups per dimension"),
                needed: *too_many as u64,
                available: max as u64,
            });
        }
        if self.dispatch.bindings.len() > self.lower.device.max_bindings {
            return Err(Error::LimitExceeded {
                what: what("storage bindings"),
                needed: self.dispatch.bindings.len() as u64,
                available: self.lower.device.max_bindings as u64,
            });
        }
        let lanes = self.lower.device.subgroup_size.unwrap_or(1);
        if self.shuffles > lanes as usize {
            return Err(Error::LimitExceeded {
                what: what("lanes of a subgroup"),
                needed: self.shuffles as u64,
                available: u64::from(lanes),
            });
        }
        let untold = |b: &&Bind| self.lower.is_f16(b.slot) && !self.stored.contains(&b.slot);
        if self.dispatch.bindings.iter().any(|b| untold(&b)) {
            return Err(Error::dtype(
                self.lower.op,
                format!("`{}` does not read f16", self.dispatch.kernel),
            ));
        }
        if self.dispatch.trips > LOOP_BUDGET {
            return Err(Error::LimitExceeded {
                what: what("loop iterations of one invocation"),
                needed: self.dispatch.trips,
                available: LOOP_BUDGET,
            });
        }
        self.dispatch.grid = grid.map(|g| g as u32);
        if self.dispatch.bytes == 0 {
            self.dispatch.bytes = self
                .dispatch
                .bindings
                .iter()
                .map(|b| self.lower.slot_bytes(b.slot))
                .sum();
        }
        self.lower.dispatches.push(self.dispatch);
        Ok(())
    }
}

impl Lower<'_> {
    fn slot_bytes(&self, slot: Slot) -> u64 {
        match slot {
            Slot::In(i) => self.inputs[i].bytes(),
            Slot::Out(i) => self.outputs[i].bytes(),
            Slot::Scratch(i) => self.scratch[i],
        }
    }
}
