// y[p, q] = max of x over window (p, q), at[p, q] = h * in_x + w of the first maximum
//   x, y, at as in lib/pool.wgsl; padding counts as minus infinity, NaN as largest
// CELL: an invocation takes OUT neighbours, see lib/pool_row.wgsl.
// Grid: flat, one invocation per output or OUT. Caller: ops/max_pool.rs
#import grid
#import pool
#import math
#args

#if CELL
#import pool_row
@group(0) @binding(1) var<storage, read_write> y: array<Written>;
#if OUT == 2
@group(0) @binding(2) var<storage, read_write> at: array<vec2u>;
#else
@group(0) @binding(2) var<storage, read_write> at: array<vec4u>;
#endif
#else
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read_write> at: array<u32>;
#endif

// NaN is larger than any number; the first one stays.
fn beats(value: f32, best: f32) -> bool {
    return (value > best) | (is_nan(value) & !is_nan(best));
}

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
    // Pixels beyond the border are taken for the nearest inside, which is in the window too.
    var best: array<f32, ${OUT}>;
    var best_at: array<u32, ${OUT}>;
#repeat ky KY
    {
        let h = u32(clamp(i32(p * ${SY}u + ${ky}u) - ${PY}, 0, i32(args.in_y) - 1));
        let v = row_of(plane * args.in_y + h, pieces, j);
#repeat r OUT
#repeat kx KX
        {
            let w = u32(max(i32(j * ${CELL}u) + ${r*SX+kx-PX}, 0));
            let above = (${ky+kx} == 0) | beats(v[${r*SX+kx+2-PX}], best[${r}]);
            best[${r}] = select(best[${r}], v[${r*SX+kx+2-PX}], above);
            best_at[${r}] = select(best_at[${r}], h * args.in_x + w, above);
        }
#end
#end
    }
#end
    y[index] = written(best);
#if OUT == 2
    at[index] = vec2u(best_at[0], best_at[1]);
#else
#repeat k OUT/4
    at[${OUT/4}u * index + ${k}u] = vec4u(best_at[${4*k}], best_at[${4*k+1}], best_at[${4*k+2}],
        best_at[${4*k+3}]);
#end
#endif
#else
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
            if (beats(value, best)) {
                best = value;
                best_at = here;
            }
        }
    }
    y[index] = best;
    at[index] = best_at;
#endif
}
