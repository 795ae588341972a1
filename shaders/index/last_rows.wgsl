// place[i] = idx[i] if no later index equals it and it is below `rows`, else `rows`
//   idx, place [count]
//   PHASE pairs  every index looks through all later ones        one invocation per index
// or, for many of them, by a table of the last index of each row:
//   PHASE zero   owner[k] = 0                                    one per row
//   PHASE mark   owner[idx[i]] = max(.., i + 1)                  one per index
//   PHASE own    place[i], by whether owner[idx[i]] == i + 1     one per index
// The maximum of integers is the same in any order. Grid: flat.
// Caller: ops/index/set_rows.rs
#import grid

struct Args {
    count: u32,
    rows: u32,
}
#args

#if PHASE == pairs
@group(0) @binding(0) var<storage, read> idx: array<u32>;
@group(0) @binding(1) var<storage, read_write> place: array<u32>;
#elif PHASE == zero
@group(0) @binding(0) var<storage, read_write> owner: array<u32>;
#elif PHASE == mark
@group(0) @binding(0) var<storage, read> idx: array<u32>;
@group(0) @binding(1) var<storage, read_write> owner: array<atomic<u32>>;
#elif PHASE == own
@group(0) @binding(0) var<storage, read> idx: array<u32>;
@group(0) @binding(1) var<storage, read> owner: array<u32>;
@group(0) @binding(2) var<storage, read_write> place: array<u32>;
#endif

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let i = flat_index(group, groups, local, 64u);
#if PHASE == zero
    if (i < args.rows) {
        owner[i] = 0u;
    }
#else
    if (i >= args.count) {
        return;
    }
    let row = idx[i];
#if PHASE == pairs
    var last = row < args.rows;
    for (var later = i + 1u; later < args.count; later++) {
        last = last & (idx[later] != row);
    }
    place[i] = select(args.rows, row, last);
#elif PHASE == mark
    if (row < args.rows) {
        atomicMax(&owner[row], i + 1u);
    }
#elif PHASE == own
    var last = false;
    if (row < args.rows) {
        last = owner[row] == i + 1u;
    }
    place[i] = select(args.rows, row, last);
#endif
#endif
}
