// What both coupling kernels know: where elements and their raw values lie, and the
// scale with its logarithm. See ops/coupling.rs.
#import exp_below
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
#if ONCE
    return vec2u(i, cells);
#else
    let number = divide(i, args.lanes);
    let start = number * args.lanes * each;
    return vec2u(start + i - number * args.lanes, min(start + args.lanes * each, cells));
#endif
}

struct Place {
    x: u32,
    s: u32,
    t: u32,
    // The cell's number in its run.
    inner: u32,
}

fn place(n: u32, cell: u32) -> Place {
#if ONE_RUN
    let channel = 0u;
#else
    let channel = divide(cell, args.run);
#endif
    let inner = cell - channel * args.run;
    let raw_at = n * args.raw_sample + channel * args.raw_step + inner;
    return Place(n * args.x_sample + args.x_base + channel * args.x_step + inner,
        raw_at + args.s_base, raw_at + args.t_base, inner);
}

fn kept(n: u32, cell: u32) -> u32 {
#if ONE_KEPT_RUN
    let channel = 0u;
#else
    let channel = divide(cell, args.kept_run);
#endif
    let inner = cell - channel * args.kept_run;
    return n * args.x_sample + args.kept_base + channel * args.x_step + inner;
}

#if CHECKER
fn moves(element: u32) -> bool {
    let row = divide(element, args.width);
    return ((row + element - row * args.width) & 1u) != args.parity;
}

#if HALVES == 2
// Whole rows of cells: of each either the even elements move or the odd ones.
fn odd_moves(cell: u32) -> bool {
    return moves(8u * cell + 1u);
}
#elif VEC4
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

// The WORK parts of a cell that are transformed: one or both halves.
fn part0(x: Stored, at: Place) -> Cell {
#if PICKED
    return select(half0(x), half1(x), odd_moves(at.inner));
#else
    return half0(x);
#endif
}
#if WORK == 2

fn part1(x: Stored, at: Place) -> Cell {
    return half1(x);
}
#endif

// The cell of these parts, and of `kept` where nothing is transformed.
fn joined(kept: Stored, first: Cell, last: Cell, at: Place) -> Stored {
#if PICKED
    let odd = odd_moves(at.inner);
    return oct(select(first, half0(kept), odd), select(half1(kept), first, odd));
#elif CHECKER
    return stored(select(half0(kept), first, transformed(at.inner)));
#elif HALVES == 2
    return oct(first, last);
#else
    return stored(first);
#endif
}

fn nothing() -> Stored {
#if HALVES == 2
    return oct(vec4f(), vec4f());
#else
    return stored(Cell());
#endif
}

#if SCALE != none
// The scale, its logarithm l, and dl/ds.
struct Scale {
    value: Cell,
    log: Cell,
    slope: Cell,
}

#if VEC4
fn exp_each(x: vec4f) -> vec4f {
    return vec4f(exp_f32(x.x), exp_f32(x.y), exp_f32(x.z), exp_f32(x.w));
}

fn log_each(x: vec4f) -> vec4f {
    return vec4f(log_f32(x.x), log_f32(x.y), log_f32(x.z), log_f32(x.w));
}

fn log1p01_each(x: vec4f) -> vec4f {
    return vec4f(log1p01(x.x), log1p01(x.y), log1p01(x.z), log1p01(x.w));
}

fn tanh_each(x: vec4f) -> vec4f {
    return vec4f(tanh_f32(x.x), tanh_f32(x.y), tanh_f32(x.z), tanh_f32(x.w));
}
#else
fn exp_each(x: f32) -> f32 {
    return exp_f32(x);
}

fn log_each(x: f32) -> f32 {
    return log_f32(x);
}

fn log1p01_each(x: f32) -> f32 {
    return log1p01(x);
}

fn tanh_each(x: f32) -> f32 {
    return tanh_f32(x);
}
#endif

fn scale(s: Cell) -> Scale {
#if SCALE == sigmoid
    let u = s + args.a;
    let positive = u >= Cell();
    let e = exp_below(-abs(u));
    let near = 1.0 / (1.0 + e);
    let far = e * near;
    let value = select(far, near, positive);
    let log = min(u, Cell()) - log1p01_each(e);
    let slope = select(near, far, positive);
#elif SCALE == tanh
    let u = s / args.a;
    let log = args.a * tanh_each(u);
    let value = exp_each(log);
    // 1 - tanh^2 without the difference.
    let e = exp_below(-2.0 * abs(u));
    let slope = 4.0 * e / ((1.0 + e) * (1.0 + e));
#else
    let log = s;
    let value = exp_each(s);
    let slope = Cell(1.0);
#endif
#if LEAST
    let sum = value + args.least;
    return Scale(sum, log_each(sum), slope * value / sum);
#else
    // The inverse divides by it: never zero, so that 0 / 0 cannot occur.
    // Added, not max, which may give a number for NaN.
    return Scale(value + max(Cell(1.1754944e-38) - value, Cell()), log, slope);
#endif
}
#endif
