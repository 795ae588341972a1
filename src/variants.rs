//! Which of its variants a kernel gets: a table by kernel and kind of device, and
//! measured choices above it. Plain data; nothing here measures anything.

use std::collections::BTreeMap;

use crate::device::{DeviceClass, DeviceProfile};

/// Variants by preference; the first that fits a problem is taken.
struct Row {
    kernel: &'static str,
    class: DeviceClass,
    order: &'static [&'static str],
}

const fn row(kernel: &'static str, class: DeviceClass, order: &'static [&'static str]) -> Row {
    Row {
        kernel,
        class,
        order,
    }
}

/// Software adapters spend their time on loads and switch threads at barriers, so
/// what shares loads by shuffles comes first there, and workgroup memory last. GPUs
/// want workgroup memory wherever a problem fills its tiles.
const TABLE: &[Row] = &[
    row(
        "matmul",
        DeviceClass::Software,
        &[
            "packed", "shuffle", "register", "row", "tile 32", "tile 64", "tile 128",
        ],
    ),
    row(
        "matmul",
        DeviceClass::Integrated,
        &["row", "tile 64", "tile 32", "register"],
    ),
    row(
        "matmul",
        DeviceClass::Discrete,
        &["row", "tile 128", "tile 64", "tile 32", "register"],
    ),
    row(
        "conv2d",
        DeviceClass::Software,
        &[
            "depthwise",
            "product",
            "columns",
            "rows",
            "packed",
            "register",
            "tile 32",
            "tile 64",
            "tile 128",
        ],
    ),
    row(
        "conv2d",
        DeviceClass::Integrated,
        &["product", "tile 64", "tile 32", "register"],
    ),
    row(
        "conv2d",
        DeviceClass::Discrete,
        &["product", "tile 128", "tile 64", "tile 32", "register"],
    ),
];

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

/// All variants of a kernel, whatever the device; empty for kernels that have one.
pub fn all(kernel: &str) -> &'static [&'static str] {
    let rows = TABLE.iter().filter(|row| row.kernel == kernel);
    rows.map(|row| row.order)
        .max_by_key(|order| order.len())
        .unwrap_or(&[])
}

/// The variant for a problem among those that can do it, of which `fits` tells: the
/// measured one, else the first of the table. The last of the table must always fit.
pub fn choose(
    device: &DeviceProfile,
    kernel: &str,
    shape: &str,
    can: impl Fn(&str) -> bool,
    fits: impl Fn(&str) -> bool,
) -> &'static str {
    let known = |name: &str| all(kernel).iter().find(|v| **v == name && can(v)).copied();
    if let Some(chosen) = device.choices.get(kernel, shape).and_then(known) {
        return chosen;
    }
    let order = TABLE
        .iter()
        .find(|row| row.kernel == kernel && row.class == device.class)
        .map_or(&[][..], |row| row.order);
    let fitting = order.iter().find(|v| can(v) && fits(v));
    let possible = order.iter().rev().find(|v| can(v));
    fitting.or(possible).copied().unwrap_or("register")
}

/// A product's shape class: what the order of variants turns on.
pub fn product_shape(m: usize, n: usize, k: usize) -> &'static str {
    let work = m * n * k;
    match (m.min(n), work) {
        (0..4, _) => "vector",
        (4..32, _) => "thin",
        (_, 0..0x20_0000) => "small",
        (_, 0x20_0000..0x800_0000) => "medium",
        _ => "large",
    }
}

/// A convolution's shape class: output channels of a group, and the work.
pub fn conv_shape(channels_out: usize, flops: usize) -> &'static str {
    match (channels_out, flops) {
        (0..4, _) => "depthwise",
        (4..16, _) => "thin",
        (_, 0..0x40_0000) => "small",
        (_, 0x40_0000..0x1000_0000) => "medium",
        _ => "large",
    }
}
