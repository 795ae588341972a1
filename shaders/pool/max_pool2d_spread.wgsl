// dx[h, w] = sum of dy[p, q] over the windows (p, q) around (h, w) whose maximum
//   stands there: at[p, q] = h * in_x + w
//   dx, dy, at as x, y in lib/pool.wgsl
// CELL: an invocation takes CELL neighbours, see lib/pool_row.wgsl.
// Grid: flat, one invocation per input pixel or CELL. Caller: ops/max_pool.rs
#import grid
#import pool
#args

#if CELL
#import pool_row
#if OUT == 2
@group(0) @binding(1) var<storage, read> at: array<vec2u>;
#else
@group(0) @binding(1) var<storage, read> at: array<vec4u>;
#endif
@group(0) @binding(2) var<storage, read_write> dx: array<Written>;

// The positions that go with row_of. What they are beyond the row does not count: there is
// no gradient.
fn positions_of(row: u32, pieces: u32, j: u32) -> array<u32, ${N+4}> {
    let piece = row * pieces + j;
    let before = piece - min(j, 1u);
    let after = min(piece + 1u, row * pieces + pieces - 1u);
    var a: array<u32, ${N+4}>;
#if N == 2
    let all = at[piece];
    a[2] = all.x;
    a[3] = all.y;
    let left = at[before];
    let right = at[after];
#else
#repeat k N/4
    let all${k} = at[${N/4}u * piece + ${k}u];
#repeat i 4
    a[${4*k+i+2}] = all${k}[${i}];
#end
#end
    let left = at[${N/4}u * before + ${N/4-1}u].zw;
    let right = at[${N/4}u * after].xy;
#endif
#if LEFT
    a[0] = left.x;
    a[1] = left.y;
#endif
#if RIGHT
    a[${N+2}] = right.x;
    a[${N+3}] = right.y;
#endif
    return a;
}
#else
@group(0) @binding(0) var<storage, read> dy: array<f32>;
@group(0) @binding(1) var<storage, read> at: array<u32>;
@group(0) @binding(2) var<storage, read_write> dx: array<f32>;
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
    let here = h * args.in_x + j * ${CELL}u;
    // Windows of ${ROWS} lines cover this one at most; columns likewise.
    let lowest = i32((h + ${PY}u) / ${SY}u) - ${ROWS-1};
    var sum: array<f32, ${CELL}>;
#repeat i ROWS
    {
        let p = lowest + ${i};
        let inside = (p >= 0) & (p < i32(args.out_y)) & (p * ${SY} + ${KY} > i32(h) + ${PY});
        let line = plane * args.out_y + u32(select(0, p, inside));
        let v = row_of(line, pieces, j);
        let a = positions_of(line, pieces, j);
#repeat t CELL
#repeat k COLUMNS
        {
            let hit = inside & (a[${(t+PX)/SX-COLUMNS+k+3}] == here + ${t}u);
            sum[${t}] += select(0.0, v[${(t+PX)/SX-COLUMNS+k+3}], hit);
        }
#end
#end
    }
#end
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
            let window = plane + p * args.out_x + q;
            if (at[window] == here) {
                sum += dy[window];
            }
        }
    }
    dx[index] = sum;
#endif
}
