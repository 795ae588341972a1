//! Which kernels the gradient of a convolution by its weight may take, by device.

use super::weight_packed::Packed;
use super::weight_problem::WeightGradient;
use super::weight_product::AsProduct;
use super::weight_register::Register;
use crate::ops::variant::Family;

pub(in crate::ops) static WEIGHT_GRADIENTS: Family<WeightGradient> = Family {
    kernel: "conv2d_weight",
    software: &[&AsProduct, &Packed, &Register],
    integrated: &[&Register],
    discrete: &[&Register],
    otherwise: &Register,
};
