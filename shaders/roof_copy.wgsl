// y = x, in words of TYPE (four or eight floats): what an adapter can move at most. x, y [n]
// Grid: flat. Caller: ops/roof.rs
#import grid
#import wide

struct Args {
    n: u32,
}
#args

@group(0) @binding(0) var<storage, read> x: array<${TYPE}>;
@group(0) @binding(1) var<storage, read_write> y: array<${TYPE}>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, 64u);
    if (index < args.n) {
        y[index] = x[index];
    }
}
