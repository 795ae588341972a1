// y = (tril(l, -1) + I) (triu(u, 1) + diag(signs exp(log_s))) for matrices [n, n].
// Grid: flat over n x n. Caller: ops/plu.rs
#import grid
#import math

struct Args {
    n: u32,
}
#args

@group(0) @binding(0) var<storage, read> l: array<f32>;
@group(0) @binding(1) var<storage, read> u: array<f32>;
@group(0) @binding(2) var<storage, read> signs: array<f32>;
@group(0) @binding(3) var<storage, read> log_s: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

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
    var sum = 0.0;
    for (var k = 0u; k < min(i, j); k++) {
        sum += l[i * n + k] * u[k * n + j];
    }
    if (i < j) {
        sum += u[index];
    } else {
        let s = signs[j] * exp_f32(log_s[j]);
        sum += select(l[index], 1.0, i == j) * s;
    }
    y[index] = sum;
}
