// The gradient of shaders/flow/spline.wgsl, from x (INVERSE: from the result x of the inverse)
// and the upstream gradients u of the value and v of the logarithm l:
//   dx = u f'(x) + v l'(x),    draw = u df/draw + v dl/draw
// INVERSE, by implicit differentiation: dy = (u - v l'(x)) / f'(x), and draw as above with
// -dy for u and -v for v.
//   x, u, v, dx [N, C, ..], raw, draw [N, C (3 bins - 1), ..]
// Grid: flat, one invocation per element. Caller: ops/spline.rs
#import grid
#import spline

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> raw: array<f32>;
@group(0) @binding(2) var<storage, read> by_value: array<f32>;
@group(0) @binding(3) var<storage, read> by_log: array<f32>;
@group(0) @binding(4) var<storage, read_write> dx: array<f32>;
@group(0) @binding(5) var<storage, read_write> draw: array<f32>;

// Raw widths or heights: `below` is the gradient by the start of bin k, `own` that by its
// size. Through the softmax each gets share (its gradient - the mean gradient).
fn spread(at: u32, m: Mass, k: u32, below: f32, own: f32) {
    var mean = 0.0;
    for (var j = 0u; j <= k; j++) {
        mean += share(at, m, j) * select(below, own, j == k);
    }
    let factor = 2.0 * args.bound * (1.0 - args.least * f32(args.bins));
    for (var j = 0u; j < args.bins; j++) {
        let g = select(select(0.0, own, j == k), below, j < k);
        draw[at + j * args.plane] = factor * share(at, m, j) * (g - mean);
    }
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, 64u);
    if (index >= args.total) {
        return;
    }
    let value = x[index];
    let at = raw_start(index);
    if (!(abs(value) < args.bound)) {
        dx[index] = by_value[index];
        for (var j = 0u; j < 3u * args.bins - 1u; j++) {
            draw[at + j * args.plane] = 0.0;
        }
        return;
    }
    let heights = at + args.bins * args.plane;
    let mx = mass(at);
    let my = mass(heights);
    let bx = find(at, mx, value);
    let p = piece(at, bx, locate(heights, my, bx.index));
    let d = p.h / p.w;
    let s = clamp_f32((value - p.x0) / p.w, 0.0, 1.0);
    let rest = clamp_f32((p.x1 - value) / p.w, 0.0, 1.0);
    let t = s * rest;
    let turn = rest - s;
    let bend = p.d0 + p.d1 - 2.0 * d;
    let r = d + bend * t;
    let a = d * s * s + p.d0 * t;
    let rise = p.h * a / r;
    let q = p.d1 * s * s + 2.0 * d * t + p.d0 * rest * rest;

    // Of y - y0 = h a / r and of l, by s, d, d0 and d1.
    let y_s = p.h * d * d * q / (r * r) / d;
    let l_s = 2.0 * (p.d1 * s + d * turn - p.d0 * rest) / q - 2.0 * bend * turn / r;
#if INVERSE
    let dy = (by_value[index] - by_log[index] * l_s / p.w) / (y_s / p.w);
    let u = -dy;
    let v = -by_log[index];
#else
    let u = by_value[index];
    let v = by_log[index];
#endif
    let g_s = u * y_s + v * l_s;
    let g_d = u * (p.h * s * s - rise * (1.0 - 2.0 * t)) / r
        + v * (2.0 / d + 2.0 * t / q - 2.0 * (1.0 - 2.0 * t) / r);
    let g_d0 = u * (p.h - rise) * t / r + v * (rest * rest / q - 2.0 * t / r);
    let g_d1 = -u * rise * t / r + v * (s * s / q - 2.0 * t / r);
#if INVERSE
    dx[index] = dy;
#else
    dx[index] = g_s / p.w;
#endif
    spread(at, mx, bx.index, -g_s / p.w, -(g_s * s + g_d * d) / p.w);
    spread(heights, my, bx.index, u, u * a / r + g_d / p.w);
    let slopes = at + 2u * args.bins * args.plane;
    for (var j = 0u; j + 1u < args.bins; j++) {
        // Knot j + 1 is the right end of bin j and the left end of the next.
        let g = select(0.0, g_d1, j == bx.index) + select(0.0, g_d0, j + 1u == bx.index);
        let here = slopes + j * args.plane;
        draw[here] = g * sigmoid(raw[here] + args.offset);
    }
}
