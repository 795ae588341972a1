//! The plan of the house, held against the code: no circles among the files of `src`, and
//! none longer than a person can hold in the head.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Lines that no file of `src` exceeds.
const LONGEST: usize = 500;

type Module = Vec<String>;

/// A file of `src`.
struct File {
    path: PathBuf,
    module: Module,
    /// Without comments, strings and tests.
    code: String,
    /// Names that it hands on, with the paths they come from.
    handed_on: BTreeMap<String, Module>,
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn collect(folder: &Path, module: &Module, files: &mut Vec<File>) {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        let stem = path.file_stem().unwrap().to_string_lossy().to_string();
        let mut inner = module.clone();
        if path.is_dir() {
            inner.push(stem);
            collect(&path, &inner, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            if stem != "mod" && stem != "lib" {
                inner.push(stem);
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let code = code_of(&text);
            files.push(File {
                path,
                module: inner,
                handed_on: handed_on(&code),
                code,
            });
        }
    }
}

/// The text without tests, comments, strings and the lines that declare modules.
fn code_of(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or("");
    let mut code = String::new();
    for line in text.lines() {
        let line = line.split("//").next().unwrap_or("");
        for (i, part) in line.split('"').enumerate() {
            if i % 2 == 0 {
                code.push_str(part);
            }
        }
        code.push('\n');
    }
    code
}

/// All paths of a `use` tree, with the names they are known by.
fn expand(tree: &str, before: &[String], found: &mut Vec<(String, Module)>) {
    let tree = tree.trim();
    let Some(brace) = tree.find('{') else {
        let (path, alias) = match tree.split_once(" as ") {
            Some((path, alias)) => (path, Some(alias.trim())),
            None => (tree, None),
        };
        let mut all = before.to_vec();
        all.extend(path.trim().split("::").map(|s| s.trim().to_string()));
        if all.last().is_some_and(|s| s == "self") {
            all.pop();
        }
        let name = alias.map(String::from).or_else(|| all.last().cloned());
        found.push((name.unwrap_or_default(), all));
        return;
    };
    let mut all = before.to_vec();
    let head = tree[..brace].trim().trim_end_matches("::");
    all.extend(head.split("::").filter(|s| !s.is_empty()).map(String::from));
    let inside = tree[brace + 1..].trim_end().trim_end_matches('}');
    let (mut depth, mut start) = (0, 0);
    for (i, c) in inside.char_indices().chain([(inside.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if !inside[start..i].trim().is_empty() {
                    expand(&inside[start..i], &all, found);
                }
                start = i + 1;
            }
            _ => {}
        }
    }
}

/// The `use` trees of a file: whether they hand on, and what stands in them.
fn uses(code: &str) -> Vec<(bool, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("use ") {
        let line = code[..at].rfind('\n').map_or(0, |i| i + 1);
        let head = code[line..at].trim();
        let open = head.starts_with("pub") && !head.contains(' ');
        let open = open || head.starts_with("pub(") && head.ends_with(')');
        if !head.is_empty() && !open {
            continue;
        }
        if let Some(end) = code[at..].find(';') {
            found.push((open, code[at + 4..at + end].replace('\n', " ")));
        }
    }
    found
}

fn handed_on(code: &str) -> BTreeMap<String, Module> {
    let mut found = Vec::new();
    for (_, tree) in uses(code).iter().filter(|(open, _)| *open) {
        expand(tree, &[], &mut found);
    }
    found.into_iter().collect()
}

/// The paths that a file takes something from.
fn taken(code: &str) -> Vec<Module> {
    let mut found = Vec::new();
    let mut rest = code.to_string();
    for (open, tree) in uses(code) {
        if !open {
            expand(&tree, &[], &mut found);
        }
        rest = rest.replace(&tree, "");
    }
    let mut paths: Vec<Module> = found.into_iter().map(|(_, path)| path).collect();
    let word = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    for path in rest.split(|c| !word(c)) {
        if path.starts_with("crate::") || path.starts_with("super::") {
            let parts = path.split("::").filter(|s| !s.is_empty());
            paths.push(parts.map(String::from).collect());
        }
    }
    paths
}

/// The number of the file that `path`, seen from `module`, ends in.
fn resolve(files: &[File], module: &Module, path: &[String], depth: usize) -> Option<usize> {
    let file = |m: &Module| files.iter().position(|f| f.module == *m);
    let mut at = module.clone();
    let mut parts = path.iter();
    let mut first = true;
    loop {
        let next = parts.clone().next();
        let here = file(&at);
        let Some(part) = next else { return here };
        match part.as_str() {
            "crate" if first => at = Module::new(),
            "self" if first => {}
            "super" => {
                at.pop()?;
            }
            name => {
                let mut inner = at.clone();
                inner.push(name.into());
                if file(&inner).is_some() {
                    at = inner;
                } else {
                    let handed = here.and_then(|f| files[f].handed_on.get(name));
                    return match handed {
                        Some(from) if depth < 8 => resolve(files, &at, from, depth + 1),
                        // Another crate, where nothing of ours came before.
                        _ if first => None,
                        _ => here,
                    };
                }
            }
        }
        first = false;
        parts.next();
    }
}

/// Circles of the files that can reach each other.
fn circles(edges: &[BTreeSet<usize>]) -> Vec<Vec<usize>> {
    let reach: Vec<BTreeSet<usize>> = (0..edges.len())
        .map(|from| {
            let mut seen = BTreeSet::new();
            let mut open: Vec<usize> = edges[from].iter().copied().collect();
            while let Some(next) = open.pop() {
                if seen.insert(next) {
                    open.extend(&edges[next]);
                }
            }
            seen
        })
        .collect();
    let mut found: Vec<Vec<usize>> = Vec::new();
    for a in 0..edges.len() {
        let mut circle: Vec<usize> = (0..edges.len())
            .filter(|b| reach[a].contains(b) && reach[*b].contains(&a))
            .collect();
        circle.sort();
        if circle.len() > 1 && !found.contains(&circle) {
            found.push(circle);
        }
    }
    found
}

#[test]
fn files_form_no_circles() {
    let mut files = Vec::new();
    collect(&source(), &Module::new(), &mut files);
    assert!(files.len() > 100, "{} files", files.len());
    let edges: Vec<BTreeSet<usize>> = files
        .iter()
        .enumerate()
        .map(|(i, f)| {
            let paths = taken(&f.code);
            let ends = paths
                .iter()
                .filter_map(|p| resolve(&files, &f.module, p, 0));
            ends.filter(|end| *end != i).collect()
        })
        .collect();
    let count: usize = edges.iter().map(BTreeSet::len).sum();
    assert!(count > 2 * files.len(), "only {count} imports were found");
    let name = |i: &usize| {
        let path = files[*i].path.strip_prefix(source()).unwrap();
        path.display().to_string()
    };
    let told: Vec<String> = circles(&edges)
        .iter()
        .map(|circle| {
            let arrows = circle.iter().flat_map(|a| {
                let inside = edges[*a].iter().filter(|b| circle.contains(b));
                inside.map(move |b| format!("    {} -> {}", name(a), name(b)))
            });
            arrows.collect::<Vec<_>>().join("\n")
        })
        .collect();
    assert!(
        told.is_empty(),
        "circles of imports:\n{}",
        told.join("\n\n")
    );
}

#[test]
fn a_circle_is_found() {
    let edges = [vec![1], vec![2], vec![0], vec![0]];
    let edges: Vec<BTreeSet<usize>> = edges.map(|e| e.into_iter().collect()).into();
    assert_eq!(circles(&edges), [[0, 1, 2]]);
}

#[test]
fn no_file_is_too_long() {
    let mut files = Vec::new();
    collect(&source(), &Module::new(), &mut files);
    for file in files {
        let lines = std::fs::read_to_string(&file.path).unwrap().lines().count();
        assert!(
            lines <= LONGEST,
            "{} has {lines} lines: split it by idea",
            file.path.display()
        );
    }
}
