// y[b] = act(op(a[b]) @ op(b[b]) + bias + residual[b]), shapes as in
// matmul.wgsl; m (where a is
// transposed), n and k are multiples of 4, and operands are read as vec4.
// A subgroup computes TM rows by 4 * LANES columns: every lane its own 4 columns. The
// block of a, TM by 4, is read once by all lanes together and shuffled around, so
// loads, which are what a software adapter spends its time on, are few.
// Grid: flat, subgroups over column tiles, then row tiles, then batch.
// Caller: ops/product.rs
#import grid
#import activation

struct Args {
    m: u32,
    n: u32,
    k: u32,
    batch: u32,
    // Elements between two matrices of the batch; 0 where one serves all.
    stride_a: u32,
    stride_b: u32,
}
#args

@group(0) @binding(0) var<storage, read> a: array<vec4f>;
@group(0) @binding(1) var<storage, read> b: array<vec4f>;
#if BIAS
#if BIAS == 1
@group(0) @binding(2) var<storage, read> bias: array<vec4f>;
#else
@group(0) @binding(2) var<storage, read> bias: array<f32>;
#endif
#endif
#if RESIDUAL
@group(0) @binding(${2 + HAS_BIAS}) var<storage, read> residual: array<vec4f>;
#endif
@group(0) @binding(${2 + HAS_BIAS + RESIDUAL}) var<storage, read_write> y: array<vec4f>;

const LANES = ${LANES}u;

@compute @workgroup_size(${WORKGROUP})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, ${WORKGROUP}u);
    let lane = local % LANES;
    let tiles_n = (args.n + 4u * LANES - 1u) / (4u * LANES);
    let tiles_m = (args.m + ${TM - 1}u) / ${TM}u;
    let tile = index / LANES;
    // All lanes of a subgroup share a tile, so they leave together.
    if (tile >= tiles_n * tiles_m * args.batch) {
        return;
    }
    let column = ((tile % tiles_n) * LANES + lane) * 4u;
    let rest = tile / tiles_n;
    let m0 = (rest % tiles_m) * ${TM}u;
    let batch = rest / tiles_m;

    // In units of vec4. What is past the edge repeats the last row or columns; it is
    // not stored.
    let n0 = min(column, args.n - 4u) / 4u;
    let n4 = args.n / 4u;
    let k4 = args.k / 4u;
    let base_a = batch * args.stride_a / 4u;
    let base_b = batch * args.stride_b / 4u;
#if TRANS_A
    let m4 = args.m / 4u;
    let first = base_a + min(m0 / 4u + lane % ${TM / 4}u, m4 - 1u);
#else
#repeat h HELD
    let row${h} = base_a + min(m0 + ${h * LANES}u + lane, args.m - 1u) * k4;
#end
#endif
#if TRANS_B
#repeat j 4
    let from${j} = base_b + (n0 * 4u + ${j}u) * k4;
#end
#endif

#repeat r TM
    var sum${r} = vec4f();
#end
    for (var k = 0u; k < k4; k++) {
#if TRANS_B
#repeat j 4
        let c${j} = b[from${j} + k];
#end
        let b0 = vec4f(c0.x, c1.x, c2.x, c3.x);
        let b1 = vec4f(c0.y, c1.y, c2.y, c3.y);
        let b2 = vec4f(c0.z, c1.z, c2.z, c3.z);
        let b3 = vec4f(c0.w, c1.w, c2.w, c3.w);
#else
        let at = base_b + k * 4u * n4 + n0;
        let b0 = b[at];
        let b1 = b[at + n4];
        let b2 = b[at + 2u * n4];
        let b3 = b[at + 3u * n4];
#endif
#if TRANS_A
#repeat j 4
        let held${j} = a[first + (k * 4u + ${j}u) * m4];
#end
#repeat r TM
        sum${r} += subgroupShuffle(held0[${r % 4}], ${r / 4}u) * b0
            + subgroupShuffle(held1[${r % 4}], ${r / 4}u) * b1
            + subgroupShuffle(held2[${r % 4}], ${r / 4}u) * b2
            + subgroupShuffle(held3[${r % 4}], ${r / 4}u) * b3;
#end
#else
#repeat h HELD
        let held${h} = a[row${h} + k];
#end
#repeat r TM
        sum${r} += subgroupShuffle(held${r / LANES}.x, ${r % LANES}u) * b0
            + subgroupShuffle(held${r / LANES}.y, ${r % LANES}u) * b1
            + subgroupShuffle(held${r / LANES}.z, ${r % LANES}u) * b2
            + subgroupShuffle(held${r / LANES}.w, ${r % LANES}u) * b3;
#end
#endif
    }
    if (column >= args.n) {
        return;
    }
    var shift = vec4f();
#if BIAS == 1
    shift = bias[n0];
#endif
#repeat r TM
    if (m0 + ${r}u < args.m) {
        let to${r} = (batch * args.m + m0 + ${r}u) * n4 + n0;
#if BIAS == 2
        var out${r} = sum${r} + bias[m0 + ${r}u];
#else
        var out${r} = sum${r} + shift;
#endif
#if RESIDUAL
        out${r} += residual[to${r}];
#endif
        y[to${r}] = act4(out${r});
    }
#end
}
