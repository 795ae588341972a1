// Affine coupling of x [N, C, H, W] with a raw scale s and a shift t per transformed element:
//   l = log of the scale:  exp s;  sigmoid log sigmoid(s + a);  tanh a tanh(s / a)
//       where there is a least scale, log(e^l + least);  none 0
//   y = x e^l + t, or (x + t) e^l where the shift comes first; INVERSE undoes it
//   part[n, i] = the sum of l (INVERSE: of -l) over what invocation (n, i) transforms
// Kept elements are copied, IN_PLACE (y lies where x does) they stay. CHECKER: elements with (h + w) % 2 == parity are kept,
// else whole channels are. All positions count cells: four elements (VEC4) or one.
// Invocations of sample n take turns in its cells, `lanes` of them in blocks of their own.
// Grid: flat over N * parts. Caller: ops/coupling.rs
#import grid
#import divide
#import coupling

@group(0) @binding(0) var<storage, read_write> y: array<Stored>;
@group(0) @binding(1) var<storage, read> raw: array<Stored>;
#if SCALE != none
@group(0) @binding(2) var<storage, read_write> part: array<f32>;
#endif
#if IN_PLACE == 0
@group(0) @binding(${BINDING_X}) var<storage, read> x: array<Stored>;
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
    var total = Cell();
    for (var cell = moved.x; cell < moved.y; cell += args.lanes) {
        let at = place(n, cell);
        let v = cell_of(${X}[at.x]);
        let t = cell_of(raw[at.t]);
#if SCALE == none
#if INVERSE
        let out = v - t;
#else
        let out = v + t;
#endif
#else
        let s = scale(cell_of(raw[at.s]));
#if INVERSE
        let log_det = -s.log;
#if SHIFT_FIRST
        let out = v / s.value - t;
#else
        let out = (v - t) / s.value;
#endif
#else
        let log_det = s.log;
#if SHIFT_FIRST
        let out = (v + t) * s.value;
#else
        let out = v * s.value + t;
#endif
#endif
#endif
#if CHECKER
        let inside = transformed(at.inner);
        y[at.x] = stored(select(v, out, inside));
#if SCALE != none
        total += select(Cell(), log_det, inside);
#endif
#else
        y[at.x] = stored(out);
#if SCALE != none
        total += log_det;
#endif
#endif
    }
#if COPY
    let stay = block(mine, args.kept_each, args.kept_cells);
    for (var cell = stay.x; cell < stay.y; cell += args.lanes) {
        let at = kept(n, cell);
        y[at] = x[at];
    }
#endif
#if SCALE != none
    part[index] = add_up(total);
#endif
}
