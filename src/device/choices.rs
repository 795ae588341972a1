//! Choices among the variants of kernels that were measured on a device, or forced by a
//! test. Plain data; nothing here measures anything.

use std::collections::BTreeMap;

/// Choices that were measured on a device (or are forced by a test), by kernel and
/// shape class; `*` stands for every shape class.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choices {
    chosen: BTreeMap<(String, String), String>,
}

impl Choices {
    /// Chooses a variant for a kernel's problems of a shape class. Problems that the
    /// variant cannot do go on by the table.
    pub fn set(&mut self, kernel: &str, shape: &str, variant: &str) {
        let key = (kernel.to_string(), shape.to_string());
        self.chosen.insert(key, variant.to_string());
    }

    /// The choice for a shape class, or for all.
    pub fn get(&self, kernel: &str, shape: &str) -> Option<&str> {
        let find = |shape: &str| {
            let key = (kernel.to_string(), shape.to_string());
            self.chosen.get(&key).map(String::as_str)
        };
        find(shape).or_else(|| find("*"))
    }

    /// Whether nothing was chosen.
    pub fn is_empty(&self) -> bool {
        self.chosen.is_empty()
    }

    /// Kernel, shape class and variant of all choices, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        let all = self.chosen.iter();
        all.map(|((kernel, shape), variant)| (kernel.as_str(), shape.as_str(), variant.as_str()))
    }
}
