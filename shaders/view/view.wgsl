// y[o] = x[base + sum over axes of r_i * stride_i], o_i the output index along axis i
//   plain: r_i = o_i
//   fill:  r_i = (o_i - from_i) / dilate_i; elements outside of 0..count_i, or between
//          two multiples of dilate_i, take the fill value
//   wrap:  r_i = o_i; from turn_i on, jump_i is added
// Axes are numbered from the innermost; neighbours that move together were merged.
// TYPE: f32, u32, or Oct where eight words always move together; all counts are of those.
// Strides may be negative: offsets are counted modulo 2^32.
// Grid: flat, one invocation per output element. Caller: ops/view.rs
#import grid
#import divide
#import wide

struct Args {
    total: u32,
    base: u32,
    fill: u32,
#repeat i RANK
    extent${i}: u32,
    stride${i}: u32,
#if MODE == fill
    from${i}: u32,
    count${i}: u32,
#if DILATED
    dilate${i}: u32,
#endif
#elif MODE == wrap
    turn${i}: u32,
    jump${i}: u32,
#endif
#end
}
#args

@group(0) @binding(0) var<storage, read> x: array<${TYPE}>;
@group(0) @binding(1) var<storage, read_write> y: array<${TYPE}>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, 64u);
    if (index >= args.total) {
        return;
    }
    let rest0 = index;
#repeat i RANK-1
    let rest${i+1} = divide(rest${i}, args.extent${i});
    let o${i} = rest${i} - rest${i+1} * args.extent${i};
#end
    let o${RANK-1} = rest${RANK-1};
    var at = args.base;
#if MODE == fill
    var inside = true;
#repeat i RANK
    let r${i} = o${i} - args.from${i};
    inside = inside & (r${i} < args.count${i});
#if DILATED
    let step${i} = divide(r${i}, args.dilate${i});
    inside = inside & (step${i} * args.dilate${i} == r${i});
    at += step${i} * args.stride${i};
#else
    at += r${i} * args.stride${i};
#endif
#end
#if TYPE == Oct
    let eight = vec4f(bitcast<f32>(args.fill));
    var value = oct(eight, eight);
#else
    var value = bitcast<${TYPE}>(args.fill);
#endif
    if (inside) {
        value = x[at];
    }
    y[index] = value;
#else
#repeat i RANK
    at += o${i} * args.stride${i};
#if MODE == wrap
    at += select(0u, args.jump${i}, o${i} >= args.turn${i});
#endif
#end
    y[index] = x[at];
#endif
}
