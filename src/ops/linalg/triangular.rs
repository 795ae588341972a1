//! Triangular systems, and triangles of matrices.

use crate::device::{DeviceClass, LOOP_BUDGET};
use crate::graph::{Array, Lower, Op, Slot, Spec, Tensor, Vjp};
use crate::ops::reduce::axes::expect_f32;
use crate::{Error, Result, Shape};

const SHADER: &str = include_str!("../../../shaders/linalg/triangular.wgsl");
const SHUFFLE: &str = include_str!("../../../shaders/linalg/triangular_shuffle.wgsl");
/// Columns of right sides that one workgroup solves for.
const MOST_COLUMNS: usize = 32;

/// Which triangle of a matrix is meant, and how it enters a system of equations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Triangular {
    /// The upper triangle rather than the lower one.
    pub upper: bool,
    /// The transpose of that triangle is the system's matrix.
    pub transpose: bool,
    /// The diagonal is all ones, whatever stands there.
    pub unit_diagonal: bool,
}

impl Triangular {
    /// The lower triangle with its diagonal.
    pub fn lower() -> Self {
        Triangular {
            upper: false,
            transpose: false,
            unit_diagonal: false,
        }
    }

    /// The upper triangle with its diagonal.
    pub fn upper() -> Self {
        Triangular {
            upper: true,
            ..Triangular::lower()
        }
    }

    /// The same with ones for its diagonal.
    pub fn unit(self) -> Self {
        Triangular {
            unit_diagonal: true,
            ..self
        }
    }

    /// The transpose of the same triangle.
    pub fn transposed(self) -> Self {
        Triangular {
            transpose: !self.transpose,
            ..self
        }
    }
}

/// The rows of the square matrices `[.., n, n]`, or what is wrong with the shape.
pub(crate) fn square(op: &str, shape: &Shape) -> Result<usize> {
    match shape.dims() {
        [.., rows, columns] if rows == columns => Ok(*rows),
        _ => Err(Error::shape(
            op,
            format!("square matrices [.., n, n] are expected, got {shape:?}"),
        )),
    }
}

/// `op(T) x = b` with `T` the triangle `kind` of input 0 `[n, n]` (for all of the batch) or
/// `[.., n, n]`, and `b` input 1 `[.., n, columns]`.
#[derive(Debug)]
struct SolveTriangular {
    kind: Triangular,
    /// All of `x` where the diagonal has a zero.
    singular: f32,
}

impl SolveTriangular {
    fn check(&self, t: &Shape, b: &Shape) -> Result<()> {
        let n = square(self.name(), t)?;
        let fits = match b.dims() {
            [batch @ .., rows, _] => {
                let lead = &t.dims()[..t.rank() - 2];
                *rows == n && (lead == batch || lead.is_empty())
            }
            _ => false,
        };
        match fits {
            true => Ok(()),
            false => Err(Error::shape(
                self.name(),
                format!("a system of {t:?} takes right sides [.., {n}, m], got {b:?}"),
            )),
        }
    }
}

impl Op for SolveTriangular {
    fn name(&self) -> &'static str {
        "solve_triangular"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>> {
        expect_f32(self.name(), inputs)?;
        self.check(&inputs[0].shape, &inputs[1].shape)?;
        Ok(vec![inputs[1].clone()])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let (t, b) = (inputs[0], inputs[1]);
        let n = square(self.name(), &t.shape)?;
        let columns = b.numel()
            / b.shape.dims()[..b.shape.rank() - 1]
                .iter()
                .product::<usize>();
        let kind = self.kind;
        let mut x = b.data.clone();
        for (matrix, x) in x.chunks_mut(n * columns).enumerate() {
            let t = &t.data[matrix * n * n % t.numel()..][..n * n];
            let down = kind.upper == kind.transpose;
            let at = |i: usize, j: usize| match kind.transpose {
                true => t[j * n + i],
                false => t[i * n + j],
            };
            let diagonal = |i: usize| if kind.unit_diagonal { 1.0 } else { at(i, i) };
            for j in 0..columns {
                for step in 0..n {
                    let i = if down { step } else { n - 1 - step };
                    let known = if down { 0..i } else { i + 1..n };
                    let sum: f64 = known.map(|k| at(i, k) * x[k * columns + j]).sum();
                    x[i * columns + j] = (x[i * columns + j] - sum) / diagonal(i);
                }
            }
            if (0..n).any(|i| diagonal(i) == 0.0) {
                x.fill(self.singular as f64);
            }
        }
        Ok(vec![Array::new(&b.shape, x)?])
    }

    /// `db = op(T)^-T dx`, `dT = -tri(db x^T)` (its transpose where `op` transposes).
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<()> {
        let (t, x) = (cx.input(0).clone(), cx.output(0).clone());
        let db = t.solve_masked(&cx.grad(0), self.kind.transposed());
        if cx.needs(0) {
            let x = super::singular::finite(&x);
            let product = match self.kind.transpose {
                true => x.matmul_with(&db, false, true),
                false => db.matmul_with(&x, false, true),
            };
            let off = self.kind.unit_diagonal as isize;
            let triangle = match self.kind.upper {
                true => product.triu(off),
                false => product.tril(-off),
            };
            cx.set(0, triangle.neg().sum_to(t.shape()));
        }
        if cx.needs(1) {
            cx.set(1, db);
        }
        Ok(())
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let (t, b) = (cx.input(0).shape.clone(), cx.input(1).shape.clone());
        let n = square(self.name(), &t)?;
        let columns = b.dims()[b.rank() - 1];
        let batch = b.numel() / (n * columns);
        let kind = self.kind;
        if let Some(lanes) = shuffled(cx, n) {
            return self.shuffle(cx, [batch, n, columns], lanes);
        }
        // Idle lanes cost a software adapter as much as busy ones.
        let lanes = match cx.device().class {
            DeviceClass::Software => 32,
            _ => 64,
        };
        let share = columns.next_multiple_of(4).min(MOST_COLUMNS);
        let shares = columns.div_ceil(share);
        let tiles = share.div_ceil(4) * n.div_ceil(4);
        let rounds = n.div_ceil(8) * (1 + 2 * tiles.div_ceil(lanes)) + n;
        let (vec4, vec_t) = (columns.is_multiple_of(4), n.is_multiple_of(4));
        cx.kernel("triangular", SHADER)
            .define("LANES", lanes)
            .define("VEC4", vec4 as u32)
            .define("VEC_T", vec_t as u32)
            .define("TRANS", kind.transpose as u32)
            .arg("batch", batch)
            .arg("n", n)
            .arg("columns", columns)
            .arg("share", share)
            .arg("stride_t", if t.rank() == 2 { 0 } else { n * n })
            .arg("flags", self.flags())
            .arg_f32("singular", self.singular)
            .read(Slot::In(0))
            .read(Slot::In(1))
            .write(Slot::Out(0))
            .flops(batch * n * n * columns)
            .trips((n * share).div_ceil(lanes) + rounds)
            .flat_groups(batch * shares)
    }
}

/// Unknowns that a lane of triangular_shuffle.wgsl solves for at a time, at most. With 32
/// large systems take a seventh less time, and the driver's compiler three times as much.
const ROWS: usize = 16;

/// The lanes of a subgroup where such take a system, each with columns of its own.
fn shuffled(cx: &Lower<'_>, n: usize) -> Option<usize> {
    let device = cx.device();
    let lanes = device.subgroup_size? as usize;
    let fits = device.class == DeviceClass::Software
        && (4..=64).contains(&lanes)
        && shuffle_trips(n) <= LOOP_BUDGET as usize;
    fits.then_some(lanes)
}

/// The unknowns at a time: blocks of equal size, as far as fours go.
fn shuffle_rows(n: usize) -> usize {
    n.div_ceil(n.div_ceil(ROWS)).next_multiple_of(4)
}

/// Loop iterations of triangular_shuffle.wgsl, at most.
fn shuffle_trips(n: usize) -> usize {
    n + n.div_ceil(shuffle_rows(n)) * (n / 8 + 1)
}

impl SolveTriangular {
    /// Words for the kernels: whether the last unknown comes first, and the unit diagonal.
    fn flags(&self) -> usize {
        let reversed = self.kind.upper != self.kind.transpose;
        reversed as usize + 2 * self.kind.unit_diagonal as usize
    }

    fn shuffle(
        &self,
        cx: &mut Lower<'_>,
        [batch, n, columns]: [usize; 3],
        lanes: usize,
    ) -> Result<()> {
        let one = cx.input(0).shape.rank() == 2;
        let rows = shuffle_rows(n);
        // Few columns go to as many lanes as possible.
        let wide = columns > lanes && columns.is_multiple_of(4);
        let (width, [cell, v, read, store]) = match wide {
            true if columns.is_multiple_of(8) && columns > 4 * lanes => {
                (8, ["Oct", "vec4f", "", ""])
            }
            true => (4, ["Quad", "vec4f", "quad", "to_quad"]),
            false => (1, ["f32"; 4]),
        };
        // Of a transposed triangle a lane holds four unknowns of the rows before the block.
        let shuffles = match self.kind.transpose {
            true => lanes.min(rows).max(rows / 4),
            false => lanes.min(rows),
        };
        cx.kernel("triangular_shuffle", SHUFFLE)
            .variant(format!("{rows}x{}", width * lanes))
            .define("LANES", lanes)
            .shuffles(shuffles)
            .define("TM", rows)
            .define("HELD", rows.div_ceil(lanes))
            .define("WIDTH", width)
            .define("QUADS", width.div_ceil(4))
            .define("CELL", cell)
            .define("V", v)
            .define("READ", read)
            .define("STORE", store)
            .define("VEC_T", n.is_multiple_of(4) as u32)
            .define("TRANS", self.kind.transpose as u32)
            .arg("batch", batch)
            .arg("n", n)
            .arg("columns", columns)
            .arg("stride_t", if one { 0 } else { n * n })
            .arg("flags", self.flags())
            .arg_f32("singular", self.singular)
            .read(Slot::In(0))
            .read(Slot::In(1))
            .write(Slot::Out(0))
            .flops(batch * n * n * columns)
            .trips(shuffle_trips(n))
            .flat_groups(batch * columns.div_ceil(width * lanes))
    }
}

impl Tensor {
    /// `x` with `op(T) x = b`: `T` is the triangle `kind` of this matrix `[n, n]` or stack
    /// of matrices `[.., n, n]`, `b` is `[.., n, m]` with the same leading axes (any, for a
    /// single matrix). What stands outside the triangle is ignored.
    ///
    /// Where the diagonal has a zero (a magnitude below 1.2e-38), all of that system's
    /// `x` is infinite, so that [`crate::Outputs::check_finite`] finds it, and its
    /// gradients are zero. Errors: shapes that do not fit.
    #[track_caller]
    pub fn solve_triangular(&self, b: &Tensor, kind: Triangular) -> Tensor {
        let op = SolveTriangular {
            kind,
            singular: f32::INFINITY,
        };
        self.graph().push1(op, &[self, b])
    }

    /// The same, but zeros where the diagonal has a zero: for gradients.
    #[track_caller]
    pub(crate) fn solve_masked(&self, b: &Tensor, kind: Triangular) -> Tensor {
        let op = SolveTriangular {
            kind,
            singular: 0.0,
        };
        self.graph().push1(op, &[self, b])
    }

    /// This `[.., rows, columns]` with zeros above its `k`th diagonal (0 the main one, -1
    /// the one below).
    #[track_caller]
    pub fn tril(&self, k: isize) -> Tensor {
        self.triangle(k, false)
    }

    /// This `[.., rows, columns]` with zeros below its `k`th diagonal.
    #[track_caller]
    pub fn triu(&self, k: isize) -> Tensor {
        self.triangle(k, true)
    }

    /// Selected, not multiplied: what is dropped may be infinite.
    #[track_caller]
    fn triangle(&self, k: isize, upper: bool) -> Tensor {
        if self.shape().rank() < 2 {
            let error = Error::shape(
                if upper { "triu" } else { "tril" },
                format!(
                    "matrices [.., rows, columns] are expected, got {:?}",
                    self.shape()
                ),
            );
            return self.graph().poisoned(self.check().err().unwrap_or(error));
        }
        let (rows, columns) = self.row_and_column(k);
        let keep = match upper {
            true => rows.less_equal(&columns),
            false => columns.less_equal(&rows),
        };
        keep.select(self, &self.zeros_like())
    }

    /// The row numbers plus `k` `[rows, 1]` and the column numbers `[columns]`.
    #[track_caller]
    fn row_and_column(&self, k: isize) -> (Tensor, Tensor) {
        let (rows, columns) = (self.dim(-2), self.dim(-1));
        let from = |first: isize, count: usize| -> Vec<f32> {
            (0..count).map(|i| (first + i as isize) as f32).collect()
        };
        (
            self.graph().constant([rows, 1], &from(k, rows)),
            self.graph().constant([columns], &from(0, columns)),
        )
    }

    /// The strictly lower triangle of `[.., n, n]` with ones on the diagonal.
    #[track_caller]
    pub(crate) fn unit_lower(&self) -> Tensor {
        let (rows, columns) = self.row_and_column(0);
        rows.equal(&columns)
            .select(&self.ones_like(), &self.tril(-1))
    }

    /// This `[n, n]` with `diagonal` `[n]` on its diagonal.
    #[track_caller]
    pub(crate) fn with_diagonal(&self, diagonal: &Tensor) -> Tensor {
        let (rows, columns) = self.row_and_column(0);
        rows.equal(&columns).select(diagonal, self)
    }
}
