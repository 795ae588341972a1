//! flowgrad's side of a row.

use flowgrad::exec::{Outputs, Value};
use flowgrad::optim::Optimizer;
use flowgrad::{DType, Gpu, Graph, Init, Params, Program, Tensor};

use crate::row::{COMPARED_STEPS, Data, Outcome, Side};

/// A compiled program whose inputs lie on the device.
pub struct Ours {
    gpu: Gpu,
    program: Program,
}

impl Ours {
    /// A program that computes what `build` makes of `inputs`.
    pub fn new(
        gpu: &Gpu,
        inputs: &[Data],
        build: impl Fn(&[Tensor]) -> flowgrad::Result<Vec<Tensor>>,
    ) -> flowgrad::Result<Box<dyn Side>> {
        let params = Params::new(0);
        let graph = Graph::new();
        let mut tensors = Vec::new();
        for (i, data) in inputs.iter().enumerate() {
            let param = params.add(&format!("x{i}"), data.shape.as_slice(), Init::Zeros)?;
            param.set(&data.values)?;
            tensors.push(param.on(&graph));
        }
        let outputs = build(&tensors)?;
        Self::compile(gpu, &graph, &params, &outputs)
    }

    /// A program over the caller's own graph.
    pub fn compile(
        gpu: &Gpu,
        graph: &Graph,
        params: &Params,
        outputs: &[Tensor],
    ) -> flowgrad::Result<Box<dyn Side>> {
        let outputs: Vec<&Tensor> = outputs.iter().collect();
        Ok(Self::of(gpu, graph.compile(gpu, params, &outputs)?))
    }

    /// A program that was compiled elsewhere; its inputs must have their values.
    pub fn of(gpu: &Gpu, program: Program) -> Box<dyn Side> {
        Box::new(Ours {
            gpu: gpu.clone(),
            program,
        })
    }
}

impl Side for Ours {
    fn run(&mut self) -> Outcome<()> {
        self.program.step(&[])?;
        Ok(self.gpu.wait()?)
    }

    fn results(&mut self) -> Outcome<Vec<Vec<f32>>> {
        Ok(read(&self.program.run(&[])?)?)
    }
}

/// A program that trains: every run takes one batch and moves the parameters.
pub struct Training {
    pub gpu: Gpu,
    pub program: Program,
    pub optimizer: Optimizer,
    pub batch: (&'static str, Vec<f32>),
    pub step: u64,
}

impl Training {
    fn next(&mut self) -> flowgrad::Result<()> {
        self.program
            .set_scalars(&self.optimizer.inputs(self.step))?;
        self.step += 1;
        let (name, batch) = &self.batch;
        self.program.set_inputs(&[(name, Value::F32(batch))])
    }
}

impl Side for Training {
    fn run(&mut self) -> Outcome<()> {
        self.next()?;
        self.program.step(&[])?;
        Ok(self.gpu.wait()?)
    }

    fn results(&mut self) -> Outcome<Vec<Vec<f32>>> {
        let mut results = Vec::new();
        for _ in 0..COMPARED_STEPS {
            self.next()?;
            results.extend(read(&self.program.run(&[])?)?);
        }
        Ok(results)
    }
}

fn read(outputs: &Outputs) -> flowgrad::Result<Vec<Vec<f32>>> {
    let specs = outputs.specs().iter().enumerate();
    specs
        .map(|(i, spec)| match spec.dtype {
            DType::F32 => outputs.f32(i),
            _ => Ok(outputs.u32(i)?.iter().map(|v| *v as f32).collect()),
        })
        .collect()
}
