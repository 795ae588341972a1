// The convolution of conv2d.wgsl as a product of the weights [channels_out, k] with the
// input values [k, pixels] that each pixel sees, k = (channel, tap); no such matrix is
// stored: blocks of it are gathered into workgroup memory as they are needed.
// A workgroup of COLUMNS x ROWS invocations computes ROWS * TM channels at COLUMNS * TN
// pixels of all samples, as matmul_tiled.wgsl does.
// Grid: flat workgroups, over tiles of pixels, then tiles of channels, then groups.
// Caller: ops/conv/tile.rs
#import grid
#import divide
#import activation
#import half

struct Args {
    total: u32,
    tiles_m: u32,
    tiles_n: u32,
    groups: u32,
    channels_out: u32,
    channels_in: u32,
    // Channels times taps.
    depth: u32,
    // Pixels of all samples, rows and columns of the lattice.
    pixels: u32,
    rows: u32,
    columns: u32,
    in_y: u32,
    in_x: u32,
    out_y: u32,
    out_x: u32,
    first_y: u32,
    first_x: u32,
    step_y: u32,
    step_x: u32,
    stride_y: u32,
    stride_x: u32,
    dilation_y: u32,
    dilation_x: u32,
    before_y: i32,
    before_x: i32,
    weight_first: u32,
    weight_group: u32,
    weight_out: u32,
    weight_in: u32,
    weight_tap_y: i32,
    weight_tap_x: i32,
#if ACT == leaky_relu
    slope: f32,
#endif
}
#args

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> w: array<${TYPE_W}>;
#if BIAS
@group(0) @binding(2) var<storage, read> bias: array<f32>;
#endif
#if RESIDUAL
@group(0) @binding(${2 + BIAS}) var<storage, read> residual: array<f32>;
#endif
@group(0) @binding(${2 + BIAS + RESIDUAL}) var<storage, read_write> y: array<f32>;

const BM = ${ROWS * TM}u;
const BN = ${COLUMNS * TN}u;
const BK = ${BK}u;
const SIZE = ${ROWS * COLUMNS}u;
const TAPS_X = ${TAPS_X}u;
const TAPS = ${TAPS_Y * TAPS_X}u;

var<workgroup> block_w: array<f32, ${BK * (ROWS * TM + 1)}>;
var<workgroup> block_x: array<f32, ${BK * (COLUMNS * TN + 1)}>;

// Channel, row and column of the tap that a position on the inner axis means.
fn tap(k: u32) -> vec3u {
    let c = k / TAPS;
    let rest = k - c * TAPS;
    return vec3u(c, rest / TAPS_X, rest % TAPS_X);
}

// Element i of w.
fn weight(i: u32) -> f32 {
    return ${TYPE_W}_at(w[i >> ${HALF_W}u], i);
}

@compute @workgroup_size(${ROWS * COLUMNS})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_group(group, groups);
    // The whole workgroup leaves, or none of it.
    if (index >= args.total) {
        return;
    }
    let line = divide(index, args.tiles_n);
    let n0 = (index - line * args.tiles_n) * BN;
    let g = divide(line, args.tiles_m);
    let m0 = (line - g * args.tiles_m) * BM;

    let row = local / ${COLUMNS}u;
    let column = local % ${COLUMNS}u;
#repeat i TM
#repeat j TN
    var sum${i}_${j} = 0.0;
#end
#end
    // The pixel whose values this invocation gathers, at depths BK / DEEP apart.
    let own = n0 + local % BN;
    let deep = local / BN;
    let seen = own < args.pixels;
    let pixel = min(own, args.pixels - 1u);
    let above = divide(pixel, args.columns);
    let sample = divide(above, args.rows);
    let top = i32((above - sample * args.rows) * args.stride_y) - args.before_y;
    let left = i32((pixel - above * args.columns) * args.stride_x) - args.before_x;
    let plane = args.in_y * args.in_x;
    let image = (sample * args.groups + g) * args.channels_in * plane;

#repeat l ROWS * TM * BK / (ROWS * COLUMNS)
    let e${l} = local + ${l}u * SIZE;
    let kw${l} = e${l} % BK;
    let mw${l} = e${l} / BK;
    let ok_w${l} = m0 + mw${l} < args.channels_out;
    let from_w${l} = args.weight_first + g * args.weight_group
        + min(m0 + mw${l}, args.channels_out - 1u) * args.weight_out;
    let to_w${l} = kw${l} * (BM + 1u) + mw${l};
    var next_w${l} = 0.0;
#end
#repeat l COLUMNS * TN * BK / (ROWS * COLUMNS)
    let kx${l} = deep + ${l}u * (SIZE / BN);
    let to_x${l} = kx${l} * (BN + 1u) + local % BN;
    var next_x${l} = 0.0;
#end
    let last = args.depth - 1u;

    for (var k0 = 0u; k0 < args.depth + BK; k0 += BK) {
        if (k0 > 0u) {
            workgroupBarrier();
#repeat l ROWS * TM * BK / (ROWS * COLUMNS)
            block_w[to_w${l}] = next_w${l};
#end
#repeat l COLUMNS * TN * BK / (ROWS * COLUMNS)
            block_x[to_x${l}] = next_x${l};
#end
            workgroupBarrier();
        }
        if (k0 < args.depth) {
#repeat l ROWS * TM * BK / (ROWS * COLUMNS)
            let tw${l} = tap(min(k0 + kw${l}, last));
            let w${l} = weight(u32(i32(from_w${l} + tw${l}.x * args.weight_in)
                + i32(tw${l}.y) * args.weight_tap_y + i32(tw${l}.z) * args.weight_tap_x));
            next_w${l} = select(0.0, w${l}, ok_w${l} & (k0 + kw${l} < args.depth));
#end
#repeat l COLUMNS * TN * BK / (ROWS * COLUMNS)
            let tx${l} = tap(min(k0 + kx${l}, last));
            let iy${l} = u32(top + i32(tx${l}.y * args.dilation_y));
            let ix${l} = u32(left + i32(tx${l}.z * args.dilation_x));
            let inside${l} = seen & (iy${l} < args.in_y) & (ix${l} < args.in_x);
            let x${l} = x[image + tx${l}.x * plane + min(iy${l}, args.in_y - 1u) * args.in_x
                + min(ix${l}, args.in_x - 1u)];
            next_x${l} = select(0.0, x${l}, inside${l} & (k0 + kx${l} < args.depth));
#end
        }
        if (k0 > 0u) {
            for (var k = 0u; k < BK; k++) {
                let pw = k * (BM + 1u) + row;
                let px = k * (BN + 1u) + column;
#repeat i TM
                let vw${i} = block_w[pw + ${i * ROWS}u];
#end
#repeat j TN
                let vx${j} = block_x[px + ${j * COLUMNS}u];
#end
#repeat i TM
#repeat j TN
                sum${i}_${j} += vw${i} * vx${j};
#end
#end
            }
        }
    }

#repeat j TN
    let at${j} = n0 + column + ${j * COLUMNS}u;
    if (at${j} < args.pixels) {
        let line${j} = divide(at${j}, args.columns);
        let n${j} = divide(line${j}, args.rows);
        let oy${j} = args.first_y + (line${j} - n${j} * args.rows) * args.step_y;
        let ox${j} = args.first_x + (at${j} - line${j} * args.columns) * args.step_x;
#repeat i TM
        let o${i}_${j} = m0 + row + ${i * ROWS}u;
        if (o${i}_${j} < args.channels_out) {
            let channel${i}_${j} = g * args.channels_out + o${i}_${j};
#if BIAS
            let shift${i}_${j} = bias[channel${i}_${j}];
#else
            let shift${i}_${j} = 0.0;
#endif
            let to${i}_${j} = ((n${j} * args.groups * args.channels_out + channel${i}_${j}) * args.out_y
                + oy${j}) * args.out_x + ox${j};
#if RESIDUAL
            y[to${i}_${j}] = act(sum${i}_${j} + shift${i}_${j} + residual[to${i}_${j}]);
#else
            y[to${i}_${j}] = act(sum${i}_${j} + shift${i}_${j});
#endif
        }
#end
    }
#end
}
