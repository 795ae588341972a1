//! Time of factorisations, determinants, inverses and triangular systems, at the sizes
//! of the channels of flows and beyond.

mod common;

use common::{Unit, row};
use criterion::{Criterion, criterion_group, criterion_main};
use flowgrad::Tensor;
use flowgrad::ops::Triangular;

type Build = fn(&Tensor) -> Tensor;

fn lu(criterion: &mut Criterion) {
    let ops: [(&str, Build); 4] = [
        ("slogdet", |x| x.slogdet().1),
        ("inverse", |x| x.inverse()),
        ("solve_triangular", |x| {
            x.solve_triangular(x, Triangular::upper())
        }),
        ("slogdet and gradient", |x| {
            let log_det = x.slogdet().1.sum(&[], false);
            match flowgrad::tape::backward(&log_det, &[x]) {
                Ok(mut grads) => grads.swap_remove(0),
                Err(error) => x.graph().poisoned(error),
            }
        }),
    ];
    for (name, build) in ops {
        for (batch, n) in [(1, 12), (1, 48), (1, 96), (64, 12), (64, 48), (1, 512)] {
            let size = format!("{batch}x{n}x{n}");
            row(
                criterion,
                name,
                &size,
                Unit::Flops,
                &[&[batch, n, n]],
                |x| build(&x[0]),
            );
        }
    }
}

criterion_group!(matrices, lu);
criterion_main!(matrices);
