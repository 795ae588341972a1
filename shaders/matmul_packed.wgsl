// y[b] = act(op(a[b]) @ op(b[b]) + bias + residual[b]), shapes as in
// matmul.wgsl, from packed operands
// (matmul_pack.wgsl): a [batch, tiles_m, k / 4, TM] of vec4 along k, b [batch, tiles_n, k,
// LANES] of vec4 along columns. What a subgroup reads lies together, whatever the strides
// of the operands: large powers of two map rows to the same few sets of a cache.
// A subgroup computes TM rows by 4 * LANES columns as matmul_shuffle.wgsl does.
// Grid: flat, subgroups over row tiles, then column tiles, then batch.
// Caller: ops/product.rs
#import grid
#import divide
#import activation

struct Args {
    m: u32,
    n: u32,
    k: u32,
    batch: u32,
    // Tiles between two packed matrices of the batch; 0 where one serves all.
    stride_a: u32,
    stride_b: u32,
    tiles_m: u32,
    tiles_n: u32,
}
#args

@group(0) @binding(0) var<storage, read> a: array<vec4f>;
@group(0) @binding(1) var<storage, read> b: array<vec4f>;
#if BIAS
@group(0) @binding(2) var<storage, read> bias: array<f32>;
#endif
#if VECTORS
#if RESIDUAL
@group(0) @binding(${2 + HAS_BIAS}) var<storage, read> residual: array<vec4f>;
#endif
@group(0) @binding(${2 + HAS_BIAS + RESIDUAL}) var<storage, read_write> y: array<vec4f>;
#else
#if RESIDUAL
@group(0) @binding(${2 + HAS_BIAS}) var<storage, read> residual: array<f32>;
#endif
@group(0) @binding(${2 + HAS_BIAS + RESIDUAL}) var<storage, read_write> y: array<f32>;

// What is added to element i of y.
fn added(i: u32) -> f32 {
#if RESIDUAL
    return residual[i];
#else
    return 0.0;
#endif
}
#endif

const LANES = ${LANES}u;

@compute @workgroup_size(${WORKGROUP})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, ${WORKGROUP}u);
    let lane = local % LANES;
    let job = index / LANES;
    // All lanes of a subgroup share a tile, so they leave together.
    if (job >= args.tiles_m * args.tiles_n * args.batch) {
        return;
    }
    // Neighbours share their columns.
    let line = divide(job, args.tiles_m);
    let tile_m = job - line * args.tiles_m;
    let batch = divide(line, args.tiles_n);
    let tile_n = line - batch * args.tiles_n;
    let k4 = (args.k + 3u) / 4u;
    var at_a = (batch * args.stride_a + tile_m) * k4 * ${TM}u + lane;
    var at_b = (batch * args.stride_b + tile_n) * k4 * 4u * LANES + lane;
#repeat r TM
    var sum${r} = vec4f();
#end
    for (var k = 0u; k < k4; k++) {
#repeat j 4
        let b${j} = b[at_b + ${j}u * LANES];
#end
#repeat h HELD
        let held${h} = a[at_a + ${h}u * LANES];
#end
        at_a += ${TM}u;
        at_b += 4u * LANES;
#repeat r TM
        sum${r} += subgroupShuffle(held${r / LANES}.x, ${r % LANES}u) * b0
            + subgroupShuffle(held${r / LANES}.y, ${r % LANES}u) * b1
            + subgroupShuffle(held${r / LANES}.z, ${r % LANES}u) * b2
            + subgroupShuffle(held${r / LANES}.w, ${r % LANES}u) * b3;
#end
    }
    let column = (tile_n * LANES + lane) * 4u;
    if (column >= args.n) {
        return;
    }
    let m0 = tile_m * ${TM}u;
    var shift = vec4f();
#if BIAS == 1
    let last = args.n - 1u;
    shift = vec4f(bias[column], bias[min(column + 1u, last)], bias[min(column + 2u, last)], bias[min(column + 3u, last)]);
#endif
#repeat r TM
    if (m0 + ${r}u < args.m) {
#if BIAS == 2
        var out${r} = sum${r} + bias[m0 + ${r}u];
#else
        var out${r} = sum${r} + shift;
#endif
        let to${r} = (batch * args.m + m0 + ${r}u) * args.n + column;
#if VECTORS
#if RESIDUAL
        out${r} += residual[to${r} / 4u];
#endif
        y[to${r} / 4u] = act4(out${r});
#else
        y[to${r}] = act(out${r}.x + added(to${r}));
        if (column + 1u < args.n) { y[to${r} + 1u] = act(out${r}.y + added(to${r} + 1u)); }
        if (column + 2u < args.n) { y[to${r} + 2u] = act(out${r}.z + added(to${r} + 2u)); }
        if (column + 3u < args.n) { y[to${r} + 3u] = act(out${r}.w + added(to${r} + 3u)); }
#endif
    }
#end
}
