//! Layers of normalizing flows: cases of the files `flow` and `norm`.

use flowgrad::Tensor;
use flowgrad::flow::{
    Affine, Bijector, Chain, Context, Logit, Network, PriorLayout, Split, Squeeze, bits_per_dim,
    gaussian_log_prob, mixture_log_prob, standard_logistic_log_prob, standard_normal_log_prob,
};
use flowgrad::ops::{ConvParams, CouplingMask, CouplingParams, CouplingScale, Plu};

use super::families::unknown;
use super::{Inputs, Outputs, VectorCase};

/// A case of the family `flow`.
pub fn build(case: &VectorCase<'_>, x: &Inputs) -> Outputs {
    match case.op.as_str() {
        "gaussian_logp" | "std_normal_logp" | "gmm_logp" | "std_logistic_logp" => log_prob(case, x),
        "dequant_logit" => dequant_logit(case, x),
        "affine_coupling" | "additive_coupling" | "checkerboard_coupling" => coupling(case, x),
        "inv1x1_plu" | "inv1x1_full" => inv1x1(case, x),
        "squeeze" => vec![("y", Squeeze::squeeze(x.get("x")))],
        "unsqueeze" => vec![("y", Squeeze::unsqueeze(x.get("x")))],
        "split_prior" => split_prior(case, x),
        "glow_step" => glow_step(case, x),
        "bits_per_dim" => {
            // Densities in the units of the levels need no constant.
            let bins = match case.flag("unit_scaled") {
                true => case.float("n_bins"),
                false => 1.0,
            };
            let dims = case.int("dims") as usize;
            vec![("y", bits_per_dim(x.get("logp"), dims, bins))]
        }
        _ => unknown(case),
    }
}

fn coupling(case: &VectorCase<'_>, inputs: &Inputs) -> Outputs {
    let mask = match case.op.as_str() {
        "checkerboard_coupling" => CouplingMask::Checkerboard {
            parity: case.int("parity") as usize,
        },
        _ => CouplingMask::After(case.int("split") as usize),
    };
    let params = match case.op.as_str() {
        "additive_coupling" => CouplingParams::additive(mask),
        _ => match case.text("convention") {
            "exp" => CouplingParams::new(mask),
            "glow" => CouplingParams {
                scale: CouplingScale::Sigmoid {
                    offset: case.float("offset"),
                },
                ..CouplingParams::glow(mask)
            },
            "tanh" => CouplingParams {
                scale: CouplingScale::Tanh {
                    clamp: case.float("c"),
                },
                ..CouplingParams::new(mask)
            },
            _ => unknown(case),
        },
    };
    let raw = match inputs.find("s_raw") {
        Some(s) => Tensor::concat(&[s, inputs.get("t")], 1),
        None => inputs.get("t").clone(),
    };
    let (z, ldj) = inputs.get("x").coupling(&raw, &params);
    let mut outputs = vec![("z", z), ("ldj", ldj)];
    if let Some(z) = inputs.find("z_in") {
        let (x, ldj) = z.coupling_inverse(&raw, &params);
        outputs.extend([("x_inv", x), ("ldj_inv", ldj)]);
    }
    outputs
}

fn inv1x1(case: &VectorCase<'_>, inputs: &Inputs) -> Outputs {
    let get = |name: &str| inputs.get(name);
    let (weight, inverse, log_det) = match case.op.as_str() {
        "inv1x1_plu" => {
            let plu = Plu {
                p: get("p"),
                l: get("l"),
                u: get("u"),
                sign: get("sign_s"),
                log_s: get("log_s"),
            };
            let log_det = get("log_s").sum(&[], false);
            (plu.assemble(), plu.inverse(), log_det)
        }
        _ => {
            let w = get("w");
            (w.clone(), w.inverse(), w.slogdet().1)
        }
    };
    let [n, c, h, w] = [0, 1, 2, 3].map(|axis| get("x").dim(axis));
    let mix = |x: &Tensor, weight: &Tensor| {
        x.conv2d(&weight.reshape([c, c, 1, 1]), None, &ConvParams::default())
    };
    let ldj = log_det.mul_scalar((h * w) as f32).reshape([1]);
    let ldj = ldj.broadcast_to([n]);
    vec![
        ("z", mix(get("x"), &weight)),
        ("x_inv", mix(get("z_in"), &inverse)),
        ("ldj_inv", ldj.neg()),
        ("ldj", ldj),
        ("w", weight),
    ]
}

/// A network that gives the same for every input.
struct Given(Tensor);

impl Network for Given {
    fn apply(&self, _: &Tensor, _: &Context<'_>) -> Tensor {
        self.0.clone()
    }
}

fn split_prior(case: &VectorCase<'_>, inputs: &Inputs) -> Outputs {
    let moments = Tensor::concat(&[inputs.get("mu"), inputs.get("log_sigma")], 1);
    let keep = case.int("split") as usize;
    let split = Split::new(keep, PriorLayout::Halves, Given(moments));
    let (z1, eps, log_det) = split.split(inputs.get("x"), &Context::eval());
    let logp = standard_normal_log_prob(&eps).add(&log_det);
    vec![("z1", z1), ("logp", logp)]
}

fn glow_step(case: &VectorCase<'_>, inputs: &Inputs) -> Outputs {
    let get = |name: &str| inputs.get(name);
    let plu = Plu {
        p: get("p"),
        l: get("l"),
        u: get("u"),
        sign: get("sign_s"),
        log_s: get("log_s"),
    };
    let (channels, pixels) = (get("x").dim(1), get("x").dim(2) * get("x").dim(3));
    let mix = |x: &Tensor, weight: &Tensor| {
        let weight = weight.reshape([channels, channels, 1, 1]);
        x.conv2d(&weight, None, &ConvParams::default())
    };
    let convention = CouplingParams {
        scale: CouplingScale::Sigmoid {
            offset: case.float("offset"),
        },
        ..CouplingParams::glow(CouplingMask::After(case.int("split") as usize))
    };
    let raw = Tensor::concat(&[get("s_raw"), get("t")], 1);
    let by_weight = get("log_s").sum(&[], false).mul_scalar(pixels as f32);

    let (y, by_norm) = get("x").actnorm(get("an_b"), get("an_logs"));
    let (z, by_coupling) = mix(&y, &plu.assemble()).coupling(&raw, &convention);
    let ldj = by_norm.add(&by_coupling).add(&by_weight);

    let (y, by_coupling) = get("z_in").coupling_inverse(&raw, &convention);
    let mixed = mix(&y, &plu.inverse());
    let (x_inv, by_norm) = mixed.actnorm_inverse(get("an_b"), get("an_logs"));
    let ldj_inv = by_norm.add(&by_coupling).sub(&by_weight);
    vec![
        ("z", z),
        ("ldj", ldj),
        ("x_inv", x_inv),
        ("ldj_inv", ldj_inv),
    ]
}

fn log_prob(case: &VectorCase<'_>, inputs: &Inputs) -> Outputs {
    let x = inputs.get("x");
    let gaussian = || (inputs.get("mu"), inputs.get("log_sigma"));
    let log_prob = match case.op.as_str() {
        "std_normal_logp" => standard_normal_log_prob(x),
        "std_logistic_logp" => standard_logistic_log_prob(x),
        "gaussian_logp" => gaussian_log_prob(x, gaussian().0, gaussian().1),
        "gmm_logp" => mixture_log_prob(x, gaussian().0, gaussian().1, inputs.get("logits")),
        _ => unknown(case),
    };
    vec![("logp", log_prob)]
}

fn dequant_logit(case: &VectorCase<'_>, inputs: &Inputs) -> Outputs {
    let levels = case.float("n_bins");
    let (x, u) = (inputs.get("x").to_f32(), inputs.get("u"));
    let scale = Affine::new(1.0 / levels, 0.0).expect("levels");
    let logit = Logit::new(case.float("alpha")).expect("alpha");
    let cx = Context::eval();
    let v = scale.forward(&x.add(u), &cx);
    let y = logit.forward(&v.out, &cx);
    let mut outputs = vec![
        ("y", y.out),
        ("ldj", v.log_det.add(&y.log_det)),
        ("ldj_logit", y.log_det),
    ];
    if let Some(y) = inputs.find("y_in") {
        let chain = Chain::new("dequant").with(scale).with(logit);
        let v = chain.inverse(y, &cx).out;
        outputs.extend([("x_inv", v.floor().to_u32()), ("v_inv", v)]);
    }
    outputs
}

/// A case of the family `norm` with an op of this file.
pub fn actnorm(case: &VectorCase<'_>, inputs: &Inputs) -> Outputs {
    let x = inputs.get("x");
    if case.op == "actnorm_init" {
        let init = x.actnorm_init(case.float("eps"), 0.0);
        let (y, ldj) = x.actnorm(&init.bias, &init.log_scale);
        return vec![
            ("b", init.bias),
            ("logs", init.log_scale),
            ("y", y),
            ("ldj", ldj),
        ];
    }
    let (b, logs) = (inputs.get("b"), inputs.get("logs"));
    let (y, ldj) = x.actnorm(b, logs);
    let (x_inv, ldj_inv) = inputs.get("y_in").actnorm_inverse(b, logs);
    vec![
        ("y", y),
        ("ldj", ldj),
        ("x_inv", x_inv),
        ("ldj_inv", ldj_inv),
    ]
}
