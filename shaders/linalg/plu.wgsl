// y = (tril(l, -1) + I) (triu(u, 1) + diag(signs exp(log_s))) for matrices [n, n], in
// tiles of 4 x 4. VECTORS: n is a multiple of 4, and l and u are read and y is written
// four neighbours at a time.
// Grid: flat over tiles. Caller: ops/plu.rs
#import grid
#import math
#import wide

struct Args {
    n: u32,
}
#args

#if VECTORS
alias Cell = Quad;
#else
alias Cell = f32;
#endif

@group(0) @binding(0) var<storage, read> l: array<Cell>;
@group(0) @binding(1) var<storage, read> u: array<Cell>;
@group(0) @binding(2) var<storage, read> signs: array<f32>;
@group(0) @binding(3) var<storage, read> log_s: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<Cell>;

@compute @workgroup_size(32)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, 32u);
    let n = args.n;
    let across = (n + 3u) / 4u;
    if (index >= across * across) {
        return;
    }
    let i = (index / across) * 4u;
    let j = (index % across) * 4u;
    let ahead = vec4u(0u, 1u, 2u, 3u);
    // What is past an edge repeats the last element; it is not stored.
#repeat c 4
    let column${c} = min(j + ${c}u, n - 1u);
    let s${c} = signs[column${c}] * exp_f32(log_s[column${c}]);
#end
    let s = vec4f(s0, s1, s2, s3);
#repeat r 4
    let row${r} = min(i + ${r}u, n - 1u) * n;
    var sum${r} = vec4f();
#end
    for (var k = 0u; k <= min(i, j); k += 4u) {
#repeat c 4
        let line${c} = min(k + ${c}u, n - 1u) * n;
#if VECTORS
        let u${c} = quad(u[(line${c} + j) / 4u]);
#else
        let u${c} = vec4f(u[line${c} + column0], u[line${c} + column1], u[line${c} + column2], u[line${c} + column3]);
#endif
        let on${c} = select(vec4f(), s, j + ahead == vec4u(k + ${c}u));
        let upper${c} = select(on${c}, u${c}, j + ahead > vec4u(k + ${c}u));
#end
#repeat r 4
#if VECTORS
        let l${r} = quad(l[(row${r} + k) / 4u]);
#else
        let l${r} = vec4f(l[row${r} + k], l[row${r} + min(k + 1u, n - 1u)], l[row${r} + min(k + 2u, n - 1u)], l[row${r} + min(k + 3u, n - 1u)]);
#endif
        let one${r} = select(vec4f(), vec4f(1.0), k + ahead == vec4u(i + ${r}u));
        let lower${r} = select(one${r}, l${r}, k + ahead < vec4u(i + ${r}u));
#repeat c 4
        sum${r} += lower${r}[${c}] * upper${c};
#end
#end
    }
#repeat r 4
#if VECTORS
    y[(row${r} + j) / 4u] = to_quad(sum${r});
#else
    if (i + ${r}u < n) {
#repeat c 4
        if (j + ${c}u < n) {
            y[row${r} + column${c}] = sum${r}[${c}];
        }
#end
    }
#endif
#end
}
