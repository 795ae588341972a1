//! How the tensors of a file find the parameters of a set, where somebody else chose the
//! names and the shapes.

use super::Param;

/// Rules by which [`Params::load_by`](super::Params::load_by) matches a file with a set.
/// Names are taken in this order: prefixes are stripped, names are replaced, and what is
/// then in the set is loaded. By default names and shapes must be equal, nothing may be
/// missing, and nothing left over but counters that PyTorch keeps and nobody reads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadRules {
    prefixes: Vec<String>,
    renames: Vec<(String, String)>,
    skipped: Vec<String>,
    skipped_beginnings: Vec<String>,
    any_ones: bool,
    may_miss: Vec<String>,
    lenient: bool,
}

/// What batch norms of PyTorch count and no evaluation reads.
const COUNTERS: &str = "num_batches_tracked";

impl LoadRules {
    /// Names that begin with `prefix` (`module.`, `state_dict.`) go without it.
    pub fn strip(mut self, prefix: &str) -> Self {
        self.prefixes.push(prefix.into());
        self
    }

    /// Every `from` in a name becomes `to`: whole names, or parts of them such as
    /// `.shortcut.` for `.downsample.`.
    pub fn rename(mut self, from: &str, to: &str) -> Self {
        self.renames.push((from.into(), to.into()));
        self
    }

    /// Tensors whose names end so are passed over.
    pub fn skip_ending(mut self, endings: &[&str]) -> Self {
        self.skipped.extend(endings.iter().map(|e| e.to_string()));
        self
    }

    /// Tensors whose names begin so, once stripped and replaced, are passed over: the parts of
    /// a checkpoint that belong to another network.
    pub fn skip_beginning(mut self, beginnings: &[&str]) -> Self {
        let beginnings = beginnings.iter().map(|b| b.to_string());
        self.skipped_beginnings.extend(beginnings);
        self
    }

    /// Extents of 1 do not matter: `[C]` fits `[1, C, 1, 1]`.
    pub fn any_ones(mut self) -> Self {
        self.any_ones = true;
        self
    }

    /// Parameters whose names begin so keep their values where the file has none.
    pub fn may_miss(mut self, beginnings: &[&str]) -> Self {
        self.may_miss
            .extend(beginnings.iter().map(|b| b.to_string()));
        self
    }

    /// What is missing, left over or of another shape is reported, not an error.
    pub fn lenient(mut self) -> Self {
        self.lenient = true;
        self
    }

    /// Whether what does not match is only reported.
    pub(super) fn is_lenient(&self) -> bool {
        self.lenient
    }

    /// What a tensor of the file is called in the set; none for those passed over.
    pub(super) fn name(&self, in_file: &str) -> Option<String> {
        let mut name = in_file;
        // Wrappers wrap each other: `module.model.` is two of them, in any order.
        while let Some(rest) = self.prefixes.iter().find_map(|p| name.strip_prefix(p)) {
            if rest.len() == name.len() {
                break;
            }
            name = rest;
        }
        let renamed = |name: String, (from, to): &(String, String)| match from.is_empty() {
            true => name,
            false => name.replace(from, to),
        };
        let name = self.renames.iter().fold(name.to_string(), renamed);
        let mut beginnings = self.skipped_beginnings.iter();
        let skipped = self.skipped.iter().any(|end| name.ends_with(end))
            || beginnings.any(|begin| name.starts_with(begin));
        (!skipped).then_some(name)
    }

    /// Whether a tensor of the file that no parameter wants may be left over.
    pub(super) fn passes_over(&self, name: &str) -> bool {
        name == COUNTERS || name.ends_with(&format!(".{COUNTERS}"))
    }

    /// Whether a parameter that is not in the file keeps its value.
    pub(super) fn keeps(&self, name: &str) -> bool {
        self.may_miss.iter().any(|begin| name.starts_with(begin))
    }

    /// Whether a tensor of this shape holds the values of the parameter.
    pub(super) fn fits(&self, shape: &[usize], param: &Param) -> bool {
        let dims = param.shape().dims();
        let ones = |shape: &[usize]| -> Vec<usize> {
            let extents = shape.iter().copied();
            extents.filter(|extent| *extent != 1).collect()
        };
        shape == dims || self.any_ones && ones(shape) == ones(dims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_stripped_then_replaced_then_skipped() {
        let rules = LoadRules::default()
            .strip("module.")
            .strip("model.")
            .rename(".shortcut.", ".downsample.")
            .skip_ending(&[".mask"])
            .skip_beginning(&["loss."]);
        let name = |n: &str| rules.name(n);
        assert_eq!(
            name("module.model.a.shortcut.0"),
            Some("a.downsample.0".into())
        );
        assert_eq!(name("a.module.b"), Some("a.module.b".into()));
        assert_eq!(name("model.a.mask"), None);
        assert_eq!(name("model.loss.a"), None);
        assert_eq!(name("a.loss.b"), Some("a.loss.b".into()));
        assert!(rules.passes_over("bn1.num_batches_tracked"));
        assert!(!rules.passes_over("bn1.weight"));
        let odd = LoadRules::default().strip("").rename("", "x");
        assert_eq!(odd.name("a"), Some("a".into()));
    }
}
