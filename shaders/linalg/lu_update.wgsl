// m[i, j] -= sum over the block's columns k of m[i, k] m[k, j], for all rows and columns
// from `end` on of the matrices m [n, n]: tiles of 8 x 8. All are multiples of 4.
// Grid: flat over batch x tiles. Caller: ops/lu.rs
#import grid

struct Args {
    batch: u32,
    n: u32,
    first: u32,
    end: u32,
}
#args

@group(0) @binding(0) var<storage, read_write> m: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, 64u);
    let n = args.n;
    let across = (n - args.end + 7u) / 8u;
    let matrix = index / (across * across);
    if (matrix >= args.batch) {
        return;
    }
    let tile = index % (across * across);
    let base = matrix * n * n;
    let i = args.end + (tile / across) * 8u;
    let j = args.end + (tile % across) * 8u;
    // What is past the edge repeats the last row or the last columns; it is not stored.
    let j1 = min(j + 4u, n - 4u);
#repeat r 8
    let row${r} = base + min(i + ${r}u, n - 1u) * n;
    var left${r} = m[(row${r} + j) / 4u];
    var right${r} = m[(row${r} + j1) / 4u];
#end
    for (var k = args.first; k < args.end; k += 4u) {
#repeat r 8
        let l${r} = m[(row${r} + k) / 4u];
#end
#repeat s 4
        let a${s} = m[(base + (k + ${s}u) * n + j) / 4u];
        let b${s} = m[(base + (k + ${s}u) * n + j1) / 4u];
#repeat r 8
        left${r} -= l${r}[${s}] * a${s};
        right${r} -= l${r}[${s}] * b${s};
#end
#end
    }
#repeat r 8
    if (i + ${r}u < n) {
        m[(row${r} + j) / 4u] = left${r};
        if (j + 4u < n) {
            m[(row${r} + j1) / 4u] = right${r};
        }
    }
#end
}
