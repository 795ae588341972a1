// y[2i], y[2i + 1] = two random numbers from the words of
//   threefry(key = threefry(key = seed, counter = (step, stream)), counter = (i, 0))
// bits: the words; uniform: their top 24 bits / 2^24; bernoulli: uniform < p;
// normal: Box-Muller on (top 24 bits + 1) / 2^24 and top 24 bits / 2^24.
//   state [4] = seed low, seed high, step, 0
// FOUR: an invocation makes four pairs, the first numbers of which are the even ones of
// eight neighbours. total counts invocations' results: these eights, or numbers.
// Grid: flat, one invocation per pair or four. Caller: ops/random.rs
#import grid
#import math
#import threefry
#import wide

struct Args {
    total: u32,
    stream: u32,
    p: f32,
}
#args

#if FOUR
alias Real = vec4f;
#else
alias Real = f32;
#endif

@group(0) @binding(0) var<storage, read> state: array<u32>;
#if FOUR
@group(0) @binding(1) var<storage, read_write> y: array<Oct>;
#else
@group(0) @binding(1) var<storage, read_write> y: array<${TYPE}>;
#endif

const SCALE = 5.9604645e-8;

#if KIND == normal
// log_f32 of numbers of which none is special.
fn log_normal(x: f32) -> f32 {
    let l = log_parts(x);
    return l.base + (l.f + l.tail);
}

fn log_each(x: Real) -> Real {
#if FOUR
    return vec4f(log_normal(x.x), log_normal(x.y), log_normal(x.z), log_normal(x.w));
#else
    return log_normal(x);
#endif
}

struct Turn {
    cos: Real,
    sin: Real,
}

// (cos, sin) of `u` turns, u in [0, 1) with 24 bits. Drivers promise 3 digits only.
fn turn(bits: Word) -> Turn {
    // The nearest quarter turn, and the angle from there, exact in f32.
    let quarters = (bits + 0x200000u) >> Word(22u);
    let offset = Real(bits) - Real(quarters << Word(22u));
    let a = offset * (6.2831853 * SCALE);
    let t = a * a;
    let s = a * (1.0 + t * (-0.16666667 + t * (0.008333334 + t * (-0.0001984127 + t * 2.7557319e-6))));
    let c = 1.0 + t * (-0.5 + t * (0.041666668 + t * (-0.0013888889 + t * 2.4801587e-5)));
    let swap = (quarters & Word(1u)) != Word();
    let x = select(c, -s, swap);
    let z = select(s, c, swap);
    let back = (quarters & Word(2u)) != Word();
    return Turn(select(x, -x, back), select(z, -z, back));
}
#endif

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, 64u);
    let seed = Pair(Word(state[0]), Word(state[1]));
    let key = threefry(seed, Pair(Word(state[2]), Word(args.stream)));
#if FOUR
    if (index >= args.total) {
        return;
    }
    let words = threefry(key, Pair(4u * index + vec4u(0u, 1u, 2u, 3u), Word()));
#else
    let at = 2u * index;
    if (at >= args.total) {
        return;
    }
    let words = threefry(key, Pair(index, 0u));
#endif
#if KIND == bits
    let first = words.x;
    let second = words.y;
#else
    let top_x = words.x >> Word(8u);
    let top_y = words.y >> Word(8u);
#if KIND == normal
    let radius = sqrt(max(-2.0 * log_each(Real(top_x + 1u) * SCALE), Real()));
    let way = turn(top_y);
    let first = radius * way.cos;
    let second = radius * way.sin;
#elif KIND == uniform
    let first = Real(top_x) * SCALE;
    let second = Real(top_y) * SCALE;
#else
    let first = select(Real(), Real(1.0), Real(top_x) * SCALE < Real(args.p));
    let second = select(Real(), Real(1.0), Real(top_y) * SCALE < Real(args.p));
#endif
#endif
#if FOUR
    y[index] = oct(first, second);
#else
    y[at] = first;
    if (at + 1u < args.total) {
        y[at + 1u] = second;
    }
#endif
}
