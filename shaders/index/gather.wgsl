// y[i, :] = table[idx[i], :], zeros where idx[i] is out of range
//   table [rows, width], idx [total / width], y [total / width, width]
// One invocation per element, or per four of them (VEC4) where the width allows it;
// `width` and `total` count what an invocation copies. Grid: flat. Caller: ops/gather.rs
#import grid
#import half

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

#if HALF_TABLE
#if VEC4
@group(0) @binding(0) var<storage, read> table: array<HalfQuad>;
fn cell(i: u32) -> Cell { return half_quad(table[i]); }
#else
@group(0) @binding(0) var<storage, read> table: array<u32>;
fn cell(i: u32) -> Cell { return u32_at(table[i / 2u], i); }
#endif
#else
@group(0) @binding(0) var<storage, read> table: array<Cell>;
fn cell(i: u32) -> Cell { return table[i]; }
#endif
@group(0) @binding(1) var<storage, read> idx: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<Cell>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let i = flat_index(group, groups, local, 64u);
    if (i >= args.total) {
        return;
    }
    let row = idx[i / args.width];
    var value = Cell();
    if (row < args.rows) {
        value = cell(row * args.width + i % args.width);
    }
    y[i] = value;
}
