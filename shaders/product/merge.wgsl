// y[i] = act(bias + residual[i] + sum over parts of part[p, i]), the parts in their order
//   part [parts, len], y [len] = [batch, m, n], bias [n] with BIAS = 1, [m] with BIAS = 2
// Grid: flat, one invocation per element. Caller: ops/product.rs
#import grid
#import activation

struct Args {
    len: u32,
    parts: u32,
    m: u32,
    n: u32,
#if ACT == leaky_relu
    slope: f32,
#endif
}
#args

@group(0) @binding(0) var<storage, read> part: array<f32>;
#if BIAS
@group(0) @binding(1) var<storage, read> bias: array<f32>;
#endif
#if RESIDUAL
@group(0) @binding(${1 + HAS_BIAS}) var<storage, read> residual: array<f32>;
#endif
@group(0) @binding(${1 + HAS_BIAS + RESIDUAL}) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, 64u);
    if (index >= args.len) {
        return;
    }
    var sum = 0.0;
    for (var p = 0u; p < args.parts; p++) {
        sum += part[p * args.len + index];
    }
#if BIAS == 1
    sum += bias[index % args.n];
#elif BIAS == 2
    sum += bias[index / args.n % args.m];
#endif
#if RESIDUAL
    sum += residual[index];
#endif
    y[index] = act(sum);
}
