// y[plane, i] = x[plane, at[plane, i]]
//   x [planes, size_x], y and at [planes, size_y]
// Grid: flat, one invocation per output. Caller: ops/max_pool.rs
#import grid

struct Args {
    total: u32,
    size_y: u32,
    size_x: u32,
}
#args

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> at: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, 64u);
    if (index >= args.total) {
        return;
    }
    y[index] = x[(index / args.size_y) * args.size_x + at[index]];
}
