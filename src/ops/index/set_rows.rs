//! Rows written by index, into a copy or into a state where it lies.

use super::gather::expect_u32;
use crate::graph::{Access, Array, Graph, Lower, Op, Slot, Spec, Tensor, Vjp};
use crate::ops::reduce::axes::expect_f32;
use crate::{Error, Result};

const COPY: &str = include_str!("../../../shaders/view/copy.wgsl");
const LAST: &str = include_str!("../../../shaders/index/last_rows.wgsl");
const SHADER: &str = include_str!("../../../shaders/index/set_rows.wgsl");

/// Rows up to which each looks through all later ones for its own index.
const PAIRS: usize = 2048;

/// Numbers of rows that float32 tells apart.
const LARGEST_NUMBER: usize = 1 << 24;

/// `y = x`, then `y[idx[i], ..] = rows[i, ..]` for all `i` in order.
#[derive(Debug)]
struct SetRows {
    /// No index comes twice: nothing has to be found out.
    distinct: bool,
}

impl Op for SetRows {
    fn name(&self) -> &'static str {
        "set_rows"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        expect_f32(self.name(), &[inputs[0], inputs[2]])?;
        expect_u32(self.name(), inputs[1])?;
        let (x, idx, rows) = (&inputs[0].shape, &inputs[1].shape, &inputs[2].shape);
        let fits = x.rank() > 0
            && idx.rank() == 1
            && rows.rank() == x.rank()
            && rows[0] == idx[0]
            && rows.dims()[1..] == x.dims()[1..];
        if !fits {
            return Err(Error::shape(
                self.name(),
                format!(
                    "expected a tensor [K, ..], indices [N] and rows [N, ..], got {x:?}, {idx:?} and {rows:?}"
                ),
            ));
        }
        Ok(vec![inputs[0].clone()])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let mut out = inputs[0].clone();
        let width = out.numel() / out.shape[0];
        let rows = inputs[2].data.chunks(width);
        for (k, row) in inputs[1].data.iter().zip(rows) {
            if let Some(to) = out.data.chunks_mut(width).nth(*k as usize) {
                to.copy_from_slice(row);
            }
        }
        Ok(vec![out])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        let (idx, rows, dy) = (cx.input(1).clone(), cx.input(2).clone(), cx.grad(0));
        let (k, n) = (dy.dim(0), idx.numel());
        if cx.needs(0) {
            let op = SetRows {
                distinct: self.distinct,
            };
            let nothing = rows.zeros_like();
            cx.set(0, dy.graph().push1(op, &[&dy, &idx, &nothing]));
        }
        if cx.needs(2) {
            let width = rows.numel() / n;
            let mut grad = dy.reshape([k, width]).gather_rows(&idx);
            if !self.distinct {
                // Only the last of rows with one index was kept: those whose number
                // comes back when numbers are written and read by index.
                if n > LARGEST_NUMBER {
                    return Err(Error::LimitExceeded {
                        what: "set_rows: rows with a gradient".into(),
                        needed: n as u64,
                        available: LARGEST_NUMBER as u64,
                    });
                }
                let numbers: Vec<f32> = (1..=n).map(|i| i as f32).collect();
                let numbers = dy.graph().constant([n, 1], &numbers);
                let owner = dy.graph().full([k, 1], 0.0).set_rows(&idx, &numbers);
                grad = grad.mul(&owner.gather_rows(&idx).equal(&numbers).stop_gradient());
            }
            cx.set(2, grad.reshape(rows.shape()));
        }
        Ok(())
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let (x, rows) = (cx.input(0).shape.clone(), cx.input(2).shape.clone());
        let (k, n) = (x[0], rows[0]);
        let elements = x.numel() / k;
        if !cx.in_place(0) {
            let each = cx.device().elements_each(x.numel());
            cx.kernel("copy", COPY)
                .define("EACH", each)
                .arg("n", x.numel())
                .read(Slot::In(0))
                .write(Slot::Out(0))
                .threads(x.numel().div_ceil(each), 64)?;
        }
        let places = match self.distinct {
            true => Slot::In(1),
            false => last(cx, n, k)?,
        };
        let cell = if elements.is_multiple_of(4) { 4 } else { 1 };
        let total = rows.numel() / cell;
        cx.kernel("set_rows", SHADER)
            .variant(if cell == 4 { "vec4" } else { "scalar" })
            .define("VEC4", cell / 4)
            .arg("total", total)
            .arg("width", elements / cell)
            .arg("rows", k)
            .read(places)
            .read(Slot::In(2))
            .bind(Slot::Out(0), Access::ReadWrite)
            .bytes(8 * rows.numel())
            .threads(total, 64)
    }
}

/// For each of `n` indices whether it is the last of its kind: itself if it is, else one
/// past all `k` rows.
fn last(cx: &mut Lower<'_>, n: usize, k: usize) -> Result<Slot> {
    let places = cx.scratch(4 * n as u64);
    let idx = Slot::In(1);
    let owners = match n <= PAIRS {
        true => None,
        false => Some(cx.scratch(4 * k as u64)),
    };
    use Access::{Read, ReadWrite, Write};
    let mut phase = |name: &str, threads: usize, trips: usize, slots: &[(Slot, Access)]| {
        let mut kernel = cx
            .kernel("last_rows", LAST)
            .variant(name)
            .define("PHASE", name)
            .arg("count", n)
            .arg("rows", k);
        for (slot, access) in slots {
            kernel = kernel.bind(*slot, *access);
        }
        kernel.trips(trips).threads(threads, 64)
    };
    match owners {
        None => phase("pairs", n, n, &[(idx, Read), (places, Write)])?,
        Some(owners) => {
            phase("zero", k, 1, &[(owners, Write)])?;
            phase("mark", n, 1, &[(idx, Read), (owners, ReadWrite)])?;
            let slots = [(idx, Read), (owners, Read), (places, Write)];
            phase("own", n, 1, &slots)?;
        }
    }
    Ok(places)
}

/// Static indices as a tensor; an error where one comes twice or is out of range.
fn distinct(graph: &Graph, rows: usize, idx: &[usize]) -> Result<Tensor> {
    let mut seen = vec![false; rows];
    for (i, k) in idx.iter().enumerate() {
        let detail = match seen.get_mut(*k) {
            None => format!("index {k} (number {i}) is out of range for {rows} rows"),
            Some(true) => format!("index {k} (number {i}) comes twice"),
            Some(first) => {
                *first = true;
                continue;
            }
        };
        return Err(Error::argument("set_rows_at", detail));
    }
    let words: Vec<u32> = idx.iter().map(|k| *k as u32).collect();
    Ok(graph.constant_u32([words.len()], &words))
}

impl Tensor {
    /// This tensor `[K, ..]` with `rows` `[N, ..]` in place of its own at the u32 indices
    /// `idx` `[N]`. Of rows with equal indices the last one stays, always; indices out of
    /// range write nothing. Rows that do not stay have no gradient.
    #[track_caller]
    pub fn set_rows(&self, idx: &Tensor, rows: &Tensor) -> Tensor {
        let op = SetRows { distinct: false };
        self.graph().push1(op, &[self, idx, rows])
    }

    /// [`set_rows`](Self::set_rows) with indices known beforehand, one dispatch. Error: an
    /// index is out of range or comes twice.
    #[track_caller]
    pub fn set_rows_at(&self, idx: &[usize], rows: &Tensor) -> Tensor {
        match distinct(self.graph(), self.dim(0), idx) {
            Ok(at) => {
                let op = SetRows { distinct: true };
                self.graph().push1(op, &[self, &at, rows])
            }
            Err(e) => self.graph().poisoned(self.check().err().unwrap_or(e)),
        }
    }
}

impl Graph {
    /// When a program of this graph has run, the rows of `target` `[K, ..]` (a parameter
    /// or a state) at the u32 indices `idx` `[N]` hold `rows` `[N, ..]`, as by
    /// [`Tensor::set_rows`]: of equal indices the last one counts, indices out of range
    /// write nothing. Only these rows are written, where `target` lies.
    ///
    /// All reads of `target` in the graph see the old rows, as for [`Graph::assign`]; they
    /// are ordered before the write. A program that returns `target` itself copies it.
    /// Like any other assignment it is the only one of its target: batches of rows that
    /// belong together are joined with [`Tensor::concat`] first.
    #[track_caller]
    pub fn assign_rows(&self, target: &Tensor, idx: &Tensor, rows: &Tensor) {
        self.assign(target, &target.set_rows(idx, &computed(rows)));
    }

    /// [`assign_rows`](Self::assign_rows) with indices known beforehand. Error: an index is
    /// out of range or comes twice.
    #[track_caller]
    pub fn assign_rows_at(&self, target: &Tensor, idx: &[usize], rows: &Tensor) {
        self.assign(target, &target.set_rows_at(idx, &computed(rows)));
    }
}

/// The same values outside of all arenas: no dispatch may read an arena that it writes.
fn computed(rows: &Tensor) -> Tensor {
    match rows.is_stored() {
        true => rows.mul_scalar(1.0),
        false => rows.clone(),
    }
}
