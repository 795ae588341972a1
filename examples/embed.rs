//! Inference inside an application that owns its `wgpu` device: the app records one
//! frame, our decoder is part of it, input and output are the app's own buffers, and
//! nothing is read back until the app wants to.
//!
//! `cargo run --release --example embed` decodes random codes to digits, frame after
//! frame, and writes the last frame to `out/embed/frame.png`. Run the demo first and
//! pass `--load out/demo/model.safetensors` to see strokes instead of noise: the codes are
//! random, a model of which codes stand together is another matter.

mod common;

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use common::{CommonArgs, Defaults, Images, Outcome, Report, picture, report};
use flowgrad::models::VqVae;
use flowgrad::nn::Mode;
use flowgrad::params::Strict;
use flowgrad::{Gpu, Graph, Params};

/// Decodes codes to digits inside the frames of an application.
///
/// `--steps` is the number of frames, `--batch` that of digits in a frame.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    common: CommonArgs,
}

/// What an application has anyway.
struct App {
    adapter: wgpu::Adapter,
    device: wgpu::Device,
    queue: wgpu::Queue,
}

impl App {
    fn open() -> Outcome<Self> {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let adapter = pollster::block_on(instance.request_adapter(&Default::default()))?;
        let (device, queue) = pollster::block_on(adapter.request_device(&Default::default()))?;
        Ok(App {
            adapter,
            device,
            queue,
        })
    }

    fn buffer(&self, bytes: u64) -> wgpu::Buffer {
        self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("the app's own"),
            size: bytes,
            usage: wgpu::BufferUsages::STORAGE
                | wgpu::BufferUsages::COPY_DST
                | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        })
    }
}

/// In a frame; the picture of it has eight in a row.
const MAX_DIGITS: usize = 4096;

fn run(args: &CommonArgs) -> Outcome {
    args.try_paths()?;
    if args.resume.is_some() {
        return Err("--resume: nothing is trained here; give weights with --load".into());
    }
    args.batch_of(MAX_DIGITS, "what the picture of a frame has room for")?;
    let app = App::open()?;
    let start = Instant::now();
    let gpu = Gpu::from_wgpu(&app.adapter, app.device.clone(), app.queue.clone())?;
    let params = Params::new(args.seed);
    let model = VqVae::digits(&params)?;
    if let Some(file) = &args.load {
        params.load(file, Strict::Yes)?;
    }
    let [rows, cols] = model.codes_shape();
    let [height, width] = model.image_shape();
    let graph = Graph::new();
    let codes = graph.input_u32("codes", [args.batch, rows, cols]);
    let images = model
        .decode(&model.quantizer.lookup(&codes), Mode::Eval)
        .add_scalar(0.5)
        .clamp(0.0, 1.0);
    let mut program = graph.compile_pure(&gpu, &params, &[&images])?;
    let count = args.batch * rows * cols;
    let pixels = args.batch * height * width;
    let (input, output) = (app.buffer(4 * count as u64), app.buffer(4 * pixels as u64));
    program.bind_input("codes", &input, 0)?;
    program.bind_output(0, &output, 0)?;

    let mut first = None;
    let mut frames = Vec::new();
    let mut state = args.seed.wrapping_add(1);
    for _ in 0..args.steps.max(1) {
        let frame = Instant::now();
        // Something the app computes itself: here, which codes to show.
        let shown: Vec<u32> = (0..count)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) as u32 % model.quantizer.config().codes as u32
            })
            .collect();
        app.queue.write_buffer(
            &input,
            0,
            &shown
                .iter()
                .flat_map(|c| c.to_le_bytes())
                .collect::<Vec<u8>>(),
        );
        let mut encoder = app.device.create_command_encoder(&Default::default());
        program.encode(&mut encoder)?;
        // The app's own passes would follow here.
        app.queue.submit([encoder.finish()]);
        gpu.wait()?;
        frames.push(frame.elapsed().as_secs_f64());
        first.get_or_insert(start.elapsed().as_secs_f64());
    }
    let bytes = gpu.read(&output, 0, 4 * pixels as u64)?;
    let data: Vec<f32> = bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect();
    let picture = picture::grid(
        &Images::new(&data, [args.batch, 1, height, width])?,
        args.batch.div_ceil(8),
        8,
        6,
    );
    picture::save(&picture, &args.out_file("frame.png")?)?;
    frames.sort_by(f64::total_cmp);
    let median = frames[frames.len() / 2];
    let mut table = Report::new();
    table
        .row("adapter", gpu.summary())
        .row("first result", report::seconds(first.unwrap_or(0.0)))
        .row(
            "frame",
            format!("{} (median of {})", report::seconds(median), frames.len()),
        )
        .row("dispatches", program.plan().steps.len())
        .row("GPU objects made", gpu.stats().objects_created)
        .row("written to", args.out.display())
        .figure("first_result_seconds", first.unwrap_or(0.0))
        .figure("frame_seconds", median)
        .figure("dispatches", program.plan().steps.len());
    table.print(args);
    Ok(())
}

fn main() -> ExitCode {
    common::main(|| {
        let args: Args = common::parse(Defaults {
            name: "embed",
            steps: 60,
            batch: 32,
            lr: 1e-3,
        });
        run(&args.common)
    })
}
