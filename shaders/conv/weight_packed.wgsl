// part[chunk, o, c, ky, kx] = sum over rows r = (n, p) of the chunk and over q of
//   dy[n, o, p, q] * x[n, c, p * stride + ky * dilation, q * stride + kx * dilation]
//   x [n * groups, quads, rows_in, columns_in] of vec4, dy [n * groups, quads_out, out_y,
//   PIXELS * steps] of vec4: four channels, x with zeros around the image, dy with zeros
//   after every row (conv2d_pack.wgsl);
//   part [chunks, groups * channels_out, channels_in, taps_y, TAPS * FOLD]; with one chunk
//   this is the gradient, else shaders/reduce/sum_chunks.wgsl adds the parts.
// A subgroup sums TO output channels by LANES tiles, one per lane, of four input
// channels at TAPS taps of a kernel row. The TO values of dy at a pixel are read once by
// all lanes together and shuffled around; with SLIDE (the next tap is the next pixel)
// the values of x move through the registers. With FOLD > 1 taps count as channels. An
// iteration takes PIXELS (2 or 4) of a row, because all sums are touched in each.
// Grid: flat, subgroups over tiles of (quads, kernel rows, blocks of taps), then tiles of
// output channels, groups, chunks. Caller: ops/conv/weight_packed.rs
#import grid
#import divide
#import wide

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
    // Of a row of dy, PIXELS each.
    steps: u32,
    rows_in: u32,
    columns_in: u32,
    stride_y: u32,
    stride_x: u32,
    dilation_y: u32,
    dilation_x: u32,
}
#args

@group(0) @binding(0) var<storage, read> x: array<Quad>;
@group(0) @binding(1) var<storage, read> dy: array<Oct>;
@group(0) @binding(2) var<storage, read_write> part: array<f32>;

const LANES = ${LANES}u;

@compute @workgroup_size(${LANES})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) lane: u32) {
    let job = flat_index(group, groups, lane, LANES) / LANES;
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
    let nth = divide(rest, args.taps_y);
    let ky = rest - nth * args.taps_y;

    let out_y = args.out_y;
    let steps = args.steps;
    let stride_x = args.stride_x;
    let out_plane = out_y * steps;
    let image = args.rows_in * args.columns_in;
    let quads = args.quads;
    let quads_out = args.quads_out;
    let stride_y = args.stride_y * args.columns_in;
    let groups_all = args.groups;
    let origin = nth * image + ky * args.dilation_y * args.columns_in + kx * args.dilation_x;
    // The lanes together hold the channels of the tile, those past it for nothing.
    let upstream = min(o / 4u + lane % ${TO / 4}u, quads_out - 1u) * out_plane;
#if SLIDE == 0
    let dilation_x = args.dilation_x;
#endif
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
        var to = block * quads_out * out_plane + p * steps + upstream;
        let stop = to + steps;
#if SLIDE
#repeat k TAPS - 1
        var v${k} = quad(x[at + ${k}u * stride_x]);
#end
#endif
        while (to < stop) {
#repeat h PIXELS / 2
            let pair${h} = dy[to * ${PIXELS / 2}u + ${h}u];
            let even${h} = evens(pair${h});
            let odd${h} = odds(pair${h});
            let d${h * 2} = vec4f(even${h}.x, odd${h}.x, even${h}.y, odd${h}.y);
            let d${h * 2 + 1} = vec4f(even${h}.z, odd${h}.z, even${h}.w, odd${h}.w);
#end
#if SLIDE
#repeat q PIXELS
            let w${TAPS - 1 + q} = quad(x[at + ${TAPS - 1 + q}u * stride_x]);
#end
#repeat k TAPS - 1
            let w${k} = v${k};
#end
#repeat k TAPS - 1
            v${k} = w${k + PIXELS};
#end
#repeat q PIXELS
#repeat k TAPS
            let x${q}_${k} = w${q + k};
#end
#end
#else
#repeat q PIXELS
#repeat k TAPS
            let x${q}_${k} = quad(x[at + ${q}u * stride_x + ${k}u * dilation_x]);
#end
#end
#endif
            at += ${PIXELS}u * stride_x;
            to += 1u;
#repeat o TO
#repeat k TAPS
#if PIXELS == 2
            sum${o}_${k} = fma(vec4f(subgroupShuffle(d1[${o % 4}], ${o / 4}u)), x1_${k}, fma(vec4f(subgroupShuffle(d0[${o % 4}], ${o / 4}u)), x0_${k}, sum${o}_${k}));
#else
            sum${o}_${k} = fma(vec4f(subgroupShuffle(d3[${o % 4}], ${o / 4}u)), x3_${k}, fma(vec4f(subgroupShuffle(d2[${o % 4}], ${o / 4}u)), x2_${k}, fma(vec4f(subgroupShuffle(d1[${o % 4}], ${o / 4}u)), x1_${k}, fma(vec4f(subgroupShuffle(d0[${o % 4}], ${o / 4}u)), x0_${k}, sum${o}_${k}))));
#endif
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
        let c${o}_${j} = (nth * 4u + ${j}u) / ${FOLD}u;
        let k${o}_${j} = (nth * 4u + ${j}u) % ${FOLD}u;
        if (c${o}_${j} < args.channels_in) {
#repeat k TAPS
            part[to + (${o}u * args.channels_in + c${o}_${j}) * kernel + k${o}_${j} + ${k}u] = sum${o}_${k}[${j}];
#end
        }
#end
    }
#end
}
