//! How far a float32 result may be from the exact answer, and why.
//!
//! `u = 2^-24` is the unit round-off of float32, `scale` the largest magnitude of
//! the expected tensor.
//!
//! * Element-wise ops are compared element by element: 8u of the element for
//!   arithmetic, roots and relu-like functions (a handful of roundings), 16u for
//!   exp, log, tanh, erf and pow. Values and derivatives that pass through zero by
//!   cancellation (`1 + erf`, `1 - y^2`, `y (1 - y)`) also get an absolute
//!   `8u max(1, |x|)`, for gradients times the upstream value. Results below the
//!   smallest normal number may be flushed to zero, hence `1e-37`.
//! * Everything else: `max(16 f32_err, r scale) + 1e-12`. A dot product of length
//!   K errs by about `sqrt(K) u`, at most `K u` of the norms: 4e-6 for the lengths
//!   here (below 1000). Few operations per element (pooling, optimisers): 1e-6.
//!   Statistics of data whose mean is 100 standard deviations off lose `100 u` with
//!   two passes: 4e-5, which one-pass formulas (`1e4 u`) miss. Entropies of nearly
//!   equal distributions cancel: 2e-5. `f32_err`, the error of a plain float32
//!   evaluation, covers cancellation that the scale cannot see, such as the
//!   gradient of batch norm over two rows.
//! * Log-determinants and log-densities sum terms of either sign: 1e-6 for every term
//!   beside that.
//! * Attention sums exponentials of sums: 8e-6; with a pseudo-inverse inside, 2e-5.
//! * Factorisations are backward stable: `8 u` times the condition number.
//! * Integers are exact: the inputs keep every decision away from rounding.
//! * The float64 interpreter must agree to `1e-11 scale` where a graph holds no
//!   numbers of its own. Parameters (eps, slope, decay) and constants (`1/n`) stand
//!   in it as float32 and are off by up to `6e-8` of themselves: `2e-7 scale`.

use flowgrad::graph::Array;

use super::VectorCase;

const U: f64 = 5.960_464_477_539_063e-8;

/// What a tensor is in its case.
pub enum Role {
    Output,
    Gradient { of: String },
}

/// Allowed errors of one tensor.
pub struct Limit {
    allowed: Vec<f64>,
}

impl Limit {
    pub fn new(case: &VectorCase<'_>, name: &str, role: &Role, expected: &Array) -> Self {
        let elementwise = case.family == "pointwise" && !is_summed(case, role);
        let allowed = if elementwise {
            pointwise(case, role, expected)
        } else {
            let scale = expected.data.iter().fold(0.0f64, |m, v| m.max(v.abs()));
            let limit = (16.0 * case.f32_err(name)).max(relative(case) * scale) + floor(case, name);
            vec![limit; expected.numel()]
        };
        Limit { allowed }
    }

    /// The allowed error of element `i`.
    pub fn allowed(&self, i: usize) -> f64 {
        self.allowed[i]
    }
}

/// Gradients of broadcast operands are sums, not element-wise.
fn is_summed(case: &VectorCase<'_>, role: &Role) -> bool {
    match role {
        Role::Output => false,
        Role::Gradient { of } => case.data(of).shape() != &case.expected("y").0.shape,
    }
}

fn pointwise(case: &VectorCase<'_>, role: &Role, expected: &Array) -> Vec<f64> {
    let op = case.op.as_str();
    let gradient = matches!(role, Role::Gradient { .. });
    let r = match op {
        "relu" | "leaky_relu" | "abs" | "clamp" | "sqrt" | "rsqrt" | "add" | "sub" | "mul"
        | "div" => 8.0 * U,
        "elu" | "gelu" | "silu" | "sigmoid" | "tanh" | "softplus" | "exp" | "log"
        | "pow_scalar" | "pow" => 16.0 * U,
        other => panic!("no tolerance is argued for {other}"),
    };
    let cancels = match op {
        "gelu" | "silu" => true,
        "sigmoid" | "tanh" | "elu" => gradient,
        _ => false,
    };
    let upstream = gradient.then(|| case.data("dy").array());
    let x = cancels.then(|| case.data("x").array());
    (0..expected.numel())
        .map(|i| {
            let dy = upstream.as_ref().map_or(1.0, |a| a.data[i].abs());
            let extra = x
                .as_ref()
                .map_or(0.0, |x| 8.0 * U * x.data[i].abs().max(1.0));
            r * expected.data[i].abs() + extra * dy + 1e-37
        })
        .collect()
}

fn relative(case: &VectorCase<'_>) -> f64 {
    let name = case.name.as_str();
    match case.family {
        "norm" if name.ends_with("_offset100") => 4e-5,
        "reduce" if name.ends_with("_offset") => 4e-5,
        "loss" if name == "jsd_sharp" || name == "jsd_c2" => 2e-5,
        "attention" if case.op == "attention" => 8e-6,
        "attention" => 2e-5,
        "linalg" => (8.0 * U * case.double("cond")).max(4e-6),
        "pool" | "optim" => 1e-6,
        "flow" if case.op == "dequant_logit" && case.float("alpha") < 0.01 => 2e-5,
        "masked_conv" | "metrics" | "matmul" | "conv" | "norm" | "reduce" | "loss" | "vq"
        | "pointwise" | "flow" | "spectral" => 4e-6,
        other => panic!("no tolerance is argued for family {other}"),
    }
}

/// What is allowed where the scale says nothing; the interpreter gets 1e-9 of it.
pub fn floor(case: &VectorCase<'_>, name: &str) -> f64 {
    if name == "logabsdet" {
        // A logarithm for every row.
        return 1e-6 * case.double("n");
    }
    if !name.starts_with("ldj") && !name.starts_with("logp") {
        return 1e-12;
    }
    // Every element of a sample adds a term.
    let shape = case.data("x").shape().clone();
    1e-6 * (shape.numel() / shape[0]) as f64
}

/// The interpreter's allowed error, relative to the scale.
pub fn float64(case: &VectorCase<'_>) -> f64 {
    match case.family {
        // No parameter and no constant on the way.
        "matmul" | "conv" | "masked_conv" => 1e-11,
        "linalg" => (1e-14 * case.double("cond")).max(1e-11),
        _ => 2e-7,
    }
}
