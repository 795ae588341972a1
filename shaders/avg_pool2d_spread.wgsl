// dx[h, w] = sum over the windows (p, q) around (h, w) of dy[p, q] / DIVISOR: one, the
//   window's area, or the number of its pixels inside the image
//   dx, dy as x, y in lib/pool.wgsl
// Grid: flat, one invocation per input pixel. Caller: ops/pool.rs
#import grid
#import pool
#args

@group(0) @binding(0) var<storage, read> dy: array<f32>;
@group(0) @binding(1) var<storage, read_write> dx: array<f32>;

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
            let value = dy[plane + p * args.out_x + q];
#if DIVISOR == inside
            let tall = covers(p, args.kernel_y, args.stride_y, args.padding_y, args.in_y);
            let wide = covers(q, args.kernel_x, args.stride_x, args.padding_x, args.in_x);
            sum += value / f32((tall.y - tall.x) * (wide.y - wide.x));
#else
            sum += value;
#endif
        }
    }
#if DIVISOR == area
    sum /= f32(args.kernel_y * args.kernel_x);
#endif
    dx[index] = sum;
}
