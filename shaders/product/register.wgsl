// y[b] = act(op(a[b]) @ op(b[b]) + bias + residual[b])
//   a [batch, m, k] (or [k, m]), b [batch, k, n] (or [n, k]), y and residual [batch, m, n],
//   bias [n] with BIAS = 1, [m] with BIAS = 2
// One invocation computes a tile of TM rows by 4 columns in registers; no
// workgroup memory, so it suits software adapters and small problems.
// Grid: flat, x over column tiles, then row tiles, then batch. Caller: ops/product.rs
#import grid
#import activation
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

@group(0) @binding(0) var<storage, read> a: array<${TYPE_A}>;
@group(0) @binding(1) var<storage, read> b: array<${TYPE_B}>;
#if BIAS
@group(0) @binding(2) var<storage, read> bias: array<f32>;
#endif
#if RESIDUAL
@group(0) @binding(${2 + HAS_BIAS}) var<storage, read> residual: array<f32>;
#endif
@group(0) @binding(${2 + HAS_BIAS + RESIDUAL}) var<storage, read_write> y: array<f32>;

fn b_at(i: u32) -> f32 {
    return ${TYPE_B}_at(b[i >> ${HALF_B}u], i);
}

// What is added to element i of y.
fn added(i: u32) -> f32 {
#if RESIDUAL
    return residual[i];
#else
    return 0.0;
#endif
}

const TM = ${TM}u;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, 64u);
    let tiles_n = (args.n + 3u) / 4u;
    let tiles_m = (args.m + TM - 1u) / TM;
    if (index >= tiles_n * tiles_m * args.batch) {
        return;
    }
    let n0 = (index % tiles_n) * 4u;
    let rest = index / tiles_n;
    let m0 = (rest % tiles_m) * TM;
    let batch = rest / tiles_m;
    let base_a = batch * args.stride_a;
    let base_b = batch * args.stride_b;

    // Rows and columns past the edge repeat the last one; they are not stored.
    var columns: vec4u = min(vec4u(n0, n0 + 1u, n0 + 2u, n0 + 3u), vec4u(args.n - 1u));
#if TRANS_B
    columns *= args.k;
    let step_b = 1u;
#else
    let step_b = args.n;
#endif
#if TRANS_A
    let row_a = 1u;
    let step_a = args.m;
#else
    let row_a = args.k;
    let step_a = 1u;
#endif
    columns += base_b;
#repeat i TM
    let a${i} = base_a + min(m0 + ${i}u, args.m - 1u) * row_a;
    var acc${i} = vec4f();
#end
    for (var k = 0u; k < args.k; k++) {
        let at = columns + k * step_b;
        let bv = vec4f(b_at(at.x), b_at(at.y), b_at(at.z), b_at(at.w));
        let ka = k * step_a;
#repeat i TM
        let from${i} = a${i} + ka;
        acc${i} += ${TYPE_A}_at(a[from${i} >> ${HALF_A}u], from${i}) * bv;
#end
    }
    var shift = vec4f();
#if BIAS == 1
    let last = args.n - 1u;
    shift = vec4f(bias[n0], bias[min(n0 + 1u, last)], bias[min(n0 + 2u, last)], bias[min(n0 + 3u, last)]);
#endif
#repeat i TM
    if (m0 + ${i}u < args.m) {
#if BIAS == 2
        let out = acc${i} + bias[m0 + ${i}u];
#else
        let out = acc${i} + shift;
#endif
        let at = (batch * args.m + m0 + ${i}u) * args.n + n0;
        y[at] = act(out.x + added(at));
        if (n0 + 1u < args.n) { y[at + 1u] = act(out.y + added(at + 1u)); }
        if (n0 + 2u < args.n) { y[at + 2u] = act(out.z + added(at + 2u)); }
        if (n0 + 3u < args.n) { y[at + 3u] = act(out.w + added(at + 3u)); }
    }
#end
}
