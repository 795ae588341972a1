// Along the middle axis of x [outer, extent, inner], with peak = max x, mass = sum e^(x - peak):
//   softmax           y = e^(x - peak) / mass
//   log_softmax       y = (x - peak) - log(mass)
//   softmax_grad      y = w (x - sum x w)            x the upstream gradient, w the softmax
//   log_softmax_grad  y = x - e^w sum x              w the log_softmax
// ROWS: one invocation per row finds the sums and writes the row; KEPT: rows of so many
// cells, which stay in registers. Otherwise one invocation per cell, and the sums (of
// ops/fold.rs) are the last bindings.
// Rows that are contiguous are read four (VEC4) or eight (HALVES == 2) neighbours at a
// time; extent and total count these cells.
// Grid: flat over rows or cells. Caller: ops/softmax.rs
#import grid
#import exp_below
#import math

struct Args {
    total: u32,
    extent: u32,
    inner: u32,
}
#args

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

// A row with infinity has no softmax: NaN, as where its elements are taken together.
fn mass_below(mass: f32, peak: f32) -> f32 {
    return select(mass, from_bits(0x7fc00000u), bitcast<u32>(peak) == 0x7f800000u);
}

// What `forward` takes the mass as.
fn factor_of(mass: f32) -> f32 {
#if LOG
    return log_f32(mass);
#else
    return 1.0 / mass;
#endif
}

fn forward(v: Cell, peak: f32, factor: f32) -> Cell {
#if LOG
    return (v - peak) - factor;
#else
    return exp_below(v - peak) * factor;
#endif
}

// What the gradient sums.
fn product(g: Cell, w: Cell) -> Cell {
#if LOG
    return g;
#else
    return g * w;
#endif
}

fn backward(g: Cell, w: Cell, sum: f32) -> Cell {
#if LOG
    return g - exp_below(w) * sum;
#else
    return w * (g - sum);
#endif
}

@compute @workgroup_size(${WG})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, ${WG}u);
    if (index >= args.total) {
        return;
    }
#if KEPT
    let start = index * ${KEPT}u;
#repeat k KEPT
    let x${k} = x[start + ${k}u];
#if GRAD
    let w${k} = w[start + ${k}u];
#endif
#end
#if GRAD
    var sums = Cell();
#repeat k KEPT
    sums += product(half0(x${k}), half0(w${k})) + product(half1(x${k}), half1(w${k}));
#end
    let sum = add_up(sums);
#repeat k KEPT
    y[start + ${k}u] = oct(backward(half0(x${k}), half0(w${k}), sum),
        backward(half1(x${k}), half1(w${k}), sum));
#end
#else
    var peaks = half0(x0);
#repeat k KEPT
    peaks = max(peaks, max(half0(x${k}), half1(x${k})));
#end
    let peak = largest(peaks);
    var masses = Cell();
#repeat k KEPT
#repeat h 2
    let e${k}_${h} = exp_below(half${h}(x${k}) - peak);
    masses += e${k}_${h};
#end
#end
    let factor = factor_of(add_up(masses));
#repeat k KEPT
#if LOG
    y[start + ${k}u] = oct(forward(half0(x${k}), peak, factor), forward(half1(x${k}), peak, factor));
#else
    y[start + ${k}u] = oct(e${k}_0 * factor, e${k}_1 * factor);
#endif
#end
#endif
#else
#if ROWS
    let start = (index / args.inner) * args.extent * args.inner + index % args.inner;
    let end = start + args.extent * args.inner;
#if GRAD
    var sums = Cell();
    for (var at = start; at < end; at += args.inner) {
        let g = x[at];
        let s = w[at];
#repeat h HALVES
        sums += product(half${h}(g), half${h}(s));
#end
    }
    let sum = add_up(sums);
#else
    // The mass is that of what was read so far, below the peak so far.
    var peak = -3.4028235e38f;
    var mass = 0.0;
    for (var at = start; at < end; at += args.inner) {
        let v = x[at];
        var peaks = half0(v);
#if HALVES == 2
        peaks = max(peaks, half1(v));
#endif
        let top = max(peak, largest(peaks));
        var masses = Cell();
#repeat h HALVES
        masses += exp_below(half${h}(v) - top);
#end
        mass = mass * largest(exp_below(Cell(peak - top))) + add_up(masses);
        peak = top;
    }
    let factor = factor_of(mass);
#endif
    for (var at = start; at < end; at += args.inner) {
#else
    let row = (index / (args.extent * args.inner)) * args.inner + index % args.inner;
#if GRAD
    let sum = sums[row];
#else
    let peak = sums[row];
    let factor = factor_of(mass_below(masses[row], peak));
#endif
    {
        let at = index;
#endif
        let v = x[at];
#if GRAD
        let s = w[at];
#endif
#repeat h HALVES
#if GRAD
        let y${h} = backward(half${h}(v), half${h}(s), sum);
#else
        let y${h} = forward(half${h}(v), peak, factor);
#endif
#end
#if HALVES == 2
        y[at] = oct(y0, y1);
#else
        y[at] = stored(y0);
#endif
    }
#endif
}
