//! Tables for people and one line of JSON for programs.

use std::io::Write;

use serde_json::{Map, Value};

use super::CommonArgs;

/// What a run found: rows of a table and figures of a JSON object.
#[derive(Default)]
pub struct Report {
    rows: Vec<(String, String)>,
    figures: Map<String, Value>,
}

impl Report {
    /// An empty report.
    pub fn new() -> Self {
        Report::default()
    }

    /// A row of the table.
    pub fn row(&mut self, name: &str, value: impl ToString) -> &mut Self {
        self.rows.push((name.into(), value.to_string()));
        self
    }

    /// A figure of the JSON object. Numbers that are not finite become `null`.
    pub fn figure(&mut self, key: &str, value: impl Into<Value>) -> &mut Self {
        self.figures.insert(key.into(), value.into());
        self
    }

    /// Says so where training was stopped before its end.
    pub fn steps(&mut self, done: usize, wanted: usize) -> &mut Self {
        if done < wanted {
            self.row("stopped", format!("after {done} of {wanted} steps"));
        }
        self.figure("steps", done)
    }

    /// Another report below this one, under a heading; its figures begin with `prefix`.
    pub fn append(&mut self, heading: &str, prefix: &str, other: Report) {
        self.rows.push((String::new(), String::new()));
        self.rows.push((heading.into(), String::new()));
        self.rows.extend(other.rows);
        for (key, value) in other.figures {
            self.figures.insert(format!("{prefix}{key}"), value);
        }
    }

    /// The table: names on the left, values beside them.
    pub fn table(&self) -> String {
        let width = self.rows.iter().map(|(n, _)| n.chars().count()).max();
        let mut text = String::new();
        for (name, value) in &self.rows {
            let gap = width.unwrap_or(0) - name.chars().count() + 2;
            // Values of several lines stay in their column.
            let indent = format!("\n{}", " ".repeat(width.unwrap_or(0) + 2));
            let value = value.trim_end().replace('\n', &indent);
            let line = format!("{name}{}{value}", " ".repeat(gap));
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// The JSON object in one line.
    pub fn json(&self) -> String {
        Value::Object(self.figures.clone()).to_string()
    }

    /// Prints the table, and the JSON line last where it was asked for.
    pub fn print(&self, args: &CommonArgs) {
        self.print_with(args.json);
    }

    /// As [`Report::print`], for programs with other arguments.
    pub fn print_with(&self, json: bool) {
        print(&self.table());
        if json {
            print(&format!("{}\n", self.json()));
        }
    }
}

/// Prints to stdout. A reader that went away (`| head`) is no error of ours.
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

/// A table of several columns; columns of numbers are aligned right.
pub fn columns(head: &[&str], rows: &[Vec<String>]) -> String {
    let wide = |text: &str| text.chars().count();
    let mut widths: Vec<usize> = head.iter().map(|h| wide(h)).collect();
    let mut numbers = vec![true; head.len()];
    for row in rows {
        for (i, cell) in row.iter().enumerate().take(head.len()) {
            widths[i] = widths[i].max(wide(cell));
            numbers[i] &= cell.starts_with(|c: char| c.is_ascii_digit() || "-<".contains(c));
        }
    }
    let head = head.iter().map(|h| h.to_string()).collect();
    let mut text = String::new();
    for row in std::iter::once(&head).chain(rows) {
        let cells = row.iter().zip(widths.iter().zip(&numbers));
        let line: Vec<String> = cells
            .map(|(cell, (width, number))| match number {
                true => format!("{cell:>width$}"),
                false => format!("{cell:<width$}"),
            })
            .collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Bytes in the unit that reads best.
pub fn bytes(n: u64) -> String {
    match n {
        0..1024 => format!("{n} B"),
        1024..1_048_576 => format!("{:.1} KiB", n as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", n as f64 / 1_048_576.0),
        _ => format!("{:.2} GiB", n as f64 / 1_073_741_824.0),
    }
}

/// Seconds in the unit that reads best.
pub fn seconds(s: f64) -> String {
    match s {
        s if s < 1e-3 => format!("{:.1} µs", s * 1e6),
        s if s < 1.0 => format!("{:.2} ms", s * 1e3),
        s => format!("{s:.1} s"),
    }
}

/// A whole number with a comma every three digits.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
