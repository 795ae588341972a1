// The transpose of grid_sample: x[n, c, pixel] = sum over all places p that have it among
// their four of weight * dy[n, c, p], see lib/bilinear.wgsl.
//   dy [samples, channels, places], grid [samples, places] as (x, y),
//   x [samples, channels, in_y, in_x]
// No atomics, whose order no device promises. Places are sorted by the cell between pixels
// in which they lie, of (in_y + 1) (in_x + 1) per sample and one more for NaN:
//   PHASE cells  cell[n, p], too large where all four pixels are outside; one per place
//   PHASE sum    order[starts[k]..starts[k + 1]] are the places of cell k, by number; a
//                pixel adds up those of the four cells around it, of each list the entries
//                from `skip` to `skip + chunk`, to what is there already (MORE). NaN in a
//                grid makes its sample NaN. One invocation per CHANNELS channels of a pixel
// Sums are blocked by 64. Grid: flat. Caller: ops/image/grid_sample.rs
#import grid
#import math

#if PHASE == cells
struct Args {
    total: u32,
    in_y: u32,
    in_x: u32,
    places: u32,
    samples: u32,
}
#else
struct Args {
    total: u32,
    // Channels in CHANNELS.
    blocks: u32,
    in_y: u32,
    in_x: u32,
    places: u32,
    skip: u32,
    chunk: u32,
}
#endif
#args
#import bilinear

#if PHASE == cells
@group(0) @binding(0) var<storage, read> grid: array<vec2f>;
@group(0) @binding(1) var<storage, read_write> cell: array<u32>;
#else
@group(0) @binding(0) var<storage, read> dy: array<f32>;
@group(0) @binding(1) var<storage, read> grid: array<vec2f>;
@group(0) @binding(2) var<storage, read> order: array<u32>;
@group(0) @binding(3) var<storage, read> starts: array<u32>;
@group(0) @binding(4) var<storage, read_write> x: array<f32>;

struct Sums {
    channel: array<f32, ${CHANNELS}>,
}

// What the places of cell `key` give to the pixel that is the first (0) or the second (1)
// of their pair of rows, and of columns.
fn of_cell(key: u32, row: u32, column: u32, base: u32, before: u32) -> Sums {
    var total = Sums();
    let end = starts[key + 1u];
    var k = min(starts[key] + args.skip, end);
    let last = min(k + args.chunk, end);
    while (k < last) {
        let stop = min(k + 64u, last);
        var sum = Sums();
        for (; k < stop; k++) {
            let place = order[k];
            let weight = row_pair(grid[place]).weights[row]
                * column_pair(grid[place]).weights[column];
            let at = base + place - before;
#repeat c CHANNELS
            sum.channel[${c}] += weight * dy[at + ${c}u * args.places];
#end
        }
#repeat c CHANNELS
        total.channel[${c}] += sum.channel[${c}];
#end
    }
    return total;
}
#endif

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let i = flat_index(group, groups, local, 64u);
    if (i >= args.total) {
        return;
    }
    let across = args.in_x + 1u;
    let cells = (args.in_y + 1u) * across + 1u;
#if PHASE == cells
    let where_to = grid[i];
    let sample = i / args.places;
    let h = row_pair(where_to).first + 1;
    let w = column_pair(where_to).first + 1;
    let inside = (h >= 0) & (h <= i32(args.in_y)) & (w >= 0) & (w <= i32(args.in_x));
    let found = select(args.samples * cells, sample * cells + u32(h) * across + u32(w), inside);
    cell[i] = select(sample * cells + cells - 1u, found, is_known(where_to));
#else
    let w = i % args.in_x;
    let line = i / args.in_x;
    let h = line % args.in_y;
    let block = line / args.in_y;
    let sample = block / args.blocks;
    let base = block * ${CHANNELS}u * args.places;
    let before = sample * args.places;
    let corner = sample * cells + h * across + w;
    let a = of_cell(corner, 1u, 1u, base, before);
    let b = of_cell(corner + 1u, 1u, 0u, base, before);
    let c = of_cell(corner + across, 0u, 1u, base, before);
    let d = of_cell(corner + across + 1u, 0u, 0u, base, before);
    let unknown = sample * cells + cells - 1u;
    let known = starts[unknown] == starts[unknown + 1u];
    let plane = args.in_y * args.in_x;
    let pixel = block * ${CHANNELS}u * plane + h * args.in_x + w;
#repeat c CHANNELS
    {
        let at = pixel + ${c}u * plane;
        var sum = (a.channel[${c}] + b.channel[${c}]) + (c.channel[${c}] + d.channel[${c}]);
#if MORE
        sum += x[at];
#endif
        x[at] = select(from_bits(0x7fc00000u), sum, known);
    }
#end
#endif
}
