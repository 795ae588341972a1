//! Several devices, lost ones, and what is left behind when nobody waits.

use std::future::Future;
use std::task::{Context, Poll, Waker};

use flowgrad::params::Precision;
use flowgrad::train::Checkpoint;
use flowgrad::{Error, Gpu, Graph, Init, Params, Program, Value};

use crate::support::gpu;

/// A device as an application would have made it, without any optional feature.
fn lent() -> (wgpu::Adapter, wgpu::Device, wgpu::Queue) {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = pollster::block_on(instance.request_adapter(&Default::default())).unwrap();
    let (device, queue) = pollster::block_on(adapter.request_device(&Default::default())).unwrap();
    (adapter, device, queue)
}

/// `w` of four, and a program that adds `x` to it at every run.
fn adder(gpu: &Gpu) -> (Graph, Params, Result<Program, Error>) {
    let (graph, params) = (Graph::new(), Params::new(0));
    let w = params
        .add("w", [4], Init::Values(vec![7.0; 4]))
        .unwrap()
        .on(&graph);
    let sum = w.add(&graph.input("x", [4]));
    graph.assign(&w, &sum);
    let program = graph.compile(gpu, &params, &[&sum]);
    (graph, params, program)
}

const ONE: [(&str, Value<'static>); 1] = [("x", Value::F32(&[1.0; 4]))];

#[test]
fn devices_of_two_instances_are_told_apart() {
    let (a, b) = (Gpu::new().unwrap(), Gpu::new().unwrap());
    let (_, other, _) = adder(&b);
    let (graph, params, program) = adder(&a);
    let mut program = program.unwrap();
    program.run(&ONE).unwrap();
    let error = graph.compile(&b, &params, &[]).unwrap_err();
    assert!(matches!(error, Error::Argument { .. }), "{error}");
    assert_eq!(other.get("w").unwrap(), [7.0; 4]);
    assert_eq!(params.get("w").unwrap(), [8.0; 4]);
    // Clones are one GPU, and a set may move.
    graph.compile(&a.clone(), &params, &[]).unwrap();
    params.detach().unwrap();
    let mut moved = graph.compile(&b, &params, &[]).unwrap();
    moved.step(&ONE).unwrap();
    assert_eq!(params.get("w").unwrap(), [9.0; 4]);

    let (adapter, device, queue) = lent();
    let wrap = || Gpu::from_wgpu(&adapter, device.clone(), queue.clone()).unwrap();
    let (graph, params, program) = adder(&wrap());
    program.unwrap();
    let error = graph.compile(&wrap(), &params, &[]).unwrap_err();
    assert!(error.to_string().contains("clone"), "{error}");
}

/// What the text of `DeviceLost` advises.
#[test]
fn a_run_goes_on_after_its_device_was_lost() {
    let path = std::env::temp_dir().join(format!("flowgrad-lost-{}", std::process::id()));
    let own = Gpu::new().unwrap();
    let (graph, params, program) = adder(&own);
    let mut program = program.unwrap();
    program.step(&ONE).unwrap();
    Checkpoint::default().save(&path, &params).unwrap();
    program.step(&ONE).unwrap();
    own.device().destroy();
    let error = program.run(&ONE).unwrap_err();
    assert!(matches!(error, Error::DeviceLost { .. }), "{error}");
    assert!(error.to_string().contains("detach"), "{error}");

    params.detach().unwrap();
    let next = Gpu::new().unwrap();
    // The values went with the device, and nothing pretends otherwise.
    let lost = |r: Result<(), Error>| matches!(r, Err(Error::DeviceLost { .. }));
    assert!(lost(params.get("w").map(drop)));
    assert!(lost(params.save(&path, Precision::F32)));
    assert!(lost(graph.compile(&next, &params, &[]).map(drop)));
    Checkpoint::load(&path, &params).unwrap();
    assert_eq!(params.get("w").unwrap(), [8.0; 4]);
    let mut program = graph.compile(&next, &params, &[]).unwrap();
    program.step(&ONE).unwrap();
    assert_eq!(params.get("w").unwrap(), [9.0; 4]);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn every_call_on_a_lost_device_says_so() {
    let (adapter, device, queue) = lent();
    let borrowed = Gpu::from_wgpu(&adapter, device.clone(), queue.clone()).unwrap();
    let path = std::env::temp_dir().join(format!("flowgrad-gone-{}", std::process::id()));
    for own in [borrowed, Gpu::new().unwrap()] {
        let (graph, params, program) = adder(&own);
        let mut program = program.unwrap();
        program.run(&ONE).unwrap();
        let buffer = own.buffer("before", 1024).unwrap();
        let mut encoder = own.device().create_command_encoder(&Default::default());
        let ticket = program.submit(&ONE).unwrap();
        let drawn = graph.normal([4]);
        own.device().destroy();

        let mut calls: Vec<(&str, Result<(), Error>)> = vec![
            ("Gpu::check", own.check()),
            ("Gpu::wait", own.wait()),
            ("Gpu::buffer", own.buffer("after", 64).map(drop)),
            ("Gpu::write", own.write(&buffer, 0, &[0; 4])),
            ("Gpu::read", own.read(&buffer, 0, 4).map(drop)),
            ("Param::get", params.find("w").unwrap().get().map(drop)),
            ("Param::set", params.set("w", &[1.0; 4])),
            ("Params::save", params.save(&path, Precision::F32)),
            ("Params::buffers", params.buffers(&own).map(drop)),
            ("Params::arena_values", params.arena_values(0).map(drop)),
            ("Checkpoint", Checkpoint::default().save(&path, &params)),
            ("wait", program.wait(ticket).map(drop)),
            ("step", program.step(&ONE)),
            ("submit", program.submit(&ONE).map(drop)),
            ("run", program.run(&ONE).map(drop)),
            ("profile", program.profile(&ONE, 1).map(drop)),
            ("encode", program.encode(&mut encoder)),
            ("bind_input", program.bind_input("x", &buffer, 0)),
            ("bind_output", program.bind_output(0, &buffer, 0)),
        ];
        let future = pollster::block_on(program.run_async(&ONE));
        calls.push(("run_async", future.map(drop)));
        let compiled = graph.compile_pure(&own, &Params::new(0), &[&drawn]);
        calls.push(("compile", compiled.map(drop)));
        let again = graph.compile(&own, &params, &[]);
        calls.push(("compile", again.map(drop)));
        let frozen = graph.compile_frozen(&own, &params, &[&drawn.square()]);
        calls.push(("compile_frozen", frozen.map(drop)));
        let wrapped = Gpu::from_wgpu(&adapter, device.clone(), queue.clone());
        calls.push(("from_wgpu", wrapped.map(drop)));
        for (what, result) in calls {
            let lost = matches!(result, Err(Error::DeviceLost { .. }));
            assert!(lost, "{what} on {own:?} gave {result:?}");
        }
        params.detach().unwrap();
        params.set("w", &[2.0; 4]).unwrap();
        assert_eq!(params.get("w").unwrap(), [2.0; 4]);
    }
}

/// The application's own handlers hear of a loss as if nobody else were there.
#[test]
fn handlers_of_a_lent_device_stay_the_applications() {
    let (adapter, device, queue) = lent();
    let (told, heard) = std::sync::mpsc::channel();
    device.set_device_lost_callback(move |reason, _| told.send(reason).unwrap());
    let borrowed = Gpu::from_wgpu(&adapter, device.clone(), queue).unwrap();
    let (_, _, program) = adder(&borrowed);
    program.unwrap().run(&ONE).unwrap();
    device.destroy();
    let error = borrowed.wait().unwrap_err();
    assert!(matches!(error, Error::DeviceLost { .. }), "{error}");
    let _ = device.poll(wgpu::PollType::Poll);
    assert_eq!(heard.try_recv(), Ok(wgpu::DeviceLostReason::Destroyed));
}

#[test]
fn a_dropped_future_leaves_nothing_behind() {
    let (_, params, program) = adder(gpu());
    let mut program = program.unwrap();
    let mut context = Context::from_waker(Waker::noop());
    for round in 0..4 {
        let mut future = Box::pin(program.run_async(&ONE));
        // Either way it is dropped before its outputs are taken.
        if let Poll::Ready(result) = future.as_mut().poll(&mut context) {
            result.unwrap();
        }
        drop(future);
        for _ in 0..round {
            program.run(&ONE).unwrap();
        }
    }
    let out = program.run(&ONE).unwrap();
    assert_eq!(out.f32(0).unwrap(), params.get("w").unwrap());
    // Eleven runs, whether anybody waited for them or not.
    assert_eq!(out.f32(0).unwrap(), [18.0; 4]);
    let future = pollster::block_on(program.run_async(&ONE)).unwrap();
    assert_eq!(future.f32(0).unwrap(), [19.0; 4]);
}

/// Whoever asks whether the device is there while another thread polls it hears that it is:
/// a poll may carry out the request by which it is asked, just when that is taken back.
#[test]
fn a_device_that_is_polled_meanwhile_is_not_lost() {
    let gpu = gpu();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                gpu.device().poll(wgpu::PollType::Poll).expect("a poll");
            }
        });
        let asked = (0..10_000).try_for_each(|_| gpu.check());
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        asked.expect("the device is there");
    });
}
