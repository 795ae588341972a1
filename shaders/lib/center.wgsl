// What the kernels of a code search share. Rows and codes are measured from a point amid the
// codes (codebook_center), so that a mean far from zero costs no digits. Rows of HUGE numbers are compared as
// SMALL^2 times what they are: products with codes as large would leave float32.
const SMALL = 2.1175824e-22f; // 2^-72
const HUGE = 1.0995116e12f; // 2^40

fn magnitude(v: f32) -> f32 {
    return abs(v);
}

fn magnitude4(v: vec4f) -> f32 {
    let a = abs(v);
    return max(max(a.x, a.y), max(a.z, a.w));
}

// What a row is multiplied by, twice: `top` is its largest magnitude, `least` the lowest
// of all codes' halved squares, which is infinite where all of them are too large.
fn row_scale(top: f32, least: f32) -> f32 {
    return select(1.0, SMALL, (top > HUGE) | (bitcast<u32>(least) == 0x7f800000u));
}
