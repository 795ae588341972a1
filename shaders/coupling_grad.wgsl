// The gradient of shaders/coupling.wgsl from its output y, so that x need not be kept:
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
    for (var cell = moved.x; cell < moved.y; cell += args.lanes) {
        let at = place(n, cell);
        let s = scale(cell_of(raw[at.s]));
        let g = cell_of(${DY}[at.x]);
#if INVERSE
        let by_x = g / s.value;
#if SHIFT_FIRST
        let by_t = -g;
        let by_s = -s.slope * (g * (cell_of(y[at.x]) + cell_of(raw[at.t])) + u);
#else
        let by_t = -by_x;
        let by_s = -s.slope * (g * cell_of(y[at.x]) + u);
#endif
#else
        let by_x = g * s.value;
#if SHIFT_FIRST
        let by_t = by_x;
        let by_s = s.slope * (g * cell_of(y[at.x]) + u);
#else
        let by_t = g;
        let by_s = s.slope * (g * (cell_of(y[at.x]) - cell_of(raw[at.t])) + u);
#endif
#endif
#if CHECKER
        let inside = transformed(at.inner);
        dx[at.x] = stored(select(g, by_x, inside));
        draw[at.t] = stored(select(Cell(), by_t, inside));
        draw[at.s] = stored(select(Cell(), by_s, inside));
#else
        dx[at.x] = stored(by_x);
        draw[at.t] = stored(by_t);
        draw[at.s] = stored(by_s);
#endif
    }
#if COPY
    let stay = block(mine, args.kept_each, args.kept_cells);
    for (var cell = stay.x; cell < stay.y; cell += args.lanes) {
        let at = kept(n, cell);
        dx[at] = dy[at];
    }
#endif
}
