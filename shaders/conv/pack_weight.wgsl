// packed[g, tile, quad, ky, kx, o] = w[g, tile * TO + o, channels 4 quad .. 4 quad + 3, ky, kx],
//   zeros for channels past the end
//   w with any strides; packed [groups, tiles, quads, taps_y, taps_x, HELD] of vec4
// Without WIDTH the order is packed[g, tile, quad, ky, kx, j, o / 4] of vec4 along outputs o
// for channel 4 quad + j.
// With FOLD > 1 the taps of a kernel row count as channels, c * FOLD + k, and taps_x is 1.
// The outputs of WIDTH times LANES are in an order in which every lane finds its WIDTH
// next to each other.
// Weights in 16 bits stay so: then packed is of HalfQuad.
// Grid: flat, one invocation per vec4. Caller: ops/conv/pack.rs
#import grid
#import divide
#import wide
#import half

struct Args {
    total: u32,
    tiles: u32,
    quads: u32,
    taps_y: u32,
    taps_x: u32,
    channels_out: u32,
    channels_in: u32,
    weight_first: u32,
    weight_group: u32,
    weight_out: u32,
    weight_in: u32,
    weight_tap_y: i32,
    weight_tap_x: i32,
}
#args

@group(0) @binding(0) var<storage, read> w: array<${TYPE_W}>;
#if HALF_W
@group(0) @binding(1) var<storage, read_write> packed: array<HalfQuad>;

// The bits of element i of w.
fn weight(i: u32) -> u32 {
    return half_bits(w[i >> 1u], i);
}
#else
@group(0) @binding(1) var<storage, read_write> packed: array<Quad>;

// Element i of w.
fn weight(i: u32) -> f32 {
    return w[i];
}
#endif

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, 64u);
    if (index >= args.total) {
        return;
    }
    let place = index % ${HELD}u;
#if WIDTH
    let o = (place / ${WIDTH * LANES}u * ${WIDTH}u + place % ${WIDTH}u) * ${LANES}u
        + place / ${WIDTH}u % ${LANES}u;
#endif
    var rest = index / ${HELD}u;
    var next = divide(rest, args.taps_x);
    let kx = rest - next * args.taps_x;
    rest = next;
    next = divide(rest, args.taps_y);
    let ky = rest - next * args.taps_y;
    rest = next;
    next = divide(rest, args.quads);
    let nth = rest - next * args.quads;
    rest = next;
    next = divide(rest, args.tiles);
    let tile = rest - next * args.tiles;
    let first = i32(args.weight_first + next * args.weight_group)
        + i32(ky) * args.weight_tap_y + i32(kx) * args.weight_tap_x;
#if HALF_W
    var value = vec4u();
#else
    var value = vec4f();
#endif
#repeat j 4
#if WIDTH
    let out${j} = tile * ${TO}u + o;
    let depth${j} = nth * 4u + ${j}u;
#else
    let out${j} = tile * ${TO}u + place % ${HELD / 4}u * 4u + ${j}u;
    let depth${j} = nth * 4u + place / ${HELD / 4}u;
#endif
    let channel${j} = depth${j} / ${FOLD}u;
    // Outputs past the end repeat the last one; they are not stored.
    let at${j} = first + i32(min(out${j}, args.channels_out - 1u) * args.weight_out)
        + i32(min(channel${j}, args.channels_in - 1u) * args.weight_in)
        + i32(depth${j} % ${FOLD}u) * args.weight_tap_x;
    let inside${j} = channel${j} < args.channels_in;
#if HALF_W
    value[${j}] = select(0u, weight(u32(at${j})), inside${j});
#else
    value[${j}] = select(0.0, weight(u32(at${j})), inside${j});
#endif
#end
#if HALF_W
    packed[index] = half_quad_of(value);
#else
    packed[index] = to_quad(value);
#endif
}
