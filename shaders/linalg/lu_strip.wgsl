// Carries a factored block of the columns first .. end to the other columns of m [n, n], as
// lu_solve.wgsl and lu_update.wgsl do, by subgroups without barriers: every lane has a
// CELL of columns, in which it exchanges rows as pivots says and, right of the block,
// solves for the block's rows and updates those below, TM at a time. The block's rows are
// read once by all lanes together and shuffled around.
// EIGHT: n is a multiple of 8 and a cell 8 columns, else both are 4. The block is a
// multiple of 8 wide where there are columns right of it.
// Grid: one workgroup of LANES per matrix and strip of LANES cells, those left of the block
// spread evenly among those right of it. Caller: ops/lu_shuffle.rs
#import grid
#import eight

struct Args {
    batch: u32,
    n: u32,
    first: u32,
    end: u32,
}
#args

const WIDTH = ${4 * QUADS}u;
const LANES = ${LANES}u;

@group(0) @binding(0) var<storage, read_write> m: array<Cell>;
@group(0) @binding(1) var<storage, read> pivots: array<u32>;

fn eight_at(at: u32) -> Eight {
    return eight(at, at + 1u);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) lane: u32) {
    let index = flat_group(group, groups);
    let n = args.n;
    // Cells of a row, and the block's.
    let across = n / WIDTH;
    let first = args.first / WIDTH;
    let end = args.end / WIDTH;
    let lefts = (first + LANES - 1u) / LANES;
    let strips = lefts + (across - end + LANES - 1u) / LANES;
    let matrix = index / strips;
    if (matrix >= args.batch) {
        return;
    }
    let strip = index % strips;
    let before = strip * lefts / strips;
    let right = (strip + 1u) * lefts / strips == before;
    let j0 = select(before * LANES, end + (strip - before) * LANES, right) + lane;
    let last = select(first, across, right);
    // Lanes past the last cell repeat it, and store nothing.
    let stored = j0 < last;
    let base = matrix * n * across;
    let column = base + min(j0, last - 1u);
    for (var k = args.first; k < args.end; k++) {
        let q = pivots[matrix * n + k];
        if ((q != k) & stored) {
            let held = m[column + q * across];
            m[column + q * across] = m[column + k * across];
            m[column + k * across] = held;
        }
    }
    if (!right) {
        return;
    }
    for (var m0 = args.first; m0 < n; m0 += ${TM}u) {
#repeat r TM
        let at${r} = column + min(m0 + ${r}u, n - 1u) * across;
        let w${r} = m[at${r}];
#if EIGHT
        var sum${r}_0 = evens(w${r});
        var sum${r}_1 = odds(w${r});
#else
        var sum${r}_0 = quad(w${r});
#endif
#end
#repeat h HELD
        let line${h} = base + min(m0 + ${h * LANES}u + lane % ${TM}u, n - 1u) * across + first;
#end
        for (var k = 0u; k < (min(m0, args.end) - args.first) / 8u; k++) {
            let row = column + (args.first + k * 8u) * across;
#repeat j 8
            let v${j} = m[row + ${j}u * across];
#if EIGHT
            let x${j}_0 = -evens(v${j});
            let x${j}_1 = -odds(v${j});
#else
            let x${j}_0 = -quad(v${j});
#endif
#end
#repeat h HELD
            let held${h} = eight_at(line${h} + k * ${2 / QUADS}u);
#end
#repeat r TM
#repeat q QUADS
            var s${r}_${q} = fma(vec4f(subgroupShuffle(held${r / LANES}.low.w, ${r % LANES}u)), x3_${q}, fma(vec4f(subgroupShuffle(held${r / LANES}.low.z, ${r % LANES}u)), x2_${q}, fma(vec4f(subgroupShuffle(held${r / LANES}.low.y, ${r % LANES}u)), x1_${q}, fma(vec4f(subgroupShuffle(held${r / LANES}.low.x, ${r % LANES}u)), x0_${q}, sum${r}_${q}))));
            sum${r}_${q} = fma(vec4f(subgroupShuffle(held${r / LANES}.high.w, ${r % LANES}u)), x7_${q}, fma(vec4f(subgroupShuffle(held${r / LANES}.high.z, ${r % LANES}u)), x6_${q}, fma(vec4f(subgroupShuffle(held${r / LANES}.high.y, ${r % LANES}u)), x5_${q}, fma(vec4f(subgroupShuffle(held${r / LANES}.high.x, ${r % LANES}u)), x4_${q}, s${r}_${q}))));
#end
#end
        }
        if (m0 < args.end) {
            // The block on the diagonal.
#repeat h HELD
#repeat c TM / 8
            let own_${h}_${c} = eight_at(line${h} + (m0 - args.first) / WIDTH + ${c * 2 / QUADS}u);
            let own${h}_${2 * c} = own_${h}_${c}.low;
            let own${h}_${2 * c + 1} = own_${h}_${c}.high;
#end
#end
#repeat r TM
#repeat s r
#repeat q QUADS
            sum${r}_${q} -= subgroupShuffle(own${r / LANES}_${s / 4}[${s % 4}], ${r % LANES}u) * sum${s}_${q};
#end
#end
#end
        }
#repeat r TM
        if (stored & (m0 + ${r}u < n)) {
#if EIGHT
            m[at${r}] = oct(sum${r}_0, sum${r}_1);
#else
            m[at${r}] = to_quad(sum${r}_0);
#endif
        }
#end
    }
}
