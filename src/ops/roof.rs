//! What an adapter can do at most: ops that only calculate or only move data, for
//! [`crate::device::Roof`].

use crate::device::DeviceClass;
use crate::graph::{Array, Lower, Op, Slot, Spec, Tensor};
use crate::{DType, Error, Result};

const ARITHMETIC: &str = include_str!("../../shaders/roof_arithmetic.wgsl");
const COPY: &str = include_str!("../../shaders/roof_copy.wgsl");

/// Steps of one unit of work, which are that many trips of a loop of some steps each.
const ROUNDS: usize = 16;
/// Those of a trip on software adapters: their compiler puts a chain's steps behind each
/// other, and a core looks for other chains only so far ahead.
const FEW: usize = 4;
/// Chains of one invocation.
const CHAINS: usize = 12;
/// Every chain tends to 1, whatever it starts from and however long it runs.
const SCALE: f32 = 0.9;
const SHIFT: f32 = 0.1;

/// Multiply-adds in registers and nothing else.
#[derive(Debug)]
struct Arithmetic {
    trips: usize,
}

impl Op for Arithmetic {
    fn name(&self) -> &'static str {
        "roof_arithmetic"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        check_f32(self.name(), inputs[0])?;
        Ok(vec![inputs[0].clone()])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let x = inputs[0];
        let decay = f64::from(SCALE).powi((ROUNDS * self.trips) as i32);
        let limit = f64::from(SHIFT) / (1.0 - f64::from(SCALE));
        // The starts of the twelve chains lie evenly around x.
        let end = x.data.iter().map(|v| limit + (v - limit) * decay);
        Ok(vec![Array::new(x.shape.clone(), end.collect())?])
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let n = cx.input(0).shape.numel();
        let rounds = match cx.device().class {
            DeviceClass::Software => FEW,
            _ => ROUNDS,
        };
        let trips = self.trips * (ROUNDS / rounds);
        cx.kernel("roof_arithmetic", ARITHMETIC)
            .define("ROUNDS", rounds)
            .arg("n", n)
            .arg("trips", trips)
            .arg_f32("scale", SCALE)
            .arg_f32("shift", SHIFT)
            .read(Slot::In(0))
            .write(Slot::Out(0))
            .flops(n * self.trips * ROUNDS * CHAINS * 2)
            .trips(trips)
            .threads(n, 64)
    }
}

/// A copy by the widest words that an adapter moves well.
#[derive(Debug)]
struct Copy;

impl Op for Copy {
    fn name(&self) -> &'static str {
        "roof_copy"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        check_f32(self.name(), inputs[0])?;
        let n = inputs[0].shape.numel();
        match n.is_multiple_of(4) {
            true => Ok(vec![inputs[0].clone()]),
            false => Err(Error::shape(
                self.name(),
                format!("{n} elements are not a multiple of four"),
            )),
        }
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        Ok(vec![inputs[0].clone()])
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let n = cx.input(0).shape.numel();
        let (each, name) = match cx.device().elements_each(n) {
            8 => (8, "Oct"),
            _ => (4, "vec4f"),
        };
        let n = n / each;
        cx.kernel("roof_copy", COPY)
            .define("TYPE", name)
            .arg("n", n)
            .read(Slot::In(0))
            .write(Slot::Out(0))
            .threads(n, 64)
    }
}

fn check_f32(op: &str, x: &Spec) -> Result<()> {
    match x.dtype {
        DType::F32 => Ok(()),
        other => Err(Error::dtype(op, format!("expected f32, got {other}"))),
    }
}

impl Tensor {
    /// `16 * trips` steps `v = 0.9 v + 0.1` of every element, twelve times over:
    /// a kernel of arithmetic alone, which shows what an adapter can calculate at
    /// most. See [`crate::device::Roof`].
    #[track_caller]
    pub fn roof_arithmetic(&self, trips: usize) -> Tensor {
        self.graph().push1(Arithmetic { trips }, &[self])
    }

    /// A copy by a kernel, never fused or left out: shows what an adapter can move at
    /// most. The number of elements must be a multiple of four.
    #[track_caller]
    pub fn roof_copy(&self) -> Tensor {
        self.graph().push1(Copy, &[self])
    }
}
