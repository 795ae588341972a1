// y[i] = sum over chunks of part[chunk, i], in the order of the chunks
//   part [chunks, len], y [len]
// Grid: flat, one invocation per element. Caller: ops/conv_weight.rs
#import grid

struct Args {
    len: u32,
    chunks: u32,
}
#args

@group(0) @binding(0) var<storage, read> part: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, 64u);
    if (index >= args.len) {
        return;
    }
    var sum = 0.0;
    for (var chunk = 0u; chunk < args.chunks; chunk++) {
        sum += part[chunk * args.len + index];
    }
    y[index] = sum;
}
