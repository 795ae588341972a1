//! Several runs of a program in one submission, and the random numbers of each.

use flowgrad::{Error, Gpu, Graph, Init, Params, Program, Value};

use crate::support::gpu;

/// `s = 10 s + a`.
fn digits(gpu: &Gpu) -> (Params, Program) {
    let (graph, params) = (Graph::new(), Params::new(0));
    let s = params.add("s", [1], Init::Zeros).unwrap().on(&graph);
    let next = s.mul_scalar(10.0).add(&graph.input("a", []));
    graph.assign(&s, &next);
    let program = graph.compile(gpu, &params, &[&next]).unwrap();
    (params, program)
}

fn digit(a: &f32) -> [(&str, Value<'_>); 1] {
    [("a", Value::F32(std::slice::from_ref(a)))]
}

/// A chain that takes a random step, of a fresh set of seed 5.
fn chain(gpu: &Gpu) -> (Params, Graph, Program) {
    let (graph, params) = (Graph::new(), Params::new(5));
    let x = params.add("x", [33], Init::Zeros).unwrap().on(&graph);
    let next = x.mul_scalar(0.9).add(&graph.normal([33]));
    graph.assign(&x, &next);
    let program = graph.compile(gpu, &params, &[&next]).unwrap();
    (params, graph, program)
}

fn bits(values: Vec<f32>) -> Vec<u32> {
    values.into_iter().map(f32::to_bits).collect()
}

#[test]
fn every_run_of_a_submission_has_inputs_of_its_own() {
    let own = Gpu::new().unwrap();
    let (params, mut program) = digits(&own);
    let mut before = None;
    for round in 0..20 {
        params.set("s", &[0.0]).unwrap();
        let mut encoder = own.device().create_command_encoder(&Default::default());
        for a in [1.0, 2.0, 3.0] {
            program.set_inputs(&digit(&a)).unwrap();
            program.encode(&mut encoder).unwrap();
        }
        // A run on its own in between has its own, too, and comes first.
        program.step(&digit(&9.0)).unwrap();
        own.queue().submit([encoder.finish()]);
        own.wait().unwrap();
        assert_eq!(program.output(&own), 9123.0, "round {round}");
        if round == 1 {
            before = Some(own.stats());
        }
    }
    assert_eq!(before, Some(own.stats()), "objects made by replays");
}

trait Output {
    fn output(&self, gpu: &Gpu) -> f32;
}

impl Output for Program {
    /// The first output's first element. `Gpu::read` makes a staging buffer and would
    /// spoil the count; a mapped copy of the caller's does not.
    fn output(&self, gpu: &Gpu) -> f32 {
        let (buffer, offset, _) = self.output_buffer(0).unwrap();
        let staging = gpu.device().create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: 4,
            usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
            mapped_at_creation: false,
        });
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(buffer, offset, &staging, 0, 4);
        gpu.queue().submit([encoder.finish()]);
        staging.map_async(wgpu::MapMode::Read, .., |r| r.unwrap());
        gpu.wait().unwrap();
        let view = staging.get_mapped_range(..).unwrap();
        f32::from_le_bytes([view[0], view[1], view[2], view[3]])
    }
}

#[test]
fn encoded_runs_draw_what_separate_runs_draw() {
    let own = Gpu::new().unwrap();
    let (one, _, mut apart) = chain(&own);
    for _ in 0..5 {
        apart.step(&[]).unwrap();
    }
    let (other, _, mut together) = chain(&own);
    let mut encoder = own.device().create_command_encoder(&Default::default());
    for _ in 0..5 {
        together.encode(&mut encoder).unwrap();
    }
    own.queue().submit([encoder.finish()]);
    let [a, b] = [one, other].map(|params| bits(params.get("x").unwrap()));
    assert_eq!(a, b);
    assert_eq!(apart.random_state(), together.random_state());
}

#[test]
fn programs_of_one_set_draw_different_numbers() {
    let draw = |program: &mut Program| program.run(&[]).unwrap().bits(0).to_vec();
    let three = || {
        let (params, graph) = (Params::new(5), Graph::new());
        let y = graph.normal([8]);
        [0; 3].map(|_| graph.compile(gpu(), &params, &[&y]).unwrap())
    };
    let mut programs = three();
    let drawn = programs.each_mut().map(draw);
    assert!(drawn[0] != drawn[1] && drawn[1] != drawn[2] && drawn[0] != drawn[2]);
    // The first program's are those of the seed itself, and all are the same in every process.
    assert_eq!(three().each_mut().map(draw), drawn);
    assert_eq!(three()[0].random_state(), (5, 0));
    // Equal numbers are there for the asking, and resuming hits the same stream.
    let (seed, _) = programs[0].random_state();
    programs[1].set_random_state(seed, 0);
    assert_eq!(draw(&mut programs[1]), drawn[0]);
    let (seed, step) = programs[2].random_state();
    let next = draw(&mut programs[2]);
    let mut resumed = three();
    resumed[0].set_random_state(seed, step);
    assert_eq!(draw(&mut resumed[0]), next);
}

#[test]
fn programs_that_draw_nothing_take_no_stream() {
    let (params, graph) = (Params::new(5), Graph::new());
    let (x, y) = (graph.input("x", [2]), graph.normal([8]));
    graph.compile(gpu(), &params, &[&x.exp()]).unwrap();
    let error = graph.compile(gpu(), &Params::new(1), &[&x.add(&y)]);
    assert!(matches!(error, Err(Error::Shape { .. })));
    let program = graph.compile(gpu(), &params, &[&y]).unwrap();
    assert_eq!(program.random_state(), (5, 0));
}

#[test]
fn repeated_runs_are_separate_runs_bit_for_bit() {
    let own = Gpu::new().unwrap();
    let (one, _, mut apart) = chain(&own);
    let (other, _, mut together) = chain(&own);
    for times in [1, 7, 3, 64, 2] {
        for _ in 1..times {
            apart.step(&[]).unwrap();
        }
        let last = apart.run(&[]).unwrap();
        let out = together.run_times(&[], times).unwrap();
        assert_eq!(last.bits(0), out.bits(0), "{times}");
        assert_eq!(apart.random_state(), together.random_state());
        assert_eq!(apart.runs(), together.runs());
    }
    let [a, b] = [&one, &other].map(|params| bits(params.get("x").unwrap()));
    assert_eq!(a, b);

    // The list of steps has grown to 64 and is never made anew.
    let before = own.stats();
    let ticket = together.submit(&[]).unwrap();
    for times in [64, 10] {
        together.step_times(&[], times).unwrap();
    }
    together.wait(ticket).unwrap();
    together.run_times(&[], 33).unwrap();
    assert_eq!(before, own.stats());
    let none = together.run_times(&[], 0);
    assert!(matches!(none, Err(Error::Argument { .. })));

    let (params, mut program) = digits(&own);
    let out = program.run_times(&digit(&4.0), 3).unwrap();
    assert_eq!(out.f32(0).unwrap(), [444.0]);
    assert_eq!(params.get("s").unwrap(), [444.0]);
}

#[test]
fn encoders_that_are_thrown_away_give_their_inputs_back() {
    let own = Gpu::new().unwrap();
    let (params, mut program) = digits(&own);
    let mut objects = Vec::new();
    for _ in 0..5 {
        let mut encoder = own.device().create_command_encoder(&Default::default());
        program.set_inputs(&digit(&1.0)).unwrap();
        program.encode(&mut encoder).unwrap();
        program.encode(&mut encoder).unwrap();
        objects.push(own.stats());
    }
    assert_eq!(objects[0], objects[4]);
    assert_eq!(params.get("s").unwrap(), [0.0]);
}
