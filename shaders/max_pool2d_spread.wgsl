// dx[h, w] = sum of dy[p, q] over the windows (p, q) around (h, w) whose maximum
//   stands there: at[p, q] = h * in_x + w
//   dx, dy, at as x, y in lib/pool.wgsl
// Grid: flat, one invocation per input pixel. Caller: ops/max_pool.rs
#import grid
#import pool
#args

@group(0) @binding(0) var<storage, read> dy: array<f32>;
@group(0) @binding(1) var<storage, read> at: array<u32>;
@group(0) @binding(2) var<storage, read_write> dx: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, 64u);
    let pixels = args.in_y * args.in_x;
    if (index >= args.planes * pixels) {
        return;
    }
    let here = index % pixels;
    let rows = covered_by(here / args.in_x, args.kernel_y, args.stride_y, args.padding_y, args.out_y);
    let columns = covered_by(here % args.in_x, args.kernel_x, args.stride_x, args.padding_x, args.out_x);
    let plane = (index / pixels) * args.out_y * args.out_x;
    var sum = 0.0;
    for (var p = rows.x; p < rows.y; p++) {
        for (var q = columns.x; q < columns.y; q++) {
            let window = plane + p * args.out_x + q;
            if (at[window] == here) {
                sum += dy[window];
            }
        }
    }
    dx[index] = sum;
}
