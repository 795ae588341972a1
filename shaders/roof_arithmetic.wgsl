// y[i] = what ROUNDS * args.trips steps v -> v * scale + shift make of x[i],
//   as the mean of three vec4 that start at x[i]. x [n], y [n]
// Nothing but multiply-adds in registers: what an adapter's arithmetic can do at
// most. Twelve independent chains hide the latency and still fit 16 registers.
// Grid: flat. Caller: ops/roof.rs
#import grid

struct Args {
    n: u32,
    trips: u32,
    scale: f32,
    shift: f32,
}
#args

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, 64u);
    if (index >= args.n) {
        return;
    }
    let scale = vec4f(args.scale);
    let shift = vec4f(args.shift);
    // Different starts, or the compiler would keep one chain of twelve.
    let start = x[index] + vec4f(-0.3, -0.1, 0.1, 0.3);
    var a = start;
    var b = start - 1.0;
    var c = start + 1.0;
    for (var trip = 0u; trip < args.trips; trip++) {
#repeat i ROUNDS
        a = a * scale + shift;
        b = b * scale + shift;
        c = c * scale + shift;
#end
    }
    y[index] = dot(a + b + c, vec4f(1.0)) / 12.0;
}
