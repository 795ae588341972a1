// Functions that WGSL lacks, or that drivers compute too roughly: WGSL lets exp
// err by 3 + 2|x| ulp, log by 2^-21 near 1, sin and cos by 2^-11. These stay
// within about 2 ulp with nothing but + - * /, so every adapter gives the same
// digits. Coefficients: Chebyshev interpolation of the float64 functions.
// Callers: generated element-wise kernels, activation.wgsl, and other kernels.

fn from_bits(bits: u32) -> f32 {
    var b = bits;
    return bitcast<f32>(b);
}

// Drivers assume that there are no NaNs and fold `x != x`; the bits tell.
fn is_nan(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}

// The larger and the smaller of two, and NaN where either is: what WGSL calls max, min
// and clamp may give the other one instead.
fn max_f32(a: f32, b: f32) -> f32 {
    return select(max(a, b), a + b, is_nan(a) | is_nan(b));
}

fn min_f32(a: f32, b: f32) -> f32 {
    return select(min(a, b), a + b, is_nan(a) | is_nan(b));
}

fn clamp_f32(x: f32, low: f32, high: f32) -> f32 {
    return select(clamp(x, low, high), x, is_nan(x));
}

fn relu(x: f32) -> f32 {
    return select(max(x, 0.0), x, is_nan(x));
}

fn sign_f32(x: f32) -> f32 {
    return select(sign(x), x, is_nan(x));
}

// x - x, x / x and x == x: drivers fold them to 0, 1 and true.
fn is_finite(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) < 0x7f800000u;
}

fn self_difference(x: f32) -> f32 {
    return select(from_bits(0x7fc00000u), 0.0, is_finite(x));
}

fn self_quotient(x: f32) -> f32 {
    return select(from_bits(0x7fc00000u), 1.0, is_finite(x) & ((bitcast<u32>(x) & 0x7fffffffu) != 0u));
}

fn self_equal(x: f32) -> f32 {
    return select(1.0, 0.0, is_nan(x));
}

// The root of a variance. One that is infinite has none: what is divided by it would be 0,
// as if all were equal.
fn deviation(variance: f32) -> f32 {
    let beyond = bitcast<u32>(variance) == 0x7f800000u;
    return select(sqrt(variance), from_bits(0x7fc00000u), beyond);
}

// Variances beyond float32 are told as those of the numbers times FAR, negative
// (ops/norm/variance.rs). Such a one hides any epsilon.
const FAR = 8.271806e-25f; // 2^-80

fn raised(wide: f32, eps: f32) -> f32 {
    return select(wide + eps, wide, wide < 0.0);
}

fn narrow_variance(wide: f32) -> f32 {
    return select(wide, -wide / FAR / FAR, wide < 0.0);
}

// Of a raised one.
fn inverse_deviation(wide: f32) -> f32 {
    return select(1.0, FAR, wide < 0.0) / deviation(abs(wide));
}

fn normalized(x: f32, mean: f32, wide: f32, eps: f32) -> f32 {
    let r = raised(wide, eps);
    return (x - mean) * select(1.0, FAR, r < 0.0) / deviation(abs(r));
}

// e^(x + rest) = 2^k e^r with |r| <= log(2) / 2, for a small rest. The product
// of k and the first part of log(2) is exact; 2^k is applied in two halves, so
// that neither overflows alone.
fn exp_sum(x: f32, rest: f32) -> f32 {
    let limited = clamp(x, -110.0, 90.0);
    let k = round((limited + rest) * 1.442695);
    let r = (limited - k * 0.69140625) + (rest - k * 0.0017409306);
    let p = 0.5 + r * (0.16666667 + r * (0.041666463 + r * (0.0083333105
        + r * (0.0013933731 + r * 0.0001989108))));
    let y = 1.0 + (r + r * r * p);
    let half = i32(k) / 2;
    let other = i32(k) - half;
    return y * bitcast<f32>((half + 127) << 23u) * bitcast<f32>((other + 127) << 23u);
}

fn exp_f32(x: f32) -> f32 {
    return select(exp_sum(x, 0.0), x, is_nan(x));
}

// e^x - 1. Near zero by its series: the difference would cancel.
fn expm1(x: f32) -> f32 {
    let small = x * (1.0 + x * (0.5 + x * (0.16666667 + x * (0.041666668 + x * (0.008333334
        + x * (0.0013888889 + x * 0.0001984127))))));
    return select(exp_f32(x) - 1.0, small, abs(x) < 0.35);
}

// log(x) = base + (f + tail) with x = 2^k (1 + f), 1 + f in sqrt(1/2) .. sqrt(2),
// for positive finite x. base = 0.69140625 k is exact; so is f.
struct Logarithm {
    base: f32,
    f: f32,
    tail: f32,
}

fn log_parts(x: f32) -> Logarithm {
    // Shifting by sqrt(1/2) makes the exponent field round to the nearest power.
    // Subnormal numbers are whole multiples of 2^-149; as bits, because adapters may
    // take them for 0 in arithmetic.
    let own = bitcast<u32>(x);
    let subnormal = own < 0x00800000u;
    let bits = select(own, bitcast<u32>(f32(own)), subnormal);
    let exponent = bitcast<i32>(bits - 0x3f3504f3u) >> 23u;
    let k = f32(exponent - select(0, 149, subnormal));
    let f = bitcast<f32>(bits - bitcast<u32>(exponent << 23u)) - 1.0;
    let p = 0.33333334 + f * (-0.2499999 + f * (0.20000011 + f * (-0.16668001 + f * (0.14286524
        + f * (-0.12450743 + f * (0.11037783 + f * (-0.10646192 + f * (0.10530864
        + f * -0.062014997))))))));
    return Logarithm(k * 0.69140625, f, f * f * (f * p - 0.5) + k * 0.0017409306);
}

fn log_f32(x: f32) -> f32 {
    let l = log_parts(x);
    let infinity = from_bits(0x7f800000u);
    // log(0) = -inf, log(inf) = inf, no logarithm below zero.
    let bits = bitcast<u32>(x);
    let positive = select(l.base + (l.f + l.tail), x, bits == 0x7f800000u);
    let rest = select(from_bits(0x7fc00000u), -infinity, (bits & 0x7fffffffu) == 0u);
    return select(select(positive, rest, (bits == 0u) | (bits > 0x7fffffffu)), x, is_nan(x));
}

// The 12 leading significant bits: products of two such numbers are exact. Bits,
// because drivers fold the usual additions and subtractions of a big number.
fn head(x: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(x) & 0xfffff000u);
}

// x^y for x >= 0: e^(y log x) with y log x in two parts, because e^ multiplies
// the absolute rounding error of its argument.
fn pow_f32(x: f32, y: f32) -> f32 {
    let l = log_parts(x);
    let high = head(l.base + (l.f + l.tail));
    let low = ((l.base - high) + l.f) + l.tail;
    let a = head(y);
    let main = clamp(high * a, -200.0, 200.0);
    let rest = high * (y - a) + low * y;
    let value = exp_sum(main, select(0.0, rest, abs(main) < 150.0));
    let infinity = from_bits(0x7f800000u);
    let zero = (bitcast<u32>(x) & 0x7fffffffu) == 0u;
    let finite = select(value, select(infinity, 0.0, y > 0.0), zero);
    let any = select(finite, select(0.0, infinity, y > 0.0), x == infinity);
    let invalid = (x < 0.0) | is_nan(x) | is_nan(y);
    return select(select(any, 1.0, y == 0.0), from_bits(0x7fc00000u), invalid);
}

// x^n for whole n, also for negative x.
fn powi(x: f32, n: f32) -> f32 {
    let magnitude = pow_f32(abs(x), n);
    let odd = abs(n - 2.0 * floor(n * 0.5)) > 0.5;
    return select(magnitude, -magnitude, odd & (x < 0.0));
}

// x^y; below zero for whole y alone.
fn pow_any(x: f32, y: f32) -> f32 {
    return select(pow_f32(x, y), powi(x, y), (x < 0.0) & (floor(y) == y));
}

// Drivers compute tanh as a quotient of exponentials that overflow.
fn tanh_f32(x: f32) -> f32 {
    let e = expm1(-2.0 * min(abs(x), 10.0));
    return select(sign(x) * (-e / (e + 2.0)), x, is_nan(x));
}

fn sigmoid(x: f32) -> f32 {
    let e = exp_f32(-abs(x));
    return select(select(e, 1.0, x >= 0.0) / (1.0 + e), x, is_nan(x));
}

// log(1 + x) = 2 atanh(x / (2 + x)) for x in [0, 1].
fn log1p01(x: f32) -> f32 {
    let s = x / (2.0 + x);
    let t = s * s;
    let p = 0.33333334 + t * (0.19999853 + t * (0.14296179 + t * (0.10853288 + t * 0.11612164)));
    return 2.0 * (s + s * t * p);
}

fn softplus(x: f32) -> f32 {
    return select(max(x, 0.0) + log1p01(exp_f32(-abs(x))), x, is_nan(x));
}

// The error function: x + x P(x^2) up to 1, from there on 1 - e^Q(x), where Q
// approximates the logarithm of the complement; it is 1 in float32 from 4 on.
fn erf(x: f32) -> f32 {
    let a = abs(x);
    let s = min(a * a, 1.0);
    let p = 0.12837917 + s * (-0.37612626 + s * (0.11283594 + s * (-0.026854211
        + s * (0.005189087 + s * (-0.00080168643 + s * 0.000078758749)))));
    let t = (clamp(a, 1.0, 4.0) - 2.5) / 1.5;
    let q = -7.806815 + t * (-8.029021 + t * (-2.123761 + t * (-0.036647577 + t * (0.010961849
        + t * (-0.0031903053 + t * (0.0008803971 + t * (-0.0002274995 + t * 0.00004195840)))))));
    let tail = sign(x) * (1.0 - exp_f32(q));
    return select(select(tail, x + x * p, a < 1.0), x, is_nan(x));
}

fn gelu(x: f32) -> f32 {
    return 0.5 * x * (1.0 + erf(x * 0.70710677));
}

// The number of quarter turns in x (the last two bits of it), and what remains.
struct Angle {
    quarter: i32,
    rest: f32,
}

// The high word of a product.
fn mul_high(a: u32, b: u32) -> u32 {
    let low = (a & 0xffffu) * (b & 0xffffu);
    let left = (a >> 16u) * (b & 0xffffu) + (low >> 16u);
    let right = (a & 0xffffu) * (b >> 16u) + (left & 0xffffu);
    return (a >> 16u) * (b >> 16u) + (left >> 16u) + (right >> 16u);
}

// Word i of 2 / pi, behind 32 bits of zeros.
fn quarters_word(i: u32) -> u32 {
    switch i {
        case 0u: { return 0u; }
        case 1u: { return 0xa2f9836eu; }
        case 2u: { return 0x4e441529u; }
        case 3u: { return 0xfc2757d1u; }
        case 4u: { return 0xf534ddc0u; }
        case 5u: { return 0xdb629599u; }
        case 6u: { return 0x3c439041u; }
        default: { return 0xfe5163abu; }
    }
}

// Payne and Hanek 1983: of x = m 2^e only those 96 bits of 2 / pi are multiplied by m
// that reach below four turns; what stands before them gives whole multiples of these,
// what stands behind less than 2^-70 of a quarter. For finite |x| from 8192 on.
fn angle_large(x: f32) -> Angle {
    let bits = bitcast<u32>(x);
    let m = (bits & 0x7fffffu) | 0x800000u;
    let skip = ((bits >> 23u) & 255u) - 120u;
    let shift = skip & 31u;
    let back = 31u - shift;
    let first = skip >> 5u;
    let w1 = quarters_word(first + 1u);
    let w2 = quarters_word(first + 2u);
    let w3 = quarters_word(first + 3u);
    let a = (quarters_word(first) << shift) | ((w1 >> 1u) >> back);
    let b = (w1 << shift) | ((w2 >> 1u) >> back);
    let c = (w2 << shift) | ((w3 >> 1u) >> back);
    let middle = b * m;
    let next = middle + mul_high(c, m);
    let top = a * m + mul_high(b, m) + select(0u, 1u, next < middle);
    // Two bits of quarters, then 64 of what remains; from one half on it is the next
    // quarter less the rest.
    let high = (top << 2u) | (next >> 30u);
    let low = (next << 2u) | ((c * m) >> 30u);
    let over = high >> 31u;
    let flip = 0u - over;
    let rest_low = (low ^ flip) + over;
    let rest_high = (high ^ flip) + select(0u, over, rest_low == 0u);
    let part = f32(rest_high) * 2.3283064e-10 + f32(rest_low) * 5.421011e-20;
    let quarter = bitcast<i32>((top >> 30u) + over);
    let rest = part * select(1.5707964, -1.5707964, over != 0u);
    let negative = bits > 0x7fffffffu;
    let angle = Angle(select(quarter, -quarter, negative), select(rest, -rest, negative));
    let magnitude = bits & 0x7fffffffu;
    return Angle(angle.quarter, select(angle.rest, from_bits(0x7fc00000u), magnitude >= 0x7f800000u));
}

fn angle(x: f32) -> Angle {
    if (!(abs(x) < 8192.0)) {
        return angle_large(x);
    }
    let k = round(x * 0.63661975);
    // pi / 2 in three parts, of which the first two multiply exactly.
    let rest = ((x - k * 1.5703125) - k * 0.00048351288) - k * 3.1391647e-7;
    return Angle(i32(k), rest);
}

fn sin_part(r: f32) -> f32 {
    let s = r * r;
    return r + r * s * (-0.16666667 + s * (0.008333332 + s * (-0.00019840039 + s * 2.7243782e-6)));
}

fn cos_part(r: f32) -> f32 {
    let s = r * r;
    return 1.0 - 0.5 * s
        + s * s * (0.04166667 + s * (-0.0013888888 + s * (0.00002480056 + s * -2.7295832e-7)));
}

fn sin_f32(x: f32) -> f32 {
    let a = angle(x);
    let value = select(sin_part(a.rest), cos_part(a.rest), (a.quarter & 1) != 0);
    return select(value, -value, (a.quarter & 2) != 0);
}

fn cos_f32(x: f32) -> f32 {
    let a = angle(x);
    let value = select(cos_part(a.rest), sin_part(a.rest), (a.quarter & 1) != 0);
    return select(value, -value, ((a.quarter + 1) & 2) != 0);
}
