// y[n] = the lowest k that minimises |e_k|^2 / 2 - x_n . e_k, as codebook_nearest does
//   x [N, D], e [K, D], center [D], norms [2, K], y [N], least [1] as there; width counts
//   VEC-vectors of D
// One subgroup of LANES takes ROWS rows of x; each lane has CODES codes of its own. A row's
// values are loaded by one lane and shuffled to all: LOADS + CODES loads serve ROWS * CODES
// products of every lane.
// In the end the 2^STEPS lanes merge their minima by pairs, the lower index first where they
// are equal; in the first FOLDS steps each hands over half of its rows, so that every row is
// finished, and stored, by one lane.
// With SPLIT the parts of the codebook leave theirs in best and index [parts, rows of the dispatch] for
// codebook_merge.
// Grid: 64 / LANES subgroups per workgroup, over row tiles, then parts of the codebook.
// Caller: ops/index/codebook.rs
#import grid
#import wide
#import center

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
@group(0) @binding(0) var<storage, read> x: array<Quad>;
@group(0) @binding(1) var<storage, read> e: array<Quad>;
#else
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> e: array<f32>;
#endif
@group(0) @binding(2) var<storage, read> norms: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<u32>;
@group(0) @binding(4) var<storage, read> center: array<f32>;
@group(0) @binding(5) var<storage, read> least: array<f32>;
#if SPLIT
@group(0) @binding(6) var<storage, read_write> best: array<f32>;
#endif

struct Found {
    low: f32,
    at: u32,
}

fn nearer(a: Found, b: Found) -> Found {
    let second = (b.low < a.low) | ((b.low == a.low) & (b.at < a.at));
    return Found(select(a.low, b.low, second), select(a.at, b.at, second));
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let lane = local % ${LANES}u;
    let subgroup = flat_index(group, groups, local, 64u) / ${LANES}u;
    // No lane may leave early: subgroups past the end take no code and store nothing.
    let last = args.tiles * args.parts - 1u;
    let index = min(subgroup, last);
    let part = index / args.tiles;
    let n0 = (index - part * args.tiles) * ${ROWS}u + args.first_row;
    let first = part * args.part;
    let end = select(min(first + args.part, args.codes), first, subgroup > last);

#repeat i LOADS
    let x${i} = min(n0 + ${i * LANES}u + lane, args.end_row - 1u) * args.width;
#end
#repeat r ROWS
    var low${r}: f32;
    var at${r}: u32;
#end
    // Whether a row has to be scaled shows at the end. Few have: then all is done again, which
    // is cheaper than reading every row twice.
#repeat i LOADS
    var top${i} = 0.0;
    var scale${i} = row_scale(0.0, least[0]);
#end
    var again = true;
    while (again) {
#repeat r ROWS
        low${r} = 3.4028235e38;
        at${r} = first;
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
#if VEC == 4
                // One number a lane, where a vector for each would be read by all.
                let part_of_c = center[4u * d + (lane & 3u)];
                let c = vec4f(subgroupShuffle(part_of_c, 0u), subgroupShuffle(part_of_c, 1u),
                    subgroupShuffle(part_of_c, 2u), subgroupShuffle(part_of_c, 3u));
#else
                let c = center[d];
#endif
#repeat c CODES
#if VEC == 4
                let value${c} = quad(e[e${c} + d]) - c;
#else
                let value${c} = e[e${c} + d] - c;
#endif
#end
#repeat i LOADS
#if VEC == 4
                let far${i} = quad(x[x${i} + d]) - c;
                top${i} = max(top${i}, magnitude4(far${i}));
#else
                let far${i} = x[x${i} + d] - c;
                top${i} = max(top${i}, magnitude(far${i}));
#endif
                let row${i} = far${i} * scale${i} * scale${i};
#end
#repeat r ROWS
#if VEC == 4
#repeat j 4
                let x${r}_${j} = subgroupShuffle(row${r / LANES}[${j}], ${r % LANES}u);
#end
#repeat c CODES
                sum${r}_${c} += fma(x${r}_3, value${c}.w, fma(x${r}_2, value${c}.z, fma(x${r}_1, value${c}.y, x${r}_0 * value${c}.x)));
#end
#else
                let v${r} = subgroupShuffle(row${r / LANES}, ${r % LANES}u);
#repeat c CODES
                sum${r}_${c} += v${r} * value${c};
#end
#endif
#end
            }
#repeat c CODES
            let norm${c} = norms[code${c}];
            let small${c} = norms[args.codes + code${c}];
#end
            // One assignment in a step: what a loop changes is masked anew each time.
#repeat r ROWS
            var low_now${r} = low${r};
            var at_now${r} = at${r};
            let scaled${r} = subgroupShuffle(scale${r / LANES}, ${r % LANES}u) < 1.0;
#repeat c CODES
            let gap${r}_${c} = select(norm${c}, small${c}, scaled${r}) - sum${r}_${c};
            at_now${r} = select(at_now${r}, code${c}, gap${r}_${c} < low_now${r});
            low_now${r} = select(low_now${r}, gap${r}_${c}, gap${r}_${c} < low_now${r});
#end
            low${r} = low_now${r};
            at${r} = at_now${r};
#end
        }
        var most0 = 0.0;
#repeat i LOADS
        most0 = max(most0, select(0.0, top${i}, scale${i} == 1.0));
        scale${i} = row_scale(top${i}, least[0]);
#end
        // The same in all lanes, which shuffle together.
#repeat s STEPS
        let most${s + 1} = max(most${s}, subgroupShuffleXor(most${s}, 1u << ${s}u));
#end
        again = most${STEPS} > HUGE;
    }
#repeat r ROWS
    let found0_${r} = Found(low${r}, at${r});
#end
    var row = n0;
#repeat s FOLDS
    let upper${s} = (lane & (1u << ${s}u)) != 0u;
    row += select(0u, ${ROWS >> (s + 1)}u, upper${s});
#repeat r ROWS >> (s + 1)
    let low${s}_${r} = subgroupShuffleXor(select(found${s}_${r + (ROWS >> (s + 1))}.low, found${s}_${r}.low, upper${s}), 1u << ${s}u);
    let at${s}_${r} = subgroupShuffleXor(select(found${s}_${r + (ROWS >> (s + 1))}.at, found${s}_${r}.at, upper${s}), 1u << ${s}u);
    let kept_low${s}_${r} = select(found${s}_${r}.low, found${s}_${r + (ROWS >> (s + 1))}.low, upper${s});
    let kept_at${s}_${r} = select(found${s}_${r}.at, found${s}_${r + (ROWS >> (s + 1))}.at, upper${s});
    let found${s + 1}_${r} = nearer(Found(kept_low${s}_${r}, kept_at${s}_${r}), Found(low${s}_${r}, at${s}_${r}));
#end
#end
    // More lanes than rows: several are left with one row.
#repeat t STEPS - FOLDS
    let low_beyond${t} = subgroupShuffleXor(found${FOLDS + t}_0.low, 1u << ${FOLDS + t}u);
    let at_beyond${t} = subgroupShuffleXor(found${FOLDS + t}_0.at, 1u << ${FOLDS + t}u);
    let found${FOLDS + t + 1}_0 = nearer(found${FOLDS + t}_0, Found(low_beyond${t}, at_beyond${t}));
#end
    if (subgroup > last) {
        return;
    }
#repeat r ROWS >> FOLDS
    if (row + ${r}u < args.end_row) {
#if SPLIT
        let out = part * (args.end_row - args.first_row) + row + ${r}u - args.first_row;
        best[out] = found${STEPS}_${r}.low;
#else
        let out = row + ${r}u;
#endif
        y[out] = found${STEPS}_${r}.at;
    }
#end
}
