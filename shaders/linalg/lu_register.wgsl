// What lu.wgsl computes, for small matrices of N rows in registers alone: PARTS lanes
// share a matrix, of which lane l holds the rows l, l + PARTS ... Instead of moving rows
// each knows its row's place; the pivot's row comes to the other lanes by shuffles.
// Grid: flat over batch x PARTS. Caller: ops/lu_shuffle.rs
#import grid
#import math
#import wide

struct Args {
    batch: u32,
}
#args

const N = ${N}u;
const PARTS = ${PARTS}u;

@group(0) @binding(0) var<storage, read_write> m: array<Quad>;
@group(0) @binding(1) var<storage, read_write> perm: array<u32>;
@group(0) @binding(2) var<storage, read_write> pivots: array<u32>;
@group(0) @binding(3) var<storage, read_write> signs: array<f32>;
@group(0) @binding(4) var<storage, read_write> log_det: array<f32>;
@group(0) @binding(5) var<storage, read> a: array<Quad>;

@compute @workgroup_size(${LANES})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, ${LANES}u);
    let lane = local % PARTS;
    // No lane may leave before the shuffles: those past the end repeat the last matrix.
    let stored = index / PARTS < args.batch;
    let matrix = min(index / PARTS, args.batch - 1u);
    let row0 = matrix * N;
    // Column k stands in register 0 at step k, and rotates to the last.
#repeat r ROWS
    let start${r} = lane + ${r * PARTS}u;
    // Rows past the last one have no place.
    var place${r} = select(-1, i32(start${r}), start${r} < N);
    let from${r} = (row0 + min(start${r}, N - 1u)) * ${N / 4}u;
#repeat c N / 4
    let w${r}_${c} = quad(a[from${r} + ${c}u]);
#repeat j 4
    var x${r}_${4 * c + j} = w${r}_${c}[${j}];
#end
#end
#end
    var negative = false;
    // Once a pivot is zero, so is the determinant.
    var singular = false;
    var logs = 0.0;
    for (var k = 0; k < ${N}; k++) {
        // The candidate with the largest magnitude, in the highest row of equals: the
        // bits of its magnitude, its place and its columns.
        var key = -1;
        var place = ${N};
#repeat c N
        var p${c} = 0.0;
#end
#repeat r ROWS
        let key${r} = select(-1, bitcast<i32>(abs(x${r}_0)), place${r} >= k);
        let better${r} = (key${r} > key) | ((key${r} == key) & (place${r} < place));
        key = select(key, key${r}, better${r});
        place = select(place, place${r}, better${r});
#repeat c N
        p${c} = select(p${c}, x${r}_${c}, better${r});
#end
#end
#repeat s STEPS
        let key_${s} = subgroupShuffleXor(key, ${PARTS >> (s + 1)}u);
        let place_${s} = subgroupShuffleXor(place, ${PARTS >> (s + 1)}u);
        let better_${s} = (key_${s} > key) | ((key_${s} == key) & (place_${s} < place));
        key = select(key, key_${s}, better_${s});
        place = select(place, place_${s}, better_${s});
#repeat c N
        p${c} = select(p${c}, subgroupShuffleXor(p${c}, ${PARTS >> (s + 1)}u), better_${s});
#end
#end
        // Pivots too small for a reciprocal count as zero; there is nothing to eliminate
        // then.
        let usable = key >= 0x00800000;
        let pivot = select(1.0, p0, usable);
        negative = (negative != (p0 < 0.0)) != (place != k);
        singular = singular | !usable;
        logs += log_f32(abs(pivot));
        if (stored & (lane == 0u)) {
            pivots[row0 + u32(k)] = u32(place);
        }
        // Columns that are done take no part any more.
#repeat c N - 1
        let q${c} = select(0.0, p${c + 1}, ${c + 1} + k < ${N});
#end
#repeat r ROWS
        place${r} = select(select(place${r}, place, place${r} == k), k, place${r} == place);
        let below${r} = place${r} > k;
        let factor${r} = select(0.0, x${r}_0 / pivot, usable & below${r});
        let done${r} = select(x${r}_0, factor${r}, below${r});
#repeat c N - 1
        x${r}_${c} = x${r}_${c + 1} - factor${r} * q${c};
#end
        x${r}_${N - 1} = done${r};
#end
    }
#repeat r ROWS
    if (stored & (place${r} >= 0)) {
        let row = row0 + u32(place${r});
        perm[row] = start${r};
#repeat c N / 4
        m[row * ${N / 4}u + ${c}u] = to_quad(vec4f(x${r}_${4 * c}, x${r}_${4 * c + 1}, x${r}_${4 * c + 2}, x${r}_${4 * c + 3}));
#end
    }
#end
    if (stored & (lane == 0u)) {
        signs[matrix] = select(select(1.0, -1.0, negative), 0.0, singular);
        log_det[matrix] = select(logs, from_bits(0xff800000u), singular);
    }
}
