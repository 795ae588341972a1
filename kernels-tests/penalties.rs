//! What second derivatives are for: penalties on a critic's gradient, and the score of a
//! flow, with the gradients of both, against finite differences and on the GPU.

use flowgrad::flow::{
    self, Bijector, Chain, Context, Coupling, Memory, Permutation, SplineCoupling,
    standard_normal_log_prob,
};
use flowgrad::nn::Apply;
use flowgrad::ops::{Activation, ConvParams, CouplingMask, CouplingParams, SplineParams};
use flowgrad::{Tensor, tape};

use crate::support::{Data, Tol, check_op};

/// A critic of images `[N, 2, 4, 4]`: two convolutions and two linear layers, each but
/// the last with this activation. Its weights start at `weights[0]`.
fn critic(x: &Tensor, weights: &[Tensor], activation: Activation) -> Tensor {
    let strided = ConvParams {
        stride: [2, 2],
        padding: [1; 4],
        activation,
        ..ConvParams::default()
    };
    let h = x.conv2d(&weights[0], Some(&weights[1]), &strided);
    let plain = ConvParams {
        activation,
        ..ConvParams::default()
    };
    let h = h.conv2d(&weights[2], None, &plain);
    let h = h.reshape([x.dim(0), 4 * 4]);
    let h = h.linear(&weights[3], Some(&weights[4]), activation);
    h.linear(&weights[5], None, Activation::None)
}

fn critic_weights() -> Vec<Data> {
    vec![
        Data::f32([3, 2, 3, 3], 11),
        Data::f32([3], 12),
        Data::f32([4, 3, 1, 1], 13),
        Data::f32([5, 16], 14),
        Data::f32([5], 15),
        Data::f32([1, 5], 16),
    ]
}

/// The gradient of everything that the critic says about `x`, by `x`.
fn slope(score: &Tensor, x: &Tensor) -> Tensor {
    let score = score.sum(&[], false);
    tape::backward(&score, &[x]).unwrap().remove(0)
}

fn tolerance() -> Tol {
    Tol {
        output: 2e-5,
        grad: 4e-5,
        step: 1e-6,
        ..Tol::default()
    }
}

/// Gulrajani et al. 2017, arXiv 1704.00028.
#[test]
fn wgan_gp_on_a_relu_critic() {
    let mut inputs = vec![
        Data::f32([3, 2, 4, 4], 1),
        Data::f32([3, 2, 4, 4], 2),
        Data::uniform([3, 1, 1, 1], 3, 0.0, 1.0),
    ];
    inputs.extend(critic_weights());
    check_op(
        "WGAN-GP",
        &inputs,
        |_, x| {
            let (real, fake, share, weights) = (&x[0], &x[1], &x[2], &x[3..]);
            let between = fake.add(&real.sub(fake).mul(share));
            let judge = |x: &Tensor| critic(x, weights, Activation::Relu);
            let length = slope(&judge(&between), &between).norm(&[1, 2, 3], false);
            let penalty = length.add_scalar(-1.0).square().mean(&[], false);
            let critic = judge(fake).sub(&judge(real)).mean(&[], false);
            vec![critic.add(&penalty.mul_scalar(10.0)), penalty]
        },
        tolerance(),
    );
}

/// Mescheder et al. 2018, arXiv 1801.04406.
#[test]
fn r1_on_a_leaky_critic() {
    let mut inputs = vec![Data::f32([3, 2, 4, 4], 1)];
    inputs.extend(critic_weights());
    check_op(
        "R1",
        &inputs,
        |_, x| {
            let score = critic(&x[0], &x[1..], Activation::LeakyRelu(0.2));
            let penalty = slope(&score, &x[0]).square().sum(&[1, 2, 3], false);
            let loss = score.neg().softplus().mean(&[], false);
            vec![loss.add(&penalty.mean(&[], false).mul_scalar(5.0))]
        },
        tolerance(),
    );
}

/// Checks `log p` of a flow, its score (the gradient of `log p` by x) and their gradients
/// by x and all weights; `layer` makes one from a network. Networks of `[N, 2]` with
/// `outputs` results.
fn check_score(
    name: &str,
    outputs: usize,
    layer: impl Fn(usize, Network) -> Box<dyn Bijector>,
    memory: Memory,
) {
    let mut inputs = vec![Data::f32([3, 4], 1)];
    for k in 0..3 {
        inputs.push(Data::f32([5, 2], 20 + k));
        inputs.push(Data::f32([outputs, 5], 30 + k));
    }
    check_op(
        &format!("{name}, {memory:?}"),
        &inputs,
        |_, x| {
            let mut chain = Chain::new("flow").memory(memory);
            for (k, weights) in x[1..].chunks(2).enumerate() {
                let (first, second) = (weights[0].clone(), weights[1].clone());
                let network: Network = Apply(Box::new(move |h: &Tensor| {
                    h.linear(&first, None, Activation::Tanh)
                        .linear(&second, None, Activation::None)
                        .mul_scalar(0.5)
                }));
                chain.push(layer(k, network));
                chain.push(Permutation::reverse(4));
            }
            let z = chain.forward(&x[0], &Context::eval());
            let log_prob = standard_normal_log_prob(&z.out).add(&z.log_det);
            let score = slope(&log_prob, &x[0]);
            vec![log_prob, score]
        },
        tolerance(),
    );
}

type Network = Apply<Box<dyn Fn(&Tensor) -> Tensor + Send + Sync>>;

fn affine(k: usize, network: Network) -> Box<dyn Bijector> {
    let params = match k {
        0 => CouplingParams::new(CouplingMask::After(2)),
        1 => CouplingParams::glow(CouplingMask::Even),
        _ => CouplingParams::glow(CouplingMask::Before(2)),
    };
    Box::new(Coupling::new(params, network))
}

const SPLINE: SplineParams = SplineParams {
    bins: 4,
    bound: 2.5,
};

fn spline(k: usize, network: Network) -> Box<dyn Bijector> {
    let mask = [CouplingMask::After(2), CouplingMask::Odd][k % 2];
    Box::new(SplineCoupling::new(mask, SPLINE, network))
}

#[test]
fn the_score_of_an_affine_flow() {
    check_score("affine", 4, affine, Memory::Store);
}

#[test]
fn the_score_of_a_spline_flow() {
    check_score("spline", 2 * SPLINE.raw_values(), spline, Memory::Store);
}

/// What is rebuilt from a layer's output is cut off from it: its gradient must not be.
#[test]
fn scores_where_activations_are_rebuilt() {
    check_score("affine", 4, affine, Memory::Rebuild);
    check_score("spline", 2 * SPLINE.raw_values(), spline, Memory::Rebuild);
}

/// A network of what passes through and of a condition `[N, 2]`.
struct Conditioned(Tensor);

impl flow::Network for Conditioned {
    fn apply(&self, x: &Tensor, cx: &Context<'_>) -> Tensor {
        let both = Tensor::concat(&[x, cx.condition().unwrap()], 1);
        both.matmul(&self.0).tanh()
    }
}

/// The condition depends on what the flow maps and on its weights.
#[test]
fn the_score_of_a_conditioned_flow_that_rebuilds() {
    let inputs = [
        Data::f32([3, 4], 1),
        Data::f32([4, 4], 2),
        Data::f32([4, 4], 3),
        Data::f32([4, 2], 4),
    ];
    check_op(
        "conditioned",
        &inputs,
        |_, x| {
            let mut chain = Chain::new("flow").memory(Memory::Rebuild);
            for weight in &x[1..3] {
                let params = CouplingParams::new(CouplingMask::After(2));
                chain.push(Coupling::new(params, Conditioned(weight.clone())));
                chain.push(Permutation::reverse(4));
            }
            let condition = x[0].matmul(&x[1]).matmul(&x[3]).sin();
            let z = chain.forward(&x[0], &Context::eval().with_condition(&condition));
            let log_prob = standard_normal_log_prob(&z.out).add(&z.log_det);
            vec![slope(&log_prob, &x[0])]
        },
        tolerance(),
    );
}
