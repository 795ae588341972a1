//! Sizes at which each kind of device takes its kernels for large problems, run here
//! whatever adapter this is, against float64. That nothing larger takes another kernel is
//! not believed: each problem is also planned at a size that no model reaches, and the
//! texts of its kernels must be among those that ran.

mod problems;
mod sampled;

use std::collections::BTreeSet;
use std::sync::Arc;

use flowgrad::device::{DeviceClass, DeviceProfile};
use flowgrad::exec::kernel_texts;
use flowgrad::plan::{Plan, PlanOptions, Step};
use flowgrad::{DType, Graph, Program, Tensor, Value, tape};

use crate::linalg::well_conditioned;
use crate::shaders::{read, shader_files};
use crate::support::{Case, Data, Tol, build_case, compare, gpu};

/// An input by its shape.
#[derive(Clone)]
pub enum In {
    /// In -1..1.
    Float(Vec<usize>),
    /// In 0.1..1, for sums that should not cancel.
    Positive(Vec<usize>),
    /// No two are equal.
    Distinct(Vec<usize>),
    /// Matrices that are far from singular.
    Matrices(Vec<usize>),
    /// Integers below the last.
    Below(Vec<usize>, usize),
}

impl In {
    fn data(&self, seed: u64) -> Data {
        match self {
            In::Float(shape) => Data::f32(shape, seed),
            In::Positive(shape) => Data::uniform(shape, seed, 0.1, 1.0),
            In::Distinct(shape) => Data::distinct(shape, seed),
            In::Matrices(shape) => well_conditioned(shape, seed),
            In::Below(shape, n) => Data::below(shape, seed, *n),
        }
    }

    fn input(&self, graph: &Graph, name: &str) -> Tensor {
        match self {
            In::Float(s) | In::Positive(s) | In::Distinct(s) | In::Matrices(s) => {
                graph.input(name, s)
            }
            In::Below(s, _) => graph.input_u32(name, s),
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
pub enum Size {
    /// Just large enough.
    Run,
    /// Beyond what changes anything; planned only.
    Huge,
}

type Build = Box<dyn Fn(&[Tensor], Size) -> Vec<Tensor>>;
/// Compares the values of a device with single entries, from the inputs.
type Check = Box<dyn Fn(&str, &[Vec<f32>], &[Vec<f32>])>;

/// One op or a few, at two sizes.
pub struct Problem {
    name: String,
    run: Vec<In>,
    huge: Vec<In>,
    build: Build,
    gradients: bool,
    tol: Tol,
    /// Instead of the interpreter, which would take too long.
    check: Option<Check>,
    /// Whether it is for a kind of device.
    on: fn(DeviceClass) -> bool,
}

impl Problem {
    pub fn new(
        name: impl Into<String>,
        run: &[In],
        huge: &[In],
        build: impl Fn(&[Tensor], Size) -> Vec<Tensor> + 'static,
    ) -> Self {
        Problem {
            name: name.into(),
            run: run.to_vec(),
            huge: huge.to_vec(),
            build: Box::new(build),
            gradients: true,
            tol: Tol::default(),
            check: None,
            on: |_| true,
        }
    }

    pub fn on_software(self) -> Self {
        Problem {
            on: |class| class == DeviceClass::Software,
            ..self
        }
    }

    pub fn on_gpus(self) -> Self {
        Problem {
            on: |class| class != DeviceClass::Software,
            ..self
        }
    }

    fn is_for(&self, profile: &DeviceProfile) -> bool {
        (self.on)(profile.class)
    }

    pub fn no_grad(self) -> Self {
        Problem {
            gradients: false,
            ..self
        }
    }

    pub fn tol(self, tol: Tol) -> Self {
        Problem { tol, ..self }
    }

    pub fn check(self, check: impl Fn(&str, &[Vec<f32>], &[Vec<f32>]) + 'static) -> Self {
        Problem {
            check: Some(Box::new(check)),
            ..self
        }
    }

    /// With numbers, as it is run.
    fn case(&self) -> Case {
        let inputs: Vec<Data> = (1..).zip(&self.run).map(|(i, x)| x.data(i)).collect();
        let build = |_: &Graph, x: &[Tensor]| (self.build)(x, Size::Run);
        build_case(&self.name, &inputs, build, self.gradients)
    }

    /// Outputs and gradients, without numbers.
    fn tensors(&self, size: Size) -> Vec<Tensor> {
        let inputs = match size {
            Size::Run => &self.run,
            Size::Huge => &self.huge,
        };
        let graph = Graph::new();
        let named = inputs.iter().enumerate();
        let x: Vec<Tensor> = named
            .map(|(i, input)| input.input(&graph, &format!("x{i}")))
            .collect();
        let mut wanted = (self.build)(&x, size);
        if self.gradients {
            let floats = |t: &&Tensor| t.dtype() == DType::F32;
            let seeds: Vec<(Tensor, Tensor)> = (wanted.iter().enumerate())
                .filter(|(_, t)| floats(t))
                .map(|(i, t)| (t.clone(), graph.input(&format!("dy{i}"), t.shape())))
                .collect();
            let targets: Vec<&Tensor> = x.iter().filter(floats).collect();
            let grads = tape::backward_from(&seeds, &targets);
            wanted.extend(grads.unwrap_or_else(|e| panic!("{}: {e}", self.name)));
        }
        wanted
    }

    fn plan(&self, profile: &DeviceProfile, size: Size) -> Plan {
        let tensors = self.tensors(size);
        let wanted: Vec<&Tensor> = tensors.iter().collect();
        let plan = wanted[0]
            .graph()
            .plan(profile, &[], &wanted, &PlanOptions::default());
        plan.unwrap_or_else(|e| panic!("{}, {:?}: {e}", self.name, profile.class))
    }

    /// Runs it with the kernels of each kind of device.
    fn run(&self) {
        let case = self.case();
        let floats = |(_, data): &(String, Data)| match data {
            Data::F32 { values, .. } => values.clone(),
            Data::U32 { values, .. } => values.iter().map(|v| *v as f32).collect(),
        };
        let inputs: Vec<Vec<f32>> = case.inputs.iter().map(floats).collect();
        let expected = match self.check {
            None => case.reference(),
            Some(_) => Vec::new(),
        };
        for profile in profiles().into_iter().filter(|p| self.is_for(p)) {
            let what = format!("{}, {:?}", self.name, profile.class);
            let wanted = case.wanted();
            let plan = wanted[0]
                .graph()
                .plan(&profile, &[], &wanted, &PlanOptions::default())
                .unwrap_or_else(|e| panic!("{what}: {e}"));
            let used: Vec<String> = plan.inputs.iter().map(|i| i.name.clone()).collect();
            let mut program = Program::new(gpu(), plan, &[]).expect("a program");
            let feed: Vec<(&str, Value<'_>)> = (case.inputs.iter())
                .filter(|(name, _)| used.contains(name))
                .map(|(name, data)| {
                    let value = match data {
                        Data::F32 { values, .. } => Value::F32(values),
                        Data::U32 { values, .. } => Value::U32(values),
                    };
                    (name.as_str(), value)
                })
                .collect();
            let outputs = program.run(&feed).unwrap_or_else(|e| panic!("{what}: {e}"));
            let got: Vec<Data> = (wanted.iter().enumerate())
                .map(|(i, t)| match t.dtype() {
                    DType::U32 => Data::u32(t.shape(), &outputs.u32(i).expect("integers")),
                    _ => Data::values(t.shape(), &outputs.f32(i).expect("floats")),
                })
                .collect();
            match &self.check {
                None => compare(&case, &got, &expected, &self.tol),
                Some(check) => {
                    let got = got.into_iter().map(|d| floats(&(String::new(), d)));
                    check(&what, &inputs, &got.collect::<Vec<_>>());
                }
            }
        }
    }
}

/// What this adapter can do, with the choices of another kind.
fn profiles() -> Vec<DeviceProfile> {
    let classes = [
        DeviceClass::Software,
        DeviceClass::Integrated,
        DeviceClass::Discrete,
    ];
    let of = |class| DeviceProfile {
        class,
        dispatch_flops: class.dispatch_flops(),
        ..gpu().profile().clone()
    };
    classes.map(of).into()
}

fn run(problems: Vec<Problem>) {
    problems.iter().for_each(Problem::run);
}

#[test]
fn products() {
    run(problems::products());
}

#[test]
fn convolutions() {
    run(problems::convolutions());
}

#[test]
fn reductions() {
    run(problems::reductions());
}

#[test]
fn norms() {
    run(problems::norms());
}

#[test]
fn indices() {
    run(problems::indices());
}

#[test]
fn matrices() {
    run(problems::matrices());
}

#[test]
fn flows() {
    run(problems::flows());
}

#[test]
fn moves() {
    run(problems::moves());
}

#[test]
fn pictures() {
    run(problems::pictures());
}

#[test]
fn attention() {
    run(problems::attention());
}

/// What a kernel is, but for sizes that stand in its text: these are the strides of a
/// generated one, and the rows that a lane of a factorisation holds.
fn kind(step: &Step, text: &str) -> String {
    let switch = |(name, value): &(String, String)| match value.parse::<u32>() {
        Ok(_) if ["ROWS", "GROUPS"].contains(&name.as_str()) => None,
        Ok(0 | 1) | Err(_) => Some(format!("{name}={value}")),
        Ok(_) => None,
    };
    match step.kernel.as_str() {
        "fused" => format!("fused {:?}", step.defines),
        lu if lu.starts_with("lu") => {
            let switches: Vec<String> = step.defines.iter().filter_map(switch).collect();
            format!("{lu} {switches:?}")
        }
        _ => text.to_string(),
    }
}

/// Kernels that do the same at every size.
const ONE_SIZE: [&str; 9] = [
    "shaders/image/pixels.wgsl",
    "shaders/pool/adaptive_avg_pool2d.wgsl",
    "shaders/categorical.wgsl",
    "shaders/image/move_each.wgsl",
    "shaders/pointwise/fused.wgsl",
    "shaders/random.wgsl",
    "shaders/roof_arithmetic.wgsl",
    "shaders/roof_copy.wgsl",
    "shaders/lib/",
];

/// What texts are made from.
type Sources = BTreeSet<(Arc<str>, Vec<(String, String)>)>;

/// The kinds of a plan's kernels, and what they are called; those that are not known yet.
fn kinds(mut plan: Plan, profile: &DeviceProfile, known: &mut Sources) -> Vec<(String, String)> {
    plan.steps
        .retain(|step| known.insert((step.source.clone(), step.defines.clone())));
    let texts = kernel_texts(&plan, profile.immediates).expect("texts");
    let both = plan.steps.iter().zip(&texts);
    both.map(|(step, text)| {
        let label = format!("{} {}", step.kernel, step.variant);
        (kind(step, text), label)
    })
    .collect()
}

#[test]
fn nothing_larger_takes_another_kernel() {
    let mut reached = BTreeSet::new();
    let mut missing = Vec::new();
    for profile in profiles() {
        // Whatever a device may hold.
        let endless = DeviceProfile {
            max_binding: 1 << 40,
            max_buffer: 1 << 42,
            ..profile.clone()
        };
        let problems = problems::all();
        let problems = || problems.iter().filter(|p| p.is_for(&profile));
        let (mut ran, mut known) = (BTreeSet::new(), BTreeSet::new());
        for problem in problems() {
            let plan = problem.plan(&profile, Size::Run);
            reached.extend(plan.steps.iter().map(|s| s.source.clone()));
            let kinds = kinds(plan, &profile, &mut known);
            ran.extend(kinds.into_iter().map(|(kind, _)| kind));
        }
        for problem in problems() {
            let plan = problem.plan(&endless, Size::Huge);
            let kinds = kinds(plan, &profile, &mut known);
            let others = kinds.into_iter().filter(|(kind, _)| !ran.contains(kind));
            let what = format!("{:?}, {}", profile.class, problem.name);
            missing.extend(others.map(|(_, label)| format!("{what}: {label}")));
        }
    }
    assert!(missing.is_empty(), "not run:\n{}", missing.join("\n"));
    let unused: Vec<String> = shader_files()
        .into_iter()
        .filter(|file| !ONE_SIZE.iter().any(|one| file.starts_with(one)))
        .filter(|file| !reached.contains(read(file).as_str()))
        .collect();
    assert!(unused.is_empty(), "no large problem uses {unused:?}");
}
