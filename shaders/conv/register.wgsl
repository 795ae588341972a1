// y[n, o, first + step * i] = act(bias[o] + residual[like y]
//     + sum over c, k of w[o, c, k] * x[n, c, stride * i + dilation * k - before])
//   x [n, groups * channels_in, in_y, in_x], y [n, groups * channels_out, out_y, out_x],
//   w with any strides, so that it may be read transposed and with its taps reversed.
// A convolution computes all pixels of y; the gradient of one by its input is such
// a convolution for every lattice of pixels that are a stride apart.
// One invocation computes TO channels at TX neighbouring pixels of the lattice. It
// reads a row of SPAN input values once for all taps of a kernel row. With LANES > 0
// the LANES invocations of a subgroup, which share their channels, read each weight
// once and shuffle it around. With VECTORS tiles are whole vec4s of the rows of y.
// LEFT of the SPAN values come before the first that is a multiple of four in its row,
// FULL fours after it, then REST more.
// Grid: flat, x over tiles of a row, then rows, samples (together padded to whole
// subgroups), tiles of channels, groups.
// Caller: ops/conv/register.rs
#import grid
#import activation
#import half
#import wide

struct Args {
    // Tiles of pixels of all samples, and that number padded to whole subgroups.
    tiles: u32,
    padded: u32,
    tiles_x: u32,
    // Pixels of the lattice.
    rows: u32,
    columns: u32,
    tiles_out: u32,
    groups: u32,
    channels_out: u32,
    channels_in: u32,
    // channels_in, or 0 where no tap meets the lattice.
    depth: u32,
    in_y: u32,
    in_x: u32,
    out_y: u32,
    out_x: u32,
    first_y: u32,
    first_x: u32,
    step_y: u32,
    step_x: u32,
    taps_y: u32,
    taps_x: u32,
    stride_y: u32,
    dilation_y: u32,
    before_y: i32,
    before_x: i32,
    weight_first: u32,
    weight_group: u32,
    weight_out: u32,
    weight_in: u32,
    weight_tap_y: i32,
    weight_tap_x: i32,
#if ACT == leaky_relu
    slope: f32,
#endif
}
#args

@group(0) @binding(0) var<storage, read> x: array<f32>;
#if FULL
@group(0) @binding(1) var<storage, read> fours: array<Quad>;
#endif
@group(0) @binding(${1 + FOURS}) var<storage, read> w: array<${TYPE_W}>;
#if BIAS
@group(0) @binding(${2 + FOURS}) var<storage, read> bias: array<f32>;
#endif
#if VECTORS
#if RESIDUAL
@group(0) @binding(${2 + FOURS + BIAS}) var<storage, read> residual: array<Quad>;
#endif
@group(0) @binding(${2 + FOURS + BIAS + RESIDUAL}) var<storage, read_write> y: array<Quad>;
#else
#if RESIDUAL
@group(0) @binding(${2 + FOURS + BIAS}) var<storage, read> residual: array<f32>;
#endif
@group(0) @binding(${2 + FOURS + BIAS + RESIDUAL}) var<storage, read_write> y: array<f32>;
#endif

// x at column `column` of the row that starts at `row`, zero outside. Without
// padding only pixels that are not stored can be outside.
fn pixel(row: u32, column: i32, inside: bool) -> f32 {
    let value = x[row + min(u32(column), args.in_x - 1u)];
#if PADDED
    return select(0.0, value, inside & (u32(column) < args.in_x));
#else
    return value;
#endif
}

// Element i of w.
fn weight(i: u32) -> f32 {
    return ${TYPE_W}_at(w[i >> ${HALF_W}u], i);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, 64u);
    if (index >= args.padded * args.tiles_out * args.groups) {
        return;
    }
    // Invocations past the last tile repeat it, so that subgroups stay together.
    let place = index % args.padded;
    let tile = min(place, args.tiles - 1u);
    let column = (tile % args.tiles_x) * ${TX}u;
    let line = tile / args.tiles_x;
    let row = line % args.rows;
    let sample = line / args.rows;
    let rest = index / args.padded;
    let out = (rest % args.tiles_out) * ${TO}u;
    let g = rest / args.tiles_out;
    // The block of channels of one group in one sample.
    let block = sample * args.groups + g;

    let top = i32(row * args.stride_y) - args.before_y;
    let left = i32(column * ${STRIDE_X}u) - args.before_x;
    let plane = args.in_y * args.in_x;
    let start = block * args.channels_in * plane;
    let weights = args.weight_first + g * args.weight_group;
    // Channels past the end repeat the last one; they are not stored.
#if LANES
    let lane = local % ${LANES}u;
#repeat j HELD
    let w${j} = i32(weights + min(out + ${j * LANES}u + lane, args.channels_out - 1u) * args.weight_out);
#end
#else
#repeat o TO
    let w${o} = i32(weights + min(out + ${o}u, args.channels_out - 1u) * args.weight_out);
#end
#endif
#repeat o TO
#repeat t TX
    var sum${o}_${t} = 0.0;
#end
#end

    for (var c = 0u; c < args.depth; c++) {
        let channel = start + c * plane;
        let weight_channel = i32(c * args.weight_in);
#if LOOP_Y
        for (var ky = 0u; ky < args.taps_y; ky++) {
#else
        let ky = 0u;
#endif
        let iy = top + i32(ky * args.dilation_y);
        let inside = u32(iy) < args.in_y;
        let from_row = channel + min(u32(iy), args.in_y - 1u) * args.in_x;
        let weight_row = weight_channel + i32(ky) * args.weight_tap_y;
#if LOOP_X
        for (var kx = 0u; kx < args.taps_x; kx++) {
            let at = left + i32(kx * ${DILATION_X}u);
            let tap = weight_row + i32(kx) * args.weight_tap_x;
#else
            let at = left;
            let tap = weight_row;
#endif
#repeat i LEFT
            let v${i} = pixel(from_row, at + ${i}, inside);
#end
#repeat f FULL
            let q${f} = u32(at + ${LEFT + 4 * f}) / 4u;
            let some${f} = quad(fours[from_row / 4u + min(q${f}, args.in_x / 4u - 1u)]);
            let four${f} = select(vec4f(), some${f}, inside & (q${f} < args.in_x / 4u));
#repeat j 4
            let v${LEFT + 4 * f + j} = four${f}[${j}];
#end
#end
#repeat i REST
            let v${LEFT + 4 * FULL + i} = pixel(from_row, at + ${LEFT + 4 * FULL + i}, inside);
#end
#repeat k TAPS
#if LANES
#repeat j HELD
            let held${k}_${j} = weight(u32(w${j} + tap + ${k} * args.weight_tap_x));
#end
#endif
#repeat o TO
#if LANES
            let f${k}_${o} = subgroupShuffle(held${k}_${o / LANES}, ${o % LANES}u);
#else
            let f${k}_${o} = weight(u32(w${o} + tap + ${k} * args.weight_tap_x));
#endif
#repeat t TX
            sum${o}_${t} += f${k}_${o} * v${t * STRIDE_X + k * DILATION_X};
#end
#end
#end
#if LOOP_X
        }
#endif
#if LOOP_Y
        }
#endif
    }

    if (place >= args.tiles) {
        return;
    }
    let out_plane = args.out_y * args.out_x;
    let to = (block * args.channels_out + out) * out_plane
        + (args.first_y + row * args.step_y) * args.out_x + args.first_x + column * args.step_x;
#repeat o TO
    if (out + ${o}u < args.channels_out) {
#if BIAS
        let shift = bias[g * args.channels_out + out + ${o}u];
#else
        let shift = 0.0;
#endif
#if VECTORS
#repeat q TX / 4
        let at${o}_${q} = (to + ${o}u * out_plane) / 4u + ${q}u;
        var out${o}_${q} = shift + vec4f(
            sum${o}_${q * 4}, sum${o}_${q * 4 + 1}, sum${o}_${q * 4 + 2}, sum${o}_${q * 4 + 3});
#if RESIDUAL
        out${o}_${q} += quad(residual[at${o}_${q}]);
#endif
        y[at${o}_${q}] = to_quad(act4(out${o}_${q}));
#end
#else
#repeat t TX
        if (column + ${t}u < args.columns) {
            let at${o}_${t} = to + ${o}u * out_plane + ${t}u * args.step_x;
#if RESIDUAL
            y[at${o}_${t}] = act(sum${o}_${t} + shift + residual[at${o}_${t}]);
#else
            y[at${o}_${t}] = act(sum${o}_${t} + shift);
#endif
        }
#end
#endif
    }
#end
}
