//! Matrix factorisations, systems of equations, determinants; attention.

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
