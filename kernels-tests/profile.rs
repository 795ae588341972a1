//! Profiles as tables and traces, and the roof that steps are held to.

use flowgrad::device::Roof;
use flowgrad::exec::Profile;
use flowgrad::{Graph, Tensor};

use crate::support::{Data, Tol, check_op, gpu};

/// Every step is a line of the table and a slice of the trace, with its rates.
pub fn check_table_and_trace(profile: &Profile) {
    let roof = Roof {
        flops: 2e9,
        bytes: 1e9,
        dispatch: 1e-6,
    };
    let table = profile.table(Some(&roof));
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), profile.rows.len() + 2, "{table}");
    let trace = profile.chrome_trace(Some(&roof));
    let trace: serde_json::Value = serde_json::from_str(&trace).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let slices: Vec<_> = events.iter().filter(|e| e["ph"] == "X").collect();
    assert_eq!(slices.len(), profile.rows.len());
    let mut end = 0.0;
    for ((row, line), slice) in profile.rows.iter().zip(&lines[1..]).zip(slices) {
        // What limits a step, by hand.
        let least = [row.flops as f64 / 2e9, row.bytes as f64 / 1e9, 1e-6];
        let fraction = least.into_iter().fold(0.0, f64::max) / row.seconds;
        assert!((row.fraction(&roof) - fraction).abs() <= 1e-9 * fraction);
        let percent = format!("{:.0} %", 100.0 * fraction);
        assert!(line.trim_end().ends_with(&percent), "{line}: {percent}");
        assert_eq!(slice["name"], row.op.as_str());
        assert_eq!(slice["args"]["flops"], row.flops);
        let (start, duration) = (
            slice["ts"].as_f64().unwrap(),
            slice["dur"].as_f64().unwrap(),
        );
        assert!((start - end).abs() < 1e-6, "slices follow each other");
        assert!((duration - row.seconds * 1e6).abs() < 1e-6);
        end = start + duration;
    }
}

#[test]
fn the_roof_of_this_adapter_can_be_measured() {
    let roof = Roof::measure(gpu()).unwrap();
    // No machine is slower, none as fast.
    assert!((1e8..1e16).contains(&roof.flops), "{roof}");
    assert!((1e8..1e14).contains(&roof.bytes), "{roof}");
    assert!((1e-8..1e-2).contains(&roof.dispatch), "{roof}");
    // What takes longest is what a step is held to.
    assert_eq!(roof.seconds(u64::MAX, 1, 1), u64::MAX as f64 / roof.flops);
    assert_eq!(roof.seconds(1, u64::MAX, 1), u64::MAX as f64 / roof.bytes);
    assert_eq!(
        roof.seconds(1, 1, 1 << 40),
        (1u64 << 40) as f64 * roof.dispatch
    );
}

#[test]
fn roof_kernels_compute_what_their_references_say() {
    // 16,000 steps forget where they started; 16 do not.
    for trips in [1, 1000] {
        let build = |_: &Graph, x: &[Tensor]| vec![x[0].roof_arithmetic(trips)];
        check_op(
            "roof_arithmetic",
            &[Data::f32([130], 1)],
            build,
            Tol::rel(1e-5).no_grad(),
        );
    }
    let build = |_: &Graph, x: &[Tensor]| vec![x[0].roof_copy()];
    check_op(
        "roof_copy",
        &[Data::f32([3, 44], 1)],
        build,
        Tol::rel(0.0).no_grad(),
    );
}
