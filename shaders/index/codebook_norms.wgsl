// y[k] = |e_k - center|^2 / 2 for the codes e [K, D], and y[K + k] the same of 2^-72 times
// the difference, for numbers whose squares leave float32
// Grid: flat, one invocation per code. Caller: ops/index/codebook.rs
#import grid
#import center

struct Args {
    codes: u32,
    width: u32,
}
#args

@group(0) @binding(0) var<storage, read> e: array<f32>;
@group(0) @binding(1) var<storage, read> center: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let k = flat_index(group, groups, local, 64u);
    if (k >= args.codes) {
        return;
    }
    var sum = 0.0;
    var small_sum = 0.0;
    for (var d = 0u; d < args.width; d++) {
        let v = e[k * args.width + d] - center[d];
        let small = v * SMALL;
        sum += v * v;
        small_sum += small * small;
    }
    y[k] = 0.5 * sum;
    y[args.codes + k] = 0.5 * small_sum;
}
