// The gradient of plu.wgsl from that of its output, g. With L the unit lower and U the
// upper factor:
//   dl = tril(g U^T, -1)    du = triu(L^T g, 1)    dlog_s = diag(L^T g) diag(U)
// Grid: flat over n x n. Caller: ops/plu.rs
#import grid
#import math

struct Args {
    n: u32,
}
#args

@group(0) @binding(0) var<storage, read> g: array<f32>;
@group(0) @binding(1) var<storage, read> l: array<f32>;
@group(0) @binding(2) var<storage, read> u: array<f32>;
@group(0) @binding(3) var<storage, read> signs: array<f32>;
@group(0) @binding(4) var<storage, read> log_s: array<f32>;
@group(0) @binding(5) var<storage, read_write> dl: array<f32>;
@group(0) @binding(6) var<storage, read_write> du: array<f32>;
@group(0) @binding(7) var<storage, read_write> dlog_s: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, 64u);
    let n = args.n;
    if (index >= n * n) {
        return;
    }
    let i = index / n;
    let j = index % n;
    let s = signs[j] * exp_f32(log_s[j]);
    let below = i > j;
    // Below the diagonal row i of g times row j of U, elsewhere column i of L times
    // column j of g.
    var sum = g[index] * select(1.0, s, below);
    if (below) {
        for (var c = j + 1u; c < n; c++) {
            sum += g[i * n + c] * u[j * n + c];
        }
    } else {
        for (var r = i + 1u; r < n; r++) {
            sum += l[r * n + i] * g[r * n + j];
        }
    }
    dl[index] = select(0.0, sum, below);
    du[index] = select(0.0, sum, i < j);
    if (i == j) {
        dlog_s[j] = sum * s;
    }
}
