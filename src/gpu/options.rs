//! Choosing and opening an adapter.

use std::sync::{Arc, Mutex};

use super::{Gpu, TuningFile, cache::DiskCache, translate};
use crate::device::Choices;
use crate::device::{DEALT_FLOPS, DeviceClass, DeviceProfile, PACKED_CONV_FLOPS};
use crate::{Error, Result};

/// Which of several adapters is preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PowerPreference {
    /// A discrete GPU first.
    #[default]
    HighPerformance,
    /// An integrated GPU first.
    LowPower,
}

/// What [`Gpu::with`] looks for, and which optional features it may use.
#[derive(Debug, Clone)]
pub struct GpuOptions {
    /// Only adapters of these backends.
    pub backends: wgpu::Backends,
    /// Only adapters whose name contains this, ignoring case.
    pub adapter: Option<String>,
    /// Which kind comes first.
    pub power: PowerPreference,
    /// Whether a software adapter will do.
    pub allow_software: bool,
    /// Use immediates (push constants) where present.
    pub immediates: bool,
    /// Use subgroup operations where present.
    pub subgroups: bool,
    /// Use 16-bit floats where present.
    pub f16: bool,
    /// Use 64-bit integers where present, on software adapters (see `shaders/lib/wide.wgsl`).
    pub int64: bool,
    /// Use timestamp queries where present.
    pub timestamps: bool,
    /// Keep compiled pipelines in the user's cache directory where the backend can.
    pub pipeline_cache: bool,
    /// Ask for WebGPU's default limits instead of the adapter's own.
    pub default_limits: bool,
    /// See [`DeviceProfile::packed_conv_flops`].
    pub packed_conv_flops: u64,
    /// See [`DeviceProfile::dealt_flops`].
    pub dealt_flops: u64,
    /// See [`DeviceProfile::dispatch_flops`]; by default what suits the kind of adapter.
    pub dispatch_flops: Option<u64>,
    /// Variants of kernels that are taken before those of the table; where there are
    /// some, `tuning` is not looked at.
    pub choices: Choices,
    /// Where choices that were measured on this adapter are looked for.
    pub tuning: TuningFile,
    /// Let the driver stack check bounds and bound loops in our shaders.
    pub runtime_checks: bool,
}

impl Default for GpuOptions {
    fn default() -> Self {
        GpuOptions {
            backends: wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12,
            adapter: None,
            power: PowerPreference::HighPerformance,
            allow_software: true,
            immediates: true,
            subgroups: true,
            f16: true,
            int64: true,
            timestamps: true,
            pipeline_cache: true,
            default_limits: false,
            packed_conv_flops: PACKED_CONV_FLOPS,
            dealt_flops: DEALT_FLOPS,
            dispatch_flops: None,
            choices: Choices::default(),
            tuning: TuningFile::default(),
            runtime_checks: false,
        }
    }
}

/// Name, driver and kind of an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterSummary {
    /// The adapter's name.
    pub name: String,
    /// Vulkan, Metal or Dx12.
    pub backend: String,
    /// Discrete, integrated, software ...
    pub kind: String,
    /// The driver's name and version.
    pub driver: String,
}

impl From<&wgpu::AdapterInfo> for AdapterSummary {
    fn from(info: &wgpu::AdapterInfo) -> Self {
        AdapterSummary {
            name: info.name.clone(),
            backend: format!("{:?}", info.backend),
            kind: match info.device_type {
                wgpu::DeviceType::DiscreteGpu => "discrete GPU",
                wgpu::DeviceType::IntegratedGpu => "integrated GPU",
                wgpu::DeviceType::VirtualGpu => "virtual GPU",
                wgpu::DeviceType::Cpu => "software",
                wgpu::DeviceType::Other => "other",
            }
            .into(),
            driver: format!("{} {}", info.driver, info.driver_info)
                .trim()
                .into(),
        }
    }
}

impl std::fmt::Display for AdapterSummary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} ({}, {}, {})",
            self.name, self.kind, self.backend, self.driver
        )
    }
}

/// All adapters of the default backends.
pub fn adapters() -> Vec<AdapterSummary> {
    let options = GpuOptions::default();
    let found = enumerate(options.backends);
    found
        .iter()
        .map(|a| AdapterSummary::from(&a.get_info()))
        .collect()
}

fn enumerate(backends: wgpu::Backends) -> Vec<wgpu::Adapter> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = backends;
    // Validation layers are a developer's tool; they are not ours to switch on.
    descriptor.flags = wgpu::InstanceFlags::empty();
    if (backends & wgpu::Instance::enabled_backend_features()).is_empty() {
        return Vec::new();
    }
    let instance = wgpu::Instance::new(descriptor);
    pollster::block_on(instance.enumerate_adapters(backends))
}

fn rank(kind: wgpu::DeviceType, power: PowerPreference) -> u32 {
    use wgpu::DeviceType::*;
    match (kind, power) {
        (DiscreteGpu, PowerPreference::HighPerformance) => 0,
        (IntegratedGpu, PowerPreference::LowPower) => 0,
        (IntegratedGpu | DiscreteGpu, _) => 1,
        (VirtualGpu, _) => 2,
        (Other, _) => 3,
        (Cpu, _) => 4,
    }
}

/// Opens the adapter that `options` describe.
pub(super) fn open(options: GpuOptions) -> Result<Gpu> {
    let mut found = enumerate(options.backends);
    let names: Vec<String> = found
        .iter()
        .map(|a| AdapterSummary::from(&a.get_info()).to_string())
        .collect();
    let listing = match names.is_empty() {
        true => {
            let names: Vec<String> = options
                .backends
                .iter_names()
                .map(|(n, _)| n.to_lowercase())
                .collect();
            format!("none was found for {}", names.join(", "))
        }
        false => format!("there is only {}", names.join("; ")),
    };
    found.retain(|a| {
        let info = a.get_info();
        let named = options
            .adapter
            .as_ref()
            .is_none_or(|wanted| info.name.to_lowercase().contains(&wanted.to_lowercase()));
        named && (options.allow_software || info.device_type != wgpu::DeviceType::Cpu)
    });
    found.sort_by_key(|a| rank(a.get_info().device_type, options.power));
    let Some(adapter) = found.into_iter().next() else {
        let tried = match &options.adapter {
            Some(name) => format!("looked for one named `{name}`, but {listing}"),
            None if !options.allow_software => {
                format!("software adapters were not allowed, and {listing}")
            }
            None => listing,
        };
        return Err(Error::NoAdapter { tried });
    };

    let mut wanted = wgpu::Features::empty();
    let optional = [
        (options.immediates, wgpu::Features::IMMEDIATES),
        (options.subgroups, wgpu::Features::SUBGROUP),
        (options.f16, wgpu::Features::SHADER_F16),
        (options.int64, wgpu::Features::SHADER_INT64),
        (
            options.timestamps,
            wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::TIMESTAMP_QUERY_INSIDE_ENCODERS,
        ),
        (options.pipeline_cache, wgpu::Features::PIPELINE_CACHE),
    ];
    for (allowed, feature) in optional {
        if allowed && adapter.features().contains(feature) {
            wanted |= feature;
        }
    }
    if options.timestamps
        && adapter
            .features()
            .contains(wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES)
    {
        wanted |= wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES;
    }
    let mut limits = match options.default_limits {
        true => wgpu::Limits::default(),
        false => adapter.limits(),
    };
    if wanted.contains(wgpu::Features::IMMEDIATES) {
        limits.max_immediate_size = adapter.limits().max_immediate_size.min(128);
    } else {
        limits.max_immediate_size = 0;
    }
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("flowgrad"),
        required_features: wanted,
        required_limits: limits,
        memory_hints: wgpu::MemoryHints::Performance,
        ..Default::default()
    };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor))
        .map_err(|e| Error::Device(format!("{}: {e}", adapter.get_info().name)))?;

    let info = adapter.get_info();
    let mut profile = profile(&info, wanted, &device.limits());
    profile.packed_conv_flops = options.packed_conv_flops;
    profile.dealt_flops = options.dealt_flops;
    profile.choices = match options.choices.is_empty() {
        true => options.tuning.load(&info),
        false => options.choices.clone(),
    };
    profile.dispatch_flops = options.dispatch_flops.unwrap_or(profile.dispatch_flops);
    let cache = wanted
        .contains(wgpu::Features::PIPELINE_CACHE)
        .then(|| DiskCache::open(&device, &info))
        .flatten();
    let gpu = Gpu::assemble(device, queue, info, profile, cache, Some(&options));
    watch(&gpu);
    Ok(gpu)
}

/// Keeps the first error that reaches nobody else, on devices that are ours.
fn watch(gpu: &Gpu) {
    let keep = |fault: &Arc<Mutex<Option<Error>>>, error: Error| {
        let mut slot = fault.lock().unwrap_or_else(|e| e.into_inner());
        slot.get_or_insert(error);
    };
    let fault = gpu.0.fault.clone();
    gpu.device()
        .on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            keep(&fault, translate(&error, 0));
        }));
    let fault = gpu.0.fault.clone();
    gpu.device()
        .set_device_lost_callback(move |reason, message| {
            keep(
                &fault,
                Error::DeviceLost {
                    reason: format!("{reason:?}: {message}"),
                },
            );
        });
}

/// What a device with these features and limits can do. Limits may promise what only a
/// feature allows: an application may ask for all limits of an adapter and for no feature.
pub(super) fn profile(
    info: &wgpu::AdapterInfo,
    features: wgpu::Features,
    limits: &wgpu::Limits,
) -> DeviceProfile {
    // Variants are written for one subgroup size; adapters that switch between
    // sizes (Intel) take the variants without subgroup operations.
    let fixed = info.subgroup_min_size == info.subgroup_max_size;
    // And for sizes that divide every kernel's workgroup.
    let known = matches!(info.subgroup_min_size, 4 | 8 | 16 | 32 | 64);
    let subgroups = features.contains(wgpu::Features::SUBGROUP) && fixed && known;
    let class = match info.device_type {
        wgpu::DeviceType::Cpu => DeviceClass::Software,
        wgpu::DeviceType::DiscreteGpu => DeviceClass::Discrete,
        _ => DeviceClass::Integrated,
    };
    DeviceProfile {
        class,
        subgroup_size: subgroups.then_some(info.subgroup_min_size),
        f16: features.contains(wgpu::Features::SHADER_F16),
        int64: features.contains(wgpu::Features::SHADER_INT64),
        immediates: match features.contains(wgpu::Features::IMMEDIATES) {
            true => limits.max_immediate_size,
            false => 0,
        },
        timestamps: features.contains(
            wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES,
        ),
        // Offsets are u32 in shaders.
        max_binding: limits
            .max_storage_buffer_binding_size
            .min(u64::from(u32::MAX)),
        max_buffer: limits.max_buffer_size,
        max_bindings: limits.max_storage_buffers_per_shader_stage.min(8) as usize,
        max_groups: limits.max_compute_workgroups_per_dimension,
        // Most kernels' workgroups lie along x.
        max_invocations: limits
            .max_compute_invocations_per_workgroup
            .min(limits.max_compute_workgroup_size_x),
        workgroup_memory: limits.max_compute_workgroup_storage_size,
        offset_alignment: u64::from(limits.min_storage_buffer_offset_alignment).max(4),
        packed_conv_flops: PACKED_CONV_FLOPS,
        dealt_flops: DEALT_FLOPS,
        dispatch_flops: class.dispatch_flops(),
        choices: Choices::default(),
    }
}
