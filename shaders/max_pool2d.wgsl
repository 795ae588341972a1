// y[p, q] = max of x over window (p, q), at[p, q] = h * in_x + w of the first maximum
//   x, y, at as in lib/pool.wgsl; padding counts as minus infinity
// Grid: flat, one invocation per output. Caller: ops/max_pool.rs
#import grid
#import pool
#args

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read_write> at: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, 64u);
    if (index >= args.planes * args.out_y * args.out_x) {
        return;
    }
    let line = index / args.out_x;
    let rows = covers(line % args.out_y, args.kernel_y, args.stride_y, args.padding_y, args.in_y);
    let columns = covers(index % args.out_x, args.kernel_x, args.stride_x, args.padding_x, args.in_x);
    let plane = (line / args.out_y) * args.in_y * args.in_x;
    // Every window has a pixel inside: the padding is at most half of it.
    var best_at = rows.x * args.in_x + columns.x;
    var best = x[plane + best_at];
    for (var h = rows.x; h < rows.y; h++) {
        for (var w = columns.x; w < columns.y; w++) {
            let here = h * args.in_x + w;
            let value = x[plane + here];
            if (value > best) {
                best = value;
                best_at = here;
            }
        }
    }
    y[index] = best;
    at[index] = best_at;
}
