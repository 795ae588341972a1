//! Which kernels attention may take, by device.

use super::lanes::Lanes;
use super::problem::Problem;
use super::tile::Tile;
use crate::ops::variant::Family;

pub(in crate::ops) static ATTENTION: Family<Problem> = Family {
    kernel: "attention",
    software: &[&Lanes, &Tile],
    integrated: &[&Tile],
    discrete: &[&Tile],
    otherwise: &Tile,
};
