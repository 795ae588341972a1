//! Cases of the loss family; losses without a method of their own are composed.

use flowgrad::Tensor;
use flowgrad::ops::{CrossEntropy, LossReduction};

use super::families::unknown;
use super::{Inputs, Outputs, VectorCase};

fn reduction(case: &VectorCase<'_>, key: &str) -> LossReduction {
    match case.text(key) {
        "none" => LossReduction::None,
        "sum" => LossReduction::Sum,
        "mean" => LossReduction::Mean,
        other => panic!("{}: reduction {other}", case.name),
    }
}

pub fn build(case: &VectorCase<'_>, inputs: &Inputs) -> Outputs {
    let of = |name: &str| inputs.get(name);
    let all = || reduction(case, "reduction");
    let samples = || reduction(case, "batch_reduction");
    let y = match case.op.as_str() {
        "cross_entropy" => {
            let options = CrossEntropy {
                label_smoothing: case.float("label_smoothing"),
                ignore_index: Some(case.int("ignore_index") as i32 as u32),
                weight: inputs.find("weight").cloned(),
                reduction: all(),
            };
            of("x").cross_entropy(of("target"), &options)
        }
        "bce_with_logits" => {
            of("x").bce_with_logits(of("target"), inputs.find("pos_weight"), all())
        }
        "mse" => of("x").mse_loss(of("target"), all()),
        "gaussian_nll_logvar" if case.flag("full") => {
            of("x").gaussian_nll(of("mu"), of("logvar"), all())
        }
        "gaussian_nll_var" if !case.flag("full") => {
            let (x, mu, var) = (of("x"), of("mu"), of("var"));
            let distance = x.sub(mu).square().div(var);
            all().apply(&var.log().add(&distance).mul_scalar(0.5))
        }
        "kl_std_normal_logvar" => samples().apply(&of("mu").kl_to_standard_normal(of("logvar"))),
        "kl_std_normal_sigma" => {
            let (mu, sigma) = (of("mu"), of("sigma"));
            let excess = sigma.square().sub(&sigma.log().mul_scalar(2.0));
            let kl = mu.square().add(&excess).add_scalar(-1.0).mul_scalar(0.5);
            samples().apply(&kl.sum_samples())
        }
        "nt_xent" => nt_xent(of("z"), case.float("tau"), case.float("norm_eps")),
        "js_to_uniform" => samples().apply(&js_to_uniform(of("x"))),
        "total_variation" => total_variation(of("x"), case.text("mode")),
        "hinge_margin" => of("x").hinge_loss(of("label"), case.float("margin"), all()),
        "hinge_gan_d" => {
            let mean = |t: Tensor| t.add_scalar(1.0).relu().mean(&[], false);
            mean(of("real").neg()).add(&mean(of("fake").clone()))
        }
        "hinge_gan_g" => of("fake").mean(&[], false).neg(),
        _ => unknown(case),
    };
    vec![("y", y)]
}

/// Rows divided by their length, at least `eps`.
fn unit_rows(x: &Tensor, eps: f32) -> Tensor {
    let length = x.square().sum(&[-1], true).sqrt();
    x.div(&length.maximum(&length.full_like(eps)))
}

fn nt_xent(z: &Tensor, tau: f32, eps: f32) -> Tensor {
    let rows = z.dim(0);
    let z = unit_rows(z, eps);
    let similar = z.matmul_with(&z, false, true).mul_scalar(1.0 / tau);
    let positive = z.mul(&z.roll(0, rows as isize / 2)).sum(&[1], false);
    let numbers: Vec<u32> = (0..rows as u32).collect();
    let column = z.graph().constant_u32([rows, 1], &numbers);
    let row = z.graph().constant_u32([1, rows], &numbers);
    let others = column
        .equal(&row)
        .select(&similar.full_like(-1e30), &similar);
    let loss = others
        .logsumexp(&[1], false)
        .sub(&positive.mul_scalar(1.0 / tau));
    loss.mean(&[], false)
}

fn js_to_uniform(x: &Tensor) -> Tensor {
    let classes = x.dim(1) as f32;
    let u = 1.0 / classes;
    let (p, logp) = (x.softmax(1), x.log_softmax(1));
    let logm = p.add_scalar(u).mul_scalar(0.5).log();
    let from_p = p.mul(&logp.sub(&logm));
    // log(u / m) without the constant log(u), whose rounding would remain.
    let ratio = p.mul_scalar(classes).add_scalar(1.0).mul_scalar(0.5);
    let from_u = ratio.log().mul_scalar(-u);
    from_p.add(&from_u).sum(&[1], false).mul_scalar(0.5)
}

fn total_variation(x: &Tensor, mode: &str) -> Tensor {
    let (h, w) = (x.dim(2), x.dim(3));
    // The part of the image that starts at (i, j) and leaves `dh`, `dw` pixels out.
    let part = |i, j, dh, dw| x.slice(2, i, h - dh).slice(3, j, w - dw);
    let across = part(0, 1, 0, 1).sub(&part(0, 0, 0, 1));
    let down = part(1, 0, 1, 0).sub(&part(0, 0, 1, 0));
    let falling = part(1, 1, 1, 1).sub(&part(0, 0, 1, 1));
    let rising = part(1, 0, 1, 1).sub(&part(0, 1, 1, 1));
    let sum = |t: Tensor| t.sum(&[], false);
    let norm = |t: &Tensor| sum(t.square()).sqrt();
    match mode {
        "frobenius2" => norm(&across).add(&norm(&down)),
        "frobenius4" => {
            let diagonal = norm(&falling).add(&norm(&rising));
            norm(&across).add(&norm(&down)).add(&diagonal)
        }
        "l1_sum2" => sum(across.abs()).add(&sum(down.abs())),
        "sq_sum2" => sum(across.square()).add(&sum(down.square())),
        other => panic!("total variation {other}"),
    }
}
