// What both spline kernels know of a monotone rational-quadratic spline on -bound .. bound
// with `bins` bins; see ops/spline.rs. Raw values of an element, `step` apart: `bins` of
// widths, as many of heights, and one less of slopes at the inner knots.
#import math
#import divide

struct Args {
    total: u32,
    // Elements of one channel, and of all channels of a sample.
    plane: u32,
    bins: u32,
    bound: f32,
    // The least width and height in units of 2 bound, and the least slope.
    least: f32,
    // Added to raw slopes, so that 0 stands for the slope 1.
    offset: f32,
}
#args

// The largest of some raw values, and the sum of e^(raw - peak).
struct Mass {
    peak: f32,
    sum: f32,
}

// One bin along one axis.
struct Bin {
    index: u32,
    start: f32,
    end: f32,
}

// A rational-quadratic piece: x from x0 to x1 over w, y from y0 to y1 over h, slopes at
// its ends.
struct Piece {
    x0: f32,
    x1: f32,
    w: f32,
    y0: f32,
    y1: f32,
    h: f32,
    d0: f32,
    d1: f32,
}

// Where the raw values of element i begin.
fn raw_start(i: u32) -> u32 {
    let channel = divide(i, args.plane);
    return channel * (3u * args.bins - 1u) * args.plane + (i - channel * args.plane);
}

fn mass(at: u32) -> Mass {
    var peak = raw[at];
    for (var j = 1u; j < args.bins; j++) {
        peak = max(peak, raw[at + j * args.plane]);
    }
    var sum = 0.0;
    for (var j = 0u; j < args.bins; j++) {
        sum += exp_f32(raw[at + j * args.plane] - peak);
    }
    return Mass(peak, sum);
}

fn share(at: u32, m: Mass, j: u32) -> f32 {
    return exp_f32(raw[at + j * args.plane] - m.peak) / m.sum;
}

// Where bin j ends that begins at `start`: the last one at the bound, whatever was lost on
// the way by rounding.
fn bin_end(at: u32, m: Mass, j: u32, start: f32) -> f32 {
    let part = args.least + (1.0 - args.least * f32(args.bins)) * share(at, m, j);
    return select(start + 2.0 * args.bound * part, args.bound, j + 1u == args.bins);
}

// The bin that holds `value`.
fn find(at: u32, m: Mass, value: f32) -> Bin {
    var start = -args.bound;
    var bin = Bin();
    for (var j = 0u; j < args.bins; j++) {
        let end = bin_end(at, m, j, start);
        if ((j == 0u) | (value >= start)) {
            bin = Bin(j, start, end);
        }
        start = end;
    }
    return bin;
}

// Bin number `index`.
fn locate(at: u32, m: Mass, index: u32) -> Bin {
    var start = -args.bound;
    var bin = Bin();
    for (var j = 0u; j < args.bins; j++) {
        let end = bin_end(at, m, j, start);
        if (j == index) {
            bin = Bin(j, start, end);
        }
        start = end;
    }
    return bin;
}

// The slope at knot k: 1 at the ends, where the tails begin.
fn slope(at: u32, k: u32) -> f32 {
    let inner = (k > 0u) & (k < args.bins);
    let j = select(0u, k - 1u, inner);
    // With one bin there is no raw slope to read.
    let place = select(0u, at + (2u * args.bins + j) * args.plane, args.bins > 1u);
    let value = args.least + softplus(raw[place] + args.offset);
    return select(1.0, value, inner);
}

fn piece(at: u32, x: Bin, y: Bin) -> Piece {
    return Piece(x.start, x.end, x.end - x.start, y.start, y.end, y.end - y.start,
        slope(at, x.index), slope(at, x.index + 1u));
}
