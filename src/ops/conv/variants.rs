//! Which kernels a convolution may take, by device.

use super::columns::Columns;
use super::depthwise::Depthwise;
use super::direct::{Convolution, Direct};
use super::packed::Packed;
use super::product::AsProduct;
use super::register::Register;
use super::rows::Rows;
use crate::Result;
use crate::graph::Lower;
use crate::ops::product::problem::Product;
use crate::ops::product::tile::{TILE_32, TILE_64, TILE_128};
use crate::ops::variant::Family;

pub(in crate::ops) static CONVOLUTIONS: Family<Convolution> = Family {
    kernel: "conv2d",
    software: &[
        &Depthwise, &AsProduct, &Columns, &Rows, &Packed, &Register, &TILE_32, &TILE_64, &TILE_128,
    ],
    integrated: &[&AsProduct, &TILE_64, &TILE_32, &Register],
    discrete: &[&AsProduct, &TILE_128, &TILE_64, &TILE_32, &Register],
    otherwise: &Register,
};

/// Lowers convolutions that read the same input and together give one output, with the
/// best variant for them; `product` is what a 1x1 convolution is as a matrix product.
pub(in crate::ops) fn lower(
    parts: Vec<Direct>,
    product: Option<Product>,
    cx: &mut Lower<'_>,
) -> Result<()> {
    let problem = Convolution { parts, product };
    let variant = CONVOLUTIONS.choose(&problem, problem.shape_class(), cx.device());
    variant.lower(&problem, cx)
}
