// m[i, j] -= sum over the block's columns k of m[i, k] m[k, j], for all rows and columns
// from `end` on of the matrices m [n, n]: tiles of 8 x 8. With VEC4, n and the block's
// bounds are multiples of 4 and m is read four elements at a time.
// Grid: flat over batch x tiles. Caller: ops/lu.rs
#import grid

struct Args {
    batch: u32,
    n: u32,
    first: u32,
    end: u32,
}
#args

#if VEC4
@group(0) @binding(0) var<storage, read_write> m: array<vec4f>;

fn load4(at: u32) -> vec4f {
    return m[at / 4u];
}
#else
@group(0) @binding(0) var<storage, read_write> m: array<f32>;

fn load4(at: u32) -> vec4f {
    return vec4f(m[at], m[at + 1u], m[at + 2u], m[at + 3u]);
}
#endif

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
    // What is past the edge repeats the last row or the last four columns; it is not
    // stored.
    let j0 = min(j, n - 4u);
    let j1 = min(j + 4u, n - 4u);
#repeat r 8
    let row${r} = base + min(i + ${r}u, n - 1u) * n;
    var left${r} = load4(row${r} + j0);
    var right${r} = load4(row${r} + j1);
#end
    for (var k = args.first; k < args.end; k += 4u) {
#repeat r 8
        let l${r} = load4(row${r} + k);
#end
#repeat s 4
        let a${s} = load4(base + (k + ${s}u) * n + j0);
        let b${s} = load4(base + (k + ${s}u) * n + j1);
#repeat r 8
        left${r} -= l${r}[${s}] * a${s};
        right${r} -= l${r}[${s}] * b${s};
#end
#end
    }
#repeat r 8
    if (i + ${r}u < n) {
#if VEC4
        m[(row${r} + j0) / 4u] = left${r};
        if (j + 4u < n) {
            m[(row${r} + j1) / 4u] = right${r};
        }
#else
#repeat c 4
        if (j0 + ${c}u >= j) {
            m[row${r} + j0 + ${c}u] = left${r}[${c}];
        }
        if (j + 4u < n && j1 + ${c}u >= j + 4u) {
            m[row${r} + j1 + ${c}u] = right${r}[${c}];
        }
#end
#endif
    }
#end
}
