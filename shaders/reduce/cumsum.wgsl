// y[a, i, b] = sum over j <= i of x[a, j, b], or over j >= i where REVERSE, for x and y
// [outer, extent, inner]. Long rows are cut into parts of `chunk` elements:
//   PHASE sums   t[part, row] = the sum of a part; one invocation per part of a row
//   PHASE scan   u[part, row] = the sum of the parts before it; one invocation per row
//   PHASE write  y, from u where OFFSET; one invocation per part of a row
// Parts are counted in the direction of summation. Sums are blocked: 64 elements in `sum`,
// 64 such sums in `middle`, all of these in `total`, so that each grows over few additions.
// Grid: flat. Caller: ops/cumsum.rs
#import grid

struct Args {
    rows: u32,
    parts: u32,
    chunk: u32,
    extent: u32,
    inner: u32,
}
#args

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
#if OFFSET
@group(0) @binding(2) var<storage, read> before: array<f32>;
#endif

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, 64u);
#if PHASE == scan
    if (index >= args.rows) {
        return;
    }
    var total = 0.0;
    var middle = 0.0;
    var sum = 0.0;
    for (var part = 0u; part < args.parts; part++) {
        let at = part * args.rows + index;
        y[at] = total + (middle + sum);
        sum += x[at];
        let done = part + 1u;
        if (done % 64u == 0u) {
            middle += sum;
            sum = 0.0;
        }
        if (done % 4096u == 0u) {
            total += middle;
            middle = 0.0;
        }
    }
#else
    if (index >= args.rows * args.parts) {
        return;
    }
    let row = index % args.rows;
    let first = (index / args.rows) * args.chunk;
    let start = (row / args.inner) * args.extent * args.inner + row % args.inner;
    var total = 0.0;
    var middle = 0.0;
    var sum = 0.0;
#if OFFSET
    total = before[index];
#endif
    for (var i = first; i < min(first + args.chunk, args.extent); i++) {
#if REVERSE
        let at = start + (args.extent - 1u - i) * args.inner;
#else
        let at = start + i * args.inner;
#endif
        sum += x[at];
#if PHASE == write
        y[at] = total + (middle + sum);
#endif
        let done = (i - first) + 1u;
        if (done % 64u == 0u) {
            middle += sum;
            sum = 0.0;
        }
        if (done % 4096u == 0u) {
            total += middle;
            middle = 0.0;
        }
    }
#if PHASE == sums
    y[index] = total + (middle + sum);
#endif
#endif
}
