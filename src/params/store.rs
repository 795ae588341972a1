//! Where the values are: on the host until the first compile, on the GPU after it.

use std::collections::{BTreeMap, HashSet};

use bytemuck::cast_slice;

use super::{ArenaInit, ArenaKind, Init, Inner, Params, layout};
use crate::gpu::Gpu;
use crate::{Error, Result};

/// The buffers of a set that lives on a GPU, one per arena.
pub(super) struct Device {
    gpu: Gpu,
    buffers: Vec<wgpu::Buffer>,
}

const WORD: u64 = 4;

impl Params {
    /// One buffer per arena, made and filled on first use; arenas added later get
    /// theirs in a later call. Errors: the set lives on another device already, or
    /// the device refuses.
    pub fn buffers(&self, gpu: &Gpu) -> Result<Vec<wgpu::Buffer>> {
        let mut inner = self.lock();
        inner.place();
        let mut buffers = match &inner.device {
            Some(device) if device.gpu.same(gpu) => {
                gpu.check()?;
                device.buffers.clone()
            }
            Some(_) => {
                return Err(Error::argument(
                    "Params::buffers",
                    "the parameters live on another GPU; call `detach` first, make a set for each, or clone one `Gpu` instead of making two",
                ));
            }
            None => Vec::new(),
        };
        let ready = buffers.len();
        for (arena, entry) in inner.arenas.iter().enumerate().skip(ready) {
            let bytes = WORD * entry.arena.len as u64;
            let buffer = gpu.buffer(&entry.arena.name, bytes)?;
            match (entry.init, entry.arena.mirrors) {
                // The mirrored arena may have been trained on the GPU meanwhile.
                (ArenaInit::Copy, Some(of)) if entry.value.is_none() && of < ready => {
                    let values = gpu.read(&buffers[of], 0, bytes)?;
                    gpu.write(&buffer, 0, &values)?;
                }
                // Buffers come zeroed.
                (ArenaInit::Zeros, Some(_)) if entry.value.is_none() => {}
                _ => gpu.write(&buffer, 0, cast_slice(&inner.host_arena(arena)?))?,
            }
            buffers.push(buffer);
        }
        inner.device = Some(Device {
            gpu: gpu.clone(),
            buffers: buffers.clone(),
        });
        inner.forget_host_values();
        Ok(buffers)
    }

    /// Brings all values back to the host and lets go of the GPU. Programs that
    /// were compiled before keep the old buffers. Where the device was lost, the values
    /// are lost with it: until they are set or loaded, reading one gives
    /// [`Error::DeviceLost`]; optimiser moments start anew.
    pub fn detach(&self) -> Result<()> {
        let mut inner = self.lock();
        let Some(device) = &inner.device else {
            return Ok(());
        };
        let (gpu, count) = (device.gpu.clone(), device.buffers.len());
        let read = (0..count)
            .map(|arena| inner.read_arena(arena))
            .collect::<Result<Vec<_>>>();
        match read {
            Ok(values) => {
                inner.device = None;
                for (arena, values) in values.iter().enumerate() {
                    inner.set_host_arena(arena, values);
                }
            }
            Err(_) if matches!(gpu.check(), Err(Error::DeviceLost { .. })) => {
                inner.device = None;
                inner.lose(count);
            }
            Err(e) => return Err(e),
        }
        Ok(())
    }
}

impl Inner {
    fn buffer(&self, arena: usize) -> Option<(&Gpu, &wgpu::Buffer)> {
        let device = self.device.as_ref()?;
        Some((&device.gpu, device.buffers.get(arena)?))
    }

    pub(super) fn read_value(&self, index: usize) -> Result<Vec<f32>> {
        let placed = self.entries[index]
            .place
            .and_then(|p| Some((p, self.buffer(p.arena)?)));
        let Some((place, (gpu, buffer))) = placed else {
            return self.host_value(index);
        };
        let (offset, bytes) = (WORD * place.offset as u64, WORD * place.len as u64);
        Ok(floats(&gpu.read(buffer, offset, bytes)?))
    }

    pub(super) fn write_value(&mut self, index: usize, values: &[f32]) -> Result<()> {
        let placed = self.entries[index]
            .place
            .and_then(|p| Some((p, self.buffer(p.arena)?)));
        match placed {
            Some((place, (gpu, buffer))) => {
                gpu.write(buffer, WORD * place.offset as u64, cast_slice(values))
            }
            None => {
                self.entries[index].hold(values);
                Ok(())
            }
        }
    }

    pub(super) fn read_arena(&self, arena: usize) -> Result<Vec<f32>> {
        match self.buffer(arena) {
            Some((gpu, buffer)) => {
                let bytes = WORD * self.arenas[arena].arena.len as u64;
                Ok(floats(&gpu.read(buffer, 0, bytes)?))
            }
            None => match (self.arenas[arena].init, self.arenas[arena].arena.mirrors) {
                (ArenaInit::Copy, Some(of)) if self.arenas[arena].value.is_none() => {
                    self.read_arena(of)
                }
                _ => self.host_arena(arena),
            },
        }
    }

    pub(super) fn write_arena(&mut self, arena: usize, values: &[f32]) -> Result<()> {
        match self.buffer(arena) {
            Some((gpu, buffer)) => gpu.write(buffer, 0, cast_slice(values)),
            None => {
                self.set_host_arena(arena, values);
                Ok(())
            }
        }
    }

    /// Puts everything that has no place yet into new arenas, each class into its own.
    pub(super) fn place(&mut self) {
        for (trainable, kind, name) in [
            (true, ArenaKind::Trainable, "params"),
            (false, ArenaKind::State, "states"),
        ] {
            let mut new: Vec<usize> = (0..self.entries.len())
                .filter(|i| self.entries[*i].place.is_none())
                .filter(|i| self.entries[*i].trainable == trainable)
                .collect();
            new.sort_by_key(|i| self.entries[*i].class);
            let classes: Vec<usize> = new.iter().map(|i| self.entries[*i].class).collect();
            let mut rest = new.as_slice();
            for class in classes.chunk_by(|a, b| a == b) {
                let (new, behind) = rest.split_at(class.len());
                rest = behind;
                let lens: Vec<usize> = new.iter().map(|i| self.entries[*i].shape.numel()).collect();
                let (places, arenas) = layout::place(&lens, self.arenas.len());
                for (i, place) in new.iter().zip(places) {
                    self.entries[*i].place = Some(place);
                }
                for len in arenas {
                    self.new_arena(name, kind, len);
                }
            }
        }
    }

    /// Lets the parameters `members` share no arena with others, as far as they have no
    /// place yet.
    pub(super) fn separate(&mut self, members: &[usize]) {
        let members: HashSet<usize> = members.iter().copied().collect();
        let mut next = self.entries.iter().map(|e| e.class).max().unwrap_or(0) + 1;
        let mut inside: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let mut mixed = HashSet::new();
        let open = |(_, e): &(usize, &super::Entry)| e.trainable && e.place.is_none();
        for (i, entry) in self.entries.iter().enumerate().filter(open) {
            if members.contains(&i) {
                inside.entry(entry.class).or_default().push(i);
            } else {
                mixed.insert(entry.class);
            }
        }
        inside.retain(|class, _| mixed.contains(class));
        for group in inside.into_values() {
            for i in group {
                self.entries[i].class = next;
            }
            next += 1;
        }
    }

    fn host_value(&self, index: usize) -> Result<Vec<f32>> {
        let entry = &self.entries[index];
        match &entry.value {
            Some(value) => Ok(value.clone()),
            None if entry.lost => Err(Error::DeviceLost {
                reason: format!("it held the values of `{}`", entry.name),
            }),
            None => Ok(entry.init.values(self.seed, &entry.name, &entry.shape)),
        }
    }

    fn host_arena(&self, arena: usize) -> Result<Vec<f32>> {
        let entry = &self.arenas[arena];
        if let Some(value) = &entry.value {
            return Ok(value.clone());
        }
        if let (ArenaInit::Copy, Some(of)) = (entry.init, entry.arena.mirrors) {
            return self.host_arena(of);
        }
        let mut values = vec![0.0; entry.arena.len];
        for (i, param) in self.entries.iter().enumerate() {
            if let Some(p) = param.place
                && p.arena == arena
            {
                values[p.offset..p.offset + p.len].copy_from_slice(&self.host_value(i)?);
            }
        }
        Ok(values)
    }

    /// Marks the values in the first `arenas` arenas as gone.
    fn lose(&mut self, arenas: usize) {
        for entry in &mut self.entries {
            entry.lost |= entry.place.is_some_and(|p| p.arena < arenas);
        }
    }

    fn set_host_arena(&mut self, arena: usize, values: &[f32]) {
        if self.arenas[arena].arena.kind == ArenaKind::Standalone {
            self.arenas[arena].value = Some(values.to_vec());
            return;
        }
        for param in &mut self.entries {
            if let Some(p) = param.place
                && p.arena == arena
            {
                param.hold(&values[p.offset..p.offset + p.len]);
            }
        }
    }

    /// What is on the GPU needs no second copy here.
    fn forget_host_values(&mut self) {
        for entry in &mut self.entries {
            entry.value = None;
            if matches!(entry.init, Init::Values(_)) {
                entry.init = Init::Zeros;
            }
        }
        for arena in &mut self.arenas {
            arena.value = None;
        }
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect()
}
