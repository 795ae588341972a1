//! Base distributions with components: class-conditional Gaussians and mixtures.

use super::base::{batch_of, check_draw, check_event, gaussian_log_prob};
use super::{Base, Context};
use crate::graph::Tensor;
use crate::{DType, Error, Graph, Init, Param, Params, Result, Shape};

/// The joint log-densities of a Gaussian mixture with diagonal components,
/// `log w_k + log N(x; mean_k, diag(e^(2 log_std_k)))`: `[N, K]`, in nats, for `x` `[N, D]`,
/// `mean` and `log_std` `[K, D]`, and the weights `softmax(logits)`, `logits` `[K]`.
///
/// A softmax over them gives the posterior probabilities of the components.
#[track_caller]
pub fn mixture_joint_log_prob(
    x: &Tensor,
    mean: &Tensor,
    log_std: &Tensor,
    logits: &Tensor,
) -> Tensor {
    let (n, d, k) = (x.dim(0), x.numel() / x.dim(0), mean.dim(0));
    // Components as samples of their own: [N K, D] has no axis that needs the other.
    let pairs = [n, k, d];
    let (x, mean) = (x.reshape([n, 1, d]), mean.reshape([1, k, d]));
    let rows = [n * k, d];
    let each = gaussian_log_prob(
        &x.broadcast_to(pairs).reshape(rows),
        &mean.broadcast_to(pairs).reshape(rows),
        &log_std.reshape([1, k, d]).broadcast_to(pairs).reshape(rows),
    );
    each.reshape([n, k]).add(&logits.log_softmax(0))
}

/// The log-density of the mixture of [`mixture_joint_log_prob`]: `[N]`, in nats, by a
/// log-sum-exp with the maximum taken out.
#[track_caller]
pub fn mixture_log_prob(x: &Tensor, mean: &Tensor, log_std: &Tensor, logits: &Tensor) -> Tensor {
    mixture_joint_log_prob(x, mean, log_std, logits).logsumexp(&[1], false)
}

/// Means spread over a normal distribution, deviations of 1.
struct Components {
    event: Shape,
    count: usize,
    loc: Param,
    log_scale: Param,
}

impl Components {
    fn new(params: &Params, what: &str, count: usize, event: Shape) -> Result<Self> {
        if count == 0 {
            return Err(Error::argument(
                what,
                "there must be at least one component",
            ));
        }
        let shape = [count, event.numel()];
        let spread = Init::Normal {
            mean: 0.0,
            std: 1.0,
        };
        Ok(Components {
            event,
            count,
            loc: params.add("loc", shape, spread)?,
            log_scale: params.add("log_scale", shape, Init::Zeros)?,
        })
    }

    /// `z` as rows `[N, D]`.
    fn rows(&self, z: &Tensor) -> Tensor {
        z.reshape([z.dim(0), self.event.numel()])
    }

    /// Samples of the components `idx` `[n]`.
    fn draw(&self, idx: &Tensor, temperature: f32) -> Tensor {
        let (graph, n) = (idx.graph(), idx.numel());
        let noise = graph
            .normal([n, self.event.numel()])
            .mul_scalar(temperature);
        let loc = self.loc.on(graph).gather_rows(idx);
        let scale = self.log_scale.on(graph).gather_rows(idx).exp();
        noise
            .mul(&scale)
            .add(&loc)
            .reshape(batch_of(n, &self.event))
    }
}

/// One learned diagonal Gaussian per class. The classes are the condition of the
/// [`Context`]: u32 `[N]`. A class that does not exist gives NaN, which
/// [`ClassGaussian::check_classes`] tells beforehand.
///
/// Parameters `loc` (standard normal at first) and `log_scale` (0), both `[K, D]` with
/// `D` the elements of an event.
pub struct ClassGaussian {
    components: Components,
}

impl ClassGaussian {
    /// Over samples `[N, event..]` of `classes` classes. Errors: no class; see
    /// [`Params::add`].
    pub fn new(params: &Params, classes: usize, event: impl Into<Shape>) -> Result<Self> {
        Ok(ClassGaussian {
            components: Components::new(params, "ClassGaussian", classes, event.into())?,
        })
    }

    /// An error that names the first class that does not exist.
    pub fn check_classes(&self, classes: &[u32]) -> Result<()> {
        let count = self.components.count;
        match classes.iter().position(|c| *c as usize >= count) {
            None => Ok(()),
            Some(at) => Err(Error::argument(
                "ClassGaussian",
                format!(
                    "class {} of sample {at} is unknown; there are {count} classes",
                    classes[at]
                ),
            )),
        }
    }

    /// The log-density of every sample under every class: `[N, K]`, in nats.
    #[track_caller]
    pub fn log_prob_by_class(&self, z: &Tensor) -> Tensor {
        let c = &self.components;
        check_event("ClassGaussian", z, &c.event).unwrap_or_else(|| {
            let graph = z.graph();
            // Equal weights, taken out again.
            let logits = graph.full([c.count], 0.0);
            let (loc, log_scale) = (c.loc.on(graph), c.log_scale.on(graph));
            let joint = mixture_joint_log_prob(&c.rows(z), &loc, &log_scale, &logits);
            joint.add_scalar((c.count as f32).ln())
        })
    }

    #[track_caller]
    fn classes(
        &self,
        graph: &Graph,
        n: usize,
        cx: &Context<'_>,
    ) -> std::result::Result<Tensor, Tensor> {
        match cx.condition() {
            Some(c) if c.dtype() == DType::U32 && c.shape().dims() == [n] => Ok(c.clone()),
            Some(c) => Err(graph.poisoned(c.check().err().unwrap_or_else(|| {
                let detail = format!(
                    "the classes must be u32 [{n}], the condition is {:?}",
                    c.spec()
                );
                Error::shape("ClassGaussian", detail)
            }))),
            None => Err(graph.poisoned(Error::argument(
                "ClassGaussian",
                "the classes are missing: give them as the context's condition",
            ))),
        }
    }

    /// `value` `[n]`, or NaN where the class does not exist.
    fn where_known(&self, idx: &Tensor, value: &Tensor) -> Tensor {
        let graph = value.graph();
        let known = idx
            .to_f32()
            .less(&graph.full([1], self.components.count as f32));
        let mut shape = vec![1; value.shape().rank()];
        shape[0] = idx.numel();
        let known = known.stop_gradient().reshape(shape);
        known.select(value, &graph.full([1], f32::NAN))
    }
}

impl Base for ClassGaussian {
    fn log_prob(&self, z: &Tensor, cx: &Context<'_>) -> Tensor {
        let c = &self.components;
        if let Some(wrong) = check_event("ClassGaussian", z, &c.event) {
            return wrong;
        }
        match self.classes(z.graph(), z.dim(0), cx) {
            Err(wrong) => wrong,
            Ok(idx) => {
                let of = |p: &Param| p.on(z.graph()).gather_rows(&idx);
                let log_prob = gaussian_log_prob(&c.rows(z), &of(&c.loc), &of(&c.log_scale));
                self.where_known(&idx, &log_prob)
            }
        }
    }

    fn sample(&self, graph: &Graph, n: usize, temperature: f32, cx: &Context<'_>) -> Tensor {
        if let Some(wrong) = check_draw(graph, n, temperature) {
            return wrong;
        }
        match self.classes(graph, n, cx) {
            Err(wrong) => wrong,
            Ok(idx) => self.where_known(&idx, &self.components.draw(&idx, temperature)),
        }
    }
}

/// A mixture of diagonal Gaussians with learned weights.
///
/// Parameters `loc` (standard normal at first) and `log_scale` (0), both `[K, D]` with
/// `D` the elements of an event, and `logits` `[K]` (0), whose softmax are the weights.
pub struct GaussianMixture {
    components: Components,
    logits: Param,
}

impl GaussianMixture {
    /// Over samples `[N, event..]` with `count` components. Errors: no component; see
    /// [`Params::add`].
    pub fn new(params: &Params, count: usize, event: impl Into<Shape>) -> Result<Self> {
        Ok(GaussianMixture {
            components: Components::new(params, "GaussianMixture", count, event.into())?,
            logits: params.add("logits", [count], Init::Zeros)?,
        })
    }

    /// The joint log-density of every sample and every component: `[N, K]`, in nats.
    #[track_caller]
    pub fn joint_log_prob(&self, z: &Tensor) -> Tensor {
        let c = &self.components;
        check_event("GaussianMixture", z, &c.event).unwrap_or_else(|| {
            let graph = z.graph();
            let (loc, log_scale) = (c.loc.on(graph), c.log_scale.on(graph));
            mixture_joint_log_prob(&c.rows(z), &loc, &log_scale, &self.logits.on(graph))
        })
    }
}

impl Base for GaussianMixture {
    fn log_prob(&self, z: &Tensor, _: &Context<'_>) -> Tensor {
        let joint = self.joint_log_prob(z);
        match joint.check() {
            Ok(()) => joint.logsumexp(&[1], false),
            Err(_) => joint,
        }
    }

    fn sample(&self, graph: &Graph, n: usize, temperature: f32, _: &Context<'_>) -> Tensor {
        check_draw(graph, n, temperature).unwrap_or_else(|| {
            // The component at which the summed weights pass a uniform number. The last
            // sum may round to less than 1, hence the limit.
            let last = self.components.count - 1;
            let sums = self
                .logits
                .on(graph)
                .softmax(0)
                .cumsum(0)
                .reshape([1, last + 1]);
            let u = graph.uniform([n, 1]);
            let passed = sums.less_equal(&u).sum(&[1], false);
            let idx = passed.minimum(&passed.full_like(last as f32)).to_u32();
            self.components.draw(&idx, temperature)
        })
    }
}
