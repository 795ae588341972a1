// Along the middle axis of x [outer, extent, inner], with peak = max x, mass = sum e^(x - peak):
//   softmax           y = e^(x - peak) / mass
//   log_softmax       y = (x - peak) - log(mass)
//   softmax_grad      y = w (x - sum x w)            x the upstream gradient, w the softmax
//   log_softmax_grad  y = x - e^w sum x              w the log_softmax
// ROWS: one invocation per row finds the sums and writes the row. Otherwise one
// invocation per element, and the sums (of ops/fold.rs) are the last bindings.
// VEC4: rows that are contiguous are read four neighbours at a time; extent counts these.
// Grid: flat over rows or elements. Caller: ops/softmax.rs
#import grid
#import cell
#import math

struct Args {
    total: u32,
    extent: u32,
    inner: u32,
}
#args

#if VEC4
fn exp_each(x: vec4f) -> vec4f {
    return vec4f(exp_f32(x.x), exp_f32(x.y), exp_f32(x.z), exp_f32(x.w));
}
#else
fn exp_each(x: f32) -> f32 {
    return exp_f32(x);
}
#endif

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read_write> y: array<Stored>;
#if GRAD
@group(0) @binding(2) var<storage, read> w: array<Stored>;
#endif
#if ROWS == 0
@group(0) @binding(${2+GRAD}) var<storage, read> sums: array<f32>;
#if GRAD == 0
@group(0) @binding(3) var<storage, read> masses: array<f32>;
#endif
#endif

fn forward(v: Cell, peak: f32, mass: f32) -> Cell {
#if LOG
    return (v - peak) - log_f32(mass);
#else
    return exp_each(v - peak) / mass;
#endif
}

fn backward(g: Cell, w: Cell, sum: f32) -> Cell {
#if LOG
    return g - exp_each(w) * sum;
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
    var sums = Cell();
    for (var at = start; at < end; at += args.inner) {
#if LOG
        sums += cell_of(x[at]);
#else
        sums += cell_of(x[at]) * cell_of(w[at]);
#endif
    }
    let sum = add_up(sums);
    for (var at = start; at < end; at += args.inner) {
        y[at] = stored(backward(cell_of(x[at]), cell_of(w[at]), sum));
    }
#else
    var peaks = cell_of(x[start]);
    for (var at = start; at < end; at += args.inner) {
        peaks = max(peaks, cell_of(x[at]));
    }
    let peak = largest(peaks);
    var masses = Cell();
    for (var at = start; at < end; at += args.inner) {
        masses += exp_each(cell_of(x[at]) - peak);
    }
    let mass = add_up(masses);
    for (var at = start; at < end; at += args.inner) {
        y[at] = stored(forward(cell_of(x[at]), peak, mass));
    }
#endif
#else
    let row = (index / (args.extent * args.inner)) * args.inner + index % args.inner;
#if GRAD
    y[index] = stored(backward(cell_of(x[index]), cell_of(w[index]), sums[row]));
#else
    y[index] = stored(forward(cell_of(x[index]), sums[row], masses[row]));
#endif
#endif
}
