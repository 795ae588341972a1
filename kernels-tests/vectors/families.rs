//! How the cases of each family are built from this crate's ops.

use flowgrad::Tensor;
use flowgrad::ops::Activation;

use super::{Inputs, Outputs, VectorCase};

/// Ops of these files that belong to later parts of the crate.
pub fn is_later(op: &str) -> bool {
    matches!(op, "actnorm" | "actnorm_init")
}

/// Stored outputs that only document the case.
pub fn is_informative(op: &str, output: &str) -> bool {
    matches!((op, output), ("vq", "margin"))
}

/// The outputs of a case by name.
pub fn build(case: &VectorCase<'_>, x: &Inputs) -> Outputs {
    match case.family {
        "matmul" => matmul(case, x),
        "pointwise" => pointwise(case, x),
        "vq" => super::vq::build(case, x),
        other => panic!("family {other} is not known"),
    }
}

fn unknown(case: &VectorCase<'_>) -> ! {
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
