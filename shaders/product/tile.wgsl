// y[b] = act(op(a[b]) @ op(b[b]) + bias + residual[b]), shapes as in
// matmul.wgsl
// A workgroup of COLUMNS x ROWS invocations computes a tile of ROWS * TM by COLUMNS * TN:
// blocks of BK of the inner axis go through workgroup memory, the next block is read
// while the current one is multiplied. An invocation's rows and columns are ROWS and
// COLUMNS apart, so that neighbours read neighbouring words. With SPLIT the inner axis
// is dealt out in parts of `part`, whose sums go to y [parts, batch, m, n] for
// matmul_merge.wgsl.
// Grid: flat workgroups, over column tiles, then row tiles, then batch, then parts.
// Caller: ops/product.rs
#import grid
#import divide
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
    tiles_m: u32,
    tiles_n: u32,
    // Of the inner axis, a multiple of BK.
    part: u32,
    total: u32,
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

const BM = ${ROWS * TM}u;
const BN = ${COLUMNS * TN}u;
const BK = ${BK}u;
const SIZE = ${ROWS * COLUMNS}u;

// One word more than a row, so that a column's words lie in different banks.
var<workgroup> block_a: array<f32, ${BK * (ROWS * TM + 1)}>;
var<workgroup> block_b: array<f32, ${BK * (COLUMNS * TN + 1)}>;

fn a_at(i: u32) -> f32 {
    return ${TYPE_A}_at(a[i >> ${HALF_A}u], i);
}

fn b_at(i: u32) -> f32 {
    return ${TYPE_B}_at(b[i >> ${HALF_B}u], i);
}

@compute @workgroup_size(${ROWS * COLUMNS})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_group(group, groups);
    // The whole workgroup leaves, or none of it.
    if (index >= args.total) {
        return;
    }
    let line = divide(index, args.tiles_n);
    let n0 = (index - line * args.tiles_n) * BN;
    let plane = divide(line, args.tiles_m);
    let m0 = (line - plane * args.tiles_m) * BM;
    let chunk = divide(plane, args.batch);
    let batch = plane - chunk * args.batch;
    let base_a = batch * args.stride_a;
    let base_b = batch * args.stride_b;
    let first = chunk * args.part;
    let end = min(first + args.part, args.k);

    let row = local / ${COLUMNS}u;
    let column = local % ${COLUMNS}u;
#repeat i TM
#repeat j TN
    var sum${i}_${j} = 0.0;
#end
#end
    // What each invocation carries: position in the block, and where it is read.
#repeat l ROWS * TM * BK / (ROWS * COLUMNS)
    let ea${l} = local + ${l}u * SIZE;
#if TRANS_A
    let ka${l} = ea${l} / BM;
    let ma${l} = ea${l} % BM;
    let ok_a${l} = m0 + ma${l} < args.m;
    let from_a${l} = base_a + min(m0 + ma${l}, args.m - 1u);
#else
    let ka${l} = ea${l} % BK;
    let ma${l} = ea${l} / BK;
    let ok_a${l} = m0 + ma${l} < args.m;
    let from_a${l} = base_a + min(m0 + ma${l}, args.m - 1u) * args.k;
#endif
    let to_a${l} = ka${l} * (BM + 1u) + ma${l};
    var next_a${l} = 0.0;
#end
#repeat l COLUMNS * TN * BK / (ROWS * COLUMNS)
    let eb${l} = local + ${l}u * SIZE;
#if TRANS_B
    let kb${l} = eb${l} % BK;
    let nb${l} = eb${l} / BK;
    let ok_b${l} = n0 + nb${l} < args.n;
    let from_b${l} = base_b + min(n0 + nb${l}, args.n - 1u) * args.k;
#else
    let kb${l} = eb${l} / BN;
    let nb${l} = eb${l} % BN;
    let ok_b${l} = n0 + nb${l} < args.n;
    let from_b${l} = base_b + min(n0 + nb${l}, args.n - 1u);
#endif
    let to_b${l} = kb${l} * (BN + 1u) + nb${l};
    var next_b${l} = 0.0;
#end
    let last = args.k - 1u;

    for (var k0 = first; k0 < end + BK; k0 += BK) {
        if (k0 > first) {
            workgroupBarrier();
#repeat l ROWS * TM * BK / (ROWS * COLUMNS)
            block_a[to_a${l}] = next_a${l};
#end
#repeat l COLUMNS * TN * BK / (ROWS * COLUMNS)
            block_b[to_b${l}] = next_b${l};
#end
            workgroupBarrier();
        }
        if (k0 < end) {
#repeat l ROWS * TM * BK / (ROWS * COLUMNS)
#if TRANS_A
            next_a${l} = select(0.0, a_at(from_a${l} + min(k0 + ka${l}, last) * args.m), ok_a${l} & (k0 + ka${l} < end));
#else
            next_a${l} = select(0.0, a_at(from_a${l} + min(k0 + ka${l}, last)), ok_a${l} & (k0 + ka${l} < end));
#endif
#end
#repeat l COLUMNS * TN * BK / (ROWS * COLUMNS)
#if TRANS_B
            next_b${l} = select(0.0, b_at(from_b${l} + min(k0 + kb${l}, last)), ok_b${l} & (k0 + kb${l} < end));
#else
            next_b${l} = select(0.0, b_at(from_b${l} + min(k0 + kb${l}, last) * args.n), ok_b${l} & (k0 + kb${l} < end));
#endif
#end
        }
        if (k0 > first) {
            for (var k = 0u; k < BK; k++) {
                let pa = k * (BM + 1u) + row;
                let pb = k * (BN + 1u) + column;
#repeat i TM
                let va${i} = block_a[pa + ${i * ROWS}u];
#end
#repeat j TN
                let vb${j} = block_b[pb + ${j * COLUMNS}u];
#end
#repeat i TM
#repeat j TN
                sum${i}_${j} += va${i} * vb${j};
#end
#end
            }
        }
    }

    let to = plane * args.m * args.n;
#repeat i TM
    let r${i} = m0 + row + ${i * ROWS}u;
    if (r${i} < args.m) {
#repeat j TN
        let c${i}_${j} = n0 + column + ${j * COLUMNS}u;
        if (c${i}_${j} < args.n) {
#if BIAS == 1
            let shift${i}_${j} = bias[c${i}_${j}];
#elif BIAS == 2
            let shift${i}_${j} = bias[r${i}];
#else
            let shift${i}_${j} = 0.0;
#endif
            let at${i}_${j} = to + r${i} * args.n + c${i}_${j};
#if RESIDUAL
            y[at${i}_${j}] = act(sum${i}_${j} + shift${i}_${j} + residual[at${i}_${j}]);
#else
            y[at${i}_${j}] = act(sum${i}_${j} + shift${i}_${j});
#endif
        }
#end
    }
#end
}
