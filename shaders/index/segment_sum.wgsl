// y[part, k, :] = the sum of the rows x[n, :] of segment k, in the order of n
//   x [rows, width], y [parts, segments, width]
// One invocation per part, segment and cell of one or four elements (VEC4). Without
// SORTED a part is a range of `chunk` rows, and every row's segment is looked at: for
// small problems. With SORTED, order[starts[k]..starts[k + 1]] are the rows of
// segment k, and a part is a share of them.
// Sums are blocked by 64 rows. Grid: flat. Caller: ops/segment_sum.rs
#import grid

struct Args {
    rows: u32,
    segments: u32,
    width: u32,
    parts: u32,
    chunk: u32,
}
#args

#if VEC4
alias Cell = vec4f;
#else
alias Cell = f32;
#endif

@group(0) @binding(0) var<storage, read> x: array<Cell>;
#if SORTED
@group(0) @binding(1) var<storage, read> order: array<u32>;
@group(0) @binding(2) var<storage, read> starts: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<Cell>;
#else
@group(0) @binding(1) var<storage, read> idx: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<Cell>;
#endif

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, 64u);
    let cells = args.segments * args.width;
    if (index >= cells * args.parts) {
        return;
    }
    // Neighbours share the segment, so that they skip the same rows.
    let part = index / cells;
    let segment = (index % cells) / args.width;
    let column = index % args.width;
#if SORTED
    let first = starts[segment];
    let end = starts[segment + 1u];
    let share = (end - first + args.parts - 1u) / args.parts;
    var n = min(first + part * share, end);
    let last = min(n + share, end);
#else
    var n = min(part * args.chunk, args.rows);
    let last = min(n + args.chunk, args.rows);
#endif
    var total = Cell();
    while (n < last) {
        let stop = min(n + 64u, last);
        var sum = Cell();
        for (; n < stop; n++) {
#if SORTED
            sum += x[order[n] * args.width + column];
#else
            if (idx[n] == segment) {
                sum += x[n * args.width + column];
            }
#endif
        }
        total += sum;
    }
    y[index] = total;
}
