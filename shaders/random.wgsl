// y[2i], y[2i + 1] = two random numbers from the words of
//   threefry(key = threefry(key = seed, counter = (step, stream)), counter = (i, 0))
// bits: the words; uniform: their top 24 bits / 2^24; bernoulli: uniform < p;
// normal: Box-Muller on (top 24 bits + 1) / 2^24 and top 24 bits / 2^24.
//   state [4] = seed low, seed high, step, 0
// Grid: flat, one invocation per pair. Caller: ops/random.rs
#import grid
#import math
#import threefry

struct Args {
    total: u32,
    stream: u32,
    p: f32,
}
#args

@group(0) @binding(0) var<storage, read> state: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<${TYPE}>;

const SCALE = 5.9604645e-8;

#if KIND == normal
// (cos, sin) of `u` turns, u in [0, 1) with 24 bits. Drivers promise 3 digits only.
fn turn(bits: u32) -> vec2f {
    // The nearest quarter turn, and the angle from there, exact in f32.
    let quarter = ((bits + 0x200000u) >> 22u) & 3u;
    let offset = f32(i32(bits) - i32(((bits + 0x200000u) >> 22u) << 22u));
    let a = offset * (6.2831853 * SCALE);
    let t = a * a;
    let s = a * (1.0 + t * (-0.16666667 + t * (0.008333334 + t * (-0.0001984127 + t * 2.7557319e-6))));
    let c = 1.0 + t * (-0.5 + t * (0.041666668 + t * (-0.0013888889 + t * 2.4801587e-5)));
    let swap = (quarter & 1u) == 1u;
    let x = select(c, -s, swap);
    let z = select(s, c, swap);
    return select(vec2f(x, z), vec2f(-x, -z), quarter >= 2u);
}
#endif

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let pair = flat_index(group, groups, local, 64u);
    let at = 2u * pair;
    if (at >= args.total) {
        return;
    }
    let key = threefry(vec2u(state[0], state[1]), vec2u(state[2], args.stream));
    let words = threefry(key, vec2u(pair, 0u));
#if KIND == bits
    let out = words;
#elif KIND == uniform
    let out = vec2f(words >> vec2u(8u)) * SCALE;
#elif KIND == bernoulli
    let out = select(vec2f(), vec2f(1.0), vec2f(words >> vec2u(8u)) * SCALE < vec2f(args.p));
#else
    let top = words >> vec2u(8u);
    let radius = sqrt(max(-2.0 * log_f32(f32(top.x + 1u) * SCALE), 0.0));
    let out = radius * turn(top.y);
#endif
    y[at] = out.x;
    if (at + 1u < args.total) {
        y[at + 1u] = out.y;
    }
}
