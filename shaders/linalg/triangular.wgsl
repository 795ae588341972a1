// x with op(T) x = b for a triangle T of t [n, n] (stride_t 0: one for the whole batch)
// and b, x [n, columns]. Unknowns are numbered so that op(T) is lower: from the last one
// where REVERSED is set in `flags`. They are solved 8 at a time (4 columns by each
// invocation), then taken out of the rows below (tiles of 4 x 4).
// VEC4: columns is a multiple of 4, and b and x are read four columns at a time. VEC_T: n
// is one, and t is read four neighbours at a time. TRANS: op transposes.
// A zero on the diagonal makes all of the system's x equal to `singular`.
// Grid: one workgroup per matrix and `share` columns. Caller: ops/triangular.rs
#import grid

struct Args {
    batch: u32,
    n: u32,
    columns: u32,
    share: u32,
    stride_t: u32,
    flags: u32,
    singular: f32,
}
#args

const REVERSED = 1u;
const UNIT = 2u;
const LANES = ${LANES}u;

#if VEC4
alias Cell = vec4f;
#else
alias Cell = f32;
#endif
#if VEC_T
alias CellT = vec4f;
#else
alias CellT = f32;
#endif

@group(0) @binding(0) var<storage, read> t: array<CellT>;
@group(0) @binding(1) var<storage, read> b: array<Cell>;
@group(0) @binding(2) var<storage, read_write> x: array<Cell>;

// Where unknown i stands in memory.
fn place(i: u32) -> u32 {
    return select(i, args.n - 1u - i, (args.flags & REVERSED) != 0u);
}

// Columns j .. j + 3 (j a multiple of 4) of the row of x that starts at `row`. Past the
// row's end the last column is repeated, and nothing stored.
fn load4(row: u32, j: u32) -> vec4f {
#if VEC4
    return x[(row + min(j, args.columns - 4u)) / 4u];
#else
    let last = row + args.columns - 1u;
    let at = row + j;
    return vec4f(x[min(at, last)], x[min(at + 1u, last)], x[min(at + 2u, last)], x[min(at + 3u, last)]);
#endif
}

fn store4(row: u32, j: u32, v: vec4f) {
#if VEC4
    x[(row + j) / 4u] = v;
#else
#repeat c 4
    if (j + ${c}u < args.columns) {
        x[row + j + ${c}u] = v[${c}];
    }
#end
#endif
}

// Four neighbours in memory: row i of the numbered t (of op(T)^T where TRANS), columns
// j .. j + 3, j a multiple of 4. Past the edge the last ones are repeated.
fn line(base: u32, i: u32, j: u32) -> vec4f {
    let row = base + place(min(i, args.n - 1u)) * args.n;
#if VEC_T
    let start = min(j, args.n - 4u);
    let reversed = (args.flags & REVERSED) != 0u;
    let v = t[(row + select(start, args.n - 4u - start, reversed)) / 4u];
    return select(v, v.wzyx, reversed);
#else
    let last = args.n - 1u;
    return vec4f(t[row + place(min(j, last))], t[row + place(min(j + 1u, last))],
        t[row + place(min(j + 2u, last))], t[row + place(min(j + 3u, last))]);
#endif
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_group(group, groups);
    let shares = (args.columns + args.share - 1u) / args.share;
    let matrix = index / shares;
    if (matrix >= args.batch) {
        return;
    }
    let n = args.n;
    let base = matrix * args.stride_t;
    let j0 = (index % shares) * args.share;
    let j1 = min(j0 + args.share, args.columns);
    let x0 = matrix * n * args.columns;
    let cells = (j1 - j0) / ${1+3*VEC4}u;
    for (var i = local; i < n * cells; i += LANES) {
        let at = (x0 + (i / cells) * args.columns + j0) / ${1+3*VEC4}u + i % cells;
        x[at] = b[at];
    }
    storageBarrier();
    var singular = false;
    for (var k = 0u; k < n; k += 8u) {
        for (var j = j0 + 4u * local; j < j1; j += 4u * LANES) {
#repeat i 8
            let line${i}_0 = line(base, k + ${i}u, k);
            let line${i}_1 = line(base, k + ${i}u, k + 4u);
#end
#repeat i 8
            let row${i} = x0 + place(min(k + ${i}u, n - 1u)) * args.columns;
            var y${i} = load4(row${i}, j);
#repeat s i
#if TRANS
            y${i} -= line${s}_${i / 4}[${i % 4}] * y${s};
#else
            y${i} -= line${i}_${s / 4}[${s % 4}] * y${s};
#endif
#end
            if (k + ${i}u < n) {
                if ((args.flags & UNIT) == 0u) {
                    let d = line${i}_${i / 4}[${i % 4}];
                    let zero = abs(d) < 1.1754944e-38;
                    singular = singular | zero;
                    y${i} /= select(d, 1.0, zero);
                }
                store4(row${i}, j, y${i});
            }
#end
        }
        storageBarrier();
        let next = k + 8u;
        if (next < n) {
            let across = (j1 - j0 + 3u) / 4u;
            let tiles = across * ((n - next + 3u) / 4u);
            for (var tile = local; tile < tiles; tile += LANES) {
                let i = next + (tile / across) * 4u;
                let j = j0 + (tile % across) * 4u;
#repeat r 4
                let row${r} = x0 + place(min(i + ${r}u, n - 1u)) * args.columns;
                var sum${r} = load4(row${r}, j);
#end
                for (var s = k; s < next; s += 4u) {
#repeat c 4
#if TRANS
                    let line${c} = line(base, s + ${c}u, i);
#else
                    let line${c} = line(base, i + ${c}u, s);
#endif
#end
#repeat c 4
                    let y${c} = load4(x0 + place(s + ${c}u) * args.columns, j);
#repeat r 4
#if TRANS
                    sum${r} -= line${c}[${r}] * y${c};
#else
                    sum${r} -= line${r}[${c}] * y${c};
#endif
#end
#end
                }
#repeat r 4
                if (i + ${r}u < n) {
                    store4(row${r}, j, sum${r});
                }
#end
            }
            storageBarrier();
        }
    }
    if (singular) {
        for (var j = j0 + 4u * local; j < j1; j += 4u * LANES) {
            for (var i = 0u; i < n; i++) {
                store4(x0 + i * args.columns, j, vec4f(args.singular));
            }
        }
    }
}
