// y[first + n] = index[p, n] of the part p with the lowest best[p, n], the first where
// several are
//   index, best [parts, rows], y [N]
// Grid: flat, one invocation per row. Caller: ops/index/codebook.rs
#import grid

struct Args {
    first: u32,
    rows: u32,
    parts: u32,
}
#args

@group(0) @binding(0) var<storage, read> index: array<u32>;
@group(0) @binding(1) var<storage, read> best: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let n = flat_index(group, groups, local, 64u);
    if (n >= args.rows) {
        return;
    }
    var low = best[n];
    var at = index[n];
    for (var p = 1u; p < args.parts; p++) {
        let candidate = best[p * args.rows + n];
        if (candidate < low) {
            low = candidate;
            at = index[p * args.rows + n];
        }
    }
    y[args.first + n] = at;
}
