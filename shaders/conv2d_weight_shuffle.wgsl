// part[chunk, o, c, ky, kx] = sum over rows r = (n, p) of the chunk and over q of
//   dy[n, o, p, q] * x[n, c, p * stride + ky * dilation, q * stride + kx * dilation]
//   x [n * groups, quads, rows_in, columns_in] of vec4, dy [n * groups, quads_out, out_y, out_x]
//   of vec4: four channels, x with zeros around the image (conv2d_pack.wgsl);
//   part [chunks, groups * channels_out, channels_in, taps_y, TAPS * FOLD]; with one chunk
//   this is the gradient, else shaders/sum_chunks.wgsl adds the parts.
// A subgroup sums TO output channels by LANES tiles, one per lane, of four input
// channels at TAPS taps of a kernel row. The TO values of dy at a pixel are read once by
// all lanes together and shuffled around; with SLIDE (the next tap is the next pixel)
// the values of x move through the registers. With FOLD > 1 taps count as channels.
// Grid: flat, subgroups over tiles of (quads, kernel rows, blocks of taps), then tiles of
// output channels, groups, chunks. Caller: ops/conv_weight.rs
#import grid
#import divide

struct Args {
    // Subgroups in all, those for one tile of output channels.
    total: u32,
    jobs: u32,
    quads: u32,
    taps_y: u32,
    // Blocks of TAPS taps in a kernel row.
    blocks: u32,
    tiles_out: u32,
    groups: u32,
    quads_out: u32,
    channels_out: u32,
    channels_in: u32,
    rows: u32,
    rows_per_chunk: u32,
    out_y: u32,
    out_x: u32,
    rows_in: u32,
    columns_in: u32,
    stride_y: u32,
    stride_x: u32,
    dilation_y: u32,
    dilation_x: u32,
}
#args

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> dy: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> part: array<f32>;

const LANES = ${LANES}u;

@compute @workgroup_size(${LANES})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) lane: u32) {
    let job = flat_group(group, groups);
    // All lanes of a subgroup share a tile, so they leave together.
    if (job >= args.total) {
        return;
    }
    var rest = divide(job, args.jobs);
    let place = (job - rest * args.jobs) * LANES + lane;
    var next = divide(rest, args.tiles_out);
    let o = (rest - next * args.tiles_out) * ${TO}u;
    rest = next;
    let chunk = divide(rest, args.groups);
    let g = rest - chunk * args.groups;

    // Tiles past the last one repeat it; they are not stored.
    let tiles = args.quads * args.taps_y * args.blocks;
    let tile = min(place, tiles - 1u);
    rest = divide(tile, args.blocks);
    let kx = (tile - rest * args.blocks) * ${TAPS}u;
    let quad = divide(rest, args.taps_y);
    let ky = rest - quad * args.taps_y;

    let out_y = args.out_y;
    let out_x = args.out_x;
    let stride_x = args.stride_x;
    let out_plane = out_y * out_x;
    let image = args.rows_in * args.columns_in;
    let quads = args.quads;
    let quads_out = args.quads_out;
    let stride_y = args.stride_y * args.columns_in;
    let groups_all = args.groups;
    let origin = quad * image + ky * args.dilation_y * args.columns_in + kx * args.dilation_x;
    // The lanes together hold the channels of the tile, those past it for nothing.
    let upstream = min(o / 4u + lane % ${TO / 4}u, quads_out - 1u) * out_plane;
#repeat k TAPS - 1
    let tap${k + 1} = ${k + 1}u * args.dilation_x;
#end
#repeat o TO
#repeat k TAPS
    var sum${o}_${k} = vec4f();
#end
#end
    let first = chunk * args.rows_per_chunk;
    let end = min(first + args.rows_per_chunk, args.rows);
    for (var r = first; r < end; r++) {
        let n = divide(r, out_y);
        let p = r - n * out_y;
        let block = n * groups_all + g;
        var at = block * quads * image + p * stride_y + origin;
        var to = block * quads_out * out_plane + p * out_x + upstream;
        let stop = to + out_x;
#if SLIDE
        var v0 = vec4f();
#repeat k TAPS - 1
        var v${k + 1} = x[at + ${k}u * stride_x];
#end
#endif
        while (to < stop) {
            let d = dy[to];
#if SLIDE
#repeat k TAPS - 1
            v${k} = v${k + 1};
#end
            v${TAPS - 1} = x[at + ${TAPS - 1}u * stride_x];
#else
            let v0 = x[at];
#repeat k TAPS - 1
            let v${k + 1} = x[at + tap${k + 1}];
#end
#endif
            at += stride_x;
            to += 1u;
#repeat o TO
            let d${o} = subgroupShuffle(d[${o % 4}], ${o / 4}u);
#repeat k TAPS
            sum${o}_${k} += d${o} * v${k};
#end
#end
        }
    }

    if (place >= tiles) {
        return;
    }
    let row = args.blocks * ${TAPS * FOLD}u;
    let kernel = args.taps_y * row;
    let to = ((chunk * args.groups + g) * args.channels_out + o) * args.channels_in * kernel
        + ky * row + kx;
#repeat o TO
    if (o + ${o}u < args.channels_out) {
#repeat j 4
        let c${o}_${j} = (quad * 4u + ${j}u) / ${FOLD}u;
        let k${o}_${j} = (quad * 4u + ${j}u) % ${FOLD}u;
        if (c${o}_${j} < args.channels_in) {
#repeat k TAPS
            part[to + (${o}u * args.channels_in + c${o}_${j}) * kernel + k${o}_${j} + ${k}u] = sum${o}_${k}[${j}];
#end
        }
#end
    }
#end
}
