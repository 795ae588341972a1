//! burn's side of a row.

use burn::tensor::wgpu::WgpuBackend;
use burn::tensor::{Device, DeviceKind, Int, Tensor, TensorData};
use flowgrad::Gpu;

use crate::row::{COMPARED_STEPS, Data, Outcome, Side};

/// burn's device on the adapter that flowgrad runs on, or an error where burn
/// cannot be had there.
pub fn open(gpu: &Gpu) -> Outcome<Device> {
    let ours = gpu.summary();
    let api = match ours.backend.as_str() {
        "Vulkan" => WgpuBackend::Vulkan,
        "Metal" => WgpuBackend::Metal,
        "Dx12" => WgpuBackend::Dx12,
        _ => WgpuBackend::Auto,
    };
    let kind = match ours.kind.as_str() {
        "discrete GPU" => DeviceKind::DiscreteGpu(0),
        "integrated GPU" => DeviceKind::IntegratedGpu(0),
        "virtual GPU" => DeviceKind::VirtualGpu(0),
        "software" => DeviceKind::Cpu,
        _ => DeviceKind::DefaultDevice,
    };
    let options = Device::wgpu_options().graphics_api(api).device_kind(kind);
    let (device, setup) = options.init_with_setup()?;
    let theirs = setup.adapter.get_info();
    if theirs.name != ours.name {
        let text = format!("flowgrad is on {}, burn on {}", ours.name, theirs.name);
        return Err(text.into());
    }
    Ok(device)
}

/// A tensor of burn's.
pub fn tensor<const D: usize>(data: &Data, device: &Device) -> Tensor<D> {
    let data = TensorData::new(data.values.clone(), data.shape.clone());
    Tensor::from_data(data, device)
}

/// What a run leaves on the device.
pub trait Output {
    fn read(self: Box<Self>) -> Outcome<Vec<f32>>;
}

impl<const D: usize> Output for Tensor<D> {
    fn read(self: Box<Self>) -> Outcome<Vec<f32>> {
        Ok(self
            .into_data()
            .try_into_vec::<f32>()
            .map_err(|e| format!("{e:?}"))?)
    }
}

impl<const D: usize> Output for Tensor<D, Int> {
    fn read(self: Box<Self>) -> Outcome<Vec<f32>> {
        Ok(self
            .float()
            .into_data()
            .try_into_vec::<f32>()
            .map_err(|e| format!("{e:?}"))?)
    }
}

/// Work that is done anew at every run.
pub struct Peer {
    device: Device,
    work: Box<dyn FnMut() -> Vec<Box<dyn Output>>>,
    /// Runs whose results are compared.
    compared: usize,
}

impl Peer {
    pub fn new(
        device: &Device,
        work: impl FnMut() -> Vec<Box<dyn Output>> + 'static,
    ) -> Box<dyn Side> {
        Box::new(Peer {
            device: device.clone(),
            work: Box::new(work),
            compared: 1,
        })
    }

    /// Work that trains: several steps are compared.
    pub fn training(
        device: &Device,
        work: impl FnMut() -> Vec<Box<dyn Output>> + 'static,
    ) -> Box<dyn Side> {
        Box::new(Peer {
            device: device.clone(),
            work: Box::new(work),
            compared: COMPARED_STEPS,
        })
    }
}

impl Side for Peer {
    fn run(&mut self) -> Outcome<()> {
        // burn is lazy: what nobody holds when it synchronises, it may leave out.
        let outputs = (self.work)();
        self.device.sync().map_err(|e| format!("{e:?}"))?;
        drop(outputs);
        Ok(())
    }

    fn results(&mut self) -> Outcome<Vec<Vec<f32>>> {
        let mut results = Vec::new();
        for _ in 0..self.compared {
            for output in (self.work)() {
                results.push(output.read()?);
            }
        }
        Ok(results)
    }
}
