// y[n, c, p] = sum over the four pixels around grid[n, p] of weight * x[n, c, pixel], see
// lib/bilinear.wgsl; pixels outside count as 0. NaN in the grid makes y[n, :, p] NaN.
//   x [samples, channels, in_y, in_x], grid [samples, places] as (x, y),
//   y [samples, channels, places]
// One invocation takes CHANNELS channels of a place. Grid: flat.
// Caller: ops/image/grid_sample.rs
#import grid
#import math

struct Args {
    total: u32,
    // Channels in CHANNELS.
    blocks: u32,
    in_y: u32,
    in_x: u32,
    places: u32,
}
#args
#import bilinear

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> grid: array<vec2f>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

// A pixel that is read, and whether it is there.
struct Corner {
    at: u32,
    inside: bool,
    weight: f32,
}

fn corner(h: i32, w: i32, weight: f32) -> Corner {
    let inside = (h >= 0) & (h < i32(args.in_y)) & (w >= 0) & (w < i32(args.in_x));
    return Corner(select(0u, u32(h) * args.in_x + u32(w), inside), inside, weight);
}

fn part(base: u32, c: Corner) -> f32 {
    return select(0.0, c.weight * x[base + c.at], c.inside);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let i = flat_index(group, groups, local, 64u);
    if (i >= args.total) {
        return;
    }
    let place = i % args.places;
    let block = i / args.places;
    let where_to = grid[block / args.blocks * args.places + place];
    let rows = row_pair(where_to);
    let columns = column_pair(where_to);
    let known = is_known(where_to);
    let a = corner(rows.first, columns.first, rows.weights.x * columns.weights.x);
    let b = corner(rows.first, columns.first + 1, rows.weights.x * columns.weights.y);
    let c = corner(rows.first + 1, columns.first, rows.weights.y * columns.weights.x);
    let d = corner(rows.first + 1, columns.first + 1, rows.weights.y * columns.weights.y);
    let plane = args.in_y * args.in_x;
#repeat k CHANNELS
    {
        let channel = block * ${CHANNELS}u + ${k}u;
        let base = channel * plane;
        let sum = part(base, a) + part(base, b) + part(base, c) + part(base, d);
        y[channel * args.places + place] = select(from_bits(0x7fc00000u), sum, known);
    }
#end
}
