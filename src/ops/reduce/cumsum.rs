//! Running sums along an axis.

use super::axes::{each, expect_f32, normalize_axes};
use crate::Result;
use crate::device::DeviceClass;
use crate::graph::{Array, Lower, Op, Slot, Spec, Tensor, Vjp};

const SHADER: &str = include_str!("../../../shaders/reduce/cumsum.wgsl");

/// The sum of all elements up to and with each, or from each on.
#[derive(Debug)]
struct Cumsum {
    axis: usize,
    reverse: bool,
}

impl Op for Cumsum {
    fn name(&self) -> &'static str {
        "cumsum"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        expect_f32(self.name(), inputs)?;
        Ok(vec![inputs[0].clone()])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let x = inputs[0];
        let mut sums = vec![0.0; x.numel() / x.shape[self.axis]];
        let mut out = Vec::with_capacity(x.numel());
        if self.reverse {
            each(x, &[self.axis], |o, _, v| sums[o] += v);
        }
        each(x, &[self.axis], |o, _, v| {
            if self.reverse {
                out.push(sums[o]);
                sums[o] -= v;
            } else {
                sums[o] += v;
                out.push(sums[o]);
            }
        });
        Ok(vec![Array::new(&x.shape, out)?])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        let op = Cumsum {
            axis: self.axis,
            reverse: !self.reverse,
        };
        let dy = cx.grad(0);
        cx.set(0, dy.graph().push1(op, &[&dy]));
        Ok(())
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let shape = cx.input(0).shape.clone();
        let extent = shape[self.axis];
        let rows = shape.numel() / extent;
        let inner: usize = shape.dims()[self.axis + 1..].iter().product();
        let (invocations, least) = match cx.device().class {
            DeviceClass::Software => (64, 2048),
            _ => (8192, 64),
        };
        let wanted = (invocations / rows).min(extent / least).min(1024);
        let parts = wanted.max(extent.div_ceil(32_768)).max(1);
        let chunk = extent.div_ceil(parts);
        let parts = extent.div_ceil(chunk);
        let (x, y) = (Slot::In(0), Slot::Out(0));
        let partial = (parts > 1).then(|| {
            let bytes = 4 * (rows * parts) as u64;
            (cx.scratch(bytes), cx.scratch(bytes))
        });
        let mut phase = |name: &str, from: Slot, to: Slot, before: Option<Slot>| {
            let threads = if name == "scan" { rows } else { rows * parts };
            let mut kernel = cx
                .kernel("cumsum", SHADER)
                .variant(name)
                .define("PHASE", name)
                .define("REVERSE", self.reverse as u32)
                .define("OFFSET", before.is_some() as u32)
                .arg("rows", rows)
                .arg("parts", parts)
                .arg("chunk", chunk)
                .arg("extent", extent)
                .arg("inner", inner)
                .read(from)
                .write(to);
            if let Some(before) = before {
                kernel = kernel.read(before);
            }
            kernel
                .flops(shape.numel())
                .trips(if name == "scan" { parts } else { chunk })
                .threads(threads, 64)
        };
        let Some((sums, before)) = partial else {
            return phase("write", x, y, None);
        };
        phase("sums", x, sums, None)?;
        phase("scan", sums, before, None)?;
        phase("write", x, y, Some(before))
    }
}

impl Tensor {
    /// Running sums along `axis` (from the end where negative), each element included.
    #[track_caller]
    pub fn cumsum(&self, axis: isize) -> Tensor {
        match normalize_axes("cumsum", self.shape(), &[axis]) {
            Ok(axes) => {
                let op = Cumsum {
                    axis: axes[0],
                    reverse: false,
                };
                self.graph().push1(op, &[self])
            }
            Err(e) => self.graph().poisoned(self.check().err().unwrap_or(e)),
        }
    }
}
