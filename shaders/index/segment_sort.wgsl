// A stable counting sort of rows by segment, without atomics: the rows are cut into
// `parts` chunks, and each is counted and scattered by one invocation, in order.
//   PHASE zero     counts[p, k] = 0                                one invocation each
//   PHASE count    counts[p, k] = rows of chunk p with idx == k    one per chunk
//   PHASE offsets  counts[p, k] = those in chunks before p; totals[k]    one per segment
//   PHASE blocks   blocks[b] = the sum of 256 totals               one per block
//   PHASE starts   starts[k] = the sum of totals before k, for k in 0..=segments
//                                                                  one per block
//   PHASE scatter  order[starts[k] + counts[p, k]++] = n           one per chunk
// Rows whose segment is out of range are left out. Grid: flat. Caller: ops/segment_sum.rs
#import grid

struct Args {
    rows: u32,
    segments: u32,
    parts: u32,
    chunk: u32,
}
#args

#if PHASE == zero
@group(0) @binding(0) var<storage, read_write> counts: array<u32>;
#elif PHASE == count
@group(0) @binding(0) var<storage, read> idx: array<u32>;
@group(0) @binding(1) var<storage, read_write> counts: array<u32>;
#elif PHASE == offsets
@group(0) @binding(0) var<storage, read_write> counts: array<u32>;
@group(0) @binding(1) var<storage, read_write> totals: array<u32>;
#elif PHASE == blocks
@group(0) @binding(0) var<storage, read> totals: array<u32>;
@group(0) @binding(1) var<storage, read_write> blocks: array<u32>;
#elif PHASE == starts
@group(0) @binding(0) var<storage, read> totals: array<u32>;
@group(0) @binding(1) var<storage, read> blocks: array<u32>;
@group(0) @binding(2) var<storage, read_write> starts: array<u32>;
#elif PHASE == scatter
@group(0) @binding(0) var<storage, read> idx: array<u32>;
@group(0) @binding(1) var<storage, read> starts: array<u32>;
@group(0) @binding(2) var<storage, read_write> counts: array<u32>;
@group(0) @binding(3) var<storage, read_write> order: array<u32>;
#endif

const BLOCK = 256u;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, 64u);
#if PHASE == zero
    if (index < args.parts * args.segments) {
        counts[index] = 0u;
    }
#elif PHASE == count
    if (index >= args.parts) {
        return;
    }
    for (var n = index * args.chunk; n < min((index + 1u) * args.chunk, args.rows); n++) {
        let segment = idx[n];
        if (segment < args.segments) {
            counts[index * args.segments + segment] += 1u;
        }
    }
#elif PHASE == offsets
    if (index >= args.segments) {
        return;
    }
    var before = 0u;
    for (var part = 0u; part < args.parts; part++) {
        let at = part * args.segments + index;
        let here = counts[at];
        counts[at] = before;
        before += here;
    }
    totals[index] = before;
#elif PHASE == blocks
    let first = index * BLOCK;
    if (first >= args.segments) {
        return;
    }
    var sum = 0u;
    for (var k = first; k < min(first + BLOCK, args.segments); k++) {
        sum += totals[k];
    }
    blocks[index] = sum;
#elif PHASE == starts
    let first = index * BLOCK;
    if (first >= args.segments) {
        return;
    }
    var sum = 0u;
    for (var b = 0u; b < index; b++) {
        sum += blocks[b];
    }
    let end = min(first + BLOCK, args.segments);
    for (var k = first; k < end; k++) {
        starts[k] = sum;
        sum += totals[k];
    }
    if (end == args.segments) {
        starts[end] = sum;
    }
#elif PHASE == scatter
    if (index >= args.parts) {
        return;
    }
    for (var n = index * args.chunk; n < min((index + 1u) * args.chunk, args.rows); n++) {
        let segment = idx[n];
        if (segment < args.segments) {
            let at = index * args.segments + segment;
            order[starts[segment] + counts[at]] = n;
            counts[at] += 1u;
        }
    }
#endif
}
