//! Whether a device is still there, and mappings that nobody waits for any more.
//!
//! wgpu tells of a loss by a callback, of which a device has one: on a device that is
//! lent to us it belongs to the application. Calls on a lost device do nothing and raise
//! no error, in scopes neither. But a request to map a buffer is refused at once where
//! the device is lost, and only there, and can be taken back where it is not.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use super::Gpu;
use crate::{Error, Result};

/// A buffer whose only use is to be asked for. Behind a lock, because two requests at
/// once would refuse each other.
pub(super) struct Probe(Mutex<wgpu::Buffer>);

impl Probe {
    /// Made inside an error scope: on a lost device the buffer is none.
    pub fn new(device: &wgpu::Device) -> Self {
        Probe(Mutex::new(small_buffer(device)))
    }

    /// Another thread's poll may carry out a request while it is taken back here; then the
    /// buffer stays mapped, and refuses the next request on a healthy device, too. So a
    /// refusal counts only if a new buffer, of which no poll can know, is refused as well.
    fn alive(&self, device: &wgpu::Device) -> bool {
        let mut buffer = self.0.lock().unwrap_or_else(|e| e.into_inner());
        quiet(device, || {
            if accepts(&buffer) {
                return true;
            }
            *buffer = small_buffer(device);
            accepts(&buffer)
        })
    }
}

fn small_buffer(device: &wgpu::Device) -> wgpu::Buffer {
    device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("probe"),
        size: 4,
        usage: wgpu::BufferUsages::MAP_READ,
        mapped_at_creation: false,
    })
}

/// Whether a request to map the buffer is not refused at once; it is taken back.
fn accepts(buffer: &wgpu::Buffer) -> bool {
    let refused = matches!(Mapping::start(buffer, 4).take(), Some(Err(_)));
    buffer.unmap();
    !refused
}

/// Runs `f` without a word about what it does to a device that is lost meanwhile.
fn quiet<T>(device: &wgpu::Device, f: impl FnOnce() -> T) -> T {
    let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let value = f();
    drop(pollster::block_on(scope.pop()));
    value
}

impl Gpu {
    /// [`Error::DeviceLost`] if the device is gone, else the first error that it
    /// reported outside of any call, if any.
    pub fn check(&self) -> Result<()> {
        self.fault()?;
        if self.0.probe.alive(&self.0.device) {
            return Ok(());
        }
        // On a device of our own the callback knows more, and a poll brings it out.
        if !self.0.lent {
            let _ = self.poll(wgpu::PollType::Poll);
        }
        let mut fault = self.0.fault.lock().unwrap_or_else(|e| e.into_inner());
        let error = fault.get_or_insert_with(|| Error::DeviceLost {
            reason: "it takes no more work".into(),
        });
        Err(error.clone())
    }

    /// What is known without asking the device.
    pub(super) fn fault(&self) -> Result<()> {
        let fault = self.0.fault.lock().unwrap_or_else(|e| e.into_inner());
        fault.clone().map_or(Ok(()), Err)
    }

    /// Polls the device. wgpu panics where the driver loses the device in the middle.
    pub(super) fn poll(&self, how: wgpu::PollType) -> Result<(), wgpu::PollError> {
        let polled = catch_unwind(AssertUnwindSafe(|| self.0.device.poll(how)));
        // `check` tells what became of the device.
        polled.map_or(Ok(()), |result| result.map(drop))
    }

    /// Takes a mapping, or the request for one, back.
    pub(super) fn unmap(&self, staging: &wgpu::Buffer) {
        quiet(&self.0.device, || staging.unmap());
    }
}

/// What became of a request to map a buffer.
#[derive(Clone, Default)]
pub(super) struct Mapping(Arc<Mutex<Option<Result<(), wgpu::BufferAsyncError>>>>);

impl Mapping {
    pub fn start(buffer: &wgpu::Buffer, bytes: u64) -> Self {
        let mapping = Mapping::default();
        let sender = mapping.clone();
        buffer.map_async(wgpu::MapMode::Read, 0..bytes, move |result| {
            *sender.0.lock().unwrap_or_else(|e| e.into_inner()) = Some(result);
        });
        mapping
    }

    pub fn take(&self) -> Option<Result<(), wgpu::BufferAsyncError>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).take()
    }
}

/// A staging buffer whose mapping was asked for. It is taken back when this is dropped,
/// by a future that nobody finishes or an error on the way, so that the buffer can be
/// used again.
pub(crate) struct Mapped<'a> {
    gpu: &'a Gpu,
    staging: &'a wgpu::Buffer,
    bytes: u64,
    pub(super) outcome: Mapping,
}

impl<'a> Mapped<'a> {
    pub(super) fn start(gpu: &'a Gpu, staging: &'a wgpu::Buffer, bytes: u64) -> Result<Self> {
        let outcome = gpu.scoped(0, || Mapping::start(staging, bytes))?;
        Ok(Mapped {
            gpu,
            staging,
            bytes,
            outcome,
        })
    }

    /// What `f` makes of the bytes, once they are there.
    pub(crate) fn read<T>(self, f: impl FnOnce(&[u8]) -> T) -> Result<T> {
        match self.staging.get_mapped_range(0..self.bytes) {
            Ok(view) => Ok(f(&view)),
            Err(e) => {
                self.gpu.check()?;
                Err(Error::Device(e.to_string()))
            }
        }
    }
}

impl Drop for Mapped<'_> {
    fn drop(&mut self) {
        self.gpu.unmap(self.staging);
    }
}
