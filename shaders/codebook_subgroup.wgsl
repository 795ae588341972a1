// y[n] = the lowest k that minimises |e_k|^2 / 2 - x_n . e_k, as codebook_nearest does
//   x [N, D], e [K, D], norms [K] = |e|^2 / 2, y [N]; width counts VEC-vectors of D
// One subgroup of LANES takes ROWS rows of x; each lane has CODES codes of its own. A row's
// values are loaded by one lane and shuffled to all: LOADS + CODES loads serve ROWS * CODES
// products of every lane.
// In the end the lanes' minima are merged, the lower index first where they are equal.
// With SPLIT the parts of the codebook leave theirs in best and index [parts, rows of the dispatch] for
// codebook_merge.
// Grid: 64 / LANES subgroups per workgroup, over row tiles, then parts of the codebook.
// Caller: ops/codebook.rs
#import grid

struct Args {
    // Rows of this dispatch: the first, and the one past the last.
    first_row: u32,
    end_row: u32,
    codes: u32,
    width: u32,
    tiles: u32,
    // Codes per part, a multiple of CODES * LANES.
    part: u32,
    parts: u32,
}
#args

#if VEC == 4
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> e: array<vec4f>;
#else
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> e: array<f32>;
#endif
@group(0) @binding(2) var<storage, read> norms: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<u32>;
#if SPLIT
@group(0) @binding(4) var<storage, read_write> best: array<f32>;
#endif

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let lane = local % ${LANES}u;
    let subgroup = flat_group(group, groups) * ${64 / LANES}u + local / ${LANES}u;
    // No lane may leave early: subgroups past the end repeat the last one's work.
    let last = args.tiles * args.parts - 1u;
    let index = min(subgroup, last);
    let part = index / args.tiles;
    let n0 = (index - part * args.tiles) * ${ROWS}u + args.first_row;
    let first = part * args.part;
    let end = min(first + args.part, args.codes);

#repeat i LOADS
    let x${i} = min(n0 + ${i * LANES}u + lane, args.end_row - 1u) * args.width;
#end
#repeat r ROWS
    var low${r} = 3.4028235e38;
    var at${r} = first;
#end
    for (var k = first; k < end; k += ${CODES * LANES}u) {
        // Codes past the edge repeat the last one, which then is not below itself.
#repeat c CODES
        let code${c} = min(k + ${c * LANES}u + lane, args.codes - 1u);
        let e${c} = code${c} * args.width;
#repeat r ROWS
        var sum${r}_${c} = 0.0;
#end
#end
        for (var d = 0u; d < args.width; d++) {
#repeat c CODES
            let ev${c} = e[e${c} + d];
#end
#repeat i LOADS
            let row${i} = x[x${i} + d];
#end
#repeat r ROWS
#if VEC == 4
#repeat j 4
            let x${r}_${j} = subgroupShuffle(row${r / LANES}[${j}], ${r % LANES}u);
#end
#repeat c CODES
            sum${r}_${c} += x${r}_0 * ev${c}.x + x${r}_1 * ev${c}.y + x${r}_2 * ev${c}.z + x${r}_3 * ev${c}.w;
#end
#else
            let v${r} = subgroupShuffle(row${r / LANES}, ${r % LANES}u);
#repeat c CODES
            sum${r}_${c} += v${r} * ev${c};
#end
#endif
#end
        }
#repeat c CODES
        let norm${c} = norms[code${c}];
#repeat r ROWS
        let gap${r}_${c} = norm${c} - sum${r}_${c};
        if (gap${r}_${c} < low${r}) {
            low${r} = gap${r}_${c};
            at${r} = code${c};
        }
#end
#end
    }
    for (var mask = 1u; mask < ${LANES}u; mask *= 2u) {
#repeat r ROWS
        let other_low${r} = subgroupShuffleXor(low${r}, mask);
        let other_at${r} = subgroupShuffleXor(at${r}, mask);
        if (other_low${r} < low${r} || (other_low${r} == low${r} && other_at${r} < at${r})) {
            low${r} = other_low${r};
            at${r} = other_at${r};
        }
#end
    }
    if (subgroup > last) {
        return;
    }
#repeat r ROWS
    if (lane == ${r % LANES}u && n0 + ${r}u < args.end_row) {
#if SPLIT
        let out = part * (args.end_row - args.first_row) + n0 + ${r}u - args.first_row;
        best[out] = low${r};
#else
        let out = n0 + ${r}u;
#endif
        y[out] = at${r};
    }
#end
}
