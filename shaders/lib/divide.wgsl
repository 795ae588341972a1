// Whole-number division by a value that is only known at run time. Drivers without
// vector division take lanes one by one; a reciprocal with a correction does not.

// n / d, for d below 2^30 and any n.
fn divide(n: u32, d: u32) -> u32 {
    let inverse = 1.0 / f32(d);
    // Off by at most a few parts in 2^23, so the remainder is small ...
    var q = u32(f32(n) * inverse);
    // ... and its quotient off by one at most.
    q = u32(i32(q) + i32(floor(f32(i32(n - q * d)) * inverse)));
    let rest = i32(n - q * d);
    return q + select(0u, 1u, rest >= i32(d)) - select(0u, 1u, rest < 0);
}
