//! The harness: every op is compared with its float64 reference, on the GPU and
//! by finite differences.
//!
//! [`check_op`] builds a graph, evaluates it with the float64 interpreter, tests
//! the interpreter's gradients with central differences, and then compares what
//! the GPU computes, outputs and gradients, with the interpreter.

use std::collections::HashMap;
use std::sync::OnceLock;

use flowgrad::device::DeviceClass;
use flowgrad::exec::Program;
use flowgrad::graph::{Array, Feed, evaluate};
use flowgrad::plan::PlanOptions;
use flowgrad::{DType, Gpu, GpuOptions, Graph, Params, Result, Shape, Tensor, Value, tape};

/// Deterministic numbers for tests: SplitMix64.
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Numbers(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5DEE_CE66)
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in `lo..hi`, already rounded to float32.
    pub fn uniform(&mut self, lo: f32, hi: f32) -> f32 {
        let unit = (self.next_u64() >> 40) as f32 / (1u64 << 24) as f32;
        lo + (hi - lo) * unit
    }

    /// A whole number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next_u64() % n.max(1) as u64) as usize
    }
}

/// One input of a graph under test.
#[derive(Debug, Clone)]
pub enum Data {
    F32 { shape: Shape, values: Vec<f32> },
    U32 { shape: Shape, values: Vec<u32> },
}

impl Data {
    /// Uniform in -1..1.
    pub fn f32(shape: impl Into<Shape>, seed: u64) -> Self {
        Data::uniform(shape, seed, -1.0, 1.0)
    }

    /// Uniform in `lo..hi`.
    pub fn uniform(shape: impl Into<Shape>, seed: u64, lo: f32, hi: f32) -> Self {
        let shape = shape.into();
        let mut numbers = Numbers::new(seed);
        let values = (0..shape.numel())
            .map(|_| numbers.uniform(lo, hi))
            .collect();
        Data::F32 { shape, values }
    }

    /// No two elements closer than 1/n, in random order: for maxima and sorting,
    /// where ties and near-ties make both float32 and finite differences useless.
    pub fn distinct(shape: impl Into<Shape>, seed: u64) -> Self {
        let shape = shape.into();
        let n = shape.numel();
        let mut order: Vec<usize> = (0..n).collect();
        let mut numbers = Numbers::new(seed);
        for i in (1..n).rev() {
            order.swap(i, numbers.below(i + 1));
        }
        let values = order
            .iter()
            .map(|i| (*i as f32 - n as f32 / 2.0 + 0.25) * 2.0 / n as f32)
            .collect();
        Data::F32 { shape, values }
    }

    /// The given float32 values.
    pub fn values(shape: impl Into<Shape>, values: &[f32]) -> Self {
        let shape = shape.into();
        assert_eq!(shape.numel(), values.len(), "test data for {shape:?}");
        Data::F32 {
            shape,
            values: values.to_vec(),
        }
    }

    /// The given integers.
    pub fn u32(shape: impl Into<Shape>, values: &[u32]) -> Self {
        let shape = shape.into();
        assert_eq!(shape.numel(), values.len(), "test data for {shape:?}");
        Data::U32 {
            shape,
            values: values.to_vec(),
        }
    }

    /// Random integers below `n`.
    pub fn below(shape: impl Into<Shape>, seed: u64, n: usize) -> Self {
        let shape = shape.into();
        let mut numbers = Numbers::new(seed);
        let values = (0..shape.numel())
            .map(|_| numbers.below(n) as u32)
            .collect();
        Data::U32 { shape, values }
    }

    pub fn shape(&self) -> &Shape {
        match self {
            Data::F32 { shape, .. } | Data::U32 { shape, .. } => shape,
        }
    }

    pub fn is_f32(&self) -> bool {
        matches!(self, Data::F32 { .. })
    }

    /// In float64.
    pub fn array(&self) -> Array {
        let (shape, data) = match self {
            Data::F32 { shape, values } => (shape, values.iter().map(|v| *v as f64).collect()),
            Data::U32 { shape, values } => (shape, values.iter().map(|v| *v as f64).collect()),
        };
        Array::new(shape, data).expect("test data fits its shape")
    }

    /// As a constant of `graph` in 16-bit floats.
    #[track_caller]
    pub fn half(&self, graph: &Graph) -> Tensor {
        match self {
            Data::F32 { shape, values } => graph.constant_f16(shape, values),
            Data::U32 { .. } => panic!("integers are not stored as 16-bit floats"),
        }
    }

    /// As an input of `graph`.
    #[track_caller]
    pub fn input(&self, graph: &Graph, name: &str) -> Tensor {
        match self {
            Data::F32 { shape, .. } => graph.input(name, shape),
            Data::U32 { shape, .. } => graph.input_u32(name, shape),
        }
    }
}

/// How closely things must agree.
#[derive(Debug, Clone, Copy)]
pub struct Tol {
    /// GPU outputs against the interpreter, relative to the largest element.
    pub output: f64,
    /// GPU gradients against the interpreter, likewise.
    pub grad: f64,
    /// Whether there are gradients at all.
    pub gradients: bool,
    /// The interpreter's gradients against finite differences, relative to the
    /// gradient's length; none where the gradient is not the derivative
    /// (straight-through estimators).
    pub differences: Option<f64>,
    /// The step of the finite differences, relative to the inputs' size.
    pub step: f64,
}

impl Default for Tol {
    fn default() -> Self {
        Tol {
            output: 4e-6,
            grad: 8e-6,
            gradients: true,
            differences: Some(1e-5),
            step: 1e-5,
        }
    }
}

impl Tol {
    /// The same relative tolerance for outputs and gradients.
    pub fn rel(r: f64) -> Self {
        Tol {
            output: r,
            grad: 2.0 * r,
            ..Tol::default()
        }
    }

    /// There is no gradient.
    pub fn no_grad(self) -> Self {
        Tol {
            gradients: false,
            ..self
        }
    }

    /// The gradient is deliberately not the derivative.
    pub fn no_differences(self) -> Self {
        Tol {
            differences: None,
            ..self
        }
    }
}

/// What a graph under test consists of.
pub struct Case {
    pub name: String,
    /// All inputs by name: those of the test, then upstream gradients.
    pub inputs: Vec<(String, Data)>,
    pub outputs: Vec<Tensor>,
    /// Gradients, and the position of the input each belongs to.
    pub grads: Vec<(usize, Tensor)>,
}

impl Case {
    /// Outputs, then gradients.
    pub fn wanted(&self) -> Vec<&Tensor> {
        let grads = self.grads.iter().map(|(_, g)| g);
        self.outputs.iter().chain(grads).collect()
    }

    /// What the `i`th wanted tensor is, for messages.
    pub fn describe(&self, i: usize) -> String {
        match i.checked_sub(self.outputs.len()) {
            None => format!("{}: output {i}", self.name),
            Some(g) => format!("{}: gradient of input {}", self.name, self.grads[g].0),
        }
    }

    fn arrays(&self) -> HashMap<String, Array> {
        let inputs = self.inputs.iter();
        inputs.map(|(n, d)| (n.clone(), d.array())).collect()
    }

    /// The wanted tensors in float64.
    pub fn reference(&self) -> Vec<Array> {
        self.evaluate(&self.wanted(), self.arrays())
    }

    fn evaluate(&self, wanted: &[&Tensor], inputs: HashMap<String, Array>) -> Vec<Array> {
        let feed = Feed {
            inputs,
            ..Feed::default()
        };
        evaluate(wanted, &feed).unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }
}

/// Builds outputs and, where wanted, gradients for random upstream gradients.
#[track_caller]
pub fn build_case(
    name: &str,
    inputs: &[Data],
    build: impl Fn(&Graph, &[Tensor]) -> Vec<Tensor>,
    gradients: bool,
) -> Case {
    let graph = Graph::new();
    let mut named: Vec<(String, Data)> = inputs
        .iter()
        .enumerate()
        .map(|(i, d)| (format!("x{i}"), d.clone()))
        .collect();
    let tensors: Vec<Tensor> = named.iter().map(|(n, d)| d.input(&graph, n)).collect();
    let outputs = build(&graph, &tensors);
    for (i, output) in outputs.iter().enumerate() {
        if let Err(e) = output.check() {
            panic!("{name}: output {i}: {e}");
        }
    }
    let mut grads = Vec::new();
    if gradients {
        let mut seeds = Vec::new();
        for (i, output) in outputs.iter().enumerate() {
            if output.dtype() == DType::F32 {
                let upstream = Data::f32(output.shape(), 1000 + i as u64);
                let key = format!("dy{i}");
                seeds.push((output.clone(), upstream.input(&graph, &key)));
                named.push((key, upstream));
            }
        }
        let wrt: Vec<usize> = (0..inputs.len()).filter(|i| inputs[*i].is_f32()).collect();
        let targets: Vec<&Tensor> = wrt.iter().map(|i| &tensors[*i]).collect();
        let tensors = tape::backward_from(&seeds, &targets)
            .unwrap_or_else(|e| panic!("{name}: backward: {e}"));
        grads = wrt.into_iter().zip(tensors).collect();
    }
    Case {
        name: name.into(),
        inputs: named,
        outputs,
        grads,
    }
}

/// Compares an op's kernels with its float64 reference, and the gradients of the
/// reference with finite differences.
#[track_caller]
pub fn check_op(
    name: &str,
    inputs: &[Data],
    build: impl Fn(&Graph, &[Tensor]) -> Vec<Tensor>,
    tol: Tol,
) {
    let case = build_case(name, inputs, build, tol.gradients);
    let expected = case.reference();
    if let (true, Some(limit)) = (tol.gradients, tol.differences) {
        check_differences(&case, &expected[case.outputs.len()..], limit, tol.step);
    }
    check_gpu(&case, &expected, &tol);
}

/// `sum(output * upstream)` is differentiated along single elements (all of a
/// small input, some of a large one) and along random directions of everything.
pub fn check_differences(case: &Case, grads: &[Array], limit: f64, step: f64) {
    let outputs: Vec<&Tensor> = case.outputs.iter().collect();
    let objective = |inputs: HashMap<String, Array>| -> f64 {
        let values = case.evaluate(&outputs, inputs.clone());
        let weighted = values.iter().enumerate().filter_map(|(i, y)| {
            let dy = inputs.get(&format!("dy{i}"))?;
            Some(y.data.iter().zip(&dy.data).map(|(a, b)| a * b).sum::<f64>())
        });
        weighted.sum()
    };
    let base = case.arrays();
    let mut numbers = Numbers::new(77);
    for ((input, _), grad) in case.grads.iter().zip(grads) {
        let key = format!("x{input}");
        let x = &base[&key];
        let n = x.numel();
        let largest = x.data.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        let h = step * largest.max(1e-3);
        let mut directions: Vec<Vec<f64>> = Vec::new();
        let single = if n <= 12 { n } else { 4 };
        for k in 0..single {
            let mut d = vec![0.0; n];
            d[if n <= 12 { k } else { numbers.below(n) }] = 1.0;
            directions.push(d);
        }
        for _ in 0..2 {
            directions.push((0..n).map(|_| numbers.uniform(-1.0, 1.0) as f64).collect());
        }
        // A single element whose gradient is nearly zero must not be asked for
        // relative accuracy: the measure is the gradient's typical element.
        let typical = (grad.data.iter().map(|v| v * v).sum::<f64>() / n as f64).sqrt();
        for d in directions {
            let moved = |sign: f64| {
                let mut inputs = base.clone();
                if let Some(a) = inputs.get_mut(&key) {
                    for (v, d) in a.data.iter_mut().zip(&d) {
                        *v += sign * h * d;
                    }
                }
                objective(inputs)
            };
            let numeric = (moved(1.0) - moved(-1.0)) / (2.0 * h);
            let exact: f64 = grad.data.iter().zip(&d).map(|(g, d)| g * d).sum();
            let length = d.iter().map(|v| v * v).sum::<f64>().sqrt();
            let allowed = limit * (exact.abs() + typical * length) + 1e-9;
            assert!(
                (numeric - exact).abs() <= allowed,
                "{}: the reference's gradient of input {input}: finite differences give {numeric}, \
                 the tape {exact} (allowed error {allowed:e})",
                case.name
            );
        }
    }
}

/// Panics with the worst element where `got` is further from `expected` than
/// `rel` times the largest expected element.
#[track_caller]
pub fn assert_close(what: &str, got: &[f32], expected: &Array, rel: f64) {
    assert_eq!(got.len(), expected.numel(), "{what}: number of elements");
    let scale = expected.data.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    let allowed = rel * scale + 1e-12;
    let mut worst = (0, 0.0);
    for (i, (g, e)) in got.iter().zip(&expected.data).enumerate() {
        let error = (*g as f64 - e).abs();
        let error = if error.is_nan() { f64::INFINITY } else { error };
        if error > worst.1 {
            worst = (i, error);
        }
    }
    let (i, error) = worst;
    assert!(
        error <= allowed,
        "{what}: element {i} ({:?}) is {}, expected {}, error {error:e} of {allowed:e} allowed",
        expected.shape.unravel(i),
        got[i],
        expected.data[i],
    );
}

pub fn check_gpu(case: &Case, expected: &[Array], tol: &Tol) {
    let got =
        run_gpu(&case.inputs, &case.wanted()).unwrap_or_else(|e| panic!("{}: {e}", case.name));
    compare(case, &got, expected, tol);
}

/// Compares what a device computed with the float64 reference.
#[track_caller]
pub fn compare(case: &Case, got: &[Data], expected: &[Array], tol: &Tol) {
    for (i, (value, expected)) in got.iter().zip(expected).enumerate() {
        let what = case.describe(i);
        let rel = if i < case.outputs.len() {
            tol.output
        } else {
            tol.grad
        };
        match value {
            Data::F32 { values, .. } => assert_close(&what, values, expected, rel),
            Data::U32 { values, .. } => {
                let exact: Vec<u32> = expected.data.iter().map(|v| *v as u32).collect();
                assert_eq!(values, &exact, "{what}");
            }
        }
    }
}

/// Convolutions of this many floating-point operations take the variants that by
/// default only much larger ones do, so that tests may stay small.
pub const PACKED_CONV_FLOPS: u64 = 1 << 18;

/// The one device that all tests share. `FLOWGRAD_MASK`, a list of `subgroups`,
/// `immediates`, `f16`, `int64`, `timestamps` and `limits`, makes it a poorer one: what is named is
/// not used, and the limits are WebGPU's defaults.
pub fn gpu() -> &'static Gpu {
    static GPU: OnceLock<Gpu> = OnceLock::new();
    GPU.get_or_init(|| {
        let mask = std::env::var("FLOWGRAD_MASK").unwrap_or_default();
        let masked: Vec<&str> = mask.split(',').filter(|m| !m.is_empty()).collect();
        let known = [
            "subgroups",
            "immediates",
            "f16",
            "int64",
            "timestamps",
            "limits",
        ];
        if let Some(wrong) = masked.iter().find(|m| !known.contains(m)) {
            panic!("FLOWGRAD_MASK: `{wrong}` is not one of {known:?}");
        }
        let options = GpuOptions {
            packed_conv_flops: PACKED_CONV_FLOPS,
            dealt_flops: 0,
            subgroups: !masked.contains(&"subgroups"),
            immediates: !masked.contains(&"immediates"),
            f16: !masked.contains(&"f16"),
            int64: !masked.contains(&"int64"),
            timestamps: !masked.contains(&"timestamps"),
            default_limits: masked.contains(&"limits"),
            ..Default::default()
        };
        Gpu::with(options).unwrap_or_else(|e| panic!("tests need an adapter: {e}"))
    })
}

/// What the GPU computes for `wanted`; inputs that nothing depends on are left out.
pub fn run_gpu(inputs: &[(String, Data)], wanted: &[&Tensor]) -> Result<Vec<Data>> {
    run_on(gpu(), inputs, wanted).map(|(values, _)| values)
}

/// The same on a device of the test's own, and the kernels that ran.
pub fn run_on(
    gpu: &Gpu,
    inputs: &[(String, Data)],
    wanted: &[&Tensor],
) -> Result<(Vec<Data>, Vec<String>)> {
    let Some(first) = wanted.first() else {
        return Ok((Vec::new(), Vec::new()));
    };
    let program = first.graph().compile_pure(gpu, &Params::new(0), wanted)?;
    let steps = program.plan().steps.iter();
    let kernels = steps.map(|s| s.kernel.clone()).collect();
    Ok((run_program(program, inputs, wanted)?, kernels))
}

/// The same on the usual device, by the kernels that one of this class would get. It must
/// have them all.
pub fn run_as(
    class: DeviceClass,
    inputs: &[(String, Data)],
    wanted: &[&Tensor],
) -> Result<Vec<Data>> {
    let Some(first) = wanted.first() else {
        return Ok(Vec::new());
    };
    let mut profile = gpu().profile().clone();
    profile.class = class;
    let plan = first
        .graph()
        .plan(&profile, &[], wanted, &PlanOptions::default())?;
    run_program(Program::new(gpu(), plan, &[])?, inputs, wanted)
}

/// One run of a program for `wanted`; inputs that it does not have are left out.
pub fn run_program(
    mut program: Program,
    inputs: &[(String, Data)],
    wanted: &[&Tensor],
) -> Result<Vec<Data>> {
    let used: Vec<String> = program
        .plan()
        .inputs
        .iter()
        .map(|i| i.name.clone())
        .collect();
    let feed: Vec<(&str, Value<'_>)> = inputs
        .iter()
        .filter(|(name, _)| used.contains(name))
        .map(|(name, data)| {
            let value = match data {
                Data::F32 { values, .. } => Value::F32(values),
                Data::U32 { values, .. } => Value::U32(values),
            };
            (name.as_str(), value)
        })
        .collect();
    let outputs = program.run(&feed)?;
    let each = wanted.iter().enumerate().map(|(i, t)| {
        let shape = t.shape().clone();
        Ok(match t.dtype() {
            DType::U32 => Data::U32 {
                shape,
                values: outputs.u32(i)?,
            },
            _ => Data::F32 {
                shape,
                values: outputs.f32(i)?,
            },
        })
    });
    each.collect()
}
