// y[n, c, p, q] = x[n, c, source(p), source(q)], by whole pixels that each sample has of its
// own, amount[n, axis]; +- is the sign that `minus` says
//   MOTION roll: source(p) = (p +- amount) modulo the extent
//          crop: source(p) = p +- amount, and 0 where that is outside
//          flip: source(p) = extent - 1 - p where amount is not 0, else p
//   x [samples, channels, in_y, in_x], y [samples, channels, out_y, out_x], amount
//   [samples, axes]: vertical and horizontal, or horizontal alone. Floats are rounded to
//   whole numbers; NaN makes the sample NaN.
// Grid: flat, one invocation per output. Caller: ops/image/move_each.rs
#import grid
#import math

struct Args {
    total: u32,
    channels: u32,
    in_y: u32,
    in_x: u32,
    out_y: u32,
    out_x: u32,
    axes: u32,
    minus: u32,
}
#args

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> amount: array<${TYPE}>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

const OUTSIDE = 0xffffffffu;
// Sums of this and an extent are still whole numbers.
const MOST = 1073741824;

fn whole(by: ${TYPE}, extent: u32) -> i32 {
#if TYPE == f32
    return i32(round(clamp(by, f32(-MOST), f32(MOST))));
#elif MOTION == roll
    return i32(by % extent);
#else
    return i32(min(by, u32(MOST)));
#endif
}

fn source(at: u32, by: ${TYPE}, extent: u32) -> u32 {
#if MOTION == flip
    return select(at, extent - 1u - at, by != ${TYPE}());
#else
    let steps = whole(by, extent);
    let signed = select(steps, -steps, args.minus != 0u);
    let size = i32(extent);
#if MOTION == roll
    return u32((i32(at) + signed % size + size) % size);
#else
    let to = i32(at) + signed;
    return select(OUTSIDE, u32(to), (to >= 0) & (to < size));
#endif
#endif
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let i = flat_index(group, groups, local, 64u);
    if (i >= args.total) {
        return;
    }
    let line = i / args.out_x;
    let plane = line / args.out_y;
    let sample = plane / args.channels;
    let across = amount[sample * args.axes + args.axes - 1u];
    let w = source(i % args.out_x, across, args.in_x);
    var h = line % args.out_y;
    var known = true;
#if TYPE == f32
    known = !is_nan(across);
#endif
    if (args.axes == 2u) {
        let down = amount[2u * sample];
        h = source(h, down, args.in_y);
#if TYPE == f32
        known = known & !is_nan(down);
#endif
    }
    let inside = (w != OUTSIDE) & (h != OUTSIDE) & (h < args.in_y);
    let at = (plane * args.in_y + h) * args.in_x + w;
    let value = select(0.0, x[select(0u, at, inside)], inside);
    y[i] = select(from_bits(0x7fc00000u), value, known);
}
