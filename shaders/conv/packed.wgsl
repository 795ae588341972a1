// y[n, o, first + step * i] = act(bias[o] + residual[like y] + sum over quads c, taps k of
//     dot(w[o, c, k], x[n, c, stride * i + dilation * k + offset]))
//   x [n * groups, quads, rows_in, columns_in] of vec4: four channels, zeros around the
//   image (conv2d_pack.wgsl); or, with DIRECT, x [n * groups, 4 * quads, pixels / 4]
//   of vec4: four pixels, for 1x1 kernels;
//   w [groups, tiles_out, quads, taps_y, taps_x, HELD * LANES] of vec4, the WIDTH next to each
//   other read at once (conv2d_pack_weight.wgsl); READ is `half_` where they are in 16 bits,
//   y [n, groups * channels_out, out_y, out_x]
// A subgroup computes TO channels at LANES tiles of RY rows of RX neighbouring pixels,
// one tile per lane. The TO weights of a tap are read once by all lanes together and
// shuffled around: loads are what a software adapter spends its time on.
// Grid: flat, subgroups over tiles of pixels (columns, rows, samples), then tiles of channels, groups.
// Caller: ops/conv/packed.rs
#import grid
#import divide
#import activation
#import wide
#import half

struct Args {
    // Subgroups in all, those for one tile of channels, tiles of pixels.
    total: u32,
    jobs: u32,
    tiles: u32,
    tiles_y: u32,
    tiles_x: u32,
    // Pixels of the lattice.
    rows: u32,
    columns: u32,
    tiles_out: u32,
    groups: u32,
    channels_out: u32,
    quads: u32,
    rows_in: u32,
    columns_in: u32,
    out_x: u32,
    out_plane: u32,
    first: u32,
    step_y: u32,
    step_x: u32,
    taps_y: u32,
    taps_x: u32,
    stride_y: u32,
    stride_x: u32,
    dilation_y: u32,
    dilation_x: u32,
    // Of the first tap of the first pixel in x.
    offset: u32,
#if ACT == leaky_relu
    slope: f32,
#endif
}
#args

@group(0) @binding(0) var<storage, read> x: array<Quad>;
@group(0) @binding(1) var<storage, read> w: array<${WEIGHTS}>;
#if BIAS
@group(0) @binding(2) var<storage, read> bias: array<f32>;
#endif
#if VECTORS
// Not `Quad`s: what turns them around costs the loop above it registers, and more time
// than the writes save.
#if RESIDUAL
@group(0) @binding(${2 + BIAS}) var<storage, read> residual: array<vec4f>;
#endif
@group(0) @binding(${2 + BIAS + RESIDUAL}) var<storage, read_write> y: array<vec4f>;
#else
#if RESIDUAL
@group(0) @binding(${2 + BIAS}) var<storage, read> residual: array<f32>;
#endif
@group(0) @binding(${2 + BIAS + RESIDUAL}) var<storage, read_write> y: array<f32>;
#endif

const LANES = ${LANES}u;

@compute @workgroup_size(${WORKGROUP})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, ${WORKGROUP}u);
    let lane = local % LANES;
    let job = index / LANES;
    // All lanes of a subgroup share a tile, so they leave together.
    if (job >= args.total) {
        return;
    }
    let part = divide(job, args.jobs);
    let g = divide(part, args.tiles_out);
    let out = (part - g * args.tiles_out) * ${TO}u;
    let place = (job - part * args.jobs) * LANES + lane;

    // Tiles past the last one repeat it; they are not stored.
    let tile = min(place, args.tiles - 1u);
    let line = divide(tile, args.tiles_x);
    let column = (tile - line * args.tiles_x) * ${RX}u;
    let n = divide(line, args.tiles_y);
    let row = (line - n * args.tiles_y) * ${RY}u;
    let image = args.rows_in * args.columns_in;
#if DIRECT
    let quarter = image / 4u;
    var at = (n * args.groups + g) * args.quads * image + column / 4u;
#else
    let stride_x = args.stride_x;
    let dilation_x = args.dilation_x;
    let down = args.dilation_y * args.columns_in - args.taps_x * dilation_x;
    let from0 = (n * args.groups + g) * args.quads * image + args.offset
        + row * args.stride_y * args.columns_in + column * stride_x;
#repeat r RY - 1
    let from${r + 1} = from${r} + args.stride_y * args.columns_in;
#end
#endif
    var weight = part * args.quads * args.taps_y * args.taps_x * ${HELD / WIDTH * LANES}u + lane;
#repeat o TO
#repeat t RX * RY
    var sum${o}_${t} = 0.0;
#end
#end

    let quads = args.quads;
#if DIRECT
    for (var c = 0u; c < quads; c++) {
#repeat q RX / 4
#repeat j 4
        let q${q}_${j} = quad(x[at + ${j}u * quarter + ${q}u]);
#end
#repeat t 4
        let v${q * 4 + t} = vec4f(q${q}_0[${t}], q${q}_1[${t}], q${q}_2[${t}], q${q}_3[${t}]);
#end
#end
        at += image;
#else
    let taps_x = args.taps_x;
    // One loop over channels and taps: software adapters run every loop once more than
    // asked, with all lanes masked, so short ones inside of others are dear.
    let taps = args.taps_y * taps_x;
    let next_quad = image - args.taps_y * args.dilation_y * args.columns_in;
    var tap = 0u;
    var kx = 0u;
    var nth = 0u;
    for (var trip = 0u; trip < quads * taps; trip++) {
#repeat r RY
#repeat t RX
        let v${r * RX + t} = quad(x[from${r} + tap + ${t}u * stride_x]);
#end
#end
        kx++;
        nth++;
        let line_ends = kx == taps_x;
        let taps_end = nth == taps;
        tap += dilation_x + select(0u, down, line_ends) + select(0u, next_quad, taps_end);
        kx = select(kx, 0u, line_ends);
        nth = select(nth, 0u, taps_end);
#endif
        // Shuffled again for every pixel: that is one instruction, while names for all of
        // them would be spilled.
#if WIDTH == 2
#repeat h HELD / 2
        let pair${h} = w[weight + ${h * LANES}u];
        let even${h} = ${READ}evens(pair${h});
        let odd${h} = ${READ}odds(pair${h});
#end
        weight += ${HELD / WIDTH * LANES}u;
#repeat o TO
#repeat t RX * RY
        sum${o}_${t} = fma(subgroupShuffle(odd${o / LANES / 2}[${o / LANES % 2 * 2 + 1}], ${o % LANES}u), v${t}.w, fma(subgroupShuffle(even${o / LANES / 2}[${o / LANES % 2 * 2 + 1}], ${o % LANES}u), v${t}.z, fma(subgroupShuffle(odd${o / LANES / 2}[${o / LANES % 2 * 2 + 0}], ${o % LANES}u), v${t}.y, fma(subgroupShuffle(even${o / LANES / 2}[${o / LANES % 2 * 2 + 0}], ${o % LANES}u), v${t}.x, sum${o}_${t}))));
#end
#end
#else
#repeat h HELD
        let held${h} = ${READ}quad(w[weight + ${h * LANES}u]);
#end
        weight += ${HELD / WIDTH * LANES}u;
#repeat o TO
#repeat t RX * RY
        sum${o}_${t} = fma(subgroupShuffle(held${o / LANES}.w, ${o % LANES}u), v${t}.w, fma(subgroupShuffle(held${o / LANES}.z, ${o % LANES}u), v${t}.z, fma(subgroupShuffle(held${o / LANES}.y, ${o % LANES}u), v${t}.y, fma(subgroupShuffle(held${o / LANES}.x, ${o % LANES}u), v${t}.x, sum${o}_${t}))));
#end
#end
#endif
    }

    if (place >= args.tiles) {
        return;
    }
    let channel = g * args.channels_out + out;
    let first = (n * args.groups * args.channels_out + channel) * args.out_plane + args.first
        + row * args.step_y * args.out_x + column * args.step_x;
#repeat o TO
    if (out + ${o}u < args.channels_out) {
#if BIAS
        let shift${o} = bias[channel + ${o}u];
#else
        let shift${o} = 0.0;
#endif
#repeat r RY
        if (row + ${r}u < args.rows) {
            let to = first + ${o}u * args.out_plane + ${r}u * args.step_y * args.out_x;
#if VECTORS
#repeat q RX / 4
            if (column + ${q * 4}u < args.columns) {
                var out = shift${o} + vec4f(
                    sum${o}_${r * RX + q * 4}, sum${o}_${r * RX + q * 4 + 1},
                    sum${o}_${r * RX + q * 4 + 2}, sum${o}_${r * RX + q * 4 + 3});
#if RESIDUAL
                out += residual[to / 4u + ${q}u];
#endif
                y[to / 4u + ${q}u] = act4(out);
            }
#end
#else
#repeat t RX
            if (column + ${t}u < args.columns) {
                let at = to + ${t}u * args.step_x;
#if RESIDUAL
                y[at] = act(sum${o}_${r * RX + t} + shift${o} + residual[at]);
#else
                y[at] = act(sum${o}_${r * RX + t} + shift${o});
#endif
            }
#end
#endif
        }
#end
    }
#end
}
