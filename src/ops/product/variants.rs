//! Which kernels a product may take, by device.

use super::packed::Packed;
use super::problem::Product;
use super::register::Register;
use super::row::Row;
use super::shuffle::Shuffle;
use super::tile::{TILE_32, TILE_64, TILE_128};
use crate::Result;
use crate::device::DeviceProfile;
use crate::graph::Lower;
use crate::ops::variant::{Family, Variant};

pub(in crate::ops) static PRODUCTS: Family<Product> = Family {
    kernel: "matmul",
    software: &[
        &Packed, &Shuffle, &Register, &Row, &TILE_32, &TILE_64, &TILE_128,
    ],
    integrated: &[&Row, &TILE_64, &TILE_32, &Register],
    discrete: &[&Row, &TILE_128, &TILE_64, &TILE_32, &Register],
    otherwise: &Register,
};

/// The variant for a product.
pub(in crate::ops) fn choose(p: &Product, device: &DeviceProfile) -> &'static dyn Variant<Product> {
    PRODUCTS.choose(p, p.shape_class(), device)
}

/// Lowers a product by its variant.
pub(in crate::ops) fn lower(p: &Product, cx: &mut Lower<'_>) -> Result<()> {
    choose(p, cx.device()).lower(p, cx)
}
