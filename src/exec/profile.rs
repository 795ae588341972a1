//! Where the time goes: per step, with flops and bytes from the plan.

use std::time::Instant;

use serde_json::json;

use super::{Program, Value};
use crate::Result;
use crate::device::Roof;
use crate::plan::shorten;

/// Timestamps of one query set; WebGPU allows 4,096.
const QUERIES: usize = 2048;

/// The time of one step.
#[derive(Debug, Clone)]
pub struct ProfileRow {
    /// Position in the plan.
    pub step: usize,
    /// The op, or what was fused.
    pub op: String,
    /// Kernel and variant.
    pub kernel: String,
    /// Seconds, median over the profiled runs.
    pub seconds: f64,
    /// Floating-point operations.
    pub flops: u64,
    /// Bytes that must be moved.
    pub bytes: u64,
}

/// Times of all steps.
#[derive(Debug, Clone)]
pub struct Profile {
    /// One row per step.
    pub rows: Vec<ProfileRow>,
    /// Whether the times come from the GPU's own clock; else every step was
    /// submitted and waited for by itself, which adds the cost of a submission.
    pub gpu_clock: bool,
}

impl Profile {
    /// Seconds of all steps.
    pub fn seconds(&self) -> f64 {
        self.rows.iter().map(|r| r.seconds).sum()
    }

    /// `(kernel, dispatches, seconds)`, the slowest first.
    pub fn by_kernel(&self) -> Vec<(String, usize, f64)> {
        let mut out: Vec<(String, usize, f64)> = Vec::new();
        for row in &self.rows {
            match out.iter_mut().find(|(k, _, _)| *k == row.kernel) {
                Some((_, n, s)) => {
                    *n += 1;
                    *s += row.seconds;
                }
                None => out.push((row.kernel.clone(), 1, row.seconds)),
            }
        }
        out.sort_by(|a, b| b.2.total_cmp(&a.2));
        out
    }

    /// One line per step, in the order of the plan: time, share of the whole,
    /// GFLOP/s and GB/s, and where `roof` is given the fraction of it that was
    /// reached: the least time the step's work could take over the time it took.
    pub fn table(&self, roof: Option<&Roof>) -> String {
        let mut out = format!(
            "{:>4}  {:<28} {:<34} {:>9} {:>6} {:>8} {:>7} {:>6}\n",
            "step", "op", "kernel", "us", "share", "GFLOP/s", "GB/s", "roof"
        );
        let whole = self.seconds();
        for row in &self.rows {
            let [gflops, gbytes] = row.rates();
            let fraction = roof.map_or("-".into(), |r| format!("{:.0} %", 100.0 * row.fraction(r)));
            out += &format!(
                "{:>4}  {:<28} {:<34} {:>9.1} {:>4.1} % {gflops:>8.2} {gbytes:>7.2} {fraction:>6}\n",
                row.step,
                shorten(&row.op, 28),
                shorten(&row.kernel, 34),
                row.seconds * 1e6,
                100.0 * row.seconds / whole,
            );
        }
        let flops: u64 = self.rows.iter().map(|r| r.flops).sum();
        out += &format!(
            "{} steps, {:.3} ms by {}, {:.2} GFLOP/s",
            self.rows.len(),
            whole * 1e3,
            match self.gpu_clock {
                true => "the GPU's clock",
                false => "the CPU's clock, a submission each",
            },
            flops as f64 / whole / 1e9,
        );
        if let Some(roof) = roof {
            out += &format!("; the roof here: {roof}");
        }
        out
    }

    /// The steps as a trace in Chrome's JSON format, which Perfetto and
    /// `chrome://tracing` open: one slice per step, one after another, with its
    /// kernel, operations and bytes.
    pub fn chrome_trace(&self, roof: Option<&Roof>) -> String {
        let clock = match self.gpu_clock {
            true => "GPU clock",
            false => "CPU clock, one submission per step",
        };
        let name = |what: &str, name: &str| json!({ "ph": "M", "pid": 1, "tid": 1, "name": what, "args": { "name": name } });
        let mut events = vec![name("process_name", "flowgrad"), name("thread_name", clock)];
        let mut start = 0.0;
        for row in &self.rows {
            let [gflops, gbytes] = row.rates();
            let mut args = json!({
                "step": row.step,
                "kernel": row.kernel,
                "flops": row.flops,
                "bytes": row.bytes,
                "GFLOP/s": gflops,
                "GB/s": gbytes,
            });
            if let Some(roof) = roof {
                args["fraction of roof"] = row.fraction(roof).into();
            }
            events.push(json!({
                "ph": "X",
                "pid": 1,
                "tid": 1,
                "name": row.op,
                "cat": "step",
                "ts": start,
                "dur": row.seconds * 1e6,
                "args": args,
            }));
            start += row.seconds * 1e6;
        }
        json!({ "displayTimeUnit": "ns", "traceEvents": events }).to_string()
    }
}

impl ProfileRow {
    /// The least time that the step's work can take over the time it took: 1 on the
    /// roof, and above it where caches serve the bytes, or where other work slowed the
    /// measurement of the roof.
    pub fn fraction(&self, roof: &Roof) -> f64 {
        roof.seconds(self.flops, self.bytes, 1) / self.seconds.max(f64::MIN_POSITIVE)
    }

    /// GFLOP/s and GB/s.
    fn rates(&self) -> [f64; 2] {
        let seconds = self.seconds.max(f64::MIN_POSITIVE);
        [self.flops, self.bytes].map(|n| n as f64 / seconds / 1e9)
    }
}

impl Program {
    /// Runs `runs` times and measures every step. The runs count: assignments are
    /// carried out each time.
    pub fn profile(&mut self, inputs: &[(&str, Value<'_>)], runs: usize) -> Result<Profile> {
        self.set_inputs(inputs)?;
        let gpu_clock = self.gpu.profile().timestamps;
        let mut times: Vec<Vec<f64>> = vec![Vec::new(); self.steps.len()];
        for _ in 0..runs.max(1) {
            self.upload()?;
            let measured = match gpu_clock {
                true => self.timestamps()?,
                false => self.step_by_step()?,
            };
            self.finish_runs(1);
            for (all, one) in times.iter_mut().zip(measured) {
                all.push(one);
            }
        }
        let rows = times
            .into_iter()
            .zip(&self.plan.steps)
            .enumerate()
            .map(|(step, (mut times, planned))| {
                times.sort_by(f64::total_cmp);
                ProfileRow {
                    step,
                    op: planned.op.clone(),
                    kernel: match planned.variant.is_empty() {
                        true => planned.kernel.clone(),
                        false => format!("{} [{}]", planned.kernel, planned.variant),
                    },
                    seconds: times[times.len() / 2],
                    flops: planned.flops,
                    bytes: planned.bytes,
                }
            })
            .collect();
        Ok(Profile { rows, gpu_clock })
    }

    fn timestamps(&mut self) -> Result<Vec<f64>> {
        let gpu = self.gpu.clone();
        let period = gpu.timestamp_period() * 1e-9;
        let mut times = Vec::with_capacity(self.steps.len());
        let mut copies_done = false;
        for chunk in self.steps.chunks(QUERIES / 2) {
            let count = 2 * chunk.len() as u32;
            gpu.count_object();
            let queries = gpu.scoped(0, || {
                gpu.device().create_query_set(&wgpu::QuerySetDescriptor {
                    label: Some("profile"),
                    ty: wgpu::QueryType::Timestamp,
                    count,
                })
            })?;
            let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
            let resolved = gpu.buffer_with("timestamps", 8 * u64::from(count), usage)?;
            gpu.scoped(0, || {
                let mut encoder = gpu.device().create_command_encoder(&Default::default());
                if !copies_done {
                    for copy in &self.plan.copies_before {
                        self.copy(&mut encoder, copy);
                    }
                    copies_done = true;
                }
                {
                    let mut pass = encoder.begin_compute_pass(&Default::default());
                    for (i, step) in chunk.iter().enumerate() {
                        pass.write_timestamp(&queries, 2 * i as u32);
                        dispatch(&mut pass, step);
                        pass.write_timestamp(&queries, 2 * i as u32 + 1);
                    }
                }
                encoder.resolve_query_set(&queries, 0..count, &resolved, 0);
                gpu.queue().submit([encoder.finish()]);
            })?;
            let data = gpu.read(&resolved, 0, 8 * u64::from(count))?;
            let ticks: Vec<u64> = data
                .chunks_exact(8)
                .map(|b| b.iter().rev().fold(0, |v, byte| v << 8 | u64::from(*byte)))
                .collect();
            times.extend(
                ticks
                    .chunks_exact(2)
                    .map(|t| t[1].saturating_sub(t[0]) as f64 * period),
            );
        }
        self.copy_assignments()?;
        Ok(times)
    }

    fn step_by_step(&mut self) -> Result<Vec<f64>> {
        let gpu = self.gpu.clone();
        let mut times = Vec::with_capacity(self.steps.len());
        gpu.scoped(0, || {
            let mut encoder = gpu.device().create_command_encoder(&Default::default());
            for copy in &self.plan.copies_before {
                self.copy(&mut encoder, copy);
            }
            gpu.queue().submit([encoder.finish()]);
        })?;
        gpu.wait()?;
        for step in &self.steps {
            let start = Instant::now();
            gpu.scoped(0, || {
                let mut encoder = gpu.device().create_command_encoder(&Default::default());
                dispatch(&mut encoder.begin_compute_pass(&Default::default()), step);
                gpu.queue().submit([encoder.finish()]);
            })?;
            gpu.wait()?;
            times.push(start.elapsed().as_secs_f64());
        }
        self.copy_assignments()?;
        Ok(times)
    }

    fn copy_assignments(&self) -> Result<()> {
        let gpu = &self.gpu;
        gpu.scoped(0, || {
            let mut encoder = gpu.device().create_command_encoder(&Default::default());
            for copy in &self.plan.copies {
                self.copy(&mut encoder, copy);
            }
            gpu.queue().submit([encoder.finish()]);
        })?;
        gpu.wait()
    }
}

fn dispatch(pass: &mut wgpu::ComputePass<'_>, step: &super::Ready) {
    pass.set_pipeline(&step.pipeline);
    pass.set_bind_group(0, &step.bind_group, &[]);
    if !step.immediates.is_empty() {
        pass.set_immediates(0, &step.immediates);
    }
    pass.dispatch_workgroups(step.grid[0], step.grid[1], step.grid[2]);
}
