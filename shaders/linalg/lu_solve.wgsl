// Carries a factored block of the columns first .. end to all other columns of m [n, n]:
// exchanges rows as pivots says and, right of the block, solves L y = column for the
// unit lower triangle L of the block's rows, 8 unknowns at a time.
// Grid: flat over batch x n, one invocation per column. Caller: ops/lu.rs
#import grid

struct Args {
    batch: u32,
    n: u32,
    first: u32,
    end: u32,
}
#args

@group(0) @binding(0) var<storage, read_write> m: array<f32>;
@group(0) @binding(1) var<storage, read> pivots: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, 64u);
    let n = args.n;
    let matrix = index / n;
    let j = index % n;
    if ((matrix >= args.batch) | ((j >= args.first) & (j < args.end))) {
        return;
    }
    let base = matrix * n * n;
    let column = base + j;
    for (var k = args.first; k < args.end; k++) {
        let q = pivots[matrix * n + k];
        if (q != k) {
            let held = m[column + q * n];
            m[column + q * n] = m[column + k * n];
            m[column + k * n] = held;
        }
    }
    if (j < args.first) {
        return;
    }
    // There are columns to the right only of blocks that are a multiple of 8 wide.
    for (var k = args.first; k < args.end; k += 8u) {
#repeat t 8
        var y${t} = m[column + (k + ${t}u) * n];
#end
        for (var s = args.first; s < k; s++) {
            let x = m[column + s * n];
#repeat t 8
            y${t} -= m[base + (k + ${t}u) * n + s] * x;
#end
        }
#repeat t 8
#repeat s t
        y${t} -= m[base + (k + ${t}u) * n + k + ${s}u] * y${s};
#end
        m[column + (k + ${t}u) * n] = y${t};
#end
    }
}
