// columns[n, (c, ky, kx), i] = x[n, c, stride * i + dilation * (ky, kx) - before], zeros
// outside: what every output pixel i sees, so that a convolution is a product.
//   x [n, channels, in_y, in_x], columns [n, channels * TAPS_X * taps_y, out_y * out_x]
// One invocation writes EACH (1 or 4) pixels of a row for all taps along x: their SPAN
// inputs are read once. LEFT of them come before the first input that is a multiple of
// four, FULL fours after it, then REST more.
// Grid: flat, over groups of pixels, then ky, then channels. Caller: ops/conv/columns.rs
#import grid
#import divide
#import wide

struct Args {
    total: u32,
    in_y: u32,
    in_x: u32,
    out_y: u32,
    // Groups of EACH pixels of a row.
    groups_x: u32,
    taps_y: u32,
    stride_y: u32,
    dilation_y: u32,
    before_y: i32,
    before_x: i32,
}
#args

@group(0) @binding(0) var<storage, read> x: array<f32>;
#if FULL
@group(0) @binding(1) var<storage, read> fours: array<Quad>;
#endif
@group(0) @binding(${1 + FOURS}) var<storage, read_write> columns: array<${CELL}>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, 64u);
    if (index >= args.total) {
        return;
    }
    let line = divide(index, args.groups_x);
    let place = index - line * args.groups_x;
    let row = divide(line, args.out_y);
    let py = line - row * args.out_y;
    // Channels of all samples.
    let channel = divide(row, args.taps_y);
    let ky = row - channel * args.taps_y;
    let iy = u32(i32(py * args.stride_y + ky * args.dilation_y) - args.before_y);
    let ok = iy < args.in_y;
    let start = (channel * args.in_y + min(iy, args.in_y - 1u)) * args.in_x;
    let first = i32(place * ${EACH * STRIDE_X}u) - args.before_x;
#repeat i LEFT
    let x${i} = u32(first + ${i});
    let v${i} = select(0.0, x[start + min(x${i}, args.in_x - 1u)], ok & (x${i} < args.in_x));
#end
#repeat f FULL
    let q${f} = place * ${EACH * STRIDE_X / 4}u + ${f}u;
    let four${f} = select(vec4f(), quad(fours[start / 4u + min(q${f}, args.in_x / 4u - 1u)]), ok & (q${f} < args.in_x / 4u));
#repeat j 4
    let v${LEFT + 4 * f + j} = four${f}[${j}];
#end
#end
#repeat i REST
    let x${LEFT + 4 * FULL + i} = u32(first + ${LEFT + 4 * FULL + i});
    let v${LEFT + 4 * FULL + i} = select(0.0, x[start + min(x${LEFT + 4 * FULL + i}, args.in_x - 1u)], ok & (x${LEFT + 4 * FULL + i} < args.in_x));
#end
    let to = (row * ${TAPS_X}u * args.out_y + py) * args.groups_x + place;
    let step = args.out_y * args.groups_x;
#repeat k TAPS_X
#if EACH == 4
    columns[to + ${k}u * step] = to_quad(vec4f(v${k * DILATION_X}, v${k * DILATION_X + STRIDE_X},
        v${k * DILATION_X + 2 * STRIDE_X}, v${k * DILATION_X + 3 * STRIDE_X}));
#else
    columns[to + ${k}u * step] = v${k * DILATION_X};
#endif
#end
}
