// y[r, offset + c] = the COUNT inputs side by side: input k holds columns end_(k-1)..end_k
//   of a stripe of `width` columns; y has `pitch` columns
// TYPE: f32, u32, or Oct where all counts are multiples of eight words, and count those.
// Inputs x_k are [rows, end_k - end_(k-1)].
// Grid: flat, one invocation per element of the stripe. Caller: ops/concat.rs
#import grid
#import divide
#import wide

struct Args {
    total: u32,
    width: u32,
    pitch: u32,
    offset: u32,
#repeat k COUNT
    begin${k}: u32,
#end
}
#args

#repeat k COUNT
@group(0) @binding(${k}) var<storage, read> x${k}: array<${TYPE}>;
#end
@group(0) @binding(${COUNT}) var<storage, read_write> y: array<${TYPE}>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, 64u);
    if (index >= args.total) {
        return;
    }
    let row = divide(index, args.width);
    let column = index - row * args.width;
    let at = row * args.pitch + args.offset + column;
#repeat k COUNT-1
    if (column < args.begin${k+1}) {
        y[at] = x${k}[row * (args.begin${k+1} - args.begin${k}) + column - args.begin${k}];
        return;
    }
#end
    y[at] = x${COUNT-1}[row * (args.width - args.begin${COUNT-1}) + column - args.begin${COUNT-1}];
}
