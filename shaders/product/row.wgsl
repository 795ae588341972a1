// y[b] = act(a[b] @ op(b[b]) + bias + residual[b]), shapes as in matmul.wgsl with m = 1.
// Every weight is used once, so reading them is all there is to it: neighbours read
// neighbouring vec4s of b, along k where b is transposed (k is a multiple of 4), along n
// elsewhere (n is). A workgroup computes 4 * WIDTH columns; its SLICES share out k, and
// their sums are added as a tree, always in the same order.
// Grid: flat workgroups, over columns, then batch. Caller: ops/product.rs
#import grid
#import activation
#import wide
#import half

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
}
#args

@group(0) @binding(0) var<storage, read> a: array<${A}>;
@group(0) @binding(1) var<storage, read> b: array<${B}>;
#if BIAS
@group(0) @binding(2) var<storage, read> bias: array<f32>;
#endif
#if RESIDUAL
@group(0) @binding(${2 + HAS_BIAS}) var<storage, read> residual: array<f32>;
#endif
@group(0) @binding(${2 + HAS_BIAS + RESIDUAL}) var<storage, read_write> y: array<f32>;

const WIDTH = ${WIDTH}u;
const SLICES = ${SLICES}u;

var<workgroup> parts: array<vec4f, ${WIDTH * SLICES}>;

@compute @workgroup_size(${WIDTH * SLICES})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_group(group, groups);
    let tiles = (args.n + 4u * WIDTH - 1u) / (4u * WIDTH);
    // The whole workgroup leaves, or none of it.
    if (index >= tiles * args.batch) {
        return;
    }
    let batch = index / tiles;
    let slice = local / WIDTH;
    let column = ((index % tiles) * WIDTH + local % WIDTH) * 4u;
    // Columns past the edge repeat the last; they are not stored.
    var sum = vec4f();
#if TRANS_B
    let k4 = args.k / 4u;
    let from_a = batch * args.stride_a / 4u;
#repeat j 4
    let from${j} = batch * args.stride_b / 4u + min(column + ${j}u, args.n - 1u) * k4;
#end
    for (var k = slice; k < k4; k += SLICES) {
        let x = ${READ_A}quad(a[from_a + k]);
        sum += vec4f(dot(x, ${READ_B}quad(b[from0 + k])), dot(x, ${READ_B}quad(b[from1 + k])),
            dot(x, ${READ_B}quad(b[from2 + k])), dot(x, ${READ_B}quad(b[from3 + k])));
    }
#else
    let n4 = args.n / 4u;
    let from_b = batch * args.stride_b / 4u + min(column / 4u, n4 - 1u);
    for (var k = slice; k < args.k; k += SLICES) {
        let at = batch * args.stride_a + k;
        sum += ${TYPE_A}_at(a[at >> ${HALF_A}u], at) * ${READ_B}quad(b[from_b + k * n4]);
    }
#endif
    parts[local] = sum;
    for (var half = SLICES / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (slice < half) {
            parts[local] += parts[local + half * WIDTH];
        }
    }
    if (slice > 0u) {
        return;
    }
#repeat j 4
    if (column + ${j}u < args.n) {
        var out${j} = parts[local][${j}];
#if BIAS == 1
        out${j} += bias[column + ${j}u];
#elif BIAS == 2
        out${j} += bias[0];
#endif
        let to${j} = batch * args.n + column + ${j}u;
#if RESIDUAL
        out${j} += residual[to${j}];
#endif
        y[to${j}] = act(out${j});
    }
#end
}
