//! A plan as a table: the first tool anybody debugs with.

use std::fmt;

use super::{Plan, Role};
use crate::graph::Access;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:>4}  {:<28} {:<22} {:>16} {:>9} {:>10} {:>10}  bindings",
            "step", "op", "kernel", "grid", "flops", "bytes", "args"
        )?;
        let once = self.prepared.iter().map(|step| ("once".to_string(), step));
        let always = self.steps.iter().enumerate();
        for (i, step) in once.chain(always.map(|(i, step)| (i.to_string(), step))) {
            let kernel = match step.variant.is_empty() {
                true => step.kernel.clone(),
                false => format!("{} [{}]", step.kernel, step.variant),
            };
            let grid = step.grid.map(|g| g.to_string()).join("x");
            write!(
                f,
                "{i:>4}  {:<28} {kernel:<22} {grid:>16} {:>9} {:>10} {:>10}  ",
                shorten(&step.op, 28),
                scaled(step.flops),
                scaled(step.bytes),
                format!("{} words", step.args.len()),
            )?;
            for (slice, access) in &step.bindings {
                let mark = match access {
                    Access::Read => "r",
                    Access::Write => "w",
                    Access::ReadWrite => "rw",
                };
                write!(f, "{mark}:b{}", slice.buffer)?;
                if slice.offset > 0 {
                    write!(f, "+{}", slice.offset)?;
                }
                write!(f, " ")?;
            }
            writeln!(f)?;
        }
        for copy in self.copies_before.iter().chain(&self.copies) {
            writeln!(
                f,
                "copy  {} bytes b{}+{} -> b{}+{}",
                copy.from.bytes, copy.from.buffer, copy.from.offset, copy.to.buffer, copy.to.offset
            )?;
        }
        for (i, buffer) in self.buffers.iter().enumerate() {
            let role = match &buffer.role {
                Role::Temporary => "temporary".into(),
                Role::Inputs => "inputs".into(),
                Role::Constants => "constants".into(),
                Role::Arena { index, .. } => format!("arena {index}"),
                Role::Packed => "packed gradients".to_string(),
                Role::Prepared => "prepared".to_string(),
                Role::Tickets => "tickets".to_string(),
            };
            writeln!(f, "b{i}: {} {role}", scaled(buffer.bytes))?;
        }
        let memory = self.memory();
        write!(
            f,
            "{} dispatches, {} flops, {} bytes: temporaries {} (without sharing {}), gradients {}, parameters and states {}, inputs {}, prepared {}",
            self.steps.len(),
            scaled(self.flops()),
            scaled(memory.total()),
            scaled(memory.temporary),
            scaled(self.unshared_bytes),
            scaled(memory.gradients),
            scaled(memory.arenas),
            scaled(memory.inputs),
            scaled(memory.prepared),
        )
    }
}

/// The text, or its beginning and two dots.
pub(crate) fn shorten(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.into();
    }
    let head: String = text.chars().take(width - 2).collect();
    format!("{head}..")
}

/// A number with a decimal prefix: `12.3M`.
fn scaled(value: u64) -> String {
    let v = value as f64;
    match value {
        0..1_000 => format!("{value}"),
        1_000..1_000_000 => format!("{:.1}k", v / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1}M", v / 1e6),
        _ => format!("{:.2}G", v / 1e9),
    }
}
