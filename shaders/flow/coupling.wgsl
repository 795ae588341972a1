// Affine coupling of x [N, C, H, W] with a raw scale s and a shift t per transformed element:
//   l = log of the scale:  exp s;  sigmoid log sigmoid(s + a);  tanh a tanh(s / a)
//       where there is a least scale, log(e^l + least);  none 0
//   y = x e^l + t, or (x + t) e^l where the shift comes first; INVERSE undoes it
//   part[n, i] = the sum of l (INVERSE: of -l) over what invocation (n, i) transforms
// Kept elements are copied, IN_PLACE (y lies where x does) they stay. CHECKER: elements
// with (h + w) % 2 == parity are kept, else whole channels are. All positions count cells:
// eight elements (HALVES == 2), four (VEC4) or one. ONCE: no more than one cell each.
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
#if ONCE
    let cell = moved.x;
    if (cell < moved.y) {
#else
    for (var cell = moved.x; cell < moved.y; cell += args.lanes) {
#endif
        let at = place(n, cell);
        let all_v = ${X}[at.x];
        let all_t = raw[at.t];
#if SCALE != none
        let all_s = raw[at.s];
#endif
#repeat h WORK
        let v${h} = part${h}(all_v, at);
        let t${h} = part${h}(all_t, at);
#if SCALE == none
#if INVERSE
        let out${h} = v${h} - t${h};
#else
        let out${h} = v${h} + t${h};
#endif
#else
        let s${h} = scale(part${h}(all_s, at));
#if INVERSE
        let log_det${h} = -s${h}.log;
#if SHIFT_FIRST
        let out${h} = v${h} / s${h}.value - t${h};
#else
        let out${h} = (v${h} - t${h}) / s${h}.value;
#endif
#else
        let log_det${h} = s${h}.log;
#if SHIFT_FIRST
        let out${h} = (v${h} + t${h}) * s${h}.value;
#else
        let out${h} = v${h} * s${h}.value + t${h};
#endif
#endif
#if CHECKER != PICKED
        total += select(Cell(), log_det${h}, transformed(at.inner));
#else
        total += log_det${h};
#endif
#endif
#end
        y[at.x] = joined(all_v, out0, out${WORK-1}, at);
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
        y[at] = x[at];
    }
#endif
#if SCALE != none
    part[index] = add_up(total);
#endif
}
