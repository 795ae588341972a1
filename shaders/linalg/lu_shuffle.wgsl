// What lu.wgsl computes, by GROUPS subgroups per matrix.
// Panels of 8 columns: invocation l holds the rows l, l + SIZE .. of one in registers, and
// instead of moving rows each knows its row's place; the pivot's row comes to all lanes
// by shuffles, and from other subgroups by workgroup memory. Then every lane of the first
// subgroup takes cells of the other columns: rows exchanged, the ones right of the panel
// solved, and updated 8 rows at a time with the panel's rows shuffled around.
// EIGHT: n is a multiple of 8 and a cell 8 columns, else both are 4.
// Grid: one workgroup of GROUPS * LANES (8 .. 64, at least GROUPS) per matrix.
// Caller: ops/lu_shuffle.rs
#import grid
#import math
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
const GROUPS = ${GROUPS}u;
const SIZE = LANES * GROUPS;

@group(0) @binding(0) var<storage, read_write> m: array<Cell>;
@group(0) @binding(1) var<storage, read_write> perm: array<u32>;
@group(0) @binding(2) var<storage, read_write> pivots: array<u32>;
@group(0) @binding(3) var<storage, read_write> signs: array<f32>;
@group(0) @binding(4) var<storage, read_write> log_det: array<f32>;
@group(0) @binding(5) var<storage, read> a: array<Cell>;

#if GROUPS != 1
// Each subgroup's candidate: key, place and origin, then its columns. In turns, so that
// a step's are not overwritten before all have read them.
var<workgroup> found: array<vec4i, ${2 * GROUPS}>;
var<workgroup> found_low: array<vec4f, ${2 * GROUPS}>;
var<workgroup> found_high: array<vec4f, ${2 * GROUPS}>;
#endif

// The panel that begins at cell `panel`, of the row that begins at cell `row`. A narrow
// panel's other columns are not used.
fn part(row: u32, panel: u32) -> Eight {
    return eight(row + panel, row + min(panel + 1u, args.n / WIDTH - 1u));
}

@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let lane = local % LANES;
    let matrix = flat_group(group, groups);
    if (matrix >= args.batch) {
        return;
    }
    let n = args.n;
    // Cells of a row, and where the matrix begins.
    let across = n / WIDTH;
    let base = matrix * n * across;
    let row0 = matrix * n;
    // Of the pivots that this lane keeps account of.
    var negative = false;
    // Once a pivot is zero, so is the determinant.
    var singular = false;
    var logs = 0.0;
    if (args.first == 0u) {
        for (var i = local; i < n * across; i += SIZE) {
            m[base + i] = a[base + i];
        }
        for (var i = local; i < n; i += SIZE) {
            perm[row0 + i] = i;
        }
    } else if (local == 0u) {
        negative = signs[matrix] < 0.0;
        singular = signs[matrix] == 0.0;
        logs = log_det[matrix];
    }
    storageBarrier();
    for (var c0 = args.first; c0 < args.end; c0 += 8u) {
        let width = min(8u, args.end - c0);
        let panel = c0 / WIDTH;
        // Column t of the panel stands in register 0 at step t, and rotates to the last.
#repeat r ROWS
        let start${r} = c0 + local + ${r}u * SIZE;
        // Rows past the last one have no place.
        var place${r} = select(-1, i32(start${r}), start${r} < n);
        let w${r} = part(base + min(start${r}, n - 1u) * across, panel);
#repeat c 4
        var x${r}_${c} = w${r}.low[${c}];
        var x${r}_${c + 4} = w${r}.high[${c}];
#end
#end
        // Of step l in lane l: the pivot, its place and the row it was in before the panel.
        var my_pivot = 1.0;
        var my_place = 0u;
        var my_origin = min(c0 + lane, n - 1u);
        for (var t = 0u; t < width; t++) {
            let k = i32(c0 + t);
            // The candidate with the largest magnitude, in the highest row of equals: the
            // bits of its magnitude, its place, where it came from, and its columns.
            var key = -1;
            var place = 0x7fffffff;
            var origin = 0u;
#repeat c 8
            var p${c} = 0.0;
#end
#repeat r ROWS
            let key${r} = select(-1, bitcast<i32>(abs(x${r}_0)), place${r} >= k);
            let better${r} = (key${r} > key) | ((key${r} == key) & (place${r} < place));
            key = select(key, key${r}, better${r});
            place = select(place, place${r}, better${r});
            origin = select(origin, start${r}, better${r});
#repeat c 8
            p${c} = select(p${c}, x${r}_${c}, better${r});
#end
#end
#repeat round ROUNDS
#if round
            // Every subgroup's candidate, one in each lane.
            if (lane == 0u) {
                let mine = (t % 2u) * GROUPS + local / LANES;
                found[mine] = vec4i(key, place, i32(origin), 0);
                found_low[mine] = vec4f(p0, p1, p2, p3);
                found_high[mine] = vec4f(p4, p5, p6, p7);
            }
            workgroupBarrier();
            let theirs = (t % 2u) * GROUPS + lane % GROUPS;
            key = found[theirs].x;
            place = found[theirs].y;
            origin = u32(found[theirs].z);
#repeat c 4
            p${c} = found_low[theirs][${c}];
            p${c + 4} = found_high[theirs][${c}];
#end
#endif
#repeat s STEPS
            let key_${round}_${s} = subgroupShuffleXor(key, ${LANES >> (s + 1)}u);
            let place_${round}_${s} = subgroupShuffleXor(place, ${LANES >> (s + 1)}u);
            let better_${round}_${s} = (key_${round}_${s} > key) | ((key_${round}_${s} == key) & (place_${round}_${s} < place));
            key = select(key, key_${round}_${s}, better_${round}_${s});
            place = select(place, place_${round}_${s}, better_${round}_${s});
            origin = select(origin, subgroupShuffleXor(origin, ${LANES >> (s + 1)}u), better_${round}_${s});
#repeat c 8
            p${c} = select(p${c}, subgroupShuffleXor(p${c}, ${LANES >> (s + 1)}u), better_${round}_${s});
#end
#end
#end
            my_pivot = select(my_pivot, p0, lane == t);
            my_place = select(my_place, u32(place), lane == t);
            my_origin = select(my_origin, origin, lane == t);
            // Pivots too small for a reciprocal count as zero; there is nothing to
            // eliminate then.
            let usable = key >= 0x00800000;
            let pivot = select(1.0, p0, usable);
            // Columns that are done take no part any more.
#repeat c 7
            let q${c} = select(0.0, p${c + 1}, ${c + 1}u + t < 8u);
#end
#repeat r ROWS
            place${r} = select(select(place${r}, place, place${r} == k), k, place${r} == place);
            let below${r} = place${r} > k;
            let factor${r} = select(0.0, x${r}_0 / pivot, usable & below${r});
            let done${r} = select(x${r}_0, factor${r}, below${r});
#repeat c 7
            x${r}_${c} = x${r}_${c + 1} - factor${r} * q${c};
#end
            x${r}_7 = done${r};
#end
        }
        // All lanes have read their rows before one is here.
#repeat r ROWS
        if (place${r} >= 0) {
            let row = base + u32(place${r}) * across + panel;
#if EIGHT
            m[row] = oct(vec4f(x${r}_0, x${r}_2, x${r}_4, x${r}_6), vec4f(x${r}_1, x${r}_3, x${r}_5, x${r}_7));
#else
            // A narrow panel, the last one, has not come around yet.
            if (width > 4u) {
                m[row] = to_quad(vec4f(x${r}_0, x${r}_1, x${r}_2, x${r}_3));
                m[row + 1u] = to_quad(vec4f(x${r}_4, x${r}_5, x${r}_6, x${r}_7));
            } else {
                m[row] = to_quad(vec4f(x${r}_4, x${r}_5, x${r}_6, x${r}_7));
            }
#endif
        }
#end
        // Where row c0 + l is now, in lane l.
        let new_place = u32(place0);
        let counts = local < width;
        let moves = counts & (new_place >= c0 + width);
        storageBarrier();
        if (counts) {
            pivots[row0 + c0 + lane] = my_place;
            negative = (negative != (my_pivot < 0.0)) != (my_place != c0 + lane);
            singular = singular | (abs(my_pivot) < 1.1754944e-38);
            logs += log_f32(abs(my_pivot));
        }
        let moved = perm[row0 + my_origin];
        let displaced = perm[row0 + min(c0 + lane, n - 1u)];
        // The other columns: rows exchanged, and those right of the panel solved.
        let corner = part(base + min(c0 + lane % 8u, n - 1u) * across, panel);
        let corner0 = corner.low;
        let corner1 = corner.high;
        let strips = select(0u, args.end / WIDTH, local < LANES);
        for (var j0 = args.first / WIDTH; j0 < strips; j0 += LANES) {
            let j = min(j0 + lane, args.end / WIDTH - 1u);
            let mine = (j0 + lane < args.end / WIDTH) & ((j < panel) | (j >= panel + width / WIDTH));
            let right = mine & (j > panel);
#repeat t 8
            let from${t} = m[base + subgroupShuffle(my_origin, ${t}u) * across + j];
#end
#repeat t 8
            let to${t} = subgroupShuffle(select(0u, new_place, moves), ${t}u);
            if (mine & (to${t} > 0u)) {
                m[base + to${t} * across + j] = m[base + (c0 + ${t}u) * across + j];
            }
#end
#repeat t 8
#if EIGHT
            let h${t}_0 = evens(from${t});
            let h${t}_1 = odds(from${t});
#else
            let h${t}_0 = quad(from${t});
#endif
#repeat q QUADS
            var y${t}_${q} = h${t}_${q};
#end
#repeat s t
#repeat q QUADS
            y${t}_${q} -= subgroupShuffle(corner${s / 4}[${s % 4}], ${t}u) * y${s}_${q};
#end
#end
            if (mine & (${t}u < width)) {
                let to = base + (c0 + ${t}u) * across + j;
#if EIGHT
                m[to] = oct(select(h${t}_0, y${t}_0, right), select(h${t}_1, y${t}_1, right));
#else
                m[to] = to_quad(select(h${t}_0, y${t}_0, right));
#endif
            }
#end
            // Lanes left of the panel have nothing to update.
            if ((j0 + LANES) * WIDTH <= c0 + 8u) {
                continue;
            }
            for (var i = c0 + 8u; i < n; i += 8u) {
                let l = part(base + min(i + lane % 8u, n - 1u) * across, panel);
#repeat r 8
                let at${r} = base + min(i + ${r}u, n - 1u) * across + j;
                let v${r} = m[at${r}];
#if EIGHT
                var v${r}_0 = evens(v${r});
                var v${r}_1 = odds(v${r});
#else
                var v${r}_0 = quad(v${r});
#endif
#repeat s 4
#repeat q QUADS
                v${r}_${q} -= subgroupShuffle(l.low[${s}], ${r}u) * y${s}_${q};
                v${r}_${q} -= subgroupShuffle(l.high[${s}], ${r}u) * y${s + 4}_${q};
#end
#end
                if (right & (i + ${r}u < n)) {
#if EIGHT
                    m[at${r}] = oct(v${r}_0, v${r}_1);
#else
                    m[at${r}] = to_quad(v${r}_0);
#endif
                }
#end
            }
        }
        storageBarrier();
        if (counts) {
            perm[row0 + c0 + lane] = moved;
        }
        if (moves) {
            perm[row0 + new_place] = displaced;
        }
    }
    var odd = u32(negative);
    var zeros = u32(singular);
#repeat s STEPS
    odd += subgroupShuffleXor(odd, ${LANES >> (s + 1)}u);
    zeros += subgroupShuffleXor(zeros, ${LANES >> (s + 1)}u);
    logs += subgroupShuffleXor(logs, ${LANES >> (s + 1)}u);
#end
    if (local == 0u) {
        signs[matrix] = select(select(1.0, -1.0, odd % 2u == 1u), 0.0, zeros > 0u);
        log_det[matrix] = select(logs, from_bits(0xff800000u), zeros > 0u);
    }
}
