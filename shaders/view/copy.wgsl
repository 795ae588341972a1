// y = x, EACH words (1 or 8) at a time; n, in words, is a multiple of EACH.
// Grid: flat. Caller: plan/lowering.rs (packing of gradients)
#import grid
#import wide

struct Args {
    n: u32,
}
#args

#if EACH == 8
@group(0) @binding(0) var<storage, read> x: array<Oct>;
@group(0) @binding(1) var<storage, read_write> y: array<Oct>;
#else
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
#endif

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let i = flat_index(group, groups, local, 64u);
    if (i < args.n / ${EACH}u) {
        y[i] = x[i];
    }
}
