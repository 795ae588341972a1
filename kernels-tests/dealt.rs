//! Subgroups that take their numbers when they start: whoever takes which, and however
//! often, results have the same bits as those of numbers that were fixed beforehand.

use flowgrad::device::{DeviceClass, DeviceProfile};
use flowgrad::gpu::GpuOptions;
use flowgrad::ops::ConvParams;
use flowgrad::plan::PlanOptions;
use flowgrad::tape::backward;
use flowgrad::{DType, Gpu, Graph, Params, Program, Tensor};

use crate::support::{PACKED_CONV_FLOPS, gpu};

/// Numbers without a pattern, and what every heavy kernel makes of them: products whose
/// tiles are one, three, five and 65, convolutions with their gradients, code searches.
fn heavy(graph: &Graph) -> Vec<Tensor> {
    let numbers = |seed: usize, shape: &[usize]| {
        let n = shape.iter().product();
        let values = (0..n).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.0 - 1.0);
        graph.constant(shape, &values.collect::<Vec<_>>())
    };
    let mut all: Vec<Tensor> = [32, 96, 160, 2080]
        .into_iter()
        .map(|m| numbers(m, &[m, 64]).matmul(&numbers(1, &[64, 64])))
        .collect();
    let same = ConvParams {
        padding: [1; 4],
        ..ConvParams::default()
    };
    for (n, c, o, side) in [(3, 16, 40, 12), (2, 64, 64, 16), (5, 3, 20, 9)] {
        let x = numbers(n, &[n, c, side, side]);
        let w = numbers(o, &[o, c, 3, 3]);
        let y = x.conv2d(&w, None, &same);
        let loss = y.square().sum(&[], false);
        all.extend(backward(&loss, &[&x, &w]).unwrap());
        all.push(y);
    }
    for (n, d, k) in [(97, 16, 40), (513, 12, 300)] {
        let codes = numbers(k, &[k, d]);
        all.push(numbers(n, &[n, d]).codebook_nearest(&codes));
    }
    all
}

fn program(gpu: &Gpu) -> Program {
    let graph = Graph::new();
    let all = heavy(&graph);
    let wanted: Vec<&Tensor> = all.iter().collect();
    graph.compile_pure(gpu, &Params::new(0), &wanted).unwrap()
}

fn bits(program: &mut Program) -> Vec<Vec<u32>> {
    let outputs = program.run(&[]).unwrap();
    let specs = program.plan().outputs.iter().map(|(_, spec)| spec);
    let each = specs.enumerate().map(|(i, spec)| match spec.dtype {
        DType::U32 => outputs.u32(i).unwrap(),
        _ => (outputs.f32(i).unwrap().iter().map(|x| x.to_bits())).collect(),
    });
    each.collect()
}

/// The names of dealt kernels.
fn dealt(program: &Program) -> Vec<&str> {
    let steps = program.plan().steps.iter();
    steps
        .filter(|s| s.defines.iter().any(|(name, _)| name == "DEALT"))
        .map(|s| s.kernel.as_str())
        .collect()
}

#[test]
fn who_takes_which_number_changes_nothing() {
    let mut names = Vec::new();
    // Convolutions by copies of their operands, and without.
    for packed_conv_flops in [PACKED_CONV_FLOPS, u64::MAX] {
        let program = |dealt_flops| {
            let options = GpuOptions {
                packed_conv_flops,
                subgroups: gpu().profile().subgroup_size.is_some(),
                dealt_flops,
                ..Default::default()
            };
            program(&Gpu::with(options).unwrap())
        };
        let (mut fixed, mut taken) = (program(u64::MAX), program(0));
        assert!(dealt(&fixed).is_empty());
        names.extend(dealt(&taken).into_iter().map(String::from));
        let expected = bits(&mut fixed);
        // Counters go on from run to run, and are shared by grids of one size.
        for run in 0..4 {
            assert!(bits(&mut taken) == expected, "run {run}");
        }
    }
    let profile = gpu().profile();
    if profile.class == DeviceClass::Software && profile.subgroup_size.is_some() {
        for name in [
            "matmul_shuffle",
            "conv2d",
            "conv2d_input",
            "conv2d_rows",
            "conv2d_shuffle",
            "conv2d_weight",
            "conv2d_weight_shuffle",
            "codebook_subgroup",
        ] {
            let found = names.iter().any(|n| n == name);
            assert!(found, "{name} is not among {names:?}");
        }
    }
}

#[test]
fn only_software_adapters_deal() {
    let plan = |class, subgroup_size| {
        let profile = DeviceProfile {
            class,
            subgroup_size,
            dealt_flops: 0,
            ..DeviceProfile::baseline()
        };
        let graph = Graph::new();
        let y = heavy(&graph).swap_remove(3);
        let options = PlanOptions::default();
        graph.plan(&profile, &[], &[&y], &options).unwrap()
    };
    let is_dealt = |plan: &flowgrad::plan::Plan| plan.to_string().contains("tickets");
    assert!(!is_dealt(&plan(DeviceClass::Discrete, Some(32))));
    assert!(!is_dealt(&plan(DeviceClass::Software, None)));
    let software = plan(DeviceClass::Software, Some(8));
    assert!(is_dealt(&software), "{software}");
    // 65 tiles: a quarter more, and from there the next power of two, four a workgroup.
    assert_eq!(software.steps[0].grid, [32, 1, 1]);
}
