// y[p, q] = mean of x over part (p, q): rows from floor(p in_y / out_y) up to
//   ceil((p + 1) in_y / out_y), columns likewise
//   x [planes, in_y, in_x], y [planes, out_y, out_x]
// SPREAD: the transpose, x the gradient by the parts and y that by the pixels; the parts
//   around a pixel follow the same rule, every one divided by its own number of pixels.
// Grid: flat, one invocation per element of y. Caller: ops/pool/adaptive.rs
#import grid
#args

struct Args {
    total: u32,
    in_y: u32,
    in_x: u32,
    out_y: u32,
    out_x: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

// What part i of so many covers of an extent: the first, and the one after the last.
fn part(i: u32, parts: u32, extent: u32) -> vec2u {
    return vec2u(i * extent / parts, ((i + 1u) * extent + parts - 1u) / parts);
}

fn extent_of(range: vec2u) -> u32 {
    return range.y - range.x;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, 64u);
    if (index >= args.total) {
        return;
    }
    let line = index / args.out_x;
    let rows = part(line % args.out_y, args.out_y, args.in_y);
    let columns = part(index % args.out_x, args.out_x, args.in_x);
    let plane = (line / args.out_y) * args.in_y * args.in_x;
    var sum = 0.0;
    for (var h = rows.x; h < rows.y; h++) {
#if SPREAD
        let tall = extent_of(part(h, args.in_y, args.out_y));
#endif
        for (var w = columns.x; w < columns.y; w++) {
            let value = x[plane + h * args.in_x + w];
#if SPREAD
            sum += value / f32(tall * extent_of(part(w, args.in_x, args.out_x)));
#else
            sum += value;
#endif
        }
    }
#if SPREAD
    y[index] = sum;
#else
    y[index] = sum / f32(extent_of(rows) * extent_of(columns));
#endif
}
