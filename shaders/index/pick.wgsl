// pick:  y[o] = x[o, idx[o]], one of the elements that a reduction would fold into o;
//        0 where idx[o] is out of range. One invocation per output.
// place: y[o, r] = x[o] where r == idx[o], else 0: the gradient of pick. One invocation
//        per element of y.
//        The flat index of y has up to four digits, each of them part of o or of r.
// Grid: flat. Caller: ops/pick.rs
#import grid

#if PLACE
struct Args {
    total: u32,
    extent1: u32,
    extent2: u32,
    extent3: u32,
    // What a step of each digit adds to o, and to r.
    o0: u32,
    o1: u32,
    o2: u32,
    o3: u32,
    r0: u32,
    r1: u32,
    r2: u32,
    r3: u32,
}
#else
struct Args {
    total: u32,
    range: u32,
    // The digits of o and r, and what a step of each adds to the place in x.
    kept_extent: u32,
    kept_outer: u32,
    kept_inner: u32,
    reduced_extent: u32,
    reduced_outer: u32,
    reduced_inner: u32,
}
#endif
#args

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> idx: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let i = flat_index(group, groups, local, 64u);
    if (i >= args.total) {
        return;
    }
#if PLACE
#if GENERIC
    let o = ${O};
    let r = ${R};
#else
    let d3 = i % args.extent3;
    let rest3 = i / args.extent3;
    let d2 = rest3 % args.extent2;
    let rest2 = rest3 / args.extent2;
    let d1 = rest2 % args.extent1;
    let d0 = rest2 / args.extent1;
    let o = d0 * args.o0 + d1 * args.o1 + d2 * args.o2 + d3 * args.o3;
    let r = d0 * args.r0 + d1 * args.r1 + d2 * args.r2 + d3 * args.r3;
#endif
    y[i] = select(0.0, x[o], idx[o] == r);
#else
    let r = min(idx[i], args.range - 1u);
#if GENERIC
    let at = ${BASE} + ${OFFSET};
#else
    let at = (i / args.kept_extent) * args.kept_outer + (i % args.kept_extent) * args.kept_inner
        + (r / args.reduced_extent) * args.reduced_outer
        + (r % args.reduced_extent) * args.reduced_inner;
#endif
    y[i] = select(0.0, x[at], idx[i] < args.range);
#endif
}
