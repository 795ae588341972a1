// y[n, o, p] = act(bias[o] + residual[like y] + sum over quads c, taps k of
//     dot(w[o, c, k], x[n, c, stride * p + dilation * k + offset]))
//   x [n * groups, quads, rows_in, columns_in] of vec4: four channels, zeros around the
//   image (conv2d_pack.wgsl);
//   w [groups, tiles_out, quads, taps_y, taps_x, 4, LANES] of 4 * QUADS channels
//   (conv2d_pack_weight.wgsl); y [n, groups * channels_out, plane], plane a multiple of 4
// A product whose rows are pixels: a subgroup computes TM of them by 4 * QUADS * LANES
// channels, every lane its own channels. What a tap sees of the TM pixels is read once by
// all lanes together and shuffled around, as in matmul_shuffle.wgsl.
// Grid: flat, subgroups over tiles of channels, then of pixels of all samples, then groups.
// Caller: ops/conv/rows.rs
#import grid
#import divide
#import activation
#import wide
#import half

struct Args {
    // Subgroups in all, tiles of pixels, pixels of all samples and of one, and of a row.
    total: u32,
    tiles: u32,
    pixels: u32,
    plane: u32,
    columns: u32,
    tiles_out: u32,
    groups: u32,
    channels_out: u32,
    quads: u32,
    rows_in: u32,
    columns_in: u32,
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
#if RESIDUAL
@group(0) @binding(${2 + BIAS}) var<storage, read> residual: array<vec4f>;
#endif
@group(0) @binding(${2 + BIAS + RESIDUAL}) var<storage, read_write> y: array<vec4f>;

const LANES = ${LANES}u;

// Where pixel `at` of all samples sees its first tap.
fn seen(at: u32, g: u32) -> u32 {
    let n = divide(at, args.plane);
    let pixel = at - n * args.plane;
    let row = divide(pixel, args.columns);
    let column = pixel - row * args.columns;
    let image = args.quads * args.rows_in * args.columns_in;
    return (n * args.groups + g) * image + args.offset
        + row * args.stride_y * args.columns_in + column * args.stride_x;
}

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
    let rest = divide(job, args.tiles_out);
    let tile_out = job - rest * args.tiles_out;
    let g = divide(rest, args.tiles);
    let m0 = (rest - g * args.tiles) * ${TM}u;

    // Pixels past the last one repeat it; they are not stored.
#repeat h HELD
    let row${h} = seen(min(m0 + ${h * LANES}u + lane, args.pixels - 1u), g);
#end
    let taps_x = args.taps_x;
    let taps = args.taps_y * taps_x;
    let trips = args.quads * taps;
    let dilation_x = args.dilation_x;
    let row_step = args.dilation_y * args.columns_in - taps_x * dilation_x;
    let quad_step = (args.rows_in - args.taps_y * args.dilation_y) * args.columns_in;
    var weight = (g * args.tiles_out + tile_out) * trips * ${4 * LANES}u + lane;
    var seen_at = 0u;
    var kx = 0u;
    var tap = 0u;
#repeat r TM
#repeat q QUADS
    var sum${r}_${q} = vec4f();
#end
#end
    // One loop over channels and taps: software adapters run every loop once more than
    // asked, with all lanes masked, so short ones inside of others are dear.
    for (var trip = 0u; trip < trips; trip++) {
        // bJ_Q: the weights of channel J of the four; of eight outputs the even ones for
        // Q = 0 and the odd ones for Q = 1, which is how they are read.
#repeat j 4
        let w${j} = w[weight + ${j * LANES}u];
#if QUADS == 2
        let b${j}_0 = ${READ}evens(w${j});
        let b${j}_1 = ${READ}odds(w${j});
#else
        let b${j}_0 = ${READ}quad(w${j});
#endif
#end
        // After the weights, and the sums after the addresses: other orders of these make
        // the loop a sixth slower on a software adapter, whatever its compiler does there.
#repeat h HELD
        let held${h} = quad(x[row${h} + seen_at]);
#end
        weight += ${4 * LANES}u;
        kx++;
        tap++;
        let line_ends = kx == taps_x;
        let taps_end = tap == taps;
        seen_at += dilation_x + select(0u, row_step, line_ends) + select(0u, quad_step, taps_end);
        kx = select(kx, 0u, line_ends);
        tap = select(tap, 0u, taps_end);
#repeat r TM
#repeat q QUADS
        sum${r}_${q} = fma(vec4f(subgroupShuffle(held${r / LANES}.w, ${r % LANES}u)), b3_${q}, fma(vec4f(subgroupShuffle(held${r / LANES}.z, ${r % LANES}u)), b2_${q}, fma(vec4f(subgroupShuffle(held${r / LANES}.y, ${r % LANES}u)), b1_${q}, fma(vec4f(subgroupShuffle(held${r / LANES}.x, ${r % LANES}u)), b0_${q}, sum${r}_${q}))));
#end
#end
    }

    let out = tile_out * ${4 * QUADS * LANES}u + lane * ${4 * QUADS}u;
    let channel = g * args.channels_out + out;
    let all = args.groups * args.channels_out;
#repeat c 4 * QUADS
#if BIAS
    let shift${c} = bias[min(channel + ${c}u, all - 1u)];
#else
    let shift${c} = 0.0;
#endif
#end
#repeat f TM / 4
    if (m0 + ${4 * f}u < args.pixels) {
        let n = divide(m0 + ${4 * f}u, args.plane);
        let to = (n * all + channel) * args.plane + m0 + ${4 * f}u - n * args.plane;
#repeat c 4 * QUADS
        if (out + ${c}u < args.channels_out) {
            let at = (to + ${c}u * args.plane) / 4u;
            var value = shift${c} + vec4f(
                sum${4 * f}_${c % QUADS}[${c / QUADS}], sum${4 * f + 1}_${c % QUADS}[${c / QUADS}],
                sum${4 * f + 2}_${c % QUADS}[${c / QUADS}], sum${4 * f + 3}_${c % QUADS}[${c / QUADS}]);
#if RESIDUAL
            value += residual[at];
#endif
            y[at] = act4(value);
        }
#end
    }
#end
}
