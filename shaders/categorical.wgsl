// y[n] = the class j whose (logits[n, j] - peak) * scale + g is largest, with g = -log(E) and
// E exponentially distributed: a class is drawn with probability softmax(scale * logits)
// (Gumbel's maximum). E comes from word j % 2 of
//   threefry(key = threefry(key = seed, counter = (step, stream)), counter = (j / 2, n))
// Logits of minus infinity are never drawn; a row of nothing else gives `classes`. The first
// NaN is drawn, as by argmax. TOP: only logits that are not below the `keep`th largest.
//   logits [rows, classes], state [4] = seed low, seed high, step, 0
// One workgroup per row. Grid: flat. Caller: ops/categorical.rs
#import grid
#import math
#import threefry

struct Args {
    rows: u32,
    classes: u32,
    stream: u32,
    keep: u32,
    scale: f32,
}
#args

@group(0) @binding(0) var<storage, read> state: array<u32>;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;

const LANES = 64u;
const MINUS_INFINITY = 0xff800000u;

var<workgroup> scores: array<f32, LANES>;
var<workgroup> places: array<u32, LANES>;
#if TOP
var<workgroup> counts: array<atomic<u32>, 32>;

// Unsigned numbers in the order of floats; NaN is largest.
fn rank(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    let ordered = select(bits | 0x80000000u, ~bits, bits > 0x80000000u);
    return select(ordered, 0xffffffffu, is_nan(x));
}
#endif

// An exponentially distributed number of 32 bits, precise near 0, where maxima come from.
fn exponential(word: u32) -> f32 {
    let low = (f32(word) + 0.5) * 2.3283064e-10;
    let high = (f32(~word) + 0.5) * 2.3283064e-10;
    return -select(log_f32(high), log1p01(-low), word < 0x80000000u);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let row = flat_group(group, groups);
    if (row >= args.rows) {
        return;
    }
    let first = row * args.classes;
    var peak = from_bits(MINUS_INFINITY);
    for (var j = local; j < args.classes; j += LANES) {
        let x = logits[first + j];
        peak = select(peak, x, (x > peak) & !is_nan(x));
    }
    scores[local] = peak;
#if TOP
    if (local < 32u) {
        atomicStore(&counts[local], 0u);
    }
#endif
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (local < half) {
            scores[local] = max(scores[local], scores[local + half]);
        }
    }
    workgroupBarrier();
    peak = scores[0];
#if TOP
    // The rank of the last that is kept, bit by bit.
    var least = 0u;
    for (var bit = 32u; bit > 0u; bit--) {
        let candidate = least | (1u << (bit - 1u));
        var count = 0u;
        for (var j = local; j < args.classes; j += LANES) {
            count += select(0u, 1u, rank(logits[first + j]) >= candidate);
        }
        atomicAdd(&counts[bit - 1u], count);
        workgroupBarrier();
        least = select(least, candidate, atomicLoad(&counts[bit - 1u]) >= args.keep);
    }
#endif
    let seed = Pair(state[0], state[1]);
    let key = threefry(seed, Pair(state[2], args.stream));
    var best = from_bits(MINUS_INFINITY);
    var place = args.classes;
    for (var pair = local; 2u * pair < args.classes; pair += LANES) {
        let words = threefry(key, Pair(pair, row));
#repeat k 2
        {
            let j = 2u * pair + ${k}u;
            let x = logits[first + min(j, args.classes - 1u)];
            // The peak may be infinite.
            let distance = select(x - peak, 0.0, x == peak);
            let number = distance * args.scale - log_f32(exponential(vec2u(words.x, words.y)[${k}]));
            let score = select(number, from_bits(0x7f800000u), is_nan(x));
            var allowed = (j < args.classes) & (bitcast<u32>(x) != MINUS_INFINITY);
#if TOP
            allowed = allowed & (rank(x) >= least);
#endif
            if (allowed & (score > best)) {
                best = score;
                place = j;
            }
        }
#end
    }
    // All have read the peak.
    workgroupBarrier();
    scores[local] = best;
    places[local] = place;
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (local < half) {
            let score = scores[local + half];
            let other = places[local + half];
            let lower = (score == scores[local]) & (other < places[local]);
            if ((score > scores[local]) | lower) {
                scores[local] = score;
                places[local] = other;
            }
        }
    }
    if (local == 0u) {
        y[row] = places[0];
    }
}
