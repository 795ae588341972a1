// y[p, q] = sum of x over window (p, q), divided by DIVISOR: one, the window's area,
//   or the number of its pixels inside the image
//   x, y as in lib/pool.wgsl; padding counts as zero
// Grid: flat, one invocation per output. Caller: ops/pool.rs
#import grid
#import pool
#args

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

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
    var sum = 0.0;
    for (var h = rows.x; h < rows.y; h++) {
        for (var w = columns.x; w < columns.y; w++) {
            sum += x[plane + h * args.in_x + w];
        }
    }
#if DIVISOR == area
    sum /= f32(args.kernel_y * args.kernel_x);
#elif DIVISOR == inside
    sum /= f32((rows.y - rows.x) * (columns.y - columns.x));
#endif
    y[index] = sum;
}
