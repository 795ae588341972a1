// y[p, q] = sum of x over window (p, q), divided by DIVISOR: one, the window's area,
//   the number of its pixels inside the padded image, or inside the image
//   x, y as in lib/pool.wgsl; padding counts as zero
// CELL: an invocation takes OUT neighbours, see lib/pool_row.wgsl.
// Grid: flat, one invocation per output or OUT. Caller: ops/pool.rs
#import grid
#import pool
#args

#if CELL
#import pool_row
@group(0) @binding(1) var<storage, read_write> y: array<Written>;
#else
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
#endif

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, 64u);
#if CELL
    let pieces = args.out_x / ${OUT}u;
    if (index >= args.planes * args.out_y * pieces) {
        return;
    }
    let line = index / pieces;
    let j = index % pieces;
    let p = line % args.out_y;
    let plane = line / args.out_y;
    var sum: array<f32, ${OUT}>;
#repeat ky KY
    {
        let h = i32(p * ${SY}u + ${ky}u) - ${PY};
        let inside = (h >= 0) & (h < i32(args.in_y));
        let v = row_of(plane * args.in_y + u32(select(0, h, inside)), pieces, j);
#repeat r OUT
        var line${r} = v[${r*SX+2-PX}];
#repeat kx KX-1
        line${r} += v[${r*SX+kx+3-PX}];
#end
        sum[${r}] += select(0.0, line${r}, inside);
#end
    }
#end
#if DIVISOR == area
#repeat r OUT
    sum[${r}] /= ${KY*KX}.0;
#end
#elif DIVISOR == padded
    let tall = padded(p, args.kernel_y, args.stride_y, args.padding_y, args.in_y);
#repeat r OUT
    sum[${r}] /= f32(tall * padded(j * ${OUT}u + ${r}u, args.kernel_x, args.stride_x,
        args.padding_x, args.in_x));
#end
#elif DIVISOR == inside
    let rows = covers(p, args.kernel_y, args.stride_y, args.padding_y, args.in_y);
#repeat r OUT
    let columns${r} = covers(j * ${OUT}u + ${r}u, args.kernel_x, args.stride_x, args.padding_x,
        args.in_x);
    sum[${r}] /= f32((rows.y - rows.x) * (columns${r}.y - columns${r}.x));
#end
#endif
    y[index] = written(sum);
#else
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
#elif DIVISOR == padded
    sum /= f32(padded(line % args.out_y, args.kernel_y, args.stride_y, args.padding_y, args.in_y)
        * padded(index % args.out_x, args.kernel_x, args.stride_x, args.padding_x, args.in_x));
#elif DIVISOR == inside
    sum /= f32((rows.y - rows.x) * (columns.y - columns.x));
#endif
    y[index] = sum;
#endif
}
