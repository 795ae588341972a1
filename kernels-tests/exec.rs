//! Programs as a whole: replay, determinism, borrowed devices, errors, masked features.

use flowgrad::gpu::GpuOptions;
use flowgrad::plan::PlanOptions;
use flowgrad::{Error, Gpu, Graph, Init, Outputs, Params, Program, Tensor, Value, ops, tape};

use crate::support::{Numbers, gpu};

fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut numbers = Numbers::new(seed);
    (0..n).map(|_| numbers.uniform(-1.0, 1.0)).collect()
}

/// A small network with random noise, trained by plain gradient descent.
struct Net {
    graph: Graph,
    params: Params,
    outputs: Vec<Tensor>,
}

fn net() -> Net {
    let params = Params::new(11);
    let graph = Graph::new();
    let w = params
        .add("w", [13, 7], Init::Uniform { lo: -0.5, hi: 0.5 })
        .unwrap()
        .on(&graph);
    let b = params.add("b", [13], Init::Zeros).unwrap().on(&graph);
    let v = params
        .add("v", [3, 13], Init::Uniform { lo: -0.5, hi: 0.5 })
        .unwrap()
        .on(&graph);
    let x = graph.input("x", [21, 7]);
    let noise = graph.normal([21, 7]).mul_scalar(0.01);
    let hidden = x.add(&noise).linear(&w, Some(&b), ops::Activation::Tanh);
    let y = hidden.linear(&v, None, ops::Activation::None);
    let loss = y.sub(&graph.input("t", [21, 3])).square().mean(&[], false);
    let grads = tape::backward(&loss, &[&w, &b, &v]).unwrap();
    for (p, g) in [&w, &b, &v].into_iter().zip(&grads) {
        graph.assign(p, &p.sub(&g.mul_scalar(0.3)));
    }
    let mut outputs = vec![loss, y];
    outputs.extend(grads);
    Net {
        graph,
        params,
        outputs,
    }
}

impl Net {
    fn compile(&self, gpu: &Gpu, options: &PlanOptions) -> Program {
        let wanted: Vec<&Tensor> = self.outputs.iter().collect();
        self.graph
            .compile_with(gpu, &[&self.params], &wanted, options)
            .unwrap()
    }
}

fn feed<'a>(x: &'a [f32], t: &'a [f32]) -> [(&'static str, Value<'a>); 2] {
    [("x", Value::F32(x)), ("t", Value::F32(t))]
}

/// The bits of all outputs over a few training steps.
fn trajectory(gpu: &Gpu, options: &PlanOptions) -> Vec<Vec<u32>> {
    let net = net();
    let mut program = net.compile(gpu, options);
    let (x, t) = (numbers(21 * 7, 1), numbers(21 * 3, 2));
    let mut all = Vec::new();
    for _ in 0..6 {
        let out = program.run(&feed(&x, &t)).unwrap();
        all.extend((0..net.outputs.len()).map(|i| out.bits(i).to_vec()));
    }
    for name in ["w", "b", "v"] {
        all.push(
            net.params
                .get(name)
                .unwrap()
                .iter()
                .map(|v| v.to_bits())
                .collect(),
        );
    }
    all
}

#[test]
fn two_runs_are_bit_identical_gradients_included() {
    let options = PlanOptions::default();
    let first = trajectory(gpu(), &options);
    assert_eq!(first, trajectory(gpu(), &options));
    let other = Gpu::new().unwrap();
    assert_eq!(
        first,
        trajectory(&other, &options),
        "on another device of the same adapter"
    );
}

#[test]
fn reuse_of_buffers_never_changes_results() {
    let with = trajectory(gpu(), &PlanOptions::default());
    let without = trajectory(
        gpu(),
        &PlanOptions {
            reuse: false,
            ..Default::default()
        },
    );
    assert_eq!(with, without);
}

#[test]
fn a_loss_falls() {
    let net = net();
    let mut program = net.compile(gpu(), &PlanOptions::default());
    let (x, t) = (numbers(21 * 7, 1), numbers(21 * 3, 2));
    let first = program.run(&feed(&x, &t)).unwrap().scalar(0).unwrap();
    for _ in 0..200 {
        program.step(&[]).unwrap();
    }
    let last = program.run(&[]).unwrap().scalar(0).unwrap();
    assert!(last < 0.5 * first, "{first} -> {last}");
}

#[test]
fn replays_create_no_gpu_object() {
    let own = Gpu::new().unwrap();
    let net = net();
    let mut program = net.compile(&own, &PlanOptions::default());
    let (x, t) = (numbers(21 * 7, 1), numbers(21 * 3, 2));
    program.run(&feed(&x, &t)).unwrap();
    let before = own.stats();
    for i in 0..1000 {
        match i % 2 {
            0 => program.step(&feed(&x, &t)).unwrap(),
            _ => drop(program.run(&[]).unwrap()),
        }
    }
    assert_eq!(before, own.stats());
    assert_eq!(program.runs(), 1001);
}

#[test]
fn several_runs_may_be_under_way() {
    let net = net();
    let mut program = net.compile(gpu(), &PlanOptions::default());
    let (x, t) = (numbers(21 * 7, 1), numbers(21 * 3, 2));
    let a = program.submit(&feed(&x, &t)).unwrap();
    let b = program.submit(&[]).unwrap();
    let c = program.submit(&[]).unwrap();
    let loss = |o: Outputs| o.scalar(0).unwrap();
    let losses = [c, a, b].map(|ticket| loss(program.wait(ticket).unwrap()));
    assert!(losses[1] > losses[2] && losses[2] > losses[0], "{losses:?}");
    let old = program.submit(&[]).unwrap();
    for _ in 0..3 {
        program.step(&[]).unwrap();
    }
    assert!(matches!(program.wait(old), Err(Error::Argument { .. })));
}

#[test]
fn run_async_gives_what_run_gives() {
    let (x, t) = (numbers(21 * 7, 1), numbers(21 * 3, 2));
    let (a, b) = (net(), net());
    let blocking = a
        .compile(gpu(), &PlanOptions::default())
        .run(&feed(&x, &t))
        .unwrap();
    let mut program = b.compile(gpu(), &PlanOptions::default());
    let future = pollster::block_on(program.run_async(&feed(&x, &t))).unwrap();
    for i in 0..a.outputs.len() {
        assert_eq!(blocking.bits(i), future.bits(i), "output {i}");
    }
}

/// Every optional feature switched off must change nothing but speed.
#[test]
fn masked_features_give_the_same_results() {
    let close = |a: &[Vec<u32>], b: &[Vec<u32>], what: &str| {
        for (x, y) in a.iter().flatten().zip(b.iter().flatten()) {
            let (x, y) = (f32::from_bits(*x), f32::from_bits(*y));
            assert!((x - y).abs() <= 1e-4 * x.abs().max(1e-2), "{what}: {x} {y}");
        }
    };
    let full = trajectory(gpu(), &PlanOptions::default());
    let all = GpuOptions::default();
    let masks = [
        (
            "immediates",
            GpuOptions {
                immediates: false,
                ..all.clone()
            },
        ),
        (
            "subgroups",
            GpuOptions {
                subgroups: false,
                ..all.clone()
            },
        ),
        (
            "f16",
            GpuOptions {
                f16: false,
                ..all.clone()
            },
        ),
        (
            "int64",
            GpuOptions {
                int64: false,
                ..all.clone()
            },
        ),
        (
            "timestamps",
            GpuOptions {
                timestamps: false,
                ..all.clone()
            },
        ),
        (
            "pipeline cache",
            GpuOptions {
                pipeline_cache: false,
                ..all.clone()
            },
        ),
        (
            "default limits",
            GpuOptions {
                default_limits: true,
                ..all.clone()
            },
        ),
        (
            "runtime checks on",
            GpuOptions {
                runtime_checks: true,
                ..all.clone()
            },
        ),
    ];
    for (what, options) in masks {
        let masked = Gpu::with(options).unwrap();
        close(&full, &trajectory(&masked, &PlanOptions::default()), what);
    }
    close(
        &full,
        &trajectory(
            gpu(),
            &PlanOptions {
                fuse: false,
                ..Default::default()
            },
        ),
        "no fusion",
    );
}

#[test]
fn profiles_cover_every_step_with_and_without_timestamps() {
    let (x, t) = (numbers(21 * 7, 1), numbers(21 * 3, 2));
    for timestamps in [true, false] {
        let own = Gpu::with(GpuOptions {
            timestamps,
            ..Default::default()
        })
        .unwrap();
        let net = net();
        let mut program = net.compile(&own, &PlanOptions::default());
        let before = program.run(&feed(&x, &t)).unwrap().scalar(0).unwrap();
        let profile = program.profile(&[], 5).unwrap();
        assert_eq!(profile.rows.len(), program.plan().steps.len());
        assert!(profile.seconds() > 0.0);
        assert_eq!(profile.gpu_clock, own.profile().timestamps);
        crate::profile::check_table_and_trace(&profile);
        let after = program.run(&[]).unwrap().scalar(0).unwrap();
        assert!(
            after < before,
            "profiled runs train like others: {before} -> {after}"
        );
    }
}

/// A device as an application would have made it, without any optional feature.
fn borrowed() -> (wgpu::Adapter, wgpu::Device, wgpu::Queue) {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = pollster::block_on(instance.request_adapter(&Default::default())).unwrap();
    let (device, queue) = pollster::block_on(adapter.request_device(&Default::default())).unwrap();
    (adapter, device, queue)
}

#[test]
fn programs_run_inside_the_callers_frame() {
    let (adapter, device, queue) = borrowed();
    let own = Gpu::from_wgpu(&adapter, device.clone(), queue.clone()).unwrap();
    let params = Params::new(0);
    let graph = Graph::new();
    let x = graph.input("x", [33]);
    let scale = graph.input("scale", []);
    let y = x.mul(&scale).add_scalar(1.0);
    let mut program = graph.compile(&own, &params, &[&y]).unwrap();

    let data = numbers(33, 5);
    let usage =
        wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
    let buffer = |size: u64| {
        device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size,
            usage,
            mapped_at_creation: false,
        })
    };
    let (input, output) = (buffer(512 + 33 * 4), buffer(33 * 4 + 8));
    queue.write_buffer(&input, 512, bytemuck::cast_slice(&data));
    program.bind_input("x", &input, 512).unwrap();
    program.bind_output(0, &output, 8).unwrap();
    program
        .set_inputs(&[("scale", Value::F32(&[3.0]))])
        .unwrap();
    let mut encoder = device.create_command_encoder(&Default::default());
    program.encode(&mut encoder).unwrap();
    queue.submit([encoder.finish()]);
    let expected: Vec<f32> = data.iter().map(|v| v * 3.0 + 1.0).collect();
    let bytes = own.read(&output, 8, 33 * 4).unwrap();
    let got: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes);
    assert_eq!(got, expected);

    assert!(matches!(
        program.bind_input("scale", &input, 0),
        Err(Error::Data { .. })
    ));
    assert!(matches!(
        program.bind_input("x", &input, 3),
        Err(Error::Data { .. })
    ));
    assert!(matches!(
        program.bind_input("x", &output, 256),
        Err(Error::Data { .. })
    ));
    assert!(matches!(
        program.bind_input("z", &input, 0),
        Err(Error::Data { .. })
    ));
    assert!(matches!(
        program.bind_output(1, &output, 0),
        Err(Error::Argument { .. })
    ));
    assert!(matches!(
        program.bind_output(0, &output, 12),
        Err(Error::Argument { .. })
    ));
}

#[test]
fn a_borrowed_device_trains_like_our_own() {
    let (adapter, device, queue) = borrowed();
    let borrowed = Gpu::from_wgpu(&adapter, device, queue).unwrap();
    let own = trajectory(gpu(), &PlanOptions::default());
    let theirs = trajectory(&borrowed, &PlanOptions::default());
    for (a, b) in own.iter().flatten().zip(theirs.iter().flatten()) {
        let (a, b) = (f32::from_bits(*a), f32::from_bits(*b));
        assert!((a - b).abs() <= 1e-4 * a.abs().max(1e-2), "{a} {b}");
    }
}

#[test]
fn wrong_inputs_are_named() {
    let net = net();
    let mut program = net.compile(gpu(), &PlanOptions::default());
    let (x, t) = (numbers(21 * 7, 1), numbers(21 * 3, 2));
    let message = |e: Result<Outputs, Error>| e.unwrap_err().to_string();
    assert!(
        message(program.run(&[("x", (&x).into())])).contains("`t`")
            || message(program.run(&[])).contains('t')
    );
    assert!(message(program.run(&[("y", (&x).into())])).contains("no such input"));
    assert!(message(program.run(&[("x", (&t).into())])).contains("[21, 7]"));
    assert!(message(program.run(&[("x", Value::U32(&[0; 147]))])).contains("u32"));
    let out = program.run(&feed(&x, &t)).unwrap();
    assert!(matches!(out.f32(99), Err(Error::Argument { .. })));
    assert!(matches!(out.u32(0), Err(Error::Argument { .. })));
}

#[test]
fn results_that_are_not_finite_can_be_refused() {
    let graph = Graph::new();
    let x = graph.input("x", [3]);
    let mut program = graph
        .compile(gpu(), &Params::new(0), &[&x, &x.log()])
        .unwrap();
    let out = program.run(&[("x", Value::F32(&[1.0, 0.0, 2.0]))]).unwrap();
    let error = out.check_finite(&["x", "log x"]).unwrap_err();
    assert!(
        matches!(&error, Error::NonFinite { place, .. } if place == "log x"),
        "{error}"
    );
    let out = program.run(&[("x", Value::F32(&[1.0, 4.0, 2.0]))]).unwrap();
    out.check_finite(&["x", "log x"]).unwrap();
}

#[test]
fn an_unknown_adapter_is_an_error_that_lists_the_others() {
    let error = Gpu::with(GpuOptions {
        adapter: Some("no such thing".into()),
        ..Default::default()
    })
    .unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::NoAdapter { .. }));
    assert!(
        text.contains("no such thing") && text.contains(gpu().name()),
        "{text}"
    );
    let none = GpuOptions {
        backends: wgpu::Backends::empty(),
        ..Default::default()
    };
    assert!(matches!(Gpu::with(none), Err(Error::NoAdapter { .. })));
}

#[test]
fn graphs_that_exceed_the_device_are_refused_before_anything_is_allocated() {
    let graph = Graph::new();
    let x = graph.input("x", [3 << 30]);
    let error = graph
        .compile(gpu(), &Params::new(0), &[&x.add_scalar(1.0)])
        .unwrap_err();
    assert!(matches!(error, Error::LimitExceeded { .. }), "{error}");

    let graph = Graph::new();
    let big = graph
        .full([1 << 16, 1], 1.0)
        .matmul(&graph.full([1, 1 << 15], 1.0));
    let error = graph
        .compile(gpu(), &Params::new(0), &[&big.sum(&[], false)])
        .unwrap_err();
    assert!(matches!(error, Error::LimitExceeded { .. }), "{error}");
}

#[test]
fn pointwise_work_beyond_one_binding_is_chunked() {
    let options = GpuOptions {
        default_limits: true,
        ..Default::default()
    };
    let own = Gpu::with(options).unwrap();
    let n = (own.profile().max_binding / 4) as usize + 1000;
    let graph = Graph::new();
    let y = graph.full([n], 1.0).add(&graph.input("x", [])).relu();
    // The fill and the sum are one element-wise kernel over a tensor that no single
    // binding could hold; only its last elements are looked at.
    let mut program = graph.compile(&own, &Params::new(0), &[&y]).unwrap();
    assert!(program.plan().steps.len() > 1, "{}", program.plan());
    program.step(&[("x", Value::F32(&[2.0]))]).unwrap();
    let (buffer, offset, bytes) = program.output_buffer(0).unwrap();
    let tail = own.read(buffer, offset + bytes - 16, 16).unwrap();
    assert_eq!(bytemuck::pod_collect_to_vec::<u8, f32>(&tail), [3.0; 4]);

    // Where an element of a row belongs is known from its place in the whole only.
    let graph = Graph::new();
    let rows = graph.full([n.div_ceil(3), 3], 1.0);
    let y = rows.add(&graph.input("row", [3])).relu();
    let error = graph.compile(&own, &Params::new(0), &[&y]).unwrap_err();
    assert!(matches!(error, Error::LimitExceeded { .. }), "{error}");
}

#[test]
fn graphs_of_other_graphs_and_sets_are_refused() {
    let (a, b) = (Graph::new(), Graph::new());
    let x = a.input("x", [3]);
    let y = b.input("y", [3]);
    let error = x.add(&y).check().unwrap_err();
    assert!(matches!(error, Error::Graph(_)), "{error}");

    let (one, other) = (Params::new(0), Params::new(0));
    let graph = Graph::new();
    let w = one.add("w", [2], Init::Zeros).unwrap().on(&graph);
    let error = graph
        .compile(gpu(), &other, &[&w.add_scalar(1.0)])
        .unwrap_err();
    assert!(matches!(error, Error::Graph(_)), "{error}");

    let graph = Graph::new();
    let w = one.find("w").unwrap().on(&graph);
    graph.assign(&w, &w.add_scalar(1.0));
    graph.assign(&w, &w.add_scalar(2.0));
    assert!(matches!(
        graph.compile(gpu(), &one, &[]),
        Err(Error::Graph(_))
    ));

    let graph = Graph::new();
    let x = graph.input("x", [2]);
    graph.assign(&x, &x.add_scalar(1.0));
    assert!(
        matches!(graph.check(), Err(Error::Graph(_))),
        "inputs cannot be assigned"
    );
}

/// All reads see the old value, whichever way the planner carries an assignment out.
#[test]
fn assignments_take_effect_after_every_read() {
    let params = Params::new(0);
    let graph = Graph::new();
    let a = params
        .add("a", [5], Init::Constant(1.0))
        .unwrap()
        .on(&graph);
    let b = params
        .add("b", [5], Init::Constant(10.0))
        .unwrap()
        .on(&graph);
    // A swap, a read of the old value after it, and the old value itself.
    graph.assign(&a, &b);
    graph.assign(&b, &a.mul_scalar(2.0));
    let sum = a.add(&b).sum(&[], false);
    let mut program = graph.compile(gpu(), &params, &[&sum, &a]).unwrap();
    let mut got = Vec::new();
    for _ in 0..3 {
        let out = program.run(&[]).unwrap();
        got.push((out.scalar(0).unwrap(), out.f32(1).unwrap()[0]));
    }
    assert_eq!(got, [(55.0, 1.0), (60.0, 10.0), (110.0, 2.0)]);
    assert_eq!(params.get("a").unwrap(), [20.0; 5]);
    assert_eq!(params.get("b").unwrap(), [4.0; 5]);
}

/// The old value is still needed by something that the new value leads to, so the
/// update cannot happen in place.
#[test]
fn an_update_waits_for_readers_that_depend_on_it() {
    let params = Params::new(0);
    let graph = Graph::new();
    let w = params
        .add("w", [5], Init::Constant(3.0))
        .unwrap()
        .on(&graph);
    let new = w.mul_scalar(2.0);
    graph.assign(&w, &new);
    let y = w.mul(&new.sum(&[], false));
    let mut program = graph.compile(gpu(), &params, &[&y]).unwrap();
    assert_eq!(program.run(&[]).unwrap().f32(0).unwrap(), [90.0; 5]);
    assert_eq!(params.get("w").unwrap(), [6.0; 5]);
}

#[test]
fn a_lost_device_is_an_error_not_a_panic() {
    let own = Gpu::new().unwrap();
    let net = net();
    let mut program = net.compile(&own, &PlanOptions::default());
    let (x, t) = (numbers(21 * 7, 1), numbers(21 * 3, 2));
    program.run(&feed(&x, &t)).unwrap();
    own.device().destroy();
    for _ in 0..2 {
        let error = program.run(&feed(&x, &t)).unwrap_err();
        let expected = matches!(error, Error::DeviceLost { .. } | Error::Device(_));
        assert!(expected, "{error}");
    }
    assert!(own.buffer("after the end", 64).is_err());
    assert!(net.params.get("w").is_err());
}
