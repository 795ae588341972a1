// y[n, c, p] = byte(n, p, c) * scale_c + shift_c: pictures of BYTES bytes a pixel, of which
//   the first CHANNELS are used
//   words [ceil(samples * plane * BYTES / 4)], four bytes each, the lowest first;
//   y [samples, CHANNELS, plane]
// Grid: flat, one invocation per pixel. Caller: ops/image/pixels.rs
#import grid

struct Args {
    total: u32,
    plane: u32,
#repeat c CHANNELS
    scale${c}: f32,
    shift${c}: f32,
#end
}
#args

@group(0) @binding(0) var<storage, read> words: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, 64u);
    if (index >= args.total) {
        return;
    }
    let sample = index / args.plane;
    let at = sample * (args.plane * ${CHANNELS}u) + index % args.plane;
#if BYTES == 4
    let word = words[index];
#endif
#repeat c CHANNELS
    {
#if BYTES == 4
        let byte = (word >> ${8*c}u) & 255u;
#else
        let place = index * ${BYTES}u + ${c}u;
        let byte = (words[place / 4u] >> (8u * (place % 4u))) & 255u;
#endif
        y[at + args.plane * ${c}u] = f32(byte) * args.scale${c} + args.shift${c};
    }
#end
}
