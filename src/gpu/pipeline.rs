//! From kernel text to pipelines: parse, check, compile, remember.

use std::collections::HashMap;
use std::sync::Arc;

use super::recent::Recent;
use super::{Gpu, preprocess};
use crate::{Error, Result};

/// What makes two kernels the same pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct KernelKey {
    pub name: String,
    /// Plain WGSL, preprocessed.
    pub text: String,
    /// Per storage binding, whether it is read only.
    pub read_only: Vec<bool>,
    /// Words of `Args`.
    pub args: usize,
    /// Args go into immediates (else into a uniform buffer after the storage bindings).
    pub immediates: bool,
}

/// A compiled kernel.
#[derive(Clone)]
pub(crate) struct Kernel {
    pub pipeline: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
}

/// Pipelines that are kept ready at most, the least recently asked for going first. Each
/// holds a few hundred kilobytes in the driver; a large model has about a hundred.
pub(super) const MAX_PIPELINES: usize = 1024;

pub(super) struct Pipelines {
    kernels: Recent<Arc<KernelKey>, Kernel>,
    layouts: HashMap<(Vec<bool>, bool), wgpu::BindGroupLayout>,
}

impl Default for Pipelines {
    fn default() -> Self {
        Pipelines {
            kernels: Recent::new(MAX_PIPELINES),
            layouts: HashMap::new(),
        }
    }
}

/// What a [`Gpu`] keeps ready for later programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipelineReport {
    /// Compiled kernels.
    pub pipelines: usize,
    /// As many are kept at most; then the least recently asked for goes.
    pub most: usize,
    /// Bytes of their texts; what the driver holds beside them it does not tell.
    pub text_bytes: usize,
    /// Pipelines by kernel, the most numerous first.
    pub by_kernel: Vec<(String, usize)>,
}

impl std::fmt::Display for PipelineReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} pipelines of at most {}, {} bytes of text",
            self.pipelines, self.most, self.text_bytes
        )?;
        for (kernel, count) in &self.by_kernel {
            write!(f, "\n{count:>6} {kernel}")?;
        }
        Ok(())
    }
}

impl KernelKey {
    /// Preprocesses a kernel's text for a device.
    pub fn new(
        name: &str,
        source: &str,
        defines: &[(String, String)],
        read_only: Vec<bool>,
        args: usize,
        immediate_bytes: u32,
    ) -> Result<Self> {
        let immediates = args * 4 <= immediate_bytes as usize;
        let place = match immediates {
            true => preprocess::ArgsIn::Immediates,
            false => preprocess::ArgsIn::Uniform(read_only.len() as u32),
        };
        Ok(KernelKey {
            name: name.into(),
            text: preprocess::preprocess(name, source, defines, place)?,
            read_only,
            args,
            immediates: immediates && args > 0,
        })
    }

    pub(crate) fn uses_uniform(&self) -> bool {
        self.args > 0 && !self.immediates
    }
}

impl Gpu {
    /// Compiles all kernels that are not compiled yet, on several threads, and
    /// returns them in order.
    pub(crate) fn kernels(&self, keys: &[Arc<KernelKey>]) -> Result<Vec<Kernel>> {
        // Held here, too: another thread may push them out of the cache meanwhile.
        let mut ready: HashMap<Arc<KernelKey>, Kernel> = HashMap::new();
        let mut missing: Vec<Arc<KernelKey>> = Vec::new();
        {
            let mut known = self.0.pipelines.lock().unwrap_or_else(|e| e.into_inner());
            for key in keys {
                if ready.contains_key(key) || missing.contains(key) {
                    continue;
                }
                match known.kernels.get(key) {
                    Some(kernel) => drop(ready.insert(key.clone(), kernel.clone())),
                    None => missing.push(key.clone()),
                }
            }
        }
        if !missing.is_empty() {
            let threads = std::thread::available_parallelism()
                .map_or(1, |n| n.get())
                .min(8);
            let per_thread = missing.len().div_ceil(threads);
            let compiled: Vec<Result<Vec<Kernel>>> = std::thread::scope(|scope| {
                let workers: Vec<_> = missing
                    .chunks(per_thread)
                    .map(|chunk| {
                        scope.spawn(move || {
                            chunk.iter().map(|key| self.compile_kernel(key)).collect()
                        })
                    })
                    .collect();
                workers
                    .into_iter()
                    .map(|w| {
                        w.join().unwrap_or_else(|_| {
                            Err(Error::Device("the shader compiler panicked".into()))
                        })
                    })
                    .collect()
            });
            let mut known = self.0.pipelines.lock().unwrap_or_else(|e| e.into_inner());
            for (chunk, kernels) in missing.chunks(per_thread).zip(compiled) {
                for (key, kernel) in chunk.iter().zip(kernels?) {
                    known.kernels.insert(key.clone(), kernel.clone());
                    ready.insert(key.clone(), kernel);
                }
            }
            if let Some(cache) = &self.0.cache {
                cache.touch();
            }
        }
        keys.iter()
            .map(|key| {
                ready.get(key).cloned().ok_or_else(|| Error::Shader {
                    kernel: key.name.clone(),
                    message: "the pipeline vanished".into(),
                })
            })
            .collect()
    }

    /// What is kept ready for later programs.
    pub fn pipeline_report(&self) -> PipelineReport {
        let known = self.0.pipelines.lock().unwrap_or_else(|e| e.into_inner());
        let mut counts: HashMap<&str, usize> = HashMap::new();
        let mut text_bytes = 0;
        for key in known.kernels.keys() {
            *counts.entry(&key.name).or_default() += 1;
            text_bytes += key.text.len();
        }
        let mut by_kernel: Vec<(String, usize)> =
            counts.iter().map(|(k, n)| (k.to_string(), *n)).collect();
        by_kernel.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        PipelineReport {
            pipelines: known.kernels.len(),
            most: MAX_PIPELINES,
            text_bytes,
            by_kernel,
        }
    }

    /// Forgets all compiled kernels. Programs keep theirs; what no program uses is
    /// freed, and compiled again when it is next asked for.
    pub fn clear_pipelines(&self) {
        let mut known = self.0.pipelines.lock().unwrap_or_else(|e| e.into_inner());
        *known = Pipelines::default();
    }

    /// Writes newly compiled pipelines to the disk cache, where there is one.
    pub fn store_pipeline_cache(&self) {
        if let Some(cache) = &self.0.cache {
            cache.store();
        }
    }

    fn layout(&self, read_only: &[bool], uniform: bool) -> wgpu::BindGroupLayout {
        let key = (read_only.to_vec(), uniform);
        let mut known = self.0.pipelines.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(layout) = known.layouts.get(&key) {
            return layout.clone();
        }
        let entry = |binding: u32, ty: wgpu::BufferBindingType| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty,
                has_dynamic_offset: false,
                min_binding_size: None,
            },
            count: None,
        };
        let mut entries: Vec<_> = read_only
            .iter()
            .enumerate()
            .map(|(i, r)| entry(i as u32, wgpu::BufferBindingType::Storage { read_only: *r }))
            .collect();
        if uniform {
            entries.push(entry(
                read_only.len() as u32,
                wgpu::BufferBindingType::Uniform,
            ));
        }
        self.count_object();
        let layout = self
            .device()
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                label: None,
                entries: &entries,
            });
        known.layouts.insert(key, layout.clone());
        layout
    }

    fn compile_kernel(&self, key: &KernelKey) -> Result<Kernel> {
        let fail = |message: String| Error::Shader {
            kernel: key.name.clone(),
            message,
        };
        let module = naga::front::wgsl::parse_str(&key.text)
            .map_err(|e| fail(e.emit_to_string(&key.text)))?;
        let compiled = self.scoped(0, || {
            let checks = match self.0.runtime_checks {
                true => wgpu::ShaderRuntimeChecks::checked(),
                false => wgpu::ShaderRuntimeChecks::unchecked(),
            };
            // SAFETY: the kernels are the crate's own, or a user's `Op` that vouches for
            // its indices as ours do; `GpuOptions::runtime_checks` turns the checks on.
            let shader = unsafe {
                self.device().create_shader_module_trusted(
                    wgpu::ShaderModuleDescriptor {
                        label: Some(&key.name),
                        source: wgpu::ShaderSource::Naga(std::borrow::Cow::Owned(module)),
                    },
                    checks,
                )
            };
            let layout = self.layout(&key.read_only, key.uses_uniform());
            let pipeline_layout =
                self.device()
                    .create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                        label: Some(&key.name),
                        bind_group_layouts: &[Some(&layout)],
                        immediate_size: if key.immediates {
                            4 * key.args as u32
                        } else {
                            0
                        },
                    });
            let pipeline =
                self.device()
                    .create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                        label: Some(&key.name),
                        layout: Some(&pipeline_layout),
                        module: &shader,
                        entry_point: Some("main"),
                        compilation_options: wgpu::PipelineCompilationOptions {
                            // Kernels write workgroup memory before they read it.
                            zero_initialize_workgroup_memory: false,
                            ..Default::default()
                        },
                        cache: self.0.cache.as_ref().map(|c| &c.cache),
                    });
            Kernel { pipeline, layout }
        });
        self.count_object();
        compiled.map_err(|e| match e {
            Error::Device(message) => fail(message),
            other => other,
        })
    }
}

impl Drop for super::Inner {
    fn drop(&mut self) {
        if let Some(cache) = &self.cache {
            cache.store();
        }
    }
}
