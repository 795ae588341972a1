// y[i] = sum over chunks of part[chunk, i], in the order of the chunks
//   part [chunks, len], whose chunks begin `stride` apart, y [len]; with VEC4 both count fours
// Grid: flat, one invocation per element. Caller: ops/sum_chunks.rs
#import grid
#import cell

struct Args {
    len: u32,
    chunks: u32,
    stride: u32,
}
#args

@group(0) @binding(0) var<storage, read> part: array<Stored>;
@group(0) @binding(1) var<storage, read_write> y: array<Stored>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, 64u);
    if (index >= args.len) {
        return;
    }
    var sum = Cell();
    for (var chunk = 0u; chunk < args.chunks; chunk++) {
        sum += cell_of(part[chunk * args.stride + index]);
    }
    y[index] = stored(sum);
}
