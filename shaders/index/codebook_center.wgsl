// y[d] = a number amid those of the codes e [K, D] along d: the median of three medians of
// three codes each (Tukey's ninther), taken at even distances; 0 where that is not finite
// Grid: flat, one invocation per d. Caller: ops/index/codebook.rs
#import grid

struct Args {
    codes: u32,
    width: u32,
}
#args

@group(0) @binding(0) var<storage, read> e: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

fn median(a: f32, b: f32, c: f32) -> f32 {
    return max(min(a, b), min(max(a, b), c));
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let d = flat_index(group, groups, local, 64u);
    if (d >= args.width) {
        return;
    }
    // Ninths of the codes, without a product that could leave 32 bits.
    let ninth = args.codes / 9u;
    let over = args.codes % 9u;
#repeat j 9
    let v${j} = e[(${j}u * ninth + ${j}u * over / 9u) * args.width + d];
#end
    let c = median(median(v0, v1, v2), median(v3, v4, v5), median(v6, v7, v8));
    let finite = (bitcast<u32>(c) & 0x7f800000u) != 0x7f800000u;
    y[d] = select(0.0, c, finite);
}
