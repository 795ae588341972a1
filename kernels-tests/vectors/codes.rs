//! Cases of the vq family.

use flowgrad::quantize::{
    Fsq, FsqShift, Metric, ema_update, perplexity, usage_counts, vector_quantize,
};

use super::families::unknown;
use super::{Inputs, Outputs, VectorCase};

pub fn build(case: &VectorCase<'_>, x: &Inputs) -> Outputs {
    match case.op.as_str() {
        "vq" => quantize(case, x),
        "fsq" => fsq(case, x),
        "embedding" => vec![("y", x.get("codebook").gather_rows(x.get("idx")))],
        "vq_ema_update" => {
            let (rows, idx) = (x.get("x"), x.get("idx"));
            let (size, sum) = (x.get("cluster_size"), x.get("embed_sum"));
            let next = ema_update(
                rows,
                idx,
                size,
                sum,
                case.double("decay"),
                case.float("eps"),
            );
            vec![
                ("counts", next.counts),
                ("sums", next.sums),
                ("new_cluster_size", next.cluster_size),
                ("new_embed_sum", next.embed_sum),
                ("smoothed_size", next.smoothed_size),
                ("new_codebook", next.codebook),
            ]
        }
        "perplexity" => {
            let idx = x.get("idx");
            let counts = usage_counts(idx, case.int("codes") as usize);
            let probs = counts.mul_scalar(1.0 / idx.numel() as f32);
            let value = perplexity(&counts, case.float("eps"));
            vec![("perplexity", value), ("probs", probs)]
        }
        _ => unknown(case),
    }
}

fn quantize(case: &VectorCase<'_>, inputs: &Inputs) -> Outputs {
    let metric = match case.text("metric") {
        "l2" => Metric::Euclidean,
        "cosine" => Metric::Cosine,
        other => panic!("{}: metric {other}", case.name),
    };
    let (x, codebook) = (inputs.get("x"), inputs.get("codebook"));
    let q = vector_quantize(x, codebook, metric, case.float("beta"));
    vec![
        ("y", q.quantized),
        ("idx", q.indices),
        ("codebook_loss", q.codebook_loss),
        ("commitment_loss", q.commitment_loss),
        ("loss", q.loss),
    ]
}

fn fsq(case: &VectorCase<'_>, inputs: &Inputs) -> Outputs {
    let levels: Vec<usize> = case.list("levels").iter().map(|l| *l as usize).collect();
    let shift = match case.text("shift_fn") {
        "tan" => FsqShift::Tan,
        "atanh" => FsqShift::Atanh,
        other => panic!("{}: shift {other}", case.name),
    };
    let quantizer = Fsq::new(&levels).expect("levels").shift(shift);
    let out = quantizer.eps(case.float("eps")).forward(inputs.get("x"));
    vec![
        ("bounded", out.bounded),
        ("y", out.quantized),
        ("level", out.levels),
        ("index", out.indices),
    ]
}
