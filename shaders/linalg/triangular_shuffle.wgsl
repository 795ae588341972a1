// What triangular.wgsl computes by subgroups: every lane solves for WIDTH columns of its
// own, TM unknowns at a time. What the solved ones take from them is a product like that
// of matmul_shuffle.wgsl: t is read once by all lanes together and shuffled around, x by
// the lane that wrote it, so that there is no barrier.
// WIDTH, a divisor of columns: 1, where V is f32, 4, or 8 (two of V = vec4f, QUADS); CELL is
// the type of so many. VEC_T: n is a multiple of 4, and t is read four neighbours at a time.
// Grid: flat, one workgroup of LANES per matrix and column tile. Caller: ops/triangular.rs
#import grid
#import wide

struct Args {
    batch: u32,
    n: u32,
    columns: u32,
    stride_t: u32,
    flags: u32,
    singular: f32,
}
#args

const REVERSED = 1u;
const UNIT = 2u;
const LANES = ${LANES}u;

#if VEC_T
@group(0) @binding(0) var<storage, read> t: array<Quad>;
#else
@group(0) @binding(0) var<storage, read> t: array<f32>;
#endif
@group(0) @binding(1) var<storage, read> b: array<${CELL}>;
@group(0) @binding(2) var<storage, read_write> x: array<${CELL}>;

// Of the row of t that begins at element `row`, the columns of the unknowns 4 k .. 4 k + 3.
// Past the edge the last ones are repeated.
fn line(row: u32, k: u32, reversed: bool) -> vec4f {
    let n = args.n;
#if VEC_T
    let start = min(4u * k, n - 4u);
    let v = quad(t[(row + select(start, n - 4u - start, reversed)) / 4u]);
    return select(v, v.wzyx, reversed);
#else
#repeat j 4
    let at${j} = min(4u * k + ${j}u, n - 1u);
    let v${j} = t[row + select(at${j}, n - 1u - at${j}, reversed)];
#end
    return vec4f(v0, v1, v2, v3);
#endif
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) lane: u32) {
    let index = flat_group(group, groups);
    let across = args.columns / ${WIDTH}u;
    let tiles = (across + LANES - 1u) / LANES;
    let matrix = index / tiles;
    if (matrix >= args.batch) {
        return;
    }
    let n = args.n;
    let reversed = (args.flags & REVERSED) != 0u;
    let unit = (args.flags & UNIT) != 0u;
    let column = (index % tiles) * LANES + lane;
    // Lanes past the last column repeat it, and store nothing.
    let stored = column < across;
    // Unknown i stands in row first + i * step, where that is counted backwards, too.
    let step = select(1u, 0xffffffffu, reversed);
    let first = select(0u, n - 1u, reversed);
    let line_step = step * n;
    let line_first = matrix * args.stride_t + first * n;
    let x_step = step * across;
    let x_first = (matrix * n + first) * across + min(column, across - 1u);
    var singular = false;
    for (var m0 = 0u; m0 < n; m0 += ${TM}u) {
#repeat r TM
        let at${r} = x_first + min(m0 + ${r}u, n - 1u) * x_step;
        let w${r} = b[at${r}];
#if QUADS == 2
        var sum${r}_0 = -evens(w${r});
        var sum${r}_1 = -odds(w${r});
#else
        var sum${r}_0 = -${READ}(w${r});
#endif
#end
#if TRANS
        let own_k = m0 / 4u + lane % ${TM / 4}u;
#else
#repeat h HELD
        let from${h} = line_first + min(m0 + ${h * LANES}u + lane, n - 1u) * line_step;
#end
#endif
        for (var k = 0u; k < m0 / 4u; k++) {
            let row = x_first + k * 4u * x_step;
#repeat j 4
            let v${j} = x[row + ${j}u * x_step];
#if QUADS == 2
            let x${j}_0 = evens(v${j});
            let x${j}_1 = odds(v${j});
#else
            let x${j}_0 = ${READ}(v${j});
#endif
#end
#if TRANS
#repeat j 4
            let held${j} = line(line_first + (k * 4u + ${j}u) * line_step, own_k, reversed);
#end
#repeat r TM
#repeat q QUADS
            sum${r}_${q} = fma(${V}(subgroupShuffle(held3[${r % 4}], ${r / 4}u)), x3_${q}, fma(${V}(subgroupShuffle(held2[${r % 4}], ${r / 4}u)), x2_${q}, fma(${V}(subgroupShuffle(held1[${r % 4}], ${r / 4}u)), x1_${q}, fma(${V}(subgroupShuffle(held0[${r % 4}], ${r / 4}u)), x0_${q}, sum${r}_${q}))));
#end
#end
#else
#repeat h HELD
            let held${h} = line(from${h}, k, reversed);
#end
#repeat r TM
#repeat q QUADS
            sum${r}_${q} = fma(${V}(subgroupShuffle(held${r / LANES}.w, ${r % LANES}u)), x3_${q}, fma(${V}(subgroupShuffle(held${r / LANES}.z, ${r % LANES}u)), x2_${q}, fma(${V}(subgroupShuffle(held${r / LANES}.y, ${r % LANES}u)), x1_${q}, fma(${V}(subgroupShuffle(held${r / LANES}.x, ${r % LANES}u)), x0_${q}, sum${r}_${q}))));
#end
#end
#endif
        }
        // The block on the diagonal: lane l has rows l, l + LANES .. of it.
#repeat h HELD
#repeat c TM / 4
        let own${h}_${c} = line(line_first + min(m0 + ${h * LANES}u + lane, n - 1u) * line_step, m0 / 4u + ${c}u, reversed);
#end
#end
#repeat r TM
#repeat s r
#if TRANS
        let t${r}_${s} = subgroupShuffle(own${s / LANES}_${r / 4}[${r % 4}], ${s % LANES}u);
#else
        let t${r}_${s} = subgroupShuffle(own${r / LANES}_${s / 4}[${s % 4}], ${r % LANES}u);
#endif
#repeat q QUADS
        sum${r}_${q} = fma(${V}(t${r}_${s}), y${s}_${q}, sum${r}_${q});
#end
#end
        let d${r} = select(subgroupShuffle(own${r / LANES}_${r / 4}[${r % 4}], ${r % LANES}u), 1.0, unit | (m0 + ${r}u >= n));
        let zero${r} = abs(d${r}) < 1.1754944e-38;
        singular = singular | zero${r};
        let over${r} = -1.0 / select(d${r}, 1.0, zero${r});
#repeat q QUADS
        let y${r}_${q} = sum${r}_${q} * over${r};
#end
        if (stored & (m0 + ${r}u < n)) {
#if QUADS == 2
            x[at${r}] = oct(y${r}_0, y${r}_1);
#else
            x[at${r}] = ${STORE}(y${r}_0);
#endif
        }
#end
    }
    if (singular & stored) {
        for (var i = 0u; i < n; i++) {
#if QUADS == 2
            x[x_first + i * x_step] = oct(vec4f(args.singular), vec4f(args.singular));
#else
            x[x_first + i * x_step] = ${STORE}(${V}(args.singular));
#endif
        }
    }
}
