// part[chunk, o, c, ky, kx] = sum over rows r = (n, p) of the chunk and over q of
//   dy[n, o, p, q] * x[n, c, p * stride + ky * dilation - before, q * stride + kx * dilation - before]
//   x [n, groups * channels_in, in_y, in_x], dy [n, groups * channels_out, out_y, out_x],
//   part [chunks, groups * channels_out, channels_in, taps_y, taps_x]; with one chunk
//   this is the gradient, else shaders/reduce/sum_chunks.wgsl adds the parts.
// One invocation sums TO output channels x TC input channels x TAPS taps of a kernel
// row, TX pixels at a time. With LANES > 0 the LANES invocations of a subgroup, which
// share their output channels and pixels, read dy once and shuffle it around. With FOURS
// TX is 4, and so many pixels of dy are read at once; of the SPAN pixels of x that they meet
// LEFT come before the first that is a multiple of four in its row, FULL fours after it,
// then REST more.
// Grid: flat, x over blocks of a kernel row, then kernel rows, tiles of input channels
// (together padded to whole subgroups), tiles of output channels, groups, chunks.
// Caller: ops/conv/weight_register.rs
#import grid
#import wide

struct Args {
    total: u32,
    // Tiles of (input channel, kernel row, block), padded to whole subgroups.
    padded: u32,
    // Blocks of TAPS taps in a kernel row.
    blocks: u32,
    taps_y: u32,
    tiles_in: u32,
    tiles_out: u32,
    groups: u32,
    channels_out: u32,
    channels_in: u32,
    rows: u32,
    rows_per_chunk: u32,
    out_y: u32,
    out_x: u32,
    in_y: u32,
    in_x: u32,
    stride_y: u32,
    dilation_y: u32,
    before_y: i32,
    before_x: i32,
}
#args

@group(0) @binding(0) var<storage, read> x: array<f32>;
#if FOURS
@group(0) @binding(1) var<storage, read> fours: array<Quad>;
@group(0) @binding(2) var<storage, read> dy: array<Quad>;
#else
@group(0) @binding(1) var<storage, read> dy: array<f32>;
#endif
@group(0) @binding(${2 + FOURS}) var<storage, read_write> part: array<f32>;

// x at column `column` of the row that starts at `row`; zero outside. Without
// padding only pixels past the end of a row, where dy counts as 0, can be outside.
fn pixel(row: u32, column: i32, inside: bool) -> f32 {
    let value = x[row + min(u32(column), args.in_x - 1u)];
#if PADDED
    return select(0.0, value, inside & (u32(column) < args.in_x));
#else
    return value;
#endif
}

#if FOURS == 0
// dy at column `q` of the row that starts at `row`; zero past its end.
fn upstream(row: u32, q: u32) -> f32 {
#if RAGGED
    return select(0.0, dy[row + min(q, args.out_x - 1u)], q < args.out_x);
#else
    return dy[row + q];
#endif
}
#endif

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, 64u);
    if (index >= args.total) {
        return;
    }
    // Invocations past the last tile repeat it, so that subgroups stay together.
    let place = index % args.padded;
    let tiles = args.blocks * args.taps_y * args.tiles_in;
    let tile = min(place, tiles - 1u);
    let kx = (tile % args.blocks) * ${TAPS}u;
    let ky = (tile / args.blocks) % args.taps_y;
    let c = (tile / (args.blocks * args.taps_y)) * ${TC}u;
    var rest = index / args.padded;
    let o = (rest % args.tiles_out) * ${TO}u;
    rest /= args.tiles_out;
    let g = rest % args.groups;
    let chunk = rest / args.groups;

    let plane = args.in_y * args.in_x;
    let out_plane = args.out_y * args.out_x;
    // Channels past the end repeat the last one; they are not stored.
#if LANES
    let lane = local % ${LANES}u;
#repeat j HELD
#if FOURS
    let dy${j} = min(o + ${j * LANES}u + lane, args.channels_out - 1u) * out_plane;
#else
    let dy${j} = min(o + (${j * LANES}u + lane) / ${TX}u, args.channels_out - 1u) * out_plane;
    let q${j} = (${j * LANES}u + lane) % ${TX}u;
#endif
#end
#else
#repeat o TO
    let dy${o} = min(o + ${o}u, args.channels_out - 1u) * out_plane;
#end
#endif
#repeat o TO
#repeat c TC
#repeat k TAPS
    var sum${o}_${c}_${k} = 0.0;
#end
#end
#end
#repeat c TC
    let x${c} = min(c + ${c}u, args.channels_in - 1u) * plane;
#end
    let top = i32(ky * args.dilation_y) - args.before_y;
    let left = i32(kx * ${DILATION_X}u) - args.before_x;

    let first = chunk * args.rows_per_chunk;
    let end = min(first + args.rows_per_chunk, args.rows);
    for (var r = first; r < end; r++) {
        let n = r / args.out_y;
        let p = r % args.out_y;
        let iy = top + i32(p * args.stride_y);
        let inside = u32(iy) < args.in_y;
        let block = n * args.groups + g;
        let line = block * args.channels_in * plane + min(u32(iy), args.in_y - 1u) * args.in_x;
        let out_line = block * args.channels_out * out_plane + p * args.out_x;
        for (var q = 0u; q < args.out_x; q += ${TX}u) {
            let at = left + i32(q * ${STRIDE_X}u);
#repeat c TC
#repeat i LEFT
            let v${c}_${i} = pixel(line + x${c}, at + ${i}, inside);
#end
#repeat f FULL
            let q${c}_${f} = u32(at + ${LEFT + 4 * f}) / 4u;
            let some${c}_${f} = quad(fours[(line + x${c}) / 4u + min(q${c}_${f}, args.in_x / 4u - 1u)]);
            let four${c}_${f} = select(vec4f(), some${c}_${f}, inside & (q${c}_${f} < args.in_x / 4u));
#repeat t 4
            let v${c}_${LEFT + 4 * f + t} = four${c}_${f}[${t}];
#end
#end
#repeat i REST
            let v${c}_${LEFT + 4 * FULL + i} = pixel(line + x${c}, at + ${LEFT + 4 * FULL + i}, inside);
#end
#end
#if FOURS
#if LANES
#repeat j HELD
            let held${j} = quad(dy[(out_line + dy${j} + q) / 4u]);
#end
#endif
#else
#if LANES
#repeat j HELD
            let held${j} = upstream(out_line + dy${j}, q + q${j});
#end
#endif
#endif
#repeat o TO
#if FOURS
#if LANES == 0
            let held${o} = quad(dy[(out_line + dy${o} + q) / 4u]);
#endif
#endif
#repeat t TX
#if FOURS
#if LANES
            let d${o}_${t} = subgroupShuffle(held${o / LANES}[${t}], ${o % LANES}u);
#else
            let d${o}_${t} = held${o}[${t}];
#endif
#elif LANES
            let d${o}_${t} = subgroupShuffle(held${(o * TX + t) / LANES}, ${(o * TX + t) % LANES}u);
#else
            let d${o}_${t} = upstream(out_line + dy${o}, q + ${t}u);
#endif
#repeat c TC
#repeat k TAPS
            sum${o}_${c}_${k} += d${o}_${t} * v${c}_${t * STRIDE_X + k * DILATION_X};
#end
#end
#end
#end
        }
    }

    if (place >= tiles) {
        return;
    }
    let row = args.blocks * ${TAPS}u;
    let kernel = args.taps_y * row;
    let to = ((chunk * args.groups + g) * args.channels_out + o) * args.channels_in + c;
    let tap = ky * row + kx;
#repeat o TO
#repeat c TC
    if ((o + ${o}u < args.channels_out) & (c + ${c}u < args.channels_in)) {
#repeat k TAPS
        part[(to + ${o}u * args.channels_in + ${c}u) * kernel + tap + ${k}u] = sum${o}_${c}_${k};
#end
    }
#end
#end
}
