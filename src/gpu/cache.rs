//! The driver's pipeline cache, kept between runs.
//!
//! A file that is missing, stale or broken is ignored: the cache only ever saves time.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

/// Drivers keep some megabytes; a file beyond this is none of theirs.
const MAX_BYTES: u64 = 256 << 20;

/// A pipeline cache with a file behind it.
pub(super) struct DiskCache {
    pub cache: wgpu::PipelineCache,
    path: PathBuf,
    dirty: AtomicBool,
}

impl DiskCache {
    /// The cache for this adapter and driver, or `None` where there is none.
    pub fn open(device: &wgpu::Device, info: &wgpu::AdapterInfo) -> Option<Self> {
        let key = wgpu::util::pipeline_cache_key(info)?;
        let driver: String = format!("{}_{}", info.driver, info.driver_info)
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
            .collect();
        let path = directory()?.join(format!("{key}_{driver}_{}.bin", env!("CARGO_PKG_VERSION")));
        let size = std::fs::metadata(&path).map_or(0, |m| m.len());
        let data = match size <= MAX_BYTES {
            true => std::fs::read(&path).ok(),
            false => None,
        };
        // SAFETY: the file was written by `store` from `get_data` of an adapter with
        // the same key; wgpu checks the header and falls back to an empty cache.
        let cache = unsafe {
            device.create_pipeline_cache(&wgpu::PipelineCacheDescriptor {
                label: Some("flowgrad"),
                data: data.as_deref(),
                fallback: true,
            })
        };
        Some(DiskCache {
            cache,
            path,
            dirty: AtomicBool::new(false),
        })
    }

    /// Notes that a pipeline was compiled.
    pub fn touch(&self) {
        self.dirty.store(true, Ordering::Relaxed);
    }

    /// Writes the cache, if anything was added. Failures are not errors.
    pub fn store(&self) {
        if !self.dirty.swap(false, Ordering::Relaxed) {
            return;
        }
        let Some(data) = self.cache.get_data() else {
            return;
        };
        let Some(parent) = self.path.parent() else {
            return;
        };
        let temporary = self
            .path
            .with_extension(format!("{}.tmp", std::process::id()));
        let written = std::fs::create_dir_all(parent)
            .and_then(|()| std::fs::write(&temporary, data))
            .and_then(|()| std::fs::rename(&temporary, &self.path));
        if written.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
    }
}

/// `$XDG_CACHE_HOME/flowgrad` and its like on other systems.
pub(super) fn directory() -> Option<PathBuf> {
    let var = |name: &str| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    let base = if cfg!(windows) {
        var("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        var("HOME").map(|h| h.join("Library/Caches"))
    } else {
        var("XDG_CACHE_HOME").or_else(|| var("HOME").map(|h| h.join(".cache")))
    };
    base.map(|b| b.join("flowgrad"))
}
