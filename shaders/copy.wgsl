// y = x, word by word. Grid: flat. Caller: plan/build.rs (packing of gradients)
#import grid

struct Args {
    n: u32,
}
#args

@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let i = flat_index(group, groups, local, 64u);
    if (i < args.n) {
        y[i] = x[i];
    }
}
