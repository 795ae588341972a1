//! Matrix factorisations, systems of equations, determinants; attention.

use flowgrad::Tensor;
use flowgrad::nn::Nystrom;
use flowgrad::ops::Triangular;

use super::families::unknown;
use super::{Inputs, Outputs, VectorCase};

pub fn build(case: &VectorCase<'_>, x: &Inputs) -> Outputs {
    let a = x.get("a");
    match case.op.as_str() {
        "lu" => {
            let f = a.lu();
            vec![
                ("p", f.p()),
                ("l", f.l()),
                ("u", f.u()),
                ("lu", f.lu),
                ("perm", f.perm),
                ("pivots", f.pivots),
            ]
        }
        "slogdet" => {
            let (sign, log_det) = a.slogdet();
            vec![("sign", sign), ("logabsdet", log_det)]
        }
        "inverse" => vec![("y", a.inverse())],
        "solve_triangular" => {
            let kind = Triangular {
                upper: case.flag("upper"),
                transpose: case.flag("transpose"),
                unit_diagonal: case.flag("unit_diagonal"),
            };
            vec![("x", a.solve_triangular(x.get("b"), kind))]
        }
        _ => unknown(case),
    }
}

/// A case of the family `attention`.
pub fn attention(case: &VectorCase<'_>, x: &Inputs) -> Outputs {
    if case.op == "pinv_iterate" {
        let steps = case.int("iterations") as usize;
        return vec![("y", x.get("a").pinv_iterate(steps))];
    }
    let (q, k, v) = (x.get("q"), x.get("k"), x.get("v"));
    let scale = case.float("scale");
    match case.op.as_str() {
        "attention" => vec![("y", q.attention(k, v, scale, case.flag("causal")))],
        "nystrom_attention" => {
            let how = Nystrom {
                landmarks: case.int("landmarks") as usize,
                iterations: case.int("iterations") as usize,
            };
            let y = q.nystrom_attention(k, v, scale, how);
            vec![("y", y.out), ("kernel", y.kernel), ("pinv", y.pinv)]
        }
        _ => unknown(case),
    }
}

/// A case of the family `spectral`: residual layers are built here from tensor methods.
pub fn spectral(case: &VectorCase<'_>, x: &Inputs) -> Outputs {
    match case.op.as_str() {
        "spectral_norm" => {
            let (iterations, eps) = (case.int("iterations") as usize, case.float("eps"));
            let w = x.get("w");
            let y = w.spectral_norm(x.get("u"), x.get("v"), iterations, eps);
            vec![
                ("y", y.weight),
                ("sigma", y.sigma),
                ("new_u", y.u),
                ("new_v", y.v),
            ]
        }
        "residual_flow_series" => {
            let (y, slope) = residual(x.get("x"), x.get("w"));
            let probe = x.get("probe");
            let estimate = series(case, probe.clone(), |v| {
                let next = v.matmul_with(x.get("w"), false, true).mul(&slope);
                (next.mul(probe).sum(&[1], false), next)
            });
            vec![("y", y), ("ldj_est", estimate)]
        }
        "residual_flow_exact" => {
            let (y, slope) = residual(x.get("x"), x.get("w"));
            let (n, d) = (y.dim(0), y.dim(1));
            let jacobian = slope.reshape([n, d, 1]).mul(x.get("w"));
            let unit: Vec<f32> = (0..d * d).map(|i| (i / d == i % d) as u32 as f32).collect();
            let unit = x.graph.constant([d, d], &unit);
            let traces = series(case, unit.broadcast_to([n, d, d]), |power| {
                let next = jacobian.matmul(power);
                (next.mul(&unit).sum(&[1, 2], false), next)
            });
            // The error shrinks by the norm with every step.
            let steps = (-18.0 / case.double("spectral_norm").ln()) as usize;
            let target = x.get("y_in");
            let fixed = (0..steps).fold(target.clone(), |at, _| {
                target.sub(&at.matmul_with(x.get("w"), false, true).tanh())
            });
            vec![
                ("y", y),
                ("ldj", unit.add(&jacobian).slogdet().1),
                ("ldj_trunc", traces),
                ("x_inv", fixed),
            ]
        }
        _ => unknown(case),
    }
}

/// `x + g` with `g = tanh(W x)`, and the slope `1 - g^2`.
fn residual(x: &Tensor, w: &Tensor) -> (Tensor, Tensor) {
    let g = x.matmul_with(w, false, true).tanh();
    (x.add(&g), g.square().neg().add_scalar(1.0))
}

/// `sum over k of (-1)^(k + 1) / k * term k`, where a step gives term k and the next state.
fn series(
    case: &VectorCase<'_>,
    mut state: Tensor,
    step: impl Fn(&Tensor) -> (Tensor, Tensor),
) -> Tensor {
    let mut total: Option<Tensor> = None;
    for k in 1..=case.int("terms") {
        let (term, next) = step(&state);
        let sign = if k % 2 == 1 { 1.0 } else { -1.0 };
        let term = term.mul_scalar(sign / k as f32);
        total = Some(match total {
            Some(sum) => sum.add(&term),
            None => term,
        });
        state = next;
    }
    total.expect("a term at least")
}
