// y[place[i], :] = rows[i, :]; nothing where place[i] is out of range
//   place [total / width], rows [total / width, width], y [rows, width]
// No two places are equal. One invocation per element, or per four of them (VEC4) where
// the width allows it; `width` and `total` count what an invocation copies. Grid: flat.
// Caller: ops/index/set_rows.rs
#import grid

struct Args {
    total: u32,
    width: u32,
    rows: u32,
}
#args

#if VEC4
alias Cell = vec4f;
#else
alias Cell = f32;
#endif

@group(0) @binding(0) var<storage, read> place: array<u32>;
@group(0) @binding(1) var<storage, read> rows: array<Cell>;
@group(0) @binding(2) var<storage, read_write> y: array<Cell>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let i = flat_index(group, groups, local, 64u);
    if (i >= args.total) {
        return;
    }
    let row = place[i / args.width];
    if (row < args.rows) {
        y[row * args.width + i % args.width] = rows[i];
    }
}
