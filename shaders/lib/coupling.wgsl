// What both coupling kernels know: where elements and their raw values lie, and the
// scale with its logarithm. See ops/coupling.rs.
#import cell
#import math

struct Args {
    samples: u32,
    // Invocations of a sample: blocks of `lanes`, each of which takes `each` cells, and
    // `kept_each` of those that are kept.
    parts: u32,
    lanes: u32,
    each: u32,
    kept_each: u32,
    // Transformed cells of a sample, and those of one channel (or of a run of channels).
    cells: u32,
    run: u32,
    x_sample: u32,
    x_base: u32,
    x_step: u32,
    raw_sample: u32,
    s_base: u32,
    t_base: u32,
    raw_step: u32,
    // The same for what is kept.
    kept_cells: u32,
    kept_run: u32,
    kept_base: u32,
    // Elements of an image row, and (h + w) % 2 of what is kept.
    width: u32,
    parity: u32,
    // The sigmoid's offset or the bound of the tanh, and the least scale.
    a: f32,
    least: f32,
}
#args

// The first cell of invocation i of a sample, and the end of its block.
fn block(i: u32, each: u32, cells: u32) -> vec2u {
    let number = divide(i, args.lanes);
    let start = number * args.lanes * each;
    return vec2u(start + i - number * args.lanes, min(start + args.lanes * each, cells));
}

struct Place {
    x: u32,
    s: u32,
    t: u32,
    // The cell's number in its run.
    inner: u32,
}

fn place(n: u32, cell: u32) -> Place {
    let channel = divide(cell, args.run);
    let inner = cell - channel * args.run;
    let raw_at = n * args.raw_sample + channel * args.raw_step + inner;
    return Place(n * args.x_sample + args.x_base + channel * args.x_step + inner,
        raw_at + args.s_base, raw_at + args.t_base, inner);
}

fn kept(n: u32, cell: u32) -> u32 {
    let channel = divide(cell, args.kept_run);
    let inner = cell - channel * args.kept_run;
    return n * args.x_sample + args.kept_base + channel * args.x_step + inner;
}

#if CHECKER
fn moves(element: u32) -> bool {
    let row = divide(element, args.width);
    return ((row + element - row * args.width) & 1u) != args.parity;
}

#if VEC4
fn transformed(cell: u32) -> vec4<bool> {
    let e = 4u * cell;
    return vec4<bool>(moves(e), moves(e + 1u), moves(e + 2u), moves(e + 3u));
}
#else
fn transformed(cell: u32) -> bool {
    return moves(cell);
}
#endif
#endif

#if SCALE != none
// The scale, its logarithm l, and dl/ds.
struct Scale {
    value: Cell,
    log: Cell,
    slope: Cell,
}

struct Scale1 {
    value: f32,
    log: f32,
    slope: f32,
}

fn scale1(s: f32) -> Scale1 {
#if SCALE == sigmoid
    let u = s + args.a;
    let e = exp_f32(-abs(u));
    let near = 1.0 / (1.0 + e);
    let far = e * near;
    let value = select(far, near, u >= 0.0);
    let log = min(u, 0.0) - log1p01(e);
    let slope = select(near, far, u >= 0.0);
#elif SCALE == tanh
    let u = s / args.a;
    let log = args.a * tanh_f32(u);
    let value = exp_f32(log);
    // 1 - tanh^2 without the difference.
    let e = exp_f32(-2.0 * abs(u));
    let slope = 4.0 * e / ((1.0 + e) * (1.0 + e));
#else
    let log = s;
    let value = exp_f32(s);
    let slope = 1.0;
#endif
#if LEAST
    let sum = value + args.least;
    return Scale1(sum, log_f32(sum), slope * value / sum);
#else
    // The inverse divides by it: never zero, so that 0 / 0 cannot occur.
    return Scale1(max(value, 1.1754944e-38), log, slope);
#endif
}

#if VEC4
fn scale(s: vec4f) -> Scale {
    let a = scale1(s.x);
    let b = scale1(s.y);
    let c = scale1(s.z);
    let d = scale1(s.w);
    return Scale(vec4f(a.value, b.value, c.value, d.value), vec4f(a.log, b.log, c.log, d.log),
        vec4f(a.slope, b.slope, c.slope, d.slope));
}
#else
fn scale(s: f32) -> Scale {
    let a = scale1(s);
    return Scale(a.value, a.log, a.slope);
}
#endif
#endif
