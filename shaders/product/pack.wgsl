// An operand of a product in the order in which matmul_shuffle.wgsl reads it, zeros past
// the edges.
//   rows (COLUMNS = 0): packed[b, tile, k / 4, r] = src[b, tile * SPAN + r, 4 k .. 4 k + 3]
//   columns (COLUMNS = 1): packed[b, tile, k, c] = src[b, k, tile * SPAN + 4 c .. + 3]
//   src [batch, rows, k], or with SWAPPED its transpose; the columns' operand is
//   [batch, k, columns]; packed of vec4, or of HalfQuad where src is in 16 bits
// Grid: flat, one invocation per vec4. Caller: ops/product.rs
#import grid
#import divide
#import half

struct Args {
    total: u32,
    tiles: u32,
    // vec4s of a tile, and its depth in steps of a packed row of them.
    steps: u32,
    // Rows (or columns) and inner extent of src.
    extent: u32,
    k: u32,
}
#args

@group(0) @binding(0) var<storage, read> src: array<${TYPE_SRC}>;
#if HALF_SRC
@group(0) @binding(1) var<storage, read_write> packed: array<HalfQuad>;
#else
@group(0) @binding(1) var<storage, read_write> packed: array<vec4f>;
#endif

#if COLUMNS
const WIDTH = ${SPAN / 4}u;
#else
const WIDTH = ${SPAN}u;
#endif

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, 64u);
    if (index >= args.total) {
        return;
    }
    let line = index / WIDTH;
    let place = index % WIDTH;
    let tile_all = divide(line, args.steps);
    let step = line - tile_all * args.steps;
    let b = divide(tile_all, args.tiles);
    let tile = tile_all - b * args.tiles;
    let base = b * args.extent * args.k;
#if HALF_SRC
    var value = vec4u();
#else
    var value = vec4f();
#endif
#repeat j 4
#if COLUMNS
    let at${j} = tile * ${SPAN}u + place * 4u + ${j}u;
    let k${j} = step;
#else
    let at${j} = tile * ${SPAN}u + place;
    let k${j} = step * 4u + ${j}u;
#endif
    let inside${j} = (at${j} < args.extent) & (k${j} < args.k);
    let row${j} = min(at${j}, args.extent - 1u);
    let deep${j} = min(k${j}, args.k - 1u);
#if SWAPPED
    let from${j} = base + deep${j} * args.extent + row${j};
#else
    let from${j} = base + row${j} * args.k + deep${j};
#endif
#if HALF_SRC
    value[${j}] = select(0u, half_bits(src[from${j} >> 1u], from${j}), inside${j});
#else
    value[${j}] = select(0.0, src[from${j}], inside${j});
#endif
#end
#if HALF_SRC
    packed[index] = half_quad_of(value);
#else
    packed[index] = value;
#endif
}
