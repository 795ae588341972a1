// y[k] = |e_k - center|^2 / 2 for the codes e [K, D], and y[K + k] the same of 2^-72 times
// the difference, for numbers whose squares leave float32
// width counts VEC-vectors of D. Grid: flat, one invocation per code. Caller: ops/index/codebook.rs
#import grid
#import wide
#import center

struct Args {
    codes: u32,
    width: u32,
}
#args

#if VEC == 4
@group(0) @binding(0) var<storage, read> e: array<Quad>;
@group(0) @binding(1) var<storage, read> center: array<Quad>;
#else
@group(0) @binding(0) var<storage, read> e: array<f32>;
@group(0) @binding(1) var<storage, read> center: array<f32>;
#endif
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
#if VEC == 4
        let v = quad(e[k * args.width + d]) - quad(center[d]);
        let small = v * SMALL;
        sum += dot(v, v);
        small_sum += dot(small, small);
#else
        let v = e[k * args.width + d] - center[d];
        let small = v * SMALL;
        sum += v * v;
        small_sum += small * small;
#endif
    }
    y[k] = 0.5 * sum;
    y[args.codes + k] = 0.5 * small_sum;
}
