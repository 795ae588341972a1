//! Matrix factorisations, systems of equations, determinants.

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
