// y[o] = reduction over r of x[base(o) + offset(r)]
// One invocation per output. Caller: ops/reduce.rs
#import grid

struct Args {
    outputs: u32,
    reduced: u32,
}
#args

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

fn base(o: u32) -> u32 {
    return ${BASE};
}

fn offset(r: u32) -> u32 {
    return ${OFFSET};
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let o = flat_index(group, groups, local, 64u);
    if (o >= args.outputs) {
        return;
    }
    let start = base(o);
    var sum = 0.0;
    for (var r = 0u; r < args.reduced; r++) {
        sum += x[start + offset(r)];
    }
    y[o] = sum;
}
