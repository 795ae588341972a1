//! Measured choices among variants, and the file that keeps them.

use flowgrad::device::Choices;
use flowgrad::gpu::{GpuOptions, TuningFile, WGPU_VERSION};
use flowgrad::ops;
use flowgrad::{Error, Gpu, tune};

use crate::support::gpu;

#[test]
fn every_variant_of_a_class_is_measured_once_and_the_best_is_taken() {
    let tuning = tune::tune_class(gpu(), "matmul", "small").unwrap();
    let names: Vec<&str> = tuning.timings.iter().map(|t| t.variant).collect();
    assert!(names.len() >= 3, "{tuning}");
    let mut once = names.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), names.len(), "{tuning}");
    assert_eq!(names[0], tune::TABLE);
    let known = |n: &&str| ops::variants("matmul").contains(n);
    assert!(names[1..].iter().all(known), "{tuning}");
    assert!(
        tuning
            .timings
            .iter()
            .all(|t| t.seconds > 0.0 && t.seconds < 10.0)
    );
    let least = tuning
        .timings
        .iter()
        .map(|t| t.seconds)
        .fold(f64::INFINITY, f64::min);
    let taken: Vec<_> = tuning.timings.iter().filter(|t| t.taken).collect();
    for t in &taken {
        assert_eq!(t.seconds, least, "{tuning}");
        assert_eq!(tuning.choices.get("matmul", "small"), Some(t.variant));
    }
    assert_eq!(tuning.choices.iter().count(), taken.len());
    assert!(
        tune::tune_class(gpu(), "matmul", "huge")
            .unwrap()
            .timings
            .is_empty()
    );
}

#[test]
fn choices_are_found_again_on_the_same_adapter_only() {
    let file = std::env::temp_dir().join(format!("flowgrad-tuning-{}.json", std::process::id()));
    let at = TuningFile::At(file.clone());
    let open = |tuning: &TuningFile| {
        let options = GpuOptions {
            tuning: tuning.clone(),
            ..GpuOptions::default()
        };
        Gpu::with(options).unwrap().profile().choices.clone()
    };
    assert!(open(&at).is_empty(), "no file, no choices");

    let mut choices = Choices::default();
    choices.set("matmul", "large", "tile 32");
    choices.set("conv2d", "*", "register");
    assert_eq!(gpu().store_choices(&at, &choices).unwrap(), file);
    assert_eq!(open(&at), choices);
    assert!(open(&TuningFile::Off).is_empty());
    let given = GpuOptions {
        tuning: at.clone(),
        choices: {
            let mut own = Choices::default();
            own.set("matmul", "*", "register");
            own
        },
        ..GpuOptions::default()
    };
    let own = Gpu::with(given).unwrap().profile().choices.clone();
    assert_eq!(own.get("matmul", "large"), Some("register"));

    // Another driver, other kernels, another wgpu: what was measured says nothing.
    let text = std::fs::read_to_string(&file).unwrap();
    for (from, to) in [
        (gpu().name(), "another adapter"),
        (WGPU_VERSION, "29.0.0"),
        ("kernels ", "kernels 1"),
        ("\"choices\"", "\"choice\""),
        ("[", ""),
    ] {
        assert!(text.contains(from), "{from} in {text}");
        std::fs::write(&file, text.replacen(from, to, 1)).unwrap();
        assert!(open(&at).is_empty(), "{from} -> {to}");
    }
    std::fs::remove_file(&file).unwrap();

    let nowhere = TuningFile::At("/proc/no such place/tuning.json".into());
    let error = gpu().store_choices(&nowhere, &choices).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
}

#[test]
fn the_tuning_file_names_the_wgpu_that_is_built_in() {
    let lock = include_str!("../Cargo.lock");
    let wanted = format!("name = \"wgpu\"\nversion = \"{WGPU_VERSION}\"");
    assert!(lock.contains(&wanted), "{wanted} is not in Cargo.lock");
}
