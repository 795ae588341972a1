//! The device: adapter, limits, pipelines and their cache, buffers, errors.
//!
//! With `exec` the only room that touches wgpu. It knows kernels as text and
//! words; it must not know graphs, ops or plans.

mod cache;
mod health;
mod options;
mod pipeline;
pub mod preprocess;
mod recent;
mod tuning;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) use health::Mapped;
pub use options::{AdapterSummary, GpuOptions, PowerPreference, adapters};
pub use pipeline::PipelineReport;
pub(crate) use pipeline::{Kernel, KernelKey};
pub use tuning::{TuningFile, WGPU_VERSION, parse_choices};

use crate::device::DeviceProfile;
use crate::{Error, Result};

/// How long the library waits for the device before it reports [`Error::Timeout`].
const PATIENCE: Duration = Duration::from_secs(120);

/// A device that programs are compiled for. Clones share it.
///
/// Made by [`Gpu::new`], [`Gpu::with`], or [`Gpu::from_wgpu`] around a device
/// that the application owns. Each call makes a GPU of its own, around one device too:
/// programs and parameters go together where they were given clones of one.
#[derive(Clone)]
pub struct Gpu(Arc<Inner>);

struct Inner {
    device: wgpu::Device,
    queue: wgpu::Queue,
    info: wgpu::AdapterInfo,
    profile: DeviceProfile,
    runtime_checks: bool,
    pipelines: Mutex<pipeline::Pipelines>,
    cache: Option<cache::DiskCache>,
    fault: Arc<Mutex<Option<Error>>>,
    probe: health::Probe,
    /// The device belongs to the application.
    lent: bool,
    created: AtomicU64,
}

/// How many GPU objects a [`Gpu`] has made so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GpuStats {
    /// Buffers, bind groups, layouts and pipelines.
    pub objects_created: u64,
}

impl Gpu {
    /// The best adapter there is: a discrete GPU before an integrated one before
    /// a software adapter.
    pub fn new() -> Result<Self> {
        Self::with(GpuOptions::default())
    }

    /// An adapter chosen by `options`.
    pub fn with(options: GpuOptions) -> Result<Self> {
        options::open(options)
    }

    /// A device that belongs to the application. Nothing global is touched on it:
    /// errors are caught in error scopes, and its loss is noticed without a callback.
    /// Optional features are used where the device was made with them. Wrap a device
    /// once and clone the result. Error: the device is lost.
    pub fn from_wgpu(
        adapter: &wgpu::Adapter,
        device: wgpu::Device,
        queue: wgpu::Queue,
    ) -> Result<Self> {
        let info = adapter.get_info();
        let profile = options::profile(&info, device.features(), &device.limits());
        let gpu = Self::assemble(device, queue, info, profile, None, None);
        gpu.check()?;
        Ok(gpu)
    }

    fn assemble(
        device: wgpu::Device,
        queue: wgpu::Queue,
        info: wgpu::AdapterInfo,
        profile: DeviceProfile,
        cache: Option<cache::DiskCache>,
        own: Option<&GpuOptions>,
    ) -> Self {
        let scope = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let probe = health::Probe::new(&device);
        drop(pollster::block_on(scope.pop()));
        Gpu(Arc::new(Inner {
            device,
            queue,
            info,
            profile,
            runtime_checks: own.is_some_and(|options| options.runtime_checks),
            pipelines: Mutex::default(),
            cache,
            fault: Arc::default(),
            probe,
            lent: own.is_none(),
            created: AtomicU64::new(0),
        }))
    }

    /// What the planner may rely on.
    pub fn profile(&self) -> &DeviceProfile {
        &self.0.profile
    }

    /// The adapter's name.
    pub fn name(&self) -> &str {
        &self.0.info.name
    }

    /// Name, driver and kind of the adapter.
    pub fn summary(&self) -> AdapterSummary {
        AdapterSummary::from(&self.0.info)
    }

    /// The wgpu device.
    pub fn device(&self) -> &wgpu::Device {
        &self.0.device
    }

    /// The wgpu queue.
    pub fn queue(&self) -> &wgpu::Queue {
        &self.0.queue
    }

    /// Counters, for tests and benches.
    pub fn stats(&self) -> GpuStats {
        GpuStats {
            objects_created: self.0.created.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn count_object(&self) {
        self.0.created.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether two handles mean the same GPU. Identities of wgpu's devices restart with
    /// every instance and would not tell.
    pub fn same(&self, other: &Gpu) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Runs `f` and returns what the device had to say about it.
    pub(crate) fn scoped<T>(&self, asked: u64, f: impl FnOnce() -> T) -> Result<T> {
        self.fault()?;
        let memory = self
            .0
            .device
            .push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let internal = self.0.device.push_error_scope(wgpu::ErrorFilter::Internal);
        let validation = self
            .0
            .device
            .push_error_scope(wgpu::ErrorFilter::Validation);
        let value = f();
        let errors = [
            pollster::block_on(validation.pop()),
            pollster::block_on(internal.pop()),
            pollster::block_on(memory.pop()),
        ];
        let error = errors.into_iter().flatten().next();
        let error = error.map(|e| translate(&e, asked));
        // A lost device raises no error, or one of what was lost with it. Where it was
        // lost for lack of memory, that says more.
        match error {
            Some(error @ Error::OutOfMemory { .. }) => Err(error),
            other => self.check().and(other.map_or(Ok(value), Err)),
        }
    }

    /// A zeroed storage buffer of `bytes`, rounded up to whole words.
    pub fn buffer(&self, label: &str, bytes: u64) -> Result<wgpu::Buffer> {
        let usage = wgpu::BufferUsages::STORAGE
            | wgpu::BufferUsages::COPY_SRC
            | wgpu::BufferUsages::COPY_DST;
        self.buffer_with(label, bytes, usage)
    }

    pub(crate) fn buffer_with(
        &self,
        label: &str,
        bytes: u64,
        usage: wgpu::BufferUsages,
    ) -> Result<wgpu::Buffer> {
        let size = bytes.max(4).div_ceil(4) * 4;
        if size > self.0.profile.max_buffer {
            return Err(Error::LimitExceeded {
                what: format!("the buffer `{label}` (bytes)"),
                needed: size,
                available: self.0.profile.max_buffer,
            });
        }
        self.count_object();
        self.scoped(size, || {
            self.0.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size,
                usage,
                mapped_at_creation: false,
            })
        })
    }

    /// Writes `data` (whole words) into `buffer` before anything submitted later.
    pub fn write(&self, buffer: &wgpu::Buffer, offset: u64, data: &[u8]) -> Result<()> {
        self.scoped(data.len() as u64, || {
            self.0.queue.write_buffer(buffer, offset, data)
        })
    }

    /// Seconds of a copy of a whole buffer to another by the device's own copy command,
    /// submission and wait included.
    pub(crate) fn time_copy(&self, from: &wgpu::Buffer, to: &wgpu::Buffer) -> Result<f64> {
        let start = std::time::Instant::now();
        self.scoped(0, || {
            let mut encoder = self.0.device.create_command_encoder(&Default::default());
            encoder.copy_buffer_to_buffer(from, 0, to, 0, from.size().min(to.size()));
            self.0.queue.submit([encoder.finish()]);
        })?;
        self.wait()?;
        Ok(start.elapsed().as_secs_f64())
    }

    /// Waits for everything submitted so far and returns `bytes` of `buffer`.
    pub fn read(&self, buffer: &wgpu::Buffer, offset: u64, bytes: u64) -> Result<Vec<u8>> {
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = self.buffer_with("readback", bytes, usage)?;
        self.scoped(bytes, || {
            let mut encoder = self.0.device.create_command_encoder(&Default::default());
            encoder.copy_buffer_to_buffer(buffer, offset, &staging, 0, bytes);
            self.0.queue.submit([encoder.finish()]);
        })?;
        self.map(&staging, bytes, None, |data| data.to_vec())
    }

    /// Maps the first `bytes` of `staging` once `submission` is done (or everything
    /// that was submitted so far).
    pub(crate) fn map<T>(
        &self,
        staging: &wgpu::Buffer,
        bytes: u64,
        submission: Option<wgpu::SubmissionIndex>,
        f: impl FnOnce(&[u8]) -> T,
    ) -> Result<T> {
        let mapped = Mapped::start(self, staging, bytes)?;
        self.wait_for(submission)?;
        // Another thread's poll may have picked our callback up and not called it yet.
        let start = std::time::Instant::now();
        let mut result = mapped.outcome.take();
        while result.is_none() && start.elapsed() < PATIENCE {
            self.check()?;
            std::thread::yield_now();
            let polled = self.poll(wgpu::PollType::Poll);
            polled.map_err(|e| Error::Device(e.to_string()))?;
            result = mapped.outcome.take();
        }
        self.mapping_result(result)?;
        mapped.read(f)
    }

    /// Completes when the first `bytes` of `staging` are mapped. wgpu has no reactor:
    /// the device is polled whenever the future is, and asks to be polled again.
    pub(crate) async fn mapped<'a>(
        &'a self,
        staging: &'a wgpu::Buffer,
        bytes: u64,
    ) -> Result<Mapped<'a>> {
        let mapped = Mapped::start(self, staging, bytes)?;
        let start = std::time::Instant::now();
        let result = std::future::poll_fn(|cx| {
            let polled = self.poll(wgpu::PollType::Poll);
            if let Some(result) = mapped.outcome.take() {
                return std::task::Poll::Ready(self.mapping_result(Some(result)));
            }
            if let Err(e) = self.check() {
                return std::task::Poll::Ready(Err(e));
            }
            if let Err(e) = polled {
                return std::task::Poll::Ready(Err(Error::Device(e.to_string())));
            }
            if start.elapsed() > PATIENCE {
                return std::task::Poll::Ready(Err(Error::Timeout {
                    seconds: PATIENCE.as_secs(),
                }));
            }
            cx.waker().wake_by_ref();
            std::task::Poll::Pending
        });
        result.await.map(|()| mapped)
    }

    fn mapping_result(&self, result: Option<Result<(), wgpu::BufferAsyncError>>) -> Result<()> {
        match result {
            Some(Ok(())) => Ok(()),
            _ => {
                self.check()?;
                Err(Error::Device(
                    "a readback buffer could not be mapped".into(),
                ))
            }
        }
    }

    /// Waits until the device has finished everything submitted so far.
    pub fn wait(&self) -> Result<()> {
        self.wait_for(None)
    }

    /// Waits for one submission, or for everything submitted so far.
    pub(crate) fn wait_for(&self, submission_index: Option<wgpu::SubmissionIndex>) -> Result<()> {
        let poll = wgpu::PollType::Wait {
            submission_index,
            timeout: Some(PATIENCE),
        };
        let polled = self.poll(poll);
        self.check()?;
        match polled {
            Ok(()) => Ok(()),
            Err(wgpu::PollError::Timeout) => Err(Error::Timeout {
                seconds: PATIENCE.as_secs(),
            }),
            Err(e) => Err(Error::Device(e.to_string())),
        }
    }

    /// Nanoseconds per timestamp tick.
    pub(crate) fn timestamp_period(&self) -> f64 {
        f64::from(self.0.queue.get_timestamp_period())
    }
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gpu({})", self.0.info.name)
    }
}

/// A wgpu error in the crate's words.
fn translate(error: &wgpu::Error, asked: u64) -> Error {
    match error {
        wgpu::Error::OutOfMemory { .. } => Error::OutOfMemory { asked },
        wgpu::Error::Validation { description, .. } => Error::Device(description.clone()),
        wgpu::Error::Internal { description, .. } => Error::Device(description.clone()),
    }
}
