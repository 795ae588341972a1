// y[b] = act(op(a[b]) @ op(b[b]) + bias + residual[b]), shapes as in matmul.wgsl; k, and
// m where a is transposed, are multiples of 4, n of 4 * QUADS (1 or 2). With PACKED the
// operands are copies by matmul_pack.wgsl, zeros past their edges: a [batch, tiles_m,
// k / 4, TM] of vec4 along k, b [batch, tiles_n, k, QUADS * LANES] of vec4 along columns; n
// is then any number, where VECTORS is 0. READ_A and READ_B are `half_` where an operand is
// stored so.
// SIDE_BY_SIDE: one a serves all samples, whose columns make up one long row of tiles.
// EXCHANGED: y is stored transposed, [batch, n, m], with residual; m is a multiple of 4.
// OVER: y[b] is the sum of the products of up to per_part neighbouring samples.
// A subgroup computes TM rows by 4 * QUADS * LANES columns: every lane its own. The
// block of a, TM by 4, is read once by all lanes together and shuffled around, so
// loads, which are what a software adapter spends its time on, are few. Of a transposed a,
// lanes 0 .. TM / 4 hold four rows each: a subgroup must have as many.
// Grid: flat, subgroups over column tiles, then row tiles, then batch.
// Caller: ops/product.rs
#import grid
#import activation
#import wide
#import half
#if SIDE_BY_SIDE
#import divide
#endif

struct Args {
    m: u32,
    n: u32,
    k: u32,
    batch: u32,
    // Elements between two matrices of the batch; 0 where one serves all.
    stride_a: u32,
    stride_b: u32,
#if ACT == leaky_relu
    slope: f32,
#endif
#if OVER
    // Of all parts, and of one; elements between two of them.
    samples: u32,
    per_part: u32,
    sample_a: u32,
    sample_b: u32,
#endif
}
#args

@group(0) @binding(0) var<storage, read> a: array<${A}>;
@group(0) @binding(1) var<storage, read> b: array<${B}>;
#if BIAS
@group(0) @binding(2) var<storage, read> bias: array<${BIAS_TYPE}>;
#endif
#if RESIDUAL
@group(0) @binding(${2 + HAS_BIAS}) var<storage, read> residual: array<${Y}>;
#endif
@group(0) @binding(${2 + HAS_BIAS + RESIDUAL}) var<storage, read_write> y: array<${Y}>;

const LANES = ${LANES}u;
// Columns of a lane.
const EACH = ${4 * QUADS}u;

@compute @workgroup_size(${WORKGROUP})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, ${WORKGROUP}u);
    let lane = local % LANES;
    let tiles_n = (${COLUMNS} + EACH * LANES - 1u) / (EACH * LANES);
    let tiles_m = (args.m + ${TM - 1}u) / ${TM}u;
    let tile = index / LANES;
    // All lanes of a subgroup share a tile, so they leave together.
    if (tile >= tiles_n * tiles_m * ${SAMPLES}) {
        return;
    }
    let column = ((tile % tiles_n) * LANES + lane) * EACH;
    let rest = tile / tiles_n;
    let m0 = (rest % tiles_m) * ${TM}u;

    // In units of vec4. What is past the edge repeats the last row or columns; it is
    // not stored.
#if SIDE_BY_SIDE
    let inside = min(column, ${COLUMNS} - EACH);
    let batch = divide(inside, args.n);
    let n0 = (inside - batch * args.n) / 4u;
#else
    let batch = rest / tiles_m;
    let n0 = min(column, args.n - EACH) / 4u;
#endif
    let n4 = args.n / 4u;
    let k4 = args.k / 4u;
    let base_a = batch * args.stride_a / 4u;
    let base_b = batch * args.stride_b / 4u;
#if PACKED
#repeat h HELD
    let row${h} = base_a + (rest % tiles_m) * k4 * ${TM}u + ${h * LANES}u + lane;
#end
#else
#if TRANS_A
    let m4 = args.m / 4u;
    let first = base_a + min(m0 / 4u + lane % ${TM / 4}u, m4 - 1u);
#else
#repeat h HELD
    let row${h} = base_a + min(m0 + ${h * LANES}u + lane, args.m - 1u) * k4;
#end
#endif
#if TRANS_B
#repeat j 4 * QUADS
    let from${j} = base_b + (n0 * 4u + ${j}u) * k4;
#end
#endif
#endif

    // The order of what follows is measured: with the sums declared after the addresses, or
    // those of y written otherwise, a software adapter's compiler makes the loop a sixth slower.
#repeat r TM
#repeat q QUADS
    var sum${r}_${q} = vec4f();
#end
#end
#if PACKED
    let first_b = base_b / ${QUADS}u + (tile % tiles_n) * args.k * LANES + lane;
    let step_b = LANES;
#else
    let first_b = (base_b + n0) / ${QUADS}u;
    let step_b = n4 / ${QUADS}u;
#endif
#if OVER
    let those = min(args.per_part, args.samples - batch * args.per_part);
    for (var s = 0u; s < those; s++) {
    let skip_a = s * args.sample_a / 4u;
    let skip_b = s * args.sample_b / 4u;
#endif
    for (var k = 0u; k < k4; k++) {
        // bJ_Q: row J of b in a lane's columns; where there are eight, the even ones for Q = 0
        // and the odd ones for Q = 1, which is how they are read.
#if TRANS_B
#repeat j 4 * QUADS
        let c${j} = ${READ_B}quad(b[from${j}${SKIP_B} + k]);
#end
#repeat q QUADS
        let b0_${q} = vec4f(c${q}.x, c${1 * QUADS + q}.x, c${2 * QUADS + q}.x, c${3 * QUADS + q}.x);
        let b1_${q} = vec4f(c${q}.y, c${1 * QUADS + q}.y, c${2 * QUADS + q}.y, c${3 * QUADS + q}.y);
        let b2_${q} = vec4f(c${q}.z, c${1 * QUADS + q}.z, c${2 * QUADS + q}.z, c${3 * QUADS + q}.z);
        let b3_${q} = vec4f(c${q}.w, c${1 * QUADS + q}.w, c${2 * QUADS + q}.w, c${3 * QUADS + q}.w);
#end
#else
        let at = first_b + k * 4u * step_b;
#repeat j 4
        let w${j} = b[at + ${j}u * step_b];
#if QUADS == 2
        let b${j}_0 = ${READ_B}evens(w${j});
        let b${j}_1 = ${READ_B}odds(w${j});
#else
        let b${j}_0 = ${READ_B}quad(w${j});
#endif
#end
#endif
#if TRANS_A
#repeat j 4
        let held${j} = ${READ_A}quad(a[first + (k * 4u + ${j}u) * m4]);
#end
#repeat r TM
#repeat q QUADS
        var s${r}_${q} = fma(vec4f(subgroupShuffle(held0[${r % 4}], ${r / 4}u)), b0_${q}, sum${r}_${q});
        s${r}_${q} = fma(vec4f(subgroupShuffle(held1[${r % 4}], ${r / 4}u)), b1_${q}, s${r}_${q});
        s${r}_${q} = fma(vec4f(subgroupShuffle(held2[${r % 4}], ${r / 4}u)), b2_${q}, s${r}_${q});
        sum${r}_${q} = fma(vec4f(subgroupShuffle(held3[${r % 4}], ${r / 4}u)), b3_${q}, s${r}_${q});
#end
#end
#else
#repeat h HELD
        let held${h} = ${READ_A}quad(a[row${h}${SKIP_A} + k * ${STEP_A}u]);
#end
#repeat r TM
#repeat q QUADS
        sum${r}_${q} = fma(vec4f(subgroupShuffle(held${r / LANES}.w, ${r % LANES}u)), b3_${q}, fma(vec4f(subgroupShuffle(held${r / LANES}.z, ${r % LANES}u)), b2_${q}, fma(vec4f(subgroupShuffle(held${r / LANES}.y, ${r % LANES}u)), b1_${q}, fma(vec4f(subgroupShuffle(held${r / LANES}.x, ${r % LANES}u)), b0_${q}, sum${r}_${q}))));
#end
#end
#endif
    }
#if OVER
    }
#endif
    if (column >= ${COLUMNS}) {
        return;
    }
#if EXCHANGED
#repeat q QUADS
#repeat j 4
    let line${q}_${j} = ((batch * args.n + n0 * 4u + ${QUADS * j + q}u) * args.m + m0) / 4u;
#repeat r TM / 4
    if (m0 + ${4 * r}u < args.m) {
        var value = vec4f(sum${4 * r}_${q}[${j}], sum${4 * r + 1}_${q}[${j}], sum${4 * r + 2}_${q}[${j}], sum${4 * r + 3}_${q}[${j}]);
#if BIAS == 1
        value += bias[n0 * 4u + ${QUADS * j + q}u];
#endif
#if BIAS == 2
        value += vec4f(bias[m0 + ${4 * r}u], bias[m0 + ${4 * r + 1}u], bias[m0 + ${4 * r + 2}u], bias[m0 + ${4 * r + 3}u]);
#endif
#if RESIDUAL
        value += residual[line${q}_${j} + ${r}u];
#endif
        y[line${q}_${j} + ${r}u] = act4(value);
    }
#end
#end
#end
#else
#repeat r TM
    if (m0 + ${r}u < args.m) {
#if VECTORS
        let to = (batch * args.m + m0 + ${r}u) * n4 + n0;
#endif
#if QUADS == 2
        var out0 = vec4f(sum${r}_0.x, sum${r}_1.x, sum${r}_0.y, sum${r}_1.y);
        var out1 = vec4f(sum${r}_0.z, sum${r}_1.z, sum${r}_0.w, sum${r}_1.w);
#else
        var out0 = sum${r}_0;
#endif
#if VECTORS == 0
        let line = (batch * args.m + m0 + ${r}u) * args.n;
#endif
#repeat q QUADS
#if BIAS == 2
        out${q} += bias[m0 + ${r}u];
#endif
#if VECTORS
#if BIAS == 1
        out${q} += bias[n0 + ${q}u];
#endif
#if RESIDUAL
        out${q} += residual[to + ${q}u];
#endif
        y[to + ${q}u] = act4(out${q});
#else
#repeat j 4
        if (column + ${4 * q + j}u < args.n) {
            var value = out${q}[${j}];
#if BIAS == 1
            value += bias[column + ${4 * q + j}u];
#endif
#if RESIDUAL
            value += residual[line + column + ${4 * q + j}u];
#endif
            y[line + column + ${4 * q + j}u] = act(value);
        }
#end
#endif
#end
    }
#end
#endif
}
