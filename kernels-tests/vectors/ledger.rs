//! What of the vector files must be there, and what of a file was read.

use std::cell::RefCell;
use std::collections::BTreeSet;

use safetensors::SafeTensors;
use serde_json::Value;

/// The cases of every file: 683. A file that lost some would otherwise pass.
pub const CASES: [(&str, usize); 15] = [
    ("attention", 20),
    ("conv", 59),
    ("flow", 63),
    ("linalg", 69),
    ("loss", 63),
    ("masked_conv", 13),
    ("matmul", 34),
    ("metrics", 29),
    ("norm", 44),
    ("optim", 24),
    ("pointwise", 106),
    ("pool", 28),
    ("reduce", 89),
    ("spectral", 15),
    ("vq", 27),
];

/// The bytes of a file.
pub fn open(family: &str) -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/kernels-tests/vectors");
    let path = format!("{folder}/{family}.safetensors");
    std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The tensors of a file that nobody has read yet, and its cases.
pub struct Ledger {
    family: &'static str,
    /// Names, and what the file says of each.
    pub cases: Vec<(String, Value)>,
    unread: RefCell<BTreeSet<String>>,
}

impl Ledger {
    pub fn new(family: &str, bytes: &[u8]) -> Self {
        let wanted = CASES.iter().find(|(name, _)| *name == family);
        let (family, count) = *wanted.unwrap_or_else(|| panic!("{family} is in no table"));
        let (_, header) = SafeTensors::read_metadata(bytes).expect("a safetensors file");
        let strings = header.metadata().as_ref().expect("a string map");
        let json = |key: &str| -> Value {
            serde_json::from_str(&strings[key]).unwrap_or_else(|e| panic!("{family}, {key}: {e}"))
        };
        let names: Vec<String> = serde_json::from_value(json("cases")).expect("names");
        let listed: BTreeSet<String> = names.iter().map(|n| format!("case/{n}")).collect();
        let described = strings.keys().filter(|key| key.starts_with("case/"));
        assert_eq!(
            described.cloned().collect::<BTreeSet<_>>(),
            listed,
            "{family}: the cases that are listed and those that are described"
        );
        assert_eq!(listed.len(), count, "{family}: cases");
        let case = |n: String| (n.clone(), json(&format!("case/{n}")));
        Ledger {
            family,
            cases: names.into_iter().map(case).collect(),
            unread: RefCell::new(header.tensors().into_keys().collect()),
        }
    }

    /// Notes that a tensor was read.
    pub fn read(&self, key: &str) {
        self.unread.borrow_mut().remove(key);
    }

    /// Every tensor was read, but those that `told` says are only for people.
    pub fn close(&self, told: impl Fn(&str) -> bool) {
        let mut left = self.unread.take();
        left.retain(|key| !told(key));
        assert!(left.is_empty(), "{}: nothing read {left:?}", self.family);
    }
}
