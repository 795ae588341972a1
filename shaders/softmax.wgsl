// Along the middle axis of x [outer, extent, inner], with peak = max x, mass = sum e^(x - peak):
//   softmax           y = e^(x - peak) / mass
//   log_softmax       y = (x - peak) - log(mass)
//   softmax_grad      y = w (x - sum x w)            x the upstream gradient, w the softmax
//   log_softmax_grad  y = x - e^w sum x              w the log_softmax
// ROWS: one invocation per row finds the sums and writes the row. Otherwise one
// invocation per element, and the sums (of ops/fold.rs) are the last bindings.
// Grid: flat over rows or elements. Caller: ops/softmax.rs
#import grid
#import math

struct Args {
    total: u32,
    extent: u32,
    inner: u32,
}
#args

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
#if GRAD
@group(0) @binding(2) var<storage, read> w: array<f32>;
#endif
#if ROWS == 0
@group(0) @binding(${2+GRAD}) var<storage, read> sums: array<f32>;
#if GRAD == 0
@group(0) @binding(3) var<storage, read> masses: array<f32>;
#endif
#endif

fn forward(v: f32, peak: f32, mass: f32) -> f32 {
#if LOG
    return (v - peak) - log_f32(mass);
#else
    return exp_f32(v - peak) / mass;
#endif
}

fn backward(g: f32, w: f32, sum: f32) -> f32 {
#if LOG
    return g - exp_f32(w) * sum;
#else
    return w * (g - sum);
#endif
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, 64u);
    if (index >= args.total) {
        return;
    }
#if ROWS
    let start = (index / args.inner) * args.extent * args.inner + index % args.inner;
    let end = start + args.extent * args.inner;
#if GRAD
    var sum = 0.0;
    for (var at = start; at < end; at += args.inner) {
#if LOG
        sum += x[at];
#else
        sum += x[at] * w[at];
#endif
    }
    for (var at = start; at < end; at += args.inner) {
        y[at] = backward(x[at], w[at], sum);
    }
#else
    var peak = x[start];
    for (var at = start; at < end; at += args.inner) {
        peak = max(peak, x[at]);
    }
    var mass = 0.0;
    for (var at = start; at < end; at += args.inner) {
        mass += exp_f32(x[at] - peak);
    }
    for (var at = start; at < end; at += args.inner) {
        y[at] = forward(x[at], peak, mass);
    }
#endif
#else
    let row = (index / (args.extent * args.inner)) * args.inner + index % args.inner;
#if GRAD
    y[index] = backward(x[index], w[index], sums[row]);
#else
    y[index] = forward(x[index], sums[row], masses[row]);
#endif
#endif
}
