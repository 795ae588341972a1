// dx[h, w] = sum over the windows (p, q) around (h, w) of dy[p, q] / DIVISOR: one, the
//   window's area, the number of its pixels inside the padded image, or inside the image
//   dx, dy as x, y in lib/pool.wgsl
// CELL: an invocation takes CELL neighbours, see lib/pool_row.wgsl.
// Grid: flat, one invocation per input pixel or CELL. Caller: ops/pool.rs
#import grid
#import pool
#args

#if CELL
#import pool_row
@group(0) @binding(1) var<storage, read_write> dx: array<Written>;
#else
@group(0) @binding(0) var<storage, read> dy: array<f32>;
@group(0) @binding(1) var<storage, read_write> dx: array<f32>;
#endif

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, 64u);
#if CELL
    let pieces = args.in_x / ${CELL}u;
    if (index >= args.planes * args.in_y * pieces) {
        return;
    }
    let line = index / pieces;
    let j = index % pieces;
    let h = line % args.in_y;
    let plane = line / args.in_y;
    // Windows of ${ROWS} lines cover this one at most; columns likewise.
    let lowest = i32((h + ${PY}u) / ${SY}u) - ${ROWS-1};
    var sum: array<f32, ${CELL}>;
#repeat i ROWS
    {
        let p = lowest + ${i};
        let inside = (p >= 0) & (p < i32(args.out_y)) & (p * ${SY} + ${KY} > i32(h) + ${PY});
        let line = plane * args.out_y + u32(select(0, p, inside));
        var v = row_of(line, pieces, j);
#if DIVISOR == padded
        // Beyond the last window there is nothing to divide.
        let tall = padded(u32(clamp(p, 0, i32(args.out_y) - 1)), args.kernel_y, args.stride_y,
            args.padding_y, args.in_y);
#repeat q N+4
        v[${q}] /= f32(tall * padded(u32(clamp(i32(j * ${OUT}u) + ${q-2}, 0,
            i32(args.out_x) - 1)), args.kernel_x, args.stride_x, args.padding_x, args.in_x));
#end
#elif DIVISOR == inside
        let tall = covers(u32(max(p, 0)), args.kernel_y, args.stride_y, args.padding_y, args.in_y);
#repeat q N+4
        {
            // Beyond the row there is nothing to divide.
            let window = u32(max(i32(j * ${OUT}u) + ${q-2}, 0));
            let wide = covers(window, args.kernel_x, args.stride_x, args.padding_x, args.in_x);
            v[${q}] /= f32(max((tall.y - tall.x) * (wide.y - wide.x), 1u));
        }
#end
#endif
#repeat t CELL
#repeat k COLUMNS
        sum[${t}] += select(0.0, v[${(t+PX)/SX-COLUMNS+k+3}],
            inside & (${((t+PX)/SX-COLUMNS+1+k)*SX+KX-PX-t} > 0));
#end
#end
    }
#end
#if DIVISOR == area
#repeat t CELL
    sum[${t}] /= ${KY*KX}.0;
#end
#endif
    dx[index] = written(sum);
#else
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
#if DIVISOR == padded
            let tall = padded(p, args.kernel_y, args.stride_y, args.padding_y, args.in_y);
            let wide = padded(q, args.kernel_x, args.stride_x, args.padding_x, args.in_x);
            sum += value / f32(tall * wide);
#elif DIVISOR == inside
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
#endif
}
