// The gradient of shaders/flow/coupling.wgsl from its output y, so that x need not be kept:
// with dy and u[n] the upstream gradients of y and of the summed log-scales,
//   dx = dy e^l                          (INVERSE: dy e^-l)
//   dt = dy, or dy e^l if the shift comes first
//                                        (INVERSE: -dy e^-l, or -dy)
//   ds = l'(s) (dy (y - t) + u)          (INVERSE: l'(s) (-dy y - u); without t, or with
//                                         it, the other way round if the shift comes first)
// Kept elements: dx = dy, and where they have raw values (CHECKER) ds = dt = 0. IN_PLACE:
// dx lies where dy does.
// Grid: flat over N * parts, as there. Caller: ops/coupling.rs
#import grid
#import divide
#import coupling

@group(0) @binding(0) var<storage, read> y: array<Stored>;
@group(0) @binding(1) var<storage, read> raw: array<Stored>;
@group(0) @binding(2) var<storage, read> upstream: array<f32>;
@group(0) @binding(3) var<storage, read_write> dx: array<Stored>;
@group(0) @binding(4) var<storage, read_write> draw: array<Stored>;
#if IN_PLACE == 0
@group(0) @binding(5) var<storage, read> dy: array<Stored>;
#endif

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, 64u);
    if (index >= args.samples * args.parts) {
        return;
    }
    let n = divide(index, args.parts);
    let mine = index - n * args.parts;
    let moved = block(mine, args.each, args.cells);
    let u = Cell(upstream[n]);
#if ONCE
    let cell = moved.x;
    if (cell < moved.y) {
#else
    for (var cell = moved.x; cell < moved.y; cell += args.lanes) {
#endif
        let at = place(n, cell);
        let all_s = raw[at.s];
        let all_g = ${DY}[at.x];
        let all_y = y[at.x];
#if SHIFT_FIRST == INVERSE
        let all_t = raw[at.t];
#endif
#repeat h WORK
        let s${h} = scale(part${h}(all_s, at));
        let g${h} = part${h}(all_g, at);
        let y${h} = part${h}(all_y, at);
#if INVERSE
        let by_x${h} = g${h} / s${h}.value;
#if SHIFT_FIRST
        let by_t${h} = -g${h};
        let by_s${h} = -s${h}.slope * (g${h} * (y${h} + part${h}(all_t, at)) + u);
#else
        let by_t${h} = -by_x${h};
        let by_s${h} = -s${h}.slope * (g${h} * y${h} + u);
#endif
#else
        let by_x${h} = g${h} * s${h}.value;
#if SHIFT_FIRST
        let by_t${h} = by_x${h};
        let by_s${h} = s${h}.slope * (g${h} * y${h} + u);
#else
        let by_t${h} = g${h};
        let by_s${h} = s${h}.slope * (g${h} * (y${h} - part${h}(all_t, at)) + u);
#endif
#endif
#end
        dx[at.x] = joined(all_g, by_x0, by_x${WORK-1}, at);
        draw[at.t] = joined(nothing(), by_t0, by_t${WORK-1}, at);
        draw[at.s] = joined(nothing(), by_s0, by_s${WORK-1}, at);
    }
#if COPY
    let stay = block(mine, args.kept_each, args.kept_cells);
#if ONCE
    let still = stay.x;
    if (still < stay.y) {
#else
    for (var still = stay.x; still < stay.y; still += args.lanes) {
#endif
        let at = kept(n, still);
        dx[at] = dy[at];
    }
#endif
}
