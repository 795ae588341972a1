//! No kernel takes a value from a lane that its subgroups do not have: shown for every
//! size of subgroup from the kernels' texts, without a device.

use std::collections::{BTreeMap, BTreeSet};

use flowgrad::device::{DeviceClass, DeviceProfile};
use flowgrad::exec::kernel_texts;
use flowgrad::plan::PlanOptions;
use flowgrad::{Error, Tensor};

use crate::support::{Case, Data, PACKED_CONV_FLOPS, build_case};
use crate::zoo::zoo;

const SIZES: [u32; 5] = [4, 8, 16, 32, 64];

/// A software adapter, where all kernels that shuffle are used, and one for every variant
/// that is not its first choice.
fn profiles(size: u32) -> Vec<DeviceProfile> {
    let profile = DeviceProfile {
        class: DeviceClass::Software,
        subgroup_size: Some(size),
        packed_conv_flops: PACKED_CONV_FLOPS,
        dealt_flops: 0,
        ..DeviceProfile::baseline()
    };
    let forced = ["", "shuffle", "packed", "rows", "register", "product"].map(|variant| {
        let mut profile = profile.clone();
        if !variant.is_empty() {
            profile.choices.set("matmul", "*", variant);
            profile.choices.set("conv2d", "*", variant);
        }
        profile
    });
    forced.into()
}

/// Products with tiles of every height, with each operand transposed.
fn products() -> Vec<Case> {
    let shapes = [
        [1, 64, 8],
        [8, 64, 16],
        [16, 32, 8],
        [64, 16, 8],
        [64, 600, 8],
    ];
    let case = |[m, n, k]: [usize; 3], ta: bool, tb: bool| {
        let a = if ta { [k, m] } else { [m, k] };
        let b = if tb { [n, k] } else { [k, n] };
        build_case(
            &format!("matmul {m}x{n}x{k} {ta} {tb}"),
            &[Data::f32(a, 1), Data::f32(b, 2)],
            |_, x| vec![x[0].matmul_with(&x[1], ta, tb)],
            true,
        )
    };
    let turned = [(false, false), (true, false), (false, true), (true, true)];
    let all = shapes.into_iter();
    all.flat_map(|s| turned.map(|(ta, tb)| case(s, ta, tb)))
        .collect()
}

/// The last argument of each call of `name` in a text: a constant such as `7u`, or a shift
/// of two such.
fn lanes_of(text: &str, name: &str) -> Vec<u32> {
    let number = |word: &str| -> u32 {
        let digits = word.trim().trim_end_matches('u');
        digits
            .parse()
            .unwrap_or_else(|_| panic!("{name} takes `{word}`, which is no constant"))
    };
    let mut lanes = Vec::new();
    for (at, _) in text.match_indices(&format!("{name}(")) {
        let (mut depth, mut start, mut end) = (0, 0, 0);
        for (i, c) in text[at..].char_indices() {
            match c {
                '(' | '[' => depth += 1,
                ')' | ']' => depth -= 1,
                ',' if depth == 1 => start = i + 1,
                _ => continue,
            }
            if depth == 0 {
                end = i;
                break;
            }
        }
        let argument = &text[at + start..at + end];
        lanes.push(match argument.split_once("<<") {
            Some((value, by)) => number(value) << number(by),
            None => number(argument),
        });
    }
    lanes
}

/// The lanes that a text takes values from: one more than the last of them.
fn reached(text: &str, size: u32) -> u32 {
    let direct = lanes_of(text, "subgroupShuffle");
    let xor = lanes_of(text, "subgroupShuffleXor").into_iter();
    // Lanes that a kernel uses in smaller groups stay among these.
    let partners = xor.map(|mask| match mask.next_power_of_two() {
        power if power == mask => 2 * mask - 1,
        power => power - 1,
    });
    let last = direct.into_iter().chain(partners).max();
    let lanes = last.map_or(0, |lane| lane + 1);
    assert!(
        lanes <= size,
        "lane {} of {size} is asked for",
        lanes.saturating_sub(1)
    );
    lanes
}

/// Invocations of a workgroup along x: numbers and constants of the text, multiplied.
fn workgroup(text: &str) -> u32 {
    let between = |open: &str, close: char| {
        let rest = text.split(open).nth(1);
        rest.and_then(|rest| rest.split(close).next())
    };
    fn value<'a>(word: &'a str, constant: &impl Fn(&str) -> Option<&'a str>) -> u32 {
        let factors = word.split('*').map(|factor| {
            let factor = factor.trim();
            match factor.trim_end_matches('u').parse() {
                Ok(number) => number,
                Err(_) => value(constant(factor).expect("a constant"), constant),
            }
        });
        factors.product()
    }
    let constant = |name: &str| between(&format!("const {name} = "), ';');
    value(
        between("@workgroup_size(", ')').expect("an entry"),
        &constant,
    )
}

#[test]
fn every_source_lane_exists() {
    let mut cases = zoo();
    cases.extend(products());
    let mut found: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for (size, profile) in SIZES
        .iter()
        .flat_map(|s| profiles(*s).into_iter().map(|p| (*s, p)))
    {
        for case in &cases {
            // Variants are of these.
            let heavy = ["matmul", "conv"].iter().any(|n| case.name.starts_with(n));
            if !heavy && !profile.choices.is_empty() {
                continue;
            }
            let wanted: Vec<&Tensor> = case.wanted();
            let mut plan = wanted[0]
                .graph()
                .plan(&profile, &[], &wanted, &PlanOptions::default())
                .unwrap_or_else(|e| panic!("{size} lanes, {}: {e}", case.name));
            plan.steps.retain(|step| {
                let dealt = step.defines.iter().any(|(name, _)| name == "DEALT");
                (dealt || step.source.contains("subgroup"))
                    && seen.insert((size, step.kernel.clone(), step.defines.clone()))
            });
            let texts = kernel_texts(&plan, profile.immediates).expect("texts");
            for (step, text) in plan.steps.iter().zip(&texts) {
                if !text.contains("subgroup") {
                    continue;
                }
                let what = format!("{size} lanes, {}: {}", case.name, step.kernel);
                let lanes = std::panic::catch_unwind(|| reached(text, size))
                    .unwrap_or_else(|_| panic!("{what}"));
                let define = |name: &str| {
                    let all = step.defines.iter().find(|(n, _)| n == name);
                    all.map_or(0, |(_, v)| v.parse::<u32>().expect("a number"))
                };
                let stated = define("SHUFFLES");
                assert!(
                    stated >= lanes || (lanes == 1 && define("DEALT") > 0),
                    "{what} [{}] states {stated} lanes and takes from {lanes}",
                    step.variant
                );
                // Else a lane's number within its workgroup is not that in its subgroup.
                assert_eq!(workgroup(text) % size, 0, "{what}: workgroups");
                found.entry(size).or_default().insert(step.kernel.clone());
            }
        }
    }
    let expected = [
        "codebook_subgroup",
        "conv2d",
        "conv2d_rows",
        "conv2d_shuffle",
        "conv2d_weight",
        "conv2d_weight_shuffle",
        "lu_register",
        "lu_shuffle",
        "lu_strip",
        "matmul_packed",
        "matmul_shuffle",
        "triangular_shuffle",
    ];
    for size in SIZES {
        for kernel in expected {
            // Factorisations exchange rows among eight lanes.
            let eight = size < 8 && kernel.starts_with("lu_");
            assert_eq!(
                found[&size].contains(kernel),
                !eight,
                "{kernel} with {size} lanes: {:?}",
                found[&size]
            );
        }
    }
}

/// A dispatch that asks for lanes that are not there is refused with their number.
#[test]
fn too_few_lanes_are_an_error() {
    use flowgrad::graph::{Lower, Slot, Spec};
    let profile = DeviceProfile {
        subgroup_size: Some(4),
        ..DeviceProfile::baseline()
    };
    let spec = || vec![Spec::f32([4])];
    let mut cx = Lower::new("test", spec(), spec(), &profile);
    let mut lower = |lanes| {
        cx.kernel("test", "")
            .shuffles(lanes)
            .read(Slot::In(0))
            .write(Slot::Out(0))
            .threads(4, 4)
    };
    assert_eq!(lower(4), Ok(()));
    match lower(5) {
        Err(Error::LimitExceeded {
            what,
            needed: 5,
            available: 4,
        }) => assert!(what.contains("lanes"), "{what}"),
        other => panic!("{other:?}"),
    }
}
