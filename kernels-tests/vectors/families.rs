//! How the cases of each family are built from this crate's ops.

use flowgrad::Tensor;
use flowgrad::nn::{Centre, Colours, causal_mask};
use flowgrad::ops::{Activation, ConvParams, ConvTransposeParams, PoolParams};

use super::{Inputs, Outputs, VectorCase, codes, flows, losses, matrices};

/// Stored outputs that only document the case.
pub fn is_informative(op: &str, output: &str) -> bool {
    matches!((op, output), ("vq", "margin"))
}

/// The outputs of a case by name.
pub fn build(case: &VectorCase<'_>, x: &Inputs) -> Outputs {
    match case.family {
        "matmul" => matmul(case, x),
        "conv" => conv(case, x),
        "masked_conv" => masked(case, x),
        "metrics" => super::measures::build(case, x),
        "pool" => pool(case, x),
        "pointwise" => pointwise(case, x),
        "reduce" => reduce(case, x),
        "norm" if case.op.starts_with("actnorm") => flows::actnorm(case, x),
        "norm" => norm(case, x),
        "loss" => losses::build(case, x),
        "linalg" => matrices::build(case, x),
        "spectral" => matrices::spectral(case, x),
        "attention" => matrices::attention(case, x),
        "vq" => codes::build(case, x),
        "flow" => flows::build(case, x),
        other => panic!("family {other} is not known"),
    }
}

pub fn unknown(case: &VectorCase<'_>) -> ! {
    panic!(
        "{}: op {} of family {} is not known",
        case.name, case.op, case.family
    )
}

fn matmul(case: &VectorCase<'_>, x: &Inputs) -> Outputs {
    let (a, b) = (x.get("a"), x.get("b"));
    let (ta, tb) = (case.flag("trans_a"), case.flag("trans_b"));
    let y = match (case.op.as_str(), x.find("bias")) {
        ("matmul", Some(bias)) if tb && !ta && b.shape().rank() == 2 => {
            a.linear(b, Some(bias), Activation::None)
        }
        ("matmul", Some(bias)) => a.matmul_with(b, ta, tb).add(bias),
        ("matmul", None) => a.matmul_with(b, ta, tb),
        _ => unknown(case),
    };
    vec![("y", y)]
}

fn conv(case: &VectorCase<'_>, x: &Inputs) -> Outputs {
    let (image, weight, bias) = (x.get("x"), x.get("w"), x.find("b"));
    let groups = case.int("groups") as usize;
    let (stride, dilation) = (case.sizes("stride"), case.sizes("dilation"));
    let y = match case.op.as_str() {
        "conv2d" => {
            let params = ConvParams {
                stride,
                padding: case.sizes("padding"),
                dilation,
                groups,
                ..Default::default()
            };
            image.conv2d(weight, bias, &params)
        }
        "conv_transpose2d" => {
            let [y, x] = case.sizes("padding");
            let params = ConvTransposeParams {
                stride,
                padding: [y, y, x, x],
                output_padding: case.sizes("output_padding"),
                dilation,
                groups,
                ..Default::default()
            };
            image.conv_transpose2d(weight, bias, &params)
        }
        _ => unknown(case),
    };
    vec![("y", y)]
}

fn masked(case: &VectorCase<'_>, x: &Inputs) -> Outputs {
    assert_eq!(case.op, "masked_conv2d");
    let (image, weight, bias) = (x.get("x"), x.get("w"), x.find("b"));
    let centre = match case.text("mask") {
        "A" => Centre::Hidden,
        _ => Centre::Seen,
    };
    let groups = &case.params["colour_groups"];
    let side = |key: &str| {
        let list = groups[key].as_array().into_iter().flatten();
        list.map(|v| v.as_u64().expect("a colour") as u32).collect()
    };
    let colours = groups.is_object().then(|| Colours {
        inputs: side("in"),
        outputs: side("out"),
    });
    let shape: [usize; 4] = weight.shape().dims().try_into().expect("a kernel");
    let mask = causal_mask(shape, centre, colours.as_ref()).expect("a mask");
    let mask = x.graph.constant(shape, &mask);
    let params = ConvParams {
        padding: case.sizes("padding"),
        ..Default::default()
    };
    let y = image.conv2d(&weight.mul(&mask), bias, &params);
    vec![("y", y), ("mask", mask)]
}

fn pool(case: &VectorCase<'_>, x: &Inputs) -> Outputs {
    let image = x.get("x");
    let params = |count: bool| PoolParams {
        count_include_pad: count,
        ..PoolParams::new(case.sizes("kernel"), case.sizes("stride")).padding(case.sizes("padding"))
    };
    let y = match case.op.as_str() {
        "max_pool2d" => {
            let (y, idx) = image.max_pool2d_with_indices(&params(true));
            return vec![("y", y), ("idx", idx)];
        }
        "avg_pool2d" => image.avg_pool2d(&params(case.flag("count_include_pad"))),
        "global_avg_pool2d" => {
            // [N, C], whether or not the op keeps the image axes.
            let shape = [image.dim(0), image.dim(1)];
            image.global_avg_pool2d().reshape(shape)
        }
        "upsample_nearest2d" => image.upsample_nearest2d(case.sizes("factor")),
        _ => unknown(case),
    };
    vec![("y", y)]
}

fn pointwise(case: &VectorCase<'_>, x: &Inputs) -> Outputs {
    let unary = |f: fn(&Tensor) -> Tensor| f(x.get("x"));
    let binary = |f: fn(&Tensor, &Tensor) -> Tensor| f(x.get("a"), x.get("b"));
    let y = match case.op.as_str() {
        "relu" => unary(Tensor::relu),
        "leaky_relu" => x.get("x").leaky_relu(case.float("slope")),
        "elu" => x.get("x").elu(case.float("alpha")),
        "gelu" if case.text("approximate") == "none" => unary(Tensor::gelu),
        "silu" => unary(Tensor::silu),
        "sigmoid" => unary(Tensor::sigmoid),
        "tanh" => unary(Tensor::tanh),
        "softplus" if case.float("beta") == 1.0 => unary(Tensor::softplus),
        "exp" => unary(Tensor::exp),
        "log" => unary(Tensor::log),
        "sqrt" => unary(Tensor::sqrt),
        "rsqrt" => unary(Tensor::rsqrt),
        "abs" => unary(Tensor::abs),
        "clamp" => x.get("x").clamp(case.float("min"), case.float("max")),
        "pow_scalar" => x.get("x").pow_scalar(case.float("exponent")),
        "pow" => binary(Tensor::pow),
        "add" => binary(Tensor::add),
        "sub" => binary(Tensor::sub),
        "mul" => binary(Tensor::mul),
        "div" => binary(Tensor::div),
        _ => unknown(case),
    };
    vec![("y", y)]
}

fn reduce(case: &VectorCase<'_>, inputs: &Inputs) -> Outputs {
    let x = inputs.get("x");
    let axes = || -> Vec<isize> { case.list("axes").iter().map(|a| *a as isize).collect() };
    let keep = || case.flag("keepdim");
    let along = || case.int("axis") as isize;
    let index = |f: fn(&Tensor, Option<isize>) -> Tensor| {
        let axis = case.params["axis"].as_i64().map(|a| a as isize);
        let y = f(x, axis);
        match axis {
            Some(axis) if keep() => {
                let mut shape = x.shape().dims().to_vec();
                shape[axis as usize] = 1;
                y.reshape(shape)
            }
            _ => y,
        }
    };
    let y = match case.op.as_str() {
        "sum" => x.sum(&axes(), keep()),
        "mean" => x.mean(&axes(), keep()),
        "max" => x.max(&axes(), keep()),
        "min" => x.min(&axes(), keep()),
        "var_biased" => x.var(&axes(), false, keep()),
        "var_unbiased" => x.var(&axes(), true, keep()),
        "logsumexp" => x.logsumexp(&axes(), keep()),
        "argmax" => index(Tensor::argmax),
        "argmin" => index(Tensor::argmin),
        "cumsum" => x.cumsum(along()),
        "softmax" => x.softmax(along()),
        "log_softmax" => x.log_softmax(along()),
        _ => unknown(case),
    };
    vec![("y", y)]
}

fn norm(case: &VectorCase<'_>, inputs: &Inputs) -> Outputs {
    let x = inputs.get("x");
    let (gamma, beta) = (inputs.find("gamma"), inputs.find("beta"));
    let eps = case.float("eps");
    let rstd = |var: Tensor| var.add_scalar(eps).rsqrt();
    match case.op.as_str() {
        "batch_norm_train" => {
            let (y, mean, var) = x.batch_norm_train(gamma, beta, eps);
            let rows = (x.numel() / x.dim(1)) as f32;
            let momentum = case.float("momentum");
            let follow = |old: &str, new: &Tensor| {
                let old = inputs.get(old).mul_scalar(1.0 - momentum);
                old.add(&new.mul_scalar(momentum))
            };
            let new_mean = follow("running_mean", &mean);
            let new_var = follow("running_var", &var.mul_scalar(rows / (rows - 1.0)));
            vec![
                ("y", y),
                ("mean", mean),
                ("var", var),
                ("new_running_mean", new_mean),
                ("new_running_var", new_var),
            ]
        }
        "batch_norm_eval" => {
            let (mean, var) = (inputs.get("running_mean"), inputs.get("running_var"));
            vec![("y", x.batch_norm_eval(mean, var, gamma, beta, eps))]
        }
        "group_norm" => {
            let groups = case.int("groups") as usize;
            let y = x.group_norm(groups, gamma, beta, eps);
            let n = x.dim(0);
            let rows = x.reshape([n, groups, x.numel() / n / groups]);
            let (mean, var) = rows.moments(&[2], true);
            let shape = [n, groups];
            vec![
                ("y", y),
                ("mean", mean.reshape(shape)),
                ("rstd", rstd(var).reshape(shape)),
            ]
        }
        "layer_norm" => {
            let axes: Vec<usize> = case
                .list("normalized_shape")
                .iter()
                .map(|d| *d as usize)
                .collect();
            let y = x.layer_norm(&axes, gamma, beta, eps);
            let lead = &x.shape().dims()[..x.shape().rank() - axes.len()];
            let last: Vec<isize> = (1..=axes.len() as isize).map(|i| -i).collect();
            let (mean, var) = x.moments(&last, true);
            vec![
                ("y", y),
                ("mean", mean.reshape(lead)),
                ("rstd", rstd(var).reshape(lead)),
            ]
        }
        _ => unknown(case),
    }
}
