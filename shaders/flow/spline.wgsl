// Monotone rational-quadratic splines (Gregory and Delbourgo 1982; Durkan et al. 2019), one
// per element, and the logarithm of their derivative. In the bin of x, with
// s = (x - x0) / w, d = h / w, t = s (1 - s), r = d + (d0 + d1 - 2 d) t:
//   y = y0 + h (d s^2 + d0 t) / r
//   l = log(d^2 (d1 s^2 + 2 d t + d0 (1 - s)^2) / r^2)
// INVERSE: x is what y stands for above; s is the root 2 c / (-b - sqrt(b^2 - 4 a c)) of
//   a = (x - y0) (d0 + d1 - 2 d) + h (d - d0), b = h d0 - (x - y0) (d0 + d1 - 2 d),
//   c = -d (x - y0), and l that of the inverse.
// From the middle of a bin on, 1 - s is found likewise from the far end, which keeps the
// digits that s close to 1 would lose.
// Outside -bound .. bound y = x, l = 0.
//   x, y, l [N, C, ..], raw [N, C (3 bins - 1), ..]
// Grid: flat, one invocation per element. Caller: ops/spline.rs
#import grid
#import spline

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> raw: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<storage, read_write> l: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, 64u);
    if (index >= args.total) {
        return;
    }
    let v = x[index];
    if (!(abs(v) < args.bound)) {
        y[index] = v;
        l[index] = select(0.0, v, is_nan(v));
        return;
    }
    let at = raw_start(index);
    let heights = at + args.bins * args.plane;
    let mx = mass(at);
    let my = mass(heights);
#if INVERSE
    let by = find(heights, my, v);
    let bx = locate(at, mx, by.index);
#else
    let bx = find(at, mx, v);
    let by = locate(heights, my, bx.index);
#endif
    let p = piece(at, bx, by);
    let d = p.h / p.w;
    let bend = p.d0 + p.d1 - 2.0 * d;
#if INVERSE
    let far = v - p.y0 > p.y1 - v;
    let up = select(v - p.y0, p.y1 - v, far);
    let d_near = select(p.d0, p.d1, far);
    let a = up * bend + p.h * (d - d_near);
    let b = p.h * d_near - up * bend;
    let c = -d * up;
    let near = clamp_f32(2.0 * c / (-b - sqrt(max_f32(b * b - 4.0 * a * c, 0.0))), 0.0, 1.0);
#else
    let far = v - p.x0 > p.x1 - v;
    let near = clamp_f32(select(v - p.x0, p.x1 - v, far) / p.w, 0.0, 1.0);
#endif
    let s = select(near, 1.0 - near, far);
    let rest = select(1.0 - near, near, far);
    let t = s * rest;
    let r = d + bend * t;
    let q = p.d1 * s * s + 2.0 * d * t + p.d0 * rest * rest;
    let log_slope = 2.0 * log_f32(d / r) + log_f32(q);
#if INVERSE
    y[index] = select(p.x0 + s * p.w, p.x1 - rest * p.w, far);
    l[index] = -log_slope;
#else
    let rise = p.h * (d * near * near + select(p.d0, p.d1, far) * t) / r;
    y[index] = select(p.y0 + rise, p.y1 - rise, far);
    l[index] = log_slope;
#endif
}
