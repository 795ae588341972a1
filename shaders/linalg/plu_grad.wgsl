// The gradient of plu.wgsl from that of its output, g. With L the unit lower and U the
// upper factor:
//   dl = tril(g U^T, -1)    du = triu(L^T g, 1)    dlog_s = diag(L^T g) diag(U)
// in tiles of 4 x 4. VECTORS: n is a multiple of 4, and matrices are read and written four
// neighbours at a time.
// Grid: flat over the tiles of dl, then those of du. Caller: ops/plu.rs
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

@group(0) @binding(0) var<storage, read> g: array<Cell>;
@group(0) @binding(1) var<storage, read> l: array<Cell>;
@group(0) @binding(2) var<storage, read> u: array<Cell>;
@group(0) @binding(3) var<storage, read> signs: array<f32>;
@group(0) @binding(4) var<storage, read> log_s: array<f32>;
@group(0) @binding(5) var<storage, read_write> dl: array<Cell>;
@group(0) @binding(6) var<storage, read_write> du: array<Cell>;
@group(0) @binding(7) var<storage, read_write> dlog_s: array<f32>;

// Four neighbours of a matrix from its elements at the same places; past an edge the last
// ones are repeated.
struct Place {
    row: u32,
    column: vec4u,
}

fn place(i: u32, j: u32) -> Place {
    let last = args.n - 1u;
    return Place(min(i, last) * args.n, min(j + vec4u(0u, 1u, 2u, 3u), vec4u(last)));
}

fn of_g(p: Place) -> vec4f {
#if VECTORS
    return quad(g[(p.row + p.column.x) / 4u]);
#else
    return vec4f(g[p.row + p.column.x], g[p.row + p.column.y], g[p.row + p.column.z], g[p.row + p.column.w]);
#endif
}

fn of_l(p: Place) -> vec4f {
#if VECTORS
    return quad(l[(p.row + p.column.x) / 4u]);
#else
    return vec4f(l[p.row + p.column.x], l[p.row + p.column.y], l[p.row + p.column.z], l[p.row + p.column.w]);
#endif
}

fn of_u(p: Place) -> vec4f {
#if VECTORS
    return quad(u[(p.row + p.column.x) / 4u]);
#else
    return vec4f(u[p.row + p.column.x], u[p.row + p.column.y], u[p.row + p.column.z], u[p.row + p.column.w]);
#endif
}

@compute @workgroup_size(32)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, 32u);
    let n = args.n;
    let across = (n + 3u) / 4u;
    let tiles = across * across;
    if (index >= 2u * tiles) {
        return;
    }
    let tile = index % tiles;
    let i = (tile / across) * 4u;
    let j = (tile % across) * 4u;
    let columns = j + vec4u(0u, 1u, 2u, 3u);
#repeat c 4
    let at${c} = min(j + ${c}u, n - 1u);
    let s${c} = signs[at${c}] * exp_f32(log_s[at${c}]);
#end
#repeat r 4
    var sum${r} = vec4f();
#end
    if (index < tiles) {
        // Rows of g times rows of U.
        for (var k = select(n, j, i >= j); k < n; k += 4u) {
            let ks = k + vec4u(0u, 1u, 2u, 3u);
#repeat c 4
            let u${c} = of_u(place(j + ${c}u, k));
            let on${c} = select(vec4f(), vec4f(s${c}), ks == vec4u(j + ${c}u));
            let upper${c} = select(on${c}, u${c}, (ks > vec4u(j + ${c}u)) & (ks < vec4u(n)));
#end
#repeat r 4
            let g${r} = of_g(place(i + ${r}u, k));
            sum${r} += vec4f(dot(g${r}, upper0), dot(g${r}, upper1), dot(g${r}, upper2), dot(g${r}, upper3));
#end
        }
#repeat r 4
        let below${r} = select(vec4f(), sum${r}, columns < vec4u(i + ${r}u));
#if VECTORS
        dl[((i + ${r}u) * n + j) / 4u] = to_quad(below${r});
#else
#repeat c 4
        if ((i + ${r}u < n) & (j + ${c}u < n)) {
            dl[(i + ${r}u) * n + j + ${c}u] = below${r}[${c}];
        }
#end
#endif
#end
    } else {
        // Columns of L times columns of g.
        for (var k = select(n, i, i <= j); k < n; k += 4u) {
            let rows = i + vec4u(0u, 1u, 2u, 3u);
#repeat c 4
            let l${c} = of_l(place(k + ${c}u, i));
            let one${c} = select(vec4f(), vec4f(1.0), rows == vec4u(k + ${c}u));
            let lower${c} = select(one${c}, l${c}, (rows < vec4u(k + ${c}u)) & vec4<bool>(k + ${c}u < n));
            let g${c} = of_g(place(k + ${c}u, j));
#repeat r 4
            sum${r} += lower${c}[${r}] * g${c};
#end
#end
        }
#repeat r 4
        if ((i == j) & (i + ${r}u < n)) {
            dlog_s[i + ${r}u] = sum${r}[${r}] * s${r};
        }
        let above${r} = select(vec4f(), sum${r}, columns > vec4u(i + ${r}u));
#if VECTORS
        du[((i + ${r}u) * n + j) / 4u] = to_quad(above${r});
#else
#repeat c 4
        if ((i + ${r}u < n) & (j + ${c}u < n)) {
            du[(i + ${r}u) * n + j + ${c}u] = above${r}[${c}];
        }
#end
#endif
#end
    }
}
