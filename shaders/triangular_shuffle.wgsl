// What triangular.wgsl computes, for n and columns that are multiples of 4, by subgroups:
// every lane solves for 4 * QUADS columns of its own, TM unknowns at a time. What the
// solved ones take from them is a product like that of matmul_shuffle.wgsl: t is read
// once by all lanes together and shuffled around, x by the lane that wrote it, so that
// there is no barrier. CELL is `Quad`, or `Oct` for eight columns (columns is then a
// multiple of 8).
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

@group(0) @binding(0) var<storage, read> t: array<Quad>;
@group(0) @binding(1) var<storage, read> b: array<${CELL}>;
@group(0) @binding(2) var<storage, read_write> x: array<${CELL}>;

// Four neighbours of t, in the order of the unknowns.
fn line(at: u32, reversed: bool) -> vec4f {
    let v = quad(t[at]);
    return select(v, v.wzyx, reversed);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) lane: u32) {
    let index = flat_group(group, groups);
    let across = args.columns / ${4 * QUADS}u;
    let tiles = (across + LANES - 1u) / LANES;
    let matrix = index / tiles;
    if (matrix >= args.batch) {
        return;
    }
    let n = args.n;
    let n4 = n / 4u;
    let reversed = (args.flags & REVERSED) != 0u;
    let unit = (args.flags & UNIT) != 0u;
    let column = (index % tiles) * LANES + lane;
    // Lanes past the last column repeat it, and store nothing.
    let stored = column < across;
    // Unknown i stands in row first + i * step, where that is counted backwards, too.
    let step = select(1u, 0xffffffffu, reversed);
    let first = select(0u, n - 1u, reversed);
    let line0 = matrix * args.stride_t / 4u + select(0u, n4 - 1u, reversed);
    let line_step = step * n4;
    let line_first = line0 + first * n4;
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
        var sum${r}_0 = -quad(w${r});
#endif
#end
#if TRANS
        let across_rows = line_first + min(m0 / 4u + lane % ${TM / 4}u, n4 - 1u) * step;
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
            let x${j}_0 = quad(v${j});
#endif
#end
#if TRANS
#repeat j 4
            let held${j} = line(across_rows + (k * 4u + ${j}u) * line_step, reversed);
#end
#repeat r TM
#repeat q QUADS
            sum${r}_${q} = fma(vec4f(subgroupShuffle(held3[${r % 4}], ${r / 4}u)), x3_${q}, fma(vec4f(subgroupShuffle(held2[${r % 4}], ${r / 4}u)), x2_${q}, fma(vec4f(subgroupShuffle(held1[${r % 4}], ${r / 4}u)), x1_${q}, fma(vec4f(subgroupShuffle(held0[${r % 4}], ${r / 4}u)), x0_${q}, sum${r}_${q}))));
#end
#end
#else
#repeat h HELD
            let held${h} = line(from${h} + k * step, reversed);
#end
#repeat r TM
#repeat q QUADS
            sum${r}_${q} = fma(vec4f(subgroupShuffle(held${r / LANES}.w, ${r % LANES}u)), x3_${q}, fma(vec4f(subgroupShuffle(held${r / LANES}.z, ${r % LANES}u)), x2_${q}, fma(vec4f(subgroupShuffle(held${r / LANES}.y, ${r % LANES}u)), x1_${q}, fma(vec4f(subgroupShuffle(held${r / LANES}.x, ${r % LANES}u)), x0_${q}, sum${r}_${q}))));
#end
#end
#endif
        }
        // The block on the diagonal: lane l has rows l, l + LANES .. of it.
#repeat h HELD
#repeat c TM / 4
        let own${h}_${c} = line(line_first + min(m0 + ${h * LANES}u + lane, n - 1u) * line_step + min(m0 / 4u + ${c}u, n4 - 1u) * step, reversed);
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
        sum${r}_${q} = fma(vec4f(t${r}_${s}), y${s}_${q}, sum${r}_${q});
#end
#end
        let d${r} = select(subgroupShuffle(own${r / LANES}_${r / 4}[${r % 4}], ${r % LANES}u), 1.0, unit || m0 + ${r}u >= n);
        let zero${r} = abs(d${r}) < 1.1754944e-38;
        singular = singular || zero${r};
        let over${r} = -1.0 / select(d${r}, 1.0, zero${r});
#repeat q QUADS
        let y${r}_${q} = sum${r}_${q} * over${r};
#end
        if (stored && m0 + ${r}u < n) {
#if QUADS == 2
            x[at${r}] = oct(y${r}_0, y${r}_1);
#else
            x[at${r}] = to_quad(y${r}_0);
#endif
        }
#end
    }
    if (singular && stored) {
        for (var i = 0u; i < n; i++) {
#if QUADS == 2
            x[x_first + i * x_step] = oct(vec4f(args.singular), vec4f(args.singular));
#else
            x[x_first + i * x_step] = to_quad(vec4f(args.singular));
#endif
        }
    }
}
