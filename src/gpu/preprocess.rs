//! The shader preprocessor: imports, conditions, repetition, substitution.
//!
//! Lines that begin with `#` are directives:
//!
//! | directive | meaning |
//! |---|---|
//! | `#import NAME` | the text of `shaders/lib/NAME.wgsl`, once |
//! | `#args` | declares `args: Args`, as immediates or as a uniform buffer; the entry point, whose head ends a line with a brace, reads them once |
//! | `#if NAME`, `#if NAME == v`, `#if NAME != v`, `#elif`, `#else`, `#endif` | conditions over defines; a bare name is true when defined and not `0` |
//! | `#repeat i N` .. `#end` | the lines N times, `i` from 0; may be nested |
//!
//! `${expr}` is a define's text, or an integer expression of defines and repeat
//! variables with `+ - * / %`, `>>` (as strong as `/`) and parentheses.

use std::collections::HashMap;

use crate::{Error, Result};

/// Snippets that `#import` finds.
const LIBRARY: &[(&str, &str)] = &[
    (
        "activation",
        include_str!("../../shaders/lib/activation.wgsl"),
    ),
    ("bilinear", include_str!("../../shaders/lib/bilinear.wgsl")),
    ("cell", include_str!("../../shaders/lib/cell.wgsl")),
    ("coupling", include_str!("../../shaders/lib/coupling.wgsl")),
    ("divide", include_str!("../../shaders/lib/divide.wgsl")),
    ("eight", include_str!("../../shaders/lib/eight.wgsl")),
    (
        "exp_below",
        include_str!("../../shaders/lib/exp_below.wgsl"),
    ),
    ("grid", include_str!("../../shaders/lib/grid.wgsl")),
    ("half", include_str!("../../shaders/lib/half.wgsl")),
    ("math", include_str!("../../shaders/lib/math.wgsl")),
    ("pool", include_str!("../../shaders/lib/pool.wgsl")),
    ("pool_row", include_str!("../../shaders/lib/pool_row.wgsl")),
    ("spline", include_str!("../../shaders/lib/spline.wgsl")),
    ("center", include_str!("../../shaders/lib/center.wgsl")),
    ("threefry", include_str!("../../shaders/lib/threefry.wgsl")),
    ("wide", include_str!("../../shaders/lib/wide.wgsl")),
];

/// Blocks and parentheses within one another at most.
const MAX_DEPTH: usize = 64;

/// Bytes of lines that are expanded at most, with one for each look at a line and
/// some for each repetition. The longest
/// kernels have some hundred kilobytes, and drivers take seconds for these.
const MAX_BYTES: usize = 4 << 20;

/// How `#args` is declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ArgsIn {
    /// `var<immediate>`
    Immediates,
    /// A uniform buffer at this binding.
    Uniform(u32),
}

/// Expands `source` into plain WGSL.
pub fn preprocess(
    kernel: &str,
    source: &str,
    defines: &[(String, String)],
    args: ArgsIn,
) -> Result<String> {
    let mut state = State {
        kernel,
        vars: defines.iter().cloned().collect(),
        imported: Vec::new(),
        args,
        has_args: false,
        in_head: false,
        depth: 0,
        spent: 0,
        out: String::with_capacity(source.len() * 2),
    };
    let lines: Vec<&str> = source.lines().collect();
    state.block(&lines)?;
    Ok(state.out)
}

struct State<'a> {
    kernel: &'a str,
    vars: HashMap<String, String>,
    imported: Vec<String>,
    args: ArgsIn,
    /// Whether `#args` was met.
    has_args: bool,
    /// Whether the entry point's head began and its body did not.
    in_head: bool,
    /// Blocks within one another here.
    depth: usize,
    /// Bytes read and written so far.
    spent: usize,
    out: String,
}

impl State<'_> {
    fn fail<T>(&self, line: &str, message: &str) -> Result<T> {
        Err(Error::Shader {
            kernel: self.kernel.into(),
            message: format!("preprocessor: {message} in line `{}`", line.trim()),
        })
    }

    fn spend(&mut self, line: &str, bytes: usize) -> Result<()> {
        self.spent = self.spent.saturating_add(bytes);
        match self.spent > MAX_BYTES {
            true => self.fail(line, &format!("the text grows beyond {MAX_BYTES} bytes")),
            false => Ok(()),
        }
    }

    fn block(&mut self, lines: &[&str]) -> Result<()> {
        if self.depth == MAX_DEPTH {
            let line = lines.first().unwrap_or(&"");
            return self.fail(
                line,
                &format!("more than {MAX_DEPTH} blocks in one another"),
            );
        }
        self.depth += 1;
        let done = self.lines(lines);
        self.depth -= 1;
        done
    }

    fn lines(&mut self, lines: &[&str]) -> Result<()> {
        let mut i = 0;
        while i < lines.len() {
            let line = lines[i];
            self.spend(line, line.len() + 1)?;
            let Some(directive) = line.trim_start().strip_prefix('#') else {
                let text = self.substitute(line)?;
                self.spend(line, text.len())?;
                self.out.push_str(&text);
                self.out.push('\n');
                self.in_head |= text.starts_with("@compute");
                if self.in_head && text.ends_with('{') {
                    self.in_head = false;
                    // Software adapters would read them again at every trip of a loop.
                    if self.has_args {
                        self.out.push_str("    let args = args;\n");
                    }
                }
                i += 1;
                continue;
            };
            let mut words = directive.split_whitespace();
            match words.next().unwrap_or("") {
                "import" => {
                    self.import(line, words.next().unwrap_or(""))?;
                    i += 1;
                }
                "args" => {
                    self.has_args = true;
                    self.out.push_str(&match self.args {
                        ArgsIn::Immediates => "var<immediate> args: Args;\n".to_string(),
                        ArgsIn::Uniform(binding) => {
                            format!("@group(0) @binding({binding}) var<uniform> args: Args;\n")
                        }
                    });
                    i += 1;
                }
                "if" => i = self.condition(lines, i)?,
                "repeat" => i = self.repeat(lines, i)?,
                _ => return self.fail(line, "unknown or misplaced directive"),
            }
        }
        Ok(())
    }

    fn import(&mut self, line: &str, name: &str) -> Result<()> {
        if self.imported.iter().any(|n| n == name) {
            return Ok(());
        }
        let Some((_, text)) = LIBRARY.iter().find(|(n, _)| *n == name) else {
            return self.fail(line, "no such snippet");
        };
        self.imported.push(name.into());
        self.block(&text.lines().collect::<Vec<_>>())
    }

    /// Runs the branch of `#if` at `start` that holds; returns the line after `#endif`.
    fn condition(&mut self, lines: &[&str], start: usize) -> Result<usize> {
        let mut depth = 0;
        let mut branches = Vec::new();
        let mut end = None;
        for (i, line) in lines.iter().enumerate().skip(start) {
            let word = directive(line);
            match word {
                "if" | "repeat" => depth += 1,
                "end" => depth -= 1,
                "endif" => {
                    depth -= 1;
                    if depth == 0 {
                        end = Some(i);
                        break;
                    }
                }
                _ => {}
            }
            if depth == 1 && matches!(word, "if" | "elif" | "else") {
                branches.push(i);
            }
        }
        let Some(end) = end else {
            return self.fail(lines[start], "no #endif");
        };
        self.spend(lines[start], end - start)?;
        for (b, at) in branches.iter().enumerate() {
            if self.holds(lines[*at])? {
                let stop = branches.get(b + 1).copied().unwrap_or(end);
                self.block(&lines[at + 1..stop])?;
                break;
            }
        }
        Ok(end + 1)
    }

    fn holds(&self, line: &str) -> Result<bool> {
        let words: Vec<&str> = line.split_whitespace().skip(1).collect();
        if directive(line) == "else" {
            return Ok(true);
        }
        let value = |w: &str| {
            self.vars
                .get(w)
                .map(String::as_str)
                .unwrap_or(w)
                .to_string()
        };
        match words[..] {
            [name] => Ok(self
                .vars
                .get(name)
                .is_some_and(|v| v != "0" && !v.is_empty())),
            [a, "==", b] => Ok(value(a) == value(b)),
            [a, "!=", b] => Ok(value(a) != value(b)),
            _ => self.fail(line, "a condition is `NAME`, `A == B` or `A != B`"),
        }
    }

    /// Repeats the lines up to the matching `#end`; returns the line after it.
    fn repeat(&mut self, lines: &[&str], start: usize) -> Result<usize> {
        let mut depth = 0;
        let mut end = None;
        for (i, line) in lines.iter().enumerate().skip(start) {
            match directive(line) {
                "repeat" => depth += 1,
                "end" => {
                    depth -= 1;
                    if depth == 0 {
                        end = Some(i);
                        break;
                    }
                }
                _ => {}
            }
        }
        let Some(end) = end else {
            return self.fail(lines[start], "no #end");
        };
        self.spend(lines[start], end - start)?;
        let mut words = lines[start].split_whitespace().skip(1);
        let (Some(name), count) = (words.next(), words.collect::<Vec<_>>().join(" ")) else {
            return self.fail(lines[start], "`#repeat var COUNT`");
        };
        let Some(count) = evaluate(&count, &self.vars) else {
            return self.fail(lines[start], "the count is no integer");
        };
        let shadowed = self.vars.remove(name);
        for k in 0..count {
            self.spend(lines[start], 32)?;
            self.vars.insert(name.into(), k.to_string());
            self.block(&lines[start + 1..end])?;
        }
        self.vars.remove(name);
        if let Some(value) = shadowed {
            self.vars.insert(name.into(), value);
        }
        Ok(end + 1)
    }

    fn substitute(&self, line: &str) -> Result<String> {
        let mut out = String::with_capacity(line.len());
        let mut rest = line;
        while let Some(start) = rest.find("${") {
            let Some(len) = rest[start..].find('}') else {
                return self.fail(line, "no closing brace");
            };
            out.push_str(&rest[..start]);
            let expr = &rest[start + 2..start + len];
            match self.vars.get(expr.trim()) {
                Some(value) => out.push_str(value),
                None => match evaluate(expr, &self.vars) {
                    Some(value) => out.push_str(&value.to_string()),
                    None => return self.fail(line, &format!("`{expr}` has no value")),
                },
            }
            rest = &rest[start + len + 1..];
        }
        out.push_str(rest);
        Ok(out)
    }
}

fn directive(line: &str) -> &str {
    match line.trim_start().strip_prefix('#') {
        Some(rest) => rest.split_whitespace().next().unwrap_or(""),
        None => "",
    }
}

/// The value of an integer expression, or `None` where it has none.
fn evaluate(text: &str, vars: &HashMap<String, String>) -> Option<i64> {
    let chars: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    if chars.iter().filter(|c| **c == '(').count() > MAX_DEPTH {
        return None;
    }
    let mut at = 0;
    let value = sum(&chars, &mut at, vars)?;
    (at == chars.len()).then_some(value)
}

fn sum(chars: &[char], at: &mut usize, vars: &HashMap<String, String>) -> Option<i64> {
    let mut value = product(chars, at, vars)?;
    while let Some(op @ ('+' | '-')) = chars.get(*at) {
        *at += 1;
        let right = product(chars, at, vars)?;
        value = if *op == '+' {
            value.checked_add(right)?
        } else {
            value.checked_sub(right)?
        };
    }
    Some(value)
}

fn product(chars: &[char], at: &mut usize, vars: &HashMap<String, String>) -> Option<i64> {
    let mut value = atom(chars, at, vars)?;
    while let Some(op @ ('*' | '/' | '%' | '>')) = chars.get(*at) {
        *at += 1;
        if *op == '>' {
            (chars.get(*at) == Some(&'>')).then_some(())?;
            *at += 1;
        }
        let right = atom(chars, at, vars)?;
        value = match op {
            '*' => value.checked_mul(right)?,
            '/' => value.checked_div(right)?,
            '>' => value.checked_shr(u32::try_from(right).ok()?)?,
            _ => value.checked_rem(right)?,
        };
    }
    Some(value)
}

fn atom(chars: &[char], at: &mut usize, vars: &HashMap<String, String>) -> Option<i64> {
    if chars.get(*at) == Some(&'(') {
        *at += 1;
        let value = sum(chars, at, vars)?;
        (chars.get(*at) == Some(&')')).then_some(())?;
        *at += 1;
        return Some(value);
    }
    let start = *at;
    while chars
        .get(*at)
        .is_some_and(|c| c.is_alphanumeric() || *c == '_')
    {
        *at += 1;
    }
    let word: String = chars[start..*at].iter().collect();
    word.parse()
        .ok()
        .or_else(|| vars.get(&word)?.trim_end_matches('u').parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(source: &str, defines: &[(&str, &str)]) -> Result<String> {
        let defines: Vec<_> = defines
            .iter()
            .map(|(a, b)| (a.to_string(), b.to_string()))
            .collect();
        preprocess("test", source, &defines, ArgsIn::Immediates)
    }

    #[test]
    fn conditions_nest_and_choose_one_branch() {
        let text =
            "#if A == x\n1\n#if B\n2\n#else\n3\n#endif\n#elif A == y\n4\n#else\n5\n#endif\n6";
        assert_eq!(expand(text, &[("A", "x")]).unwrap(), "1\n3\n6\n");
        assert_eq!(
            expand(text, &[("A", "x"), ("B", "1")]).unwrap(),
            "1\n2\n6\n"
        );
        assert_eq!(expand(text, &[("A", "y")]).unwrap(), "4\n6\n");
        assert_eq!(expand(text, &[]).unwrap(), "5\n6\n");
    }

    #[test]
    fn repetition_substitutes_expressions() {
        let text = "#repeat i N/2\n#repeat j 2\na${i*2+j} ${T}\n#end\n#end";
        assert_eq!(
            expand(text, &[("N", "4"), ("T", "f32")]).unwrap(),
            "a0 f32\na1 f32\na2 f32\na3 f32\n"
        );
        let halves = "#repeat s 3\n${(N >> s) + 1} ${N >> s + 1}\n#end";
        assert_eq!(expand(halves, &[("N", "12")]).unwrap(), "13 13\n7 7\n4 4\n");
    }

    #[test]
    fn the_entry_point_reads_its_arguments_once() {
        let helper = "fn f() -> u32 {\n    return args.n;\n}\n";
        let entry = "@compute @workgroup_size(64)\nfn main(@builtin(workgroup_id) group: vec3u,\n        @builtin(local_invocation_index) local: u32) {\n";
        let rest = "    if (local < args.n) {\n    }\n}\n";
        let text = expand(&format!("#args\n{helper}{entry}{rest}"), &[]).unwrap();
        let declared = "var<immediate> args: Args;\n";
        let read = "    let args = args;\n";
        assert_eq!(text, format!("{declared}{helper}{entry}{read}{rest}"));
        // Where there are none, nothing is read.
        let text = expand(&format!("{entry}{rest}"), &[]).unwrap();
        assert_eq!(text, format!("{entry}{rest}"));
    }

    #[test]
    fn mistakes_are_errors() {
        for text in [
            "#if A\n1",
            "#repeat i 2\n1",
            "${nope}",
            "#import nope",
            "#what",
            "#endif",
            "${1/0}",
            "${1>1}",
            "${1>>64}",
        ] {
            let error = expand(text, &[]).unwrap_err();
            assert!(matches!(error, Error::Shader { .. }), "{text}: {error}");
        }
    }

    #[test]
    fn texts_without_end_are_errors() {
        let deep = format!("{}1{}", "(".repeat(100_000), ")".repeat(100_000));
        let nested = |line: &str, end: &str| line.repeat(2000) + &end.repeat(2000);
        for text in [
            "#repeat i 9000000000000000000\n#end".to_string(),
            "#repeat i 1000000\n0123456789012345678901234567890123456789\n#end".into(),
            format!("#repeat i {}\n#end", i64::MAX),
            format!("${{{deep}}}"),
            nested("#repeat i 1\n", "#end\n"),
            nested("#repeat i 9\n", "#end\n").replace("i", "j"),
        ] {
            let error = expand(&text, &[]).unwrap_err();
            assert!(matches!(error, Error::Shader { .. }), "{error}");
        }
        // What a long kernel needs is far below.
        let long = "#repeat i 64\n#repeat j 64\nlet a_${i}_${j} = f(${i * 64 + j}u);\n#end\n#end";
        assert_eq!(expand(long, &[]).unwrap().lines().count(), 4096);
    }
}
