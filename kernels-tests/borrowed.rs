//! Devices of applications: what they were asked for decides, not what the adapter could do.

use flowgrad::ops::ConvParams;
use flowgrad::{Gpu, Graph, Params, tape};

fn adapter() -> wgpu::Adapter {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    pollster::block_on(instance.request_adapter(&Default::default())).expect("an adapter")
}

fn device(adapter: &wgpu::Adapter, features: wgpu::Features, limits: wgpu::Limits) -> Gpu {
    let descriptor = wgpu::DeviceDescriptor {
        required_features: features,
        required_limits: limits,
        ..Default::default()
    };
    let (device, queue) =
        pollster::block_on(adapter.request_device(&descriptor)).expect("a device");
    Gpu::from_wgpu(adapter, device, queue).expect("a Gpu")
}

/// A product, a convolution with its gradients, a look-up, a factorisation and random
/// numbers, in numbers that are known.
fn works(gpu: &Gpu, what: &str) {
    let graph = Graph::new();
    let ones = graph.full([32, 64], 1.0);
    let product = ones.matmul(&graph.full([64, 32], 0.5));
    let image = graph.full([1, 8, 8, 8], 1.0);
    let kernel = graph.full([8, 8, 3, 3], 1.0);
    let y = image.conv2d(&kernel, None, &ConvParams::default());
    let loss = y.sum(&[], false);
    let gradient = tape::backward(&loss, &[&kernel])
        .expect("a gradient")
        .remove(0);
    let weight = graph.constant_f16([2, 4], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    let rows = weight.gather_rows(&graph.constant_u32([1], &[1]));
    let diagonal = graph.constant([1, 2, 2], &[2.0, 0.0, 0.0, 4.0]);
    let (sign, log_det) = diagonal.slogdet();
    let random = graph.uniform([100]).max(&[], false);
    let wanted = [&product, &y, &gradient, &rows, &sign, &log_det, &random];
    let mut program = graph
        .compile(gpu, &Params::new(0), &wanted)
        .unwrap_or_else(|e| panic!("{what}: {e}"));
    let out = program.run(&[]).unwrap_or_else(|e| panic!("{what}: {e}"));
    let values = |i| out.f32(i).expect("values");
    assert!(values(0).iter().all(|v| *v == 32.0), "{what}");
    assert!(values(1).iter().all(|v| *v == 72.0), "{what}");
    assert!(values(2).iter().all(|v| *v == 36.0), "{what}");
    assert_eq!(values(3), [5.0, 6.0, 7.0, 8.0], "{what}");
    assert_eq!(values(4), [1.0], "{what}");
    assert!((values(5)[0] - 8f32.ln()).abs() < 1e-6, "{what}");
    assert!((0.8..1.0).contains(&values(6)[0]), "{what}");
    assert!(program.profile(&[], 1).is_ok(), "{what}");
}

/// Every optional feature alone, all and none, with WebGPU's limits and the adapter's own.
#[test]
fn limits_are_not_features() {
    use wgpu::Features;
    let adapter = adapter();
    let optional = [
        Features::IMMEDIATES,
        Features::SUBGROUP,
        Features::SHADER_F16,
        Features::SHADER_INT64,
        Features::TIMESTAMP_QUERY,
        Features::TIMESTAMP_QUERY | Features::TIMESTAMP_QUERY_INSIDE_ENCODERS,
        Features::TIMESTAMP_QUERY | Features::TIMESTAMP_QUERY_INSIDE_PASSES,
        Features::PIPELINE_CACHE,
    ];
    let all = optional.iter().fold(Features::empty(), |all, f| all | *f);
    let sets = optional.into_iter().chain([Features::empty(), all]);
    for features in sets {
        let features = features & adapter.features();
        for limits in [wgpu::Limits::default(), adapter.limits()] {
            let what = format!(
                "{features:?}, {} bytes of immediates",
                limits.max_immediate_size
            );
            let gpu = device(&adapter, features, limits.clone());
            let profile = gpu.profile();
            let has = |f| features.contains(f);
            let immediates = match has(Features::IMMEDIATES) {
                true => limits.max_immediate_size,
                false => 0,
            };
            assert_eq!(profile.immediates, immediates, "{what}");
            assert_eq!(profile.f16, has(Features::SHADER_F16), "{what}");
            assert_eq!(profile.int64, has(Features::SHADER_INT64), "{what}");
            assert!(
                profile.subgroup_size.is_none() || has(Features::SUBGROUP),
                "{what}"
            );
            let inside = Features::TIMESTAMP_QUERY | Features::TIMESTAMP_QUERY_INSIDE_PASSES;
            assert_eq!(profile.timestamps, has(inside), "{what}");
            // What changes kernels' texts; each compiles them anew.
            let telling = Features::IMMEDIATES | Features::SUBGROUP;
            if features.is_empty() || features.intersects(telling) {
                works(&gpu, &what);
            }
        }
    }
}
