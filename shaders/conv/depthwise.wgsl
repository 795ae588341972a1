// y[n, c, i, j] = act(bias[c] + residual[like y] + sum over taps ky, kx of
//     w[c, ky, kx] * x[n, c, i + ky - before_y, j + kx - before_x])
//   x [n, c, in_y, in_x], y [n, c, out_y, out_x], rows of both in vec4s; w with any strides
// An invocation computes ROWS rows of 4 * WIDTH columns of one channel, row after row: of
// x it reads every row once, as QUADS vec4s from LEFT before the first column on, and
// keeps the last TAPS_Y rows in registers.
// Grid: flat, one invocation per tile (columns, rows, channels, samples).
// Caller: ops/conv/depthwise.rs
#import grid
#import activation
#import half
#import wide

struct Args {
    // Tiles in all, and of a plane.
    total: u32,
    tiles_y: u32,
    tiles_x: u32,
    channels: u32,
    // Columns in vec4s.
    in_y: u32,
    in_x: u32,
    out_y: u32,
    out_x: u32,
    before_y: i32,
    weight_first: u32,
    weight_group: u32,
    weight_tap_y: i32,
    weight_tap_x: i32,
#if ACT == leaky_relu
    slope: f32,
#endif
}
#args

@group(0) @binding(0) var<storage, read> x: array<Quad>;
@group(0) @binding(1) var<storage, read> w: array<${TYPE_W}>;
#if BIAS
@group(0) @binding(2) var<storage, read> bias: array<f32>;
#endif
#if RESIDUAL
@group(0) @binding(${2 + BIAS}) var<storage, read> residual: array<Quad>;
#endif
@group(0) @binding(${2 + BIAS + RESIDUAL}) var<storage, read_write> y: array<Quad>;

// Element i of w.
fn weight(i: u32) -> f32 {
    return ${TYPE_W}_at(w[i >> ${HALF_W}u], i);
}

// Vec4 `column` of row `row` of the plane that starts at `plane`, zeros outside.
fn pixels(plane: u32, row: i32, column: i32) -> vec4f {
    let inside = (u32(row) < args.in_y) & (u32(column) < args.in_x);
    let at = min(u32(row), args.in_y - 1u) * args.in_x + min(u32(column), args.in_x - 1u);
    return select(vec4f(), quad(x[plane + at]), inside);
}

@compute @workgroup_size(32)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, 32u);
    if (index >= args.total) {
        return;
    }
    let line = index / args.tiles_x;
    let column = (index - line * args.tiles_x) * ${WIDTH}u;
    let plane = line / args.tiles_y;
    let row = (line - plane * args.tiles_y) * ${ROWS}u;
    let channel = plane % args.channels;

    let tap = i32(args.weight_first + channel * args.weight_group);
#repeat i TAPS_Y
#repeat k TAPS_X
    let w${i}_${k} = vec4f(weight(u32(tap + ${i} * args.weight_tap_y + ${k} * args.weight_tap_x)));
#end
#end
#if BIAS
    let shift = vec4f(bias[channel]);
#else
    let shift = vec4f();
#endif
    let start = plane * args.in_y * args.in_x;
    let left = i32(column) - ${LEFT};
    let top = i32(row) - args.before_y;
    let to = (plane * args.out_y + row) * args.out_x + column;
#repeat i TAPS_Y - 1
#repeat q QUADS
    let v${i}_${q} = pixels(start, top + ${i}, left + ${q});
#end
#end
#repeat r ROWS
#repeat q QUADS
    let v${r + TAPS_Y - 1}_${q} = pixels(start, top + ${r + TAPS_Y - 1}, left + ${q});
#end
#repeat o WIDTH
    var sum${r}_${o} = shift;
#repeat i TAPS_Y
#repeat k TAPS_X
    sum${r}_${o} = fma(w${i}_${k}, vec4f(
        v${r + i}_${(FIRST + 4 * o + k) / 4}[${(FIRST + k) % 4}],
        v${r + i}_${(FIRST + 4 * o + k + 1) / 4}[${(FIRST + k + 1) % 4}],
        v${r + i}_${(FIRST + 4 * o + k + 2) / 4}[${(FIRST + k + 2) % 4}],
        v${r + i}_${(FIRST + 4 * o + k + 3) / 4}[${(FIRST + k + 3) % 4}]), sum${r}_${o});
#end
#end
    if ((row + ${r}u < args.out_y) & (column + ${o}u < args.out_x)) {
        let at = to + ${r}u * args.out_x + ${o}u;
#if RESIDUAL
        sum${r}_${o} += quad(residual[at]);
#endif
        y[at] = to_quad(act4(sum${r}_${o}));
    }
#end
#end
}
