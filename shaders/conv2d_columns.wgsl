// columns[n, (c, ky, kx), i] = x[n, c, stride * i + dilation * (ky, kx) - before], zeros
// outside: what every output pixel i sees, so that a convolution is a product.
//   x [n, channels, in_y, in_x], columns [n, channels * taps_y * taps_x, out_y * out_x]
// Grid: flat, one invocation per element. Caller: ops/conv_columns.rs
#import grid
#import divide

struct Args {
    total: u32,
    in_y: u32,
    in_x: u32,
    out_y: u32,
    out_x: u32,
    taps_y: u32,
    taps_x: u32,
    stride_y: u32,
    stride_x: u32,
    dilation_y: u32,
    dilation_x: u32,
    before_y: i32,
    before_x: i32,
}
#args

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> columns: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, 64u);
    if (index >= args.total) {
        return;
    }
    let line = divide(index, args.out_x);
    let px = index - line * args.out_x;
    var rest = divide(line, args.out_y);
    let py = line - rest * args.out_y;
    var next = divide(rest, args.taps_x);
    let kx = rest - next * args.taps_x;
    rest = next;
    next = divide(rest, args.taps_y);
    let ky = rest - next * args.taps_y;
    // `next` counts channels through all samples.
    let iy = u32(i32(py * args.stride_y + ky * args.dilation_y) - args.before_y);
    let ix = u32(i32(px * args.stride_x + kx * args.dilation_x) - args.before_x);
    let inside = iy < args.in_y && ix < args.in_x;
    let at = (next * args.in_y + min(iy, args.in_y - 1u)) * args.in_x + min(ix, args.in_x - 1u);
    columns[index] = select(0.0, x[at], inside);
}
