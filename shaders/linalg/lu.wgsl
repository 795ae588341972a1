// a[perm, :] = L U with partial pivoting, for the columns first .. end of each matrix
// [n, n]; L (unit diagonal not stored) and U take the matrix's place in m. Row k was
// exchanged with row pivots[k]. signs and log_det are those of the determinant.
// Panels of 8 columns: every invocation holds ROWS of their rows in registers, and
// instead of moving rows each knows its row's position. Then the other columns are
// permuted and solved (four by each invocation) and updated (tiles of 4 x 4). n is a
// multiple of 4.
// Grid: one workgroup of LANES per matrix. Caller: ops/lu.rs
#import grid
#import math

struct Args {
    batch: u32,
    n: u32,
    first: u32,
    end: u32,
}
#args

@group(0) @binding(0) var<storage, read_write> m: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> perm: array<u32>;
@group(0) @binding(2) var<storage, read_write> pivots: array<u32>;
@group(0) @binding(3) var<storage, read_write> signs: array<f32>;
@group(0) @binding(4) var<storage, read_write> log_det: array<f32>;
#if FIRST
@group(0) @binding(5) var<storage, read> a: array<vec4f>;
#endif

const LANES = ${LANES}u;
const GROUP = 16u;
const GROUPS = (LANES + GROUP - 1u) / GROUP;

// Of a pivot candidate the bits of its magnitude, and the complement of its position:
// the largest key is the largest magnitude in the highest row.
var<workgroup> keys: array<vec2u, LANES>;
var<workgroup> best: array<vec2u, GROUPS>;
var<workgroup> pivot_row: array<f32, 8>;
var<workgroup> swaps: array<u32, 8>;

fn larger(a: vec2u, b: vec2u) -> vec2u {
    return select(a, b, (b.x > a.x) | ((b.x == a.x) & (b.y > a.y)));
}

// Columns j .. j + 3 (j a multiple of 4) of the row that starts at `row`.
fn load4(row: u32, j: u32) -> vec4f {
    return m[(row + j) / 4u];
}

fn store4(row: u32, j: u32, v: vec4f) {
    m[(row + j) / 4u] = v;
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let matrix = flat_group(group, groups);
    if (matrix >= args.batch) {
        return;
    }
    let n = args.n;
    let base = matrix * n * n;
    let row0 = matrix * n;
    var negative = false;
    // Once a pivot is zero, so is the determinant.
    var singular = false;
    var logs = 0.0;
#if FIRST
    for (var i = local; i < n * n / 4u; i += LANES) {
        m[base / 4u + i] = a[base / 4u + i];
    }
    for (var i = local; i < n; i += LANES) {
        perm[row0 + i] = i;
    }
    storageBarrier();
#else
    negative = signs[matrix] < 0.0;
    singular = signs[matrix] == 0.0;
    logs = log_det[matrix];
#endif
    for (var c0 = args.first; c0 < args.end; c0 += 8u) {
        let width = min(8u, args.end - c0);
        // Column t of the panel stands in register 0 at step t, and rotates to the last.
#repeat r ROWS
        let start${r} = c0 + local + ${r}u * LANES;
        var place${r} = start${r};
        // What is past the last row or column repeats others; it is not stored.
        let from${r} = base + min(start${r}, n - 1u) * n;
        let left${r} = load4(from${r}, c0);
        let right${r} = load4(from${r}, min(c0 + 4u, n - 4u));
#repeat c 4
        var x${r}_${c} = left${r}[${c}];
        var x${r}_${c + 4} = right${r}[${c}];
#end
#end
        for (var t = 0u; t < width; t++) {
            let k = c0 + t;
            var key = vec2u(0u);
#repeat r ROWS
            if ((start${r} < n) & (place${r} >= k)) {
                key = larger(key, vec2u(bitcast<u32>(abs(x${r}_0)), ~place${r}));
            }
#end
            keys[local] = key;
            workgroupBarrier();
            if (local < GROUPS) {
                for (var i = local * GROUP; i < min(local * GROUP + GROUP, LANES); i++) {
                    key = larger(key, keys[i]);
                }
                best[local] = key;
            }
            workgroupBarrier();
            for (var i = 0u; i < GROUPS; i++) {
                key = larger(key, best[i]);
            }
            let q = ~key.y;
            if (local == 0u) {
                swaps[t] = q;
            }
#repeat r ROWS
            if ((start${r} < n) & (place${r} == q)) {
                // Columns that are done take no part any more.
#repeat c 8
                pivot_row[${c}u] = select(0.0, x${r}_${c}, ${c}u + t < 8u);
#end
            }
#end
            workgroupBarrier();
            // Pivots too small for a reciprocal count as zero; there is nothing to
            // eliminate then.
            let usable = key.x >= 0x00800000u;
            let pivot = select(1.0, pivot_row[0], usable);
#repeat c 7
            let p${c + 1} = pivot_row[${c + 1}u];
#end
#repeat r ROWS
            if (place${r} == q) {
                place${r} = k;
            } else if (place${r} == k) {
                place${r} = q;
            }
            let below${r} = place${r} > k;
            let factor${r} = select(0.0, x${r}_0 / pivot, usable & below${r});
            let done${r} = select(x${r}_0, factor${r}, below${r});
#repeat c 7
            x${r}_${c} = x${r}_${c + 1} - factor${r} * p${c + 1};
#end
            x${r}_7 = done${r};
#end
        }
        // A narrow panel, the last one, has not come around yet.
        for (var t = width; t < 8u; t++) {
#repeat r ROWS
            let first${r} = x${r}_0;
#repeat c 7
            x${r}_${c} = x${r}_${c + 1};
#end
            x${r}_7 = first${r};
#end
        }
#repeat r ROWS
        if (start${r} < n) {
            let row = base + place${r} * n;
            store4(row, c0, vec4f(x${r}_0, x${r}_1, x${r}_2, x${r}_3));
            if (width > 4u) {
                store4(row, c0 + 4u, vec4f(x${r}_4, x${r}_5, x${r}_6, x${r}_7));
            }
        }
#end
        workgroupBarrier();
        storageBarrier();
        if (local == 0u) {
            for (var t = 0u; t < width; t++) {
                let k = c0 + t;
                let q = swaps[t];
                let d = m[(base + k * (n + 1u)) / 4u][k % 4u];
                negative = (negative != (d < 0.0)) != (q != k);
                singular = singular | (abs(d) < 1.1754944e-38);
                logs += log_f32(abs(d));
                pivots[row0 + k] = q;
                let moved = perm[row0 + q];
                perm[row0 + q] = perm[row0 + k];
                perm[row0 + k] = moved;
            }
        }
        // The other columns: rows exchanged, and those right of the panel solved.
        for (var j = args.first + 4u * local; j < args.end; j += 4u * LANES) {
            if ((j >= c0) & (j < c0 + width)) {
                continue;
            }
            for (var t = 0u; t < width; t++) {
                let q = swaps[t];
                if (q != c0 + t) {
                    let upper = base + (c0 + t) * n;
                    let lower = base + q * n;
                    let held = load4(lower, j);
                    store4(lower, j, load4(upper, j));
                    store4(upper, j, held);
                }
            }
            if (j > c0) {
                let corner = base + c0 * n;
#repeat t 8
                let corner0_${t} = load4(corner + ${t}u * n, c0);
                let corner1_${t} = load4(corner + ${t}u * n, c0 + 4u);
                var y${t} = load4(corner + ${t}u * n, j);
#repeat s t
                y${t} -= corner${s / 4}_${t}[${s % 4}] * y${s};
#end
                store4(corner + ${t}u * n, j, y${t});
#end
            }
        }
        storageBarrier();
        let next = c0 + 8u;
        if (next < args.end) {
            let across = (args.end - next) / 4u;
            let tiles = across * ((n - next) / 4u);
            for (var tile = local; tile < tiles; tile += LANES) {
                let i = next + (tile / across) * 4u;
                let j = next + (tile % across) * 4u;
#repeat r 4
                let row${r} = base + (i + ${r}u) * n;
                var sum${r} = load4(row${r}, j);
#end
                for (var k = c0; k < next; k += 4u) {
#repeat r 4
                    let l${r} = load4(row${r}, k);
#end
#repeat s 4
                    let u${s} = load4(base + (k + ${s}u) * n, j);
#repeat r 4
                    sum${r} -= l${r}[${s}] * u${s};
#end
#end
                }
#repeat r 4
                store4(row${r}, j, sum${r});
#end
            }
            storageBarrier();
        }
    }
    if (local == 0u) {
        signs[matrix] = select(select(1.0, -1.0, negative), 0.0, singular);
        log_det[matrix] = select(logs, from_bits(0xff800000u), singular);
    }
}
