//! Every kernel for every kind of device, without a device: parsed, validated,
//! compared with its Rust side, and translated for Vulkan, Metal and DX12.

use std::collections::{BTreeSet, HashMap};

use flowgrad::device::{DeviceClass, DeviceProfile};
use flowgrad::exec::kernel_texts;
use flowgrad::graph::Access;
use flowgrad::plan::{Plan, PlanOptions, Slice, Step};
use flowgrad::{DType, Tensor};
use naga::valid::{Capabilities, ModuleInfo, ShaderStages, ValidationFlags, Validator};
use naga::{AddressSpace, Module, ScalarKind, StorageAccess, TypeInner};

use crate::support::{Case, PACKED_CONV_FLOPS};
use crate::zoo::zoo;

fn profiles() -> Vec<(&'static str, DeviceProfile)> {
    let base = DeviceProfile {
        packed_conv_flops: PACKED_CONV_FLOPS,
        dealt_flops: 0,
        ..DeviceProfile::baseline()
    };
    let with = |class, immediates, subgroup_size| DeviceProfile {
        class,
        immediates,
        subgroup_size,
        ..base.clone()
    };
    let small = DeviceProfile {
        max_groups: 64,
        max_binding: 1 << 20,
        ..base.clone()
    };
    let forced = |variant: &str| {
        let mut profile = with(DeviceClass::Discrete, 128, Some(32));
        profile.choices.set("matmul", "*", variant);
        profile.choices.set("conv2d", "*", variant);
        profile
    };
    vec![
        ("all in registers", forced("register")),
        ("packed operands", forced("packed")),
        ("columns", forced("columns")),
        ("pixels in rows", forced("rows")),
        (
            "pixels in rows, in 64-bit integers",
            DeviceProfile {
                int64: true,
                subgroup_size: Some(8),
                ..forced("rows")
            },
        ),
        ("workgroup memory, small tiles", forced("tile 32")),
        ("workgroup memory, large tiles", forced("tile 128")),
        ("WebGPU's default limits", base.clone()),
        ("software", with(DeviceClass::Software, 128, Some(8))),
        (
            "software with 64-bit integers",
            DeviceProfile {
                int64: true,
                ..with(DeviceClass::Software, 128, Some(8))
            },
        ),
        (
            "software without subgroups",
            with(DeviceClass::Software, 0, None),
        ),
        ("integrated", with(DeviceClass::Integrated, 128, Some(16))),
        ("discrete", with(DeviceClass::Discrete, 256, Some(32))),
        ("discrete, wide", with(DeviceClass::Discrete, 128, Some(64))),
        ("tiny grids and bindings", small),
    ]
}

/// The scalar at the bottom of a binding's type.
fn element(module: &Module, ty: naga::Handle<naga::Type>) -> Option<ScalarKind> {
    match &module.types[ty].inner {
        TypeInner::Array { base, .. } => element(module, *base),
        TypeInner::Struct { members, .. } => element(module, members.first()?.ty),
        TypeInner::Scalar(s) | TypeInner::Atomic(s) => Some(s.kind),
        // `Quad` and `Oct` read two floats as one integer.
        TypeInner::Vector { scalar, .. } if scalar.width == 8 => Some(ScalarKind::Float),
        TypeInner::Vector { scalar, .. } => Some(scalar.kind),
        _ => None,
    }
}

/// What is wrong with a kernel's text for this step, if anything.
fn check_text(
    step: &Step,
    text: &str,
    profile: &DeviceProfile,
    types: &HashMap<(usize, u64), DType>,
) -> Result<(), String> {
    let module = naga::front::wgsl::parse_str(text).map_err(|e| e.emit_to_string(text))?;
    let mut allowed = Capabilities::empty();
    allowed.set(Capabilities::IMMEDIATES, profile.immediates > 0);
    allowed.set(Capabilities::SUBGROUP, profile.subgroup_size.is_some());
    allowed.set(Capabilities::SHADER_INT64, profile.int64);
    // `unpack2x16float`, a part of WGSL itself.
    allowed.insert(Capabilities::SHADER_FLOAT16_IN_FLOAT32);
    let mut validator = Validator::new(ValidationFlags::all(), allowed);
    validator.subgroup_stages(ShaderStages::COMPUTE);
    validator.subgroup_operations(naga::valid::SubgroupOperationSet::all());
    let info = validator
        .validate(&module)
        .map_err(|e| e.emit_to_string(text))?;
    check_bindings(&module, step, types)?;
    let [entry] = &module.entry_points[..] else {
        return Err("not exactly one entry point".into());
    };
    if entry.name != "main" {
        return Err(format!("the entry point is `{}`", entry.name));
    }
    if entry.workgroup_size.iter().product::<u32>() > profile.max_invocations {
        return Err(format!("workgroups of {:?}", entry.workgroup_size));
    }
    translate(&module, &info)
}

fn check_bindings(
    module: &Module,
    step: &Step,
    types: &HashMap<(usize, u64), DType>,
) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    let mut args = 0;
    for (_, variable) in module.global_variables.iter() {
        let name = variable.name.clone().unwrap_or_default();
        match variable.space {
            AddressSpace::Storage { access } => {
                let Some(place) = &variable.binding else {
                    return Err(format!("`{name}` has no binding"));
                };
                let k = place.binding as usize;
                let Some((slice, rust)) = step.bindings.get(k) else {
                    return Err(format!("binding {k} (`{name}`) is not given"));
                };
                if place.group != 0 || !seen.insert(k) {
                    return Err(format!("binding {k} of group {} twice", place.group));
                }
                let writes = access.contains(StorageAccess::STORE);
                if writes != (*rust != Access::Read) {
                    return Err(format!("`{name}` is {access:?}, the step says {rust:?}"));
                }
                let kind = element(module, variable.ty);
                let fits = match types.get(&(slice.buffer, slice.offset)) {
                    Some(DType::F32) => kind == Some(ScalarKind::Float),
                    Some(DType::U32 | DType::F16) => kind == Some(ScalarKind::Uint),
                    None => kind.is_some(),
                };
                // Moves words, whatever they mean.
                let any = ["copy", "view", "concat"].contains(&step.kernel.as_str());
                if !fits && !any {
                    return Err(format!("`{name}` holds {kind:?}, not what the graph says"));
                }
            }
            AddressSpace::Uniform | AddressSpace::Immediate => {
                if name != "args" {
                    return Err(format!("`{name}` in {:?}", variable.space));
                }
                if let Some(place) = &variable.binding
                    && place.binding as usize != step.bindings.len()
                {
                    return Err(format!("args at binding {}", place.binding));
                }
                args = match &module.types[variable.ty].inner {
                    TypeInner::Struct { span, members } => {
                        check_names(members, step)?;
                        *span as usize
                    }
                    _ => return Err("args is no struct".into()),
                };
            }
            AddressSpace::WorkGroup | AddressSpace::Private => {}
            other => return Err(format!("`{name}` in {other:?}")),
        }
    }
    if seen.len() != step.bindings.len() {
        return Err(format!(
            "{} bindings given, {} declared",
            step.bindings.len(),
            seen.len()
        ));
    }
    if args != 4 * step.args.len() {
        return Err(format!(
            "Args takes {args} bytes, {} words are given",
            step.args.len()
        ));
    }
    Ok(())
}

/// Words go by their place, so every name must stand in its own.
fn check_names(members: &[naga::StructMember], step: &Step) -> Result<(), String> {
    let declared = members.iter().map(|m| m.name.as_deref().unwrap_or(""));
    let given = step.arg_names.iter().map(|name| name.as_ref());
    match declared.clone().eq(given.clone()) {
        true => Ok(()),
        false => Err(format!(
            "Args is declared as {:?}, given are {:?}",
            declared.collect::<Vec<_>>(),
            given.collect::<Vec<_>>()
        )),
    }
}

fn translate(module: &Module, info: &ModuleInfo) -> Result<(), String> {
    use naga::back::{hlsl, msl, spv};
    spv::write_vec(module, info, &spv::Options::default(), None)
        .map_err(|e| format!("SPIR-V: {e}"))?;
    let options = msl::Options {
        lang_version: (2, 4),
        fake_missing_bindings: true,
        ..Default::default()
    };
    msl::write_string(module, info, &options, &msl::PipelineOptions::default())
        .map_err(|e| format!("MSL: {e}"))?;
    let options = hlsl::Options {
        shader_model: hlsl::ShaderModel::V6_0,
        fake_missing_bindings: true,
        immediates_target: Some(hlsl::BindTarget::default()),
        ..Default::default()
    };
    let mut text = String::new();
    let pipeline = hlsl::PipelineOptions::default();
    hlsl::Writer::new(&mut text, &options, &pipeline)
        .write(module, info, None)
        .map_err(|e| format!("HLSL: {e}"))?;
    Ok(())
}

fn plan(case: &Case, profile: &DeviceProfile, options: &PlanOptions) -> Plan {
    let wanted: Vec<&Tensor> = case.wanted();
    let graph = wanted[0].graph();
    graph
        .plan(profile, &[], &wanted, options)
        .unwrap_or_else(|e| panic!("{}: {e}", case.name))
}

/// Types of the slices that hold inputs and outputs. Nothing shares a buffer here.
fn known_types(plan: &Plan) -> HashMap<(usize, u64), DType> {
    let inputs = plan
        .buffers
        .iter()
        .position(|b| b.role == flowgrad::plan::Role::Inputs);
    let from_inputs = plan
        .inputs
        .iter()
        .filter_map(|i| Some(((inputs?, i.offset), i.spec.dtype)));
    let place = |s: &Slice| (s.buffer, s.offset);
    let outputs = plan.outputs.iter().map(|(s, spec)| (place(s), spec.dtype));
    from_inputs.chain(outputs).collect()
}

#[test]
fn every_kernel_fits_its_rust_side_and_translates() {
    let mut reached: BTreeSet<std::sync::Arc<str>> = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut failures = Vec::new();
    let cases = zoo();
    for (device, profile) in profiles() {
        // With reuse there are kernels that work in place, but no telling what a buffer holds.
        for (case, reuse) in cases.iter().flat_map(|c| [(c, false), (c, true)]) {
            let options = PlanOptions {
                reuse,
                ..Default::default()
            };
            let plan = plan(case, &profile, &options);
            let types = match reuse {
                false => known_types(&plan),
                true => HashMap::new(),
            };
            let texts = kernel_texts(&plan, profile.immediates)
                .unwrap_or_else(|e| panic!("{device}, {}: {e}", case.name));
            for (step, text) in plan.steps.iter().zip(&texts) {
                reached.insert(step.source.clone());
                let accesses: Vec<Access> = step.bindings.iter().map(|(_, a)| *a).collect();
                let key = format!("{accesses:?} {} {text}", step.args.len());
                if !seen.insert(key) {
                    continue;
                }
                if let Err(e) = check_text(step, text, &profile, &types) {
                    failures.push(format!(
                        "{device}, {}: kernel {} {}: {e}",
                        case.name, step.kernel, step.variant
                    ));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(seen.len() > 100, "only {} kernels were checked", seen.len());
    let unused: Vec<String> = shader_files()
        .into_iter()
        .filter(|file| !file.starts_with("shaders/lib/") && file != FUSED)
        .filter(|file| !reached.contains(read(file).as_str()))
        .collect();
    assert!(unused.is_empty(), "no case of the zoo uses {unused:?}");
}

/// The frame of generated kernels, which is completed before it becomes a step's text.
const FUSED: &str = "shaders/pointwise/fused.wgsl";

pub fn read(file: &str) -> String {
    let path = format!("{}/{file}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// All shaders, in the folder and in those of the families.
pub fn shader_files() -> Vec<String> {
    let mut folders = vec!["shaders".to_string()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        let path = format!("{}/{folder}", env!("CARGO_MANIFEST_DIR"));
        let entries = std::fs::read_dir(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        for entry in entries.map(|e| e.unwrap()) {
            let name = format!("{folder}/{}", entry.file_name().to_string_lossy());
            match entry.path().is_dir() {
                true => folders.push(name),
                false if name.ends_with(".wgsl") => files.push(name),
                false => {}
            }
        }
    }
    files.sort();
    files
}

#[test]
fn shader_files_keep_the_house_rules() {
    for file in shader_files() {
        let text = read(&file);
        assert!(text.starts_with("//"), "{file} opens with no comment");
        for (i, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            // Each is a branch, and compilers of drivers choke on many: docs/drivers.md.
            assert!(
                code.starts_with('#') || !(code.contains("&&") || code.contains("||")),
                "{file}:{}: `&` and `|` join conditions, with both sides in parentheses",
                i + 1
            );
            // Drivers compute these too roughly: see shaders/lib/math.wgsl.
            for name in ["exp", "exp2", "log", "log2", "pow", "tanh", "sin", "cos"] {
                let call = format!("{name}(");
                let called = code.match_indices(&call).any(|(at, _)| {
                    let before = code[..at].chars().next_back();
                    !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
                });
                assert!(
                    !called,
                    "{file}:{}: `{name}` instead of `{name}_f32`",
                    i + 1
                );
            }
        }
    }
}

#[test]
fn no_dispatch_reads_what_it_writes() {
    for (device, profile) in profiles() {
        for case in zoo() {
            for reuse in [false, true] {
                let options = PlanOptions {
                    reuse,
                    ..Default::default()
                };
                let plan = plan(&case, &profile, &options);
                for step in &plan.steps {
                    assert!(
                        writes_are_exclusive(step),
                        "{device}, {}: {} {:?}",
                        case.name,
                        step.kernel,
                        step.bindings
                    );
                    assert!(step.grid.iter().all(|g| *g <= profile.max_groups));
                    assert!(step.bindings.len() <= profile.max_bindings);
                    for (slice, _) in &step.bindings {
                        assert!(
                            slice.bytes <= profile.max_binding,
                            "{device}, {}: {} binds {} bytes",
                            case.name,
                            step.kernel,
                            slice.bytes
                        );
                        assert_eq!(slice.offset % profile.offset_alignment, 0);
                    }
                }
            }
        }
    }
}

/// wgpu tracks whole buffers: one that a dispatch writes may be bound only once.
pub fn writes_are_exclusive(step: &Step) -> bool {
    step.bindings.iter().enumerate().all(|(i, (a, access))| {
        *access == Access::Read
            || step
                .bindings
                .iter()
                .enumerate()
                .all(|(j, (b, _))| i == j || a.buffer != b.buffer)
    })
}
