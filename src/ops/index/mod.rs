//! Elements by number: gathering, rows set by index, one-hot and take-along-axis, sums by
//! segment, and the search for the nearest row of a codebook.

pub(in crate::ops) mod codebook;
pub(in crate::ops) mod gather;
pub(in crate::ops) mod pick;
pub(in crate::ops) mod segment_sum;
pub(in crate::ops) mod set_rows;
