//! Cases of the vq family.

use flowgrad::Tensor;

use super::families::unknown;
use super::losses::unit_rows;
use super::{Inputs, Outputs, VectorCase};

pub fn build(case: &VectorCase<'_>, x: &Inputs) -> Outputs {
    match case.op.as_str() {
        "vq" => quantize(case, x),
        "embedding" => vec![("y", x.get("codebook").gather_rows(x.get("idx")))],
        "vq_ema_update" => ema_update(case, x),
        "perplexity" => {
            let idx = x.get("idx");
            let codes = case.int("codes") as usize;
            let counts = idx.one_hot(codes).sum(&[0], false);
            let probs = counts.mul_scalar(1.0 / idx.numel() as f32);
            let log = probs.add_scalar(case.float("eps")).log();
            let perplexity = probs.mul(&log).sum(&[], false).neg().exp();
            vec![("perplexity", perplexity), ("probs", probs)]
        }
        _ => unknown(case),
    }
}

fn quantize(case: &VectorCase<'_>, inputs: &Inputs) -> Outputs {
    let x = inputs.get("x");
    let image = match case.text("layout") {
        "rows" => false,
        "nchw" => true,
        other => panic!("{}: layout {other}", case.name),
    };
    let rows = |t: &Tensor| match image {
        true => {
            let t = t.permute(&[0, 2, 3, 1]);
            t.reshape([t.numel() / t.dim(-1), t.dim(-1)])
        }
        false => t.clone(),
    };
    let (mut z, mut codebook) = (rows(x), inputs.get("codebook").clone());
    match case.text("metric") {
        "l2" => {}
        "cosine" => {
            let eps = case.float("norm_eps");
            (z, codebook) = (unit_rows(&z, eps), unit_rows(&codebook, eps));
        }
        other => panic!("{}: metric {other}", case.name),
    }
    let idx = z.codebook_nearest(&codebook);
    let code = codebook.gather_rows(&idx);
    let distance = |a: &Tensor, b: &Tensor| a.sub(b).square().mean(&[], false);
    let codebook_loss = distance(&z.stop_gradient(), &code);
    let commitment_loss = distance(&z, &code.stop_gradient());
    let loss = codebook_loss.add(&commitment_loss.mul_scalar(case.float("beta")));
    let y = z.straight_through(&code.stop_gradient());
    let (y, idx) = match image {
        true => {
            let (n, h, w) = (x.dim(0), x.dim(2), x.dim(3));
            let y = y.reshape([n, h, w, x.dim(1)]).permute(&[0, 3, 1, 2]);
            (y, idx.reshape([n, h, w]))
        }
        false => (y, idx),
    };
    vec![
        ("y", y),
        ("idx", idx),
        ("codebook_loss", codebook_loss),
        ("commitment_loss", commitment_loss),
        ("loss", loss),
    ]
}

fn ema_update(case: &VectorCase<'_>, inputs: &Inputs) -> Outputs {
    let (x, idx) = (inputs.get("x"), inputs.get("idx"));
    let codes = inputs.get("cluster_size").numel();
    let (decay, eps) = (case.double("decay"), case.float("eps"));
    let counts = inputs.graph.full([x.dim(0)], 1.0).segment_sum(idx, codes);
    let sums = x.segment_sum(idx, codes);
    let follow = |old: &str, new: &Tensor| {
        let old = inputs.get(old).mul_scalar(decay as f32);
        old.add(&new.mul_scalar((1.0 - decay) as f32))
    };
    let size = follow("cluster_size", &counts);
    let sum = follow("embed_sum", &sums);
    let total = size.sum(&[], false);
    let denominator = total.add_scalar(codes as f32 * eps);
    let smoothed = size.add_scalar(eps).div(&denominator).mul(&total);
    let codebook = sum.div(&smoothed.reshape([codes, 1]));
    vec![
        ("counts", counts),
        ("sums", sums),
        ("new_cluster_size", size),
        ("new_embed_sum", sum),
        ("smoothed_size", smoothed),
        ("new_codebook", codebook),
    ]
}
