// packed[block, quad, row, column] = x[block, channels 4 quad .. 4 quad + 3, row - before_y,
//   column - before_x], zeros outside and for channels past the end
//   x [blocks, channels, in_y, in_x], packed [blocks, quads, rows, columns] of vec4
// With FOLD > 1 the taps of a kernel row count as channels: channel c * FOLD + k is
// x[block, c] moved by k * DILATION pixels to the left.
// What reads the copy needs one load for four channels and no bounds.
// Grid: flat, one invocation per row of the copy. Caller: ops/conv/pack.rs
#import grid
#import divide
#import wide

struct Args {
    total: u32,
    quads: u32,
    channels: u32,
    in_y: u32,
    in_x: u32,
    rows: u32,
    columns: u32,
    before_y: i32,
    before_x: i32,
}
#args

#if VECTORS
@group(0) @binding(0) var<storage, read> x: array<Quad>;
#else
@group(0) @binding(0) var<storage, read> x: array<f32>;
#endif
@group(0) @binding(1) var<storage, read_write> packed: array<Quad>;

@compute @workgroup_size(${WORKGROUP})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, ${WORKGROUP}u);
    if (index >= args.total) {
        return;
    }
    let plane = divide(index, args.rows);
    let row = index - plane * args.rows;
    let block = divide(plane, args.quads);
    let nth = plane - block * args.quads;

    let columns = args.columns;
    let to = index * columns;
    let in_x = args.in_x;
    let iy = i32(row) - args.before_y;
    let inside = u32(iy) < args.in_y;
    let line = min(u32(iy), args.in_y - 1u);
#repeat j 4
    let channel${j} = (nth * 4u + ${j}u) / ${FOLD}u;
    let ok${j} = inside & (channel${j} < args.channels);
    let from${j} = ((block * args.channels + min(channel${j}, args.channels - 1u)) * args.in_y + line) * in_x;
#end
#if VECTORS
    // Rows of whole vec4s, with all of them inside the copy.
    let left = u32(args.before_x);
    for (var i = 0u; i < left; i++) {
        packed[to + i] = Quad();
    }
    for (var i = 0u; i < in_x; i += 4u) {
#repeat j 4
        let v${j} = select(vec4f(), quad(x[(from${j} + i) / 4u]), ok${j});
#end
        let at = to + left + i;
        packed[at] = to_quad(vec4f(v0.x, v1.x, v2.x, v3.x));
        packed[at + 1u] = to_quad(vec4f(v0.y, v1.y, v2.y, v3.y));
        packed[at + 2u] = to_quad(vec4f(v0.z, v1.z, v2.z, v3.z));
        packed[at + 3u] = to_quad(vec4f(v0.w, v1.w, v2.w, v3.w));
    }
    for (var i = left + in_x; i < columns; i++) {
        packed[to + i] = Quad();
    }
#else
#repeat j 4
    let moved${j} = i32(((nth * 4u + ${j}u) % ${FOLD}u) * ${DILATION}u) - args.before_x;
#end
    for (var i = 0u; i < columns; i++) {
#repeat j 4
        let at${j} = u32(i32(i) + moved${j});
        let v${j} = select(0.0, x[from${j} + min(at${j}, in_x - 1u)], ok${j} & (at${j} < in_x));
#end
        packed[to + i] = to_quad(vec4f(v0, v1, v2, v3));
    }
#endif
}
