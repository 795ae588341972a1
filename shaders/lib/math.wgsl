// Functions that WGSL lacks, or that drivers get wrong far from zero.

fn from_bits(bits: u32) -> f32 {
    var b = bits;
    return bitcast<f32>(b);
}

// e^x - 1. Near zero by its series: the difference would cancel.
fn expm1(x: f32) -> f32 {
    let small = x * (1.0 + x * (0.5 + x * (0.16666667 + x * (0.041666668 + x * (0.008333334
        + x * (0.0013888889 + x * 0.0001984127))))));
    return select(exp(x) - 1.0, small, abs(x) < 0.35);
}

// Drivers compute tanh as a quotient of exponentials that overflow.
fn tanh_f32(x: f32) -> f32 {
    let a = min(abs(x), 10.0);
    let e = expm1(-2.0 * a);
    return sign(x) * (-e / (e + 2.0));
}

fn sigmoid(x: f32) -> f32 {
    let e = exp(-abs(x));
    return select(e, 1.0, x >= 0.0) / (1.0 + e);
}

// log(1 + x) for x in [0, 1]: the correction term undoes the rounding of 1 + x.
fn log1p01(x: f32) -> f32 {
    let u = 1.0 + x;
    let rounded = u - 1.0;
    return select(log(u) + (x - rounded) / u, x * (1.0 - x * (0.5 - x * 0.33333334)), x < 1e-3);
}

fn softplus(x: f32) -> f32 {
    return max(x, 0.0) + log1p01(exp(-abs(x)));
}

// x^n for whole n, also for negative x.
fn powi(x: f32, n: f32) -> f32 {
    let magnitude = pow(abs(x), n);
    let odd = abs(n - 2.0 * floor(n * 0.5)) > 0.5;
    return select(magnitude, -magnitude, odd && x < 0.0);
}

// The error function to about one ulp: its series up to 1.5, above it the
// complement by a continued fraction.
fn erf(x: f32) -> f32 {
    let a = abs(x);
    let t = a * a;
    var term = a;
    var sum = a;
    for (var n = 1; n < 22; n++) {
        term *= 2.0 * t / (2.0 * f32(n) + 1.0);
        sum += term;
    }
    let series = 1.1283792 * exp(-t) * sum;
    var fraction = 0.0;
    for (var k = 24; k > 0; k--) {
        fraction = 0.5 * f32(k) / (a + fraction);
    }
    let tail = 1.0 - exp(-min(t, 80.0)) / ((a + fraction) * 1.7724539);
    return sign(x) * select(tail, series, a < 1.5);
}

fn gelu(x: f32) -> f32 {
    return 0.5 * x * (1.0 + erf(x * 0.70710677));
}
