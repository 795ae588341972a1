//! Cases of the vq family, through the quantisers that users have.

use flowgrad::quantize::{self, Fsq, FsqShift, Metric};

use super::families::unknown;
use super::{Inputs, Outputs, VectorCase};

pub fn build(case: &VectorCase<'_>, x: &Inputs) -> Outputs {
    match case.op.as_str() {
        "vq" => {
            let metric = match case.text("metric") {
                "l2" => Metric::Euclidean,
                "cosine" => Metric::Cosine,
                other => panic!("metric {other} is not known"),
            };
            let beta = case.float("beta");
            let q = quantize::vector_quantize(x.get("x"), x.get("codebook"), metric, beta);
            vec![
                ("y", q.quantized),
                ("idx", q.indices),
                ("codebook_loss", q.codebook_loss),
                ("commitment_loss", q.commitment_loss),
                ("loss", q.loss),
            ]
        }
        "embedding" => vec![("y", x.get("codebook").gather_rows(x.get("idx")))],
        "vq_ema_update" => {
            let update = quantize::ema_update(
                x.get("x"),
                x.get("idx"),
                x.get("cluster_size"),
                x.get("embed_sum"),
                case.double("decay"),
                case.float("eps"),
            );
            vec![
                ("counts", update.counts),
                ("sums", update.sums),
                ("new_cluster_size", update.cluster_size),
                ("new_embed_sum", update.embed_sum),
                ("smoothed_size", update.smoothed_size),
                ("new_codebook", update.codebook),
            ]
        }
        "perplexity" => {
            let codes = case.int("codes") as usize;
            let counts = quantize::usage_counts(x.get("idx"), codes);
            vec![
                (
                    "perplexity",
                    quantize::perplexity(&counts, case.float("eps")),
                ),
                ("probs", counts.div(&counts.sum(&[], false))),
            ]
        }
        "fsq" => {
            let levels: Vec<usize> = case.list("levels").iter().map(|l| *l as usize).collect();
            let shift = match case.text("shift_fn") {
                "tan" => FsqShift::Tan,
                "atanh" => FsqShift::Atanh,
                other => panic!("shift {other} is not known"),
            };
            let fsq = Fsq::new(&levels).expect("levels").shift(shift);
            let out = fsq.eps(case.float("eps")).forward(x.get("x"));
            vec![
                ("bounded", out.bounded),
                ("y", out.quantized),
                ("level", out.levels),
                ("index", out.indices),
            ]
        }
        _ => unknown(case),
    }
}
