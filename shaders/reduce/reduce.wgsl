// y[o] = fold over r of x[base(o) + offset(r)], for the folds
//   sum       scale * sum x              centered  scale * sum (x - shift[o])^2
//   mean      the mean, measured from the first element, so that of equal ones it is these
//   product   scale * sum x w            dot       sum x, and sum x (w - shift[o])
//   max       SIGN * max(SIGN * x)       arg       the lowest r where SIGN * x is largest
//   lse       log sum e^x, kept as (peak, sum e^(x - peak)) between the passes
//   moments   the mean, and scale * sum (x - mean)^2: blocks, then parts, are put together
//             by Chan, Golub and LeVeque's update (1979)
// One invocation folds one part of one output's elements: parts > 1 leaves partial
// results that a later pass (MERGE where they are pairs) folds again, in fixed order.
// VEC4: cells of four neighbours, or eight (HALVES == 2), along the innermost axis are read
// at once; all extents and strides of x then count these. ACROSS: that axis is kept, so an
// invocation folds the outputs of a cell next to each other; outputs counts cells.
// Squares are summed twice: those of the numbers, and those of the numbers times FAR. Where
// the first sum is beyond float32, the second is the result, negative where BEYOND.
// Sums are blocked by 64 at most, so that rounding grows with the blocks, not the elements.
// Grid: flat over outputs * parts. Caller: ops/fold.rs
#import grid
#import exp_below
#import math

struct Args {
    outputs: u32,
    parts: u32,
    // Elements per output, and per part at most.
    count: u32,
    chunk: u32,
    // Neighbouring invocations share an output and take turns in its elements.
    interleaved: u32,
    // Output o starts at (o / kept_extent) * kept_outer + (o % kept_extent) * kept_inner.
    kept_extent: u32,
    kept_outer: u32,
    kept_inner: u32,
    // Element r is at (r / reduced_extent) * reduced_outer + (r % reduced_extent) * reduced_inner.
    reduced_extent: u32,
    reduced_outer: u32,
    reduced_inner: u32,
    scale: f32,
    // Elements of each of the parts that are merged but the last, and of all together.
    part: u32,
    whole: u32,
}
#args

@group(0) @binding(0) var<storage, read> x: array<Stored>;
#if FOLD == arg
#if W
@group(0) @binding(2) var<storage, read> w: array<u32>;
#endif
#if Y2
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(${2+W}) var<storage, read_write> y2: array<u32>;
#else
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
#endif
#else
#if W
@group(0) @binding(2) var<storage, read> w: array<Stored>;
#endif
#if ACROSS
@group(0) @binding(1) var<storage, read_write> y: array<Stored>;
#if Y2
@group(0) @binding(${2+W}) var<storage, read_write> y2: array<Stored>;
#endif
#if SHIFT
@group(0) @binding(${2+W+Y2}) var<storage, read> shift: array<Stored>;
#endif
#else
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
#if Y2
@group(0) @binding(${2+W}) var<storage, read_write> y2: array<f32>;
#endif
#if SHIFT
@group(0) @binding(${2+W+Y2}) var<storage, read> shift: array<f32>;
#endif
#endif
#endif

const LOWEST = -3.4028235e38f;
const NOBODY = 0xffffffffu;
const LARGEST = 3.4028235e38f;

#if SQUARES
// The result of both sums of squares; FAR is `lib/math`'s.
fn told(near: ${PEAK}, far: ${PEAK}) -> ${PEAK} {
    let result = args.scale * near;
#if BEYOND
    return select(result, -args.scale * far, near > ${PEAK}(LARGEST));
#else
    return select(result, args.scale * far / FAR / FAR, near > ${PEAK}(LARGEST));
#endif
}
#endif

#if FOLD == max
// NaN is largest: what WGSL calls max may pass over it.
#if VEC4
fn unordered(x: Cell) -> vec4<bool> {
    return (bitcast<vec4u>(x) & vec4u(0x7fffffffu)) > vec4u(0x7f800000u);
}
#else
fn unordered(x: Cell) -> bool {
    return is_nan(x);
}
#endif

fn larger(a: Cell, b: Cell) -> Cell {
    return select(a, b, (b > a) | unordered(b));
}
#if ACROSS == 0

#if VEC4
fn join(c: vec4f) -> f32 {
    return max_f32(max_f32(c.x, c.y), max_f32(c.z, c.w));
}
#else
fn join(c: f32) -> f32 {
    return c;
}
#endif
#endif
#endif

#if FOLD == lse
// x - top for a top that is not smaller: 0 where both are infinite.
fn below(x: Cell, top: Cell) -> Cell {
    return select(x - top, Cell(), x == top);
}

#if ACROSS
fn log_each(x: vec4f) -> vec4f {
    return vec4f(log_f32(x.x), log_f32(x.y), log_f32(x.z), log_f32(x.w));
}
#else
fn log_each(x: f32) -> f32 {
    return log_f32(x);
}
#endif
#endif

#if GENERIC
fn base(o: u32) -> u32 {
    return ${BASE};
}

fn offset(r: u32) -> u32 {
    return ${OFFSET};
}
#endif

@compute @workgroup_size(${WG})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, ${WG}u);
    if (index >= args.outputs * args.parts) {
        return;
    }
    // The innermost axis of memory runs along the invocations, kept or reduced.
    var o = index;
    var r = 0u;
    var step = 1u;
    if (args.interleaved != 0u) {
        o = index / args.parts;
        r = index % args.parts;
        step = args.parts;
    } else if (args.parts > 1u) {
        o = index % args.outputs;
        r = (index / args.outputs) * args.chunk;
    }
    var left = min(args.chunk, (args.count - r + step - 1u) / step);

#if GENERIC
    let start = base(o);
    var at = start + offset(r);
#else
    let start = (o / args.kept_extent) * args.kept_outer + (o % args.kept_extent) * args.kept_inner;
    // The two digits of r advance by runs, within which the inner one does not wrap.
    var digit = r % args.reduced_extent;
    let step_digit = step % args.reduced_extent;
    let jump = (step / args.reduced_extent) * args.reduced_outer + step_digit * args.reduced_inner;
    let carry = args.reduced_outer - args.reduced_extent * args.reduced_inner;
    var at = start + (r / args.reduced_extent) * args.reduced_outer + digit * args.reduced_inner;
#endif
    // Of the two halves of eight cells ACROSS, or of all together.
#repeat k SUMS
#if SHIFT
#if ACROSS
    let middle${k} = half${k}(shift[o]);
#else
    let middle${k} = shift[o];
#endif
#endif
    var total${k} = Cell();
    var total2_${k} = Cell();
#if FOLD == mean
#if MERGE
    var corner${k} = half${k}(w[at]);
#elif PEAK == f32
    var corner${k} = half0(x[start]).x;
#else
    var corner${k} = half${k}(x[start]);
#endif
#elif FOLD == max
    var best${k} = ${SIGN} * half${k}(x[at]);
#elif FOLD == lse
    var peak${k} = ${PEAK}(LOWEST);
    var mass${k} = ${PEAK}();
#elif FOLD == moments
    var mean${k} = ${PEAK}();
    var spread${k} = ${PEAK}();
    var far${k} = ${PEAK}();
#if MERGE == 0
    // Somewhere among the elements: what they are measured from, and just there where all
    // are equal.
#if PEAK == f32
    let first_cell = x[at];
#if HALVES == 2
    let corner${k} = half0(first_cell).x;
    var near${k} = corner${k}
        + add_up((half0(first_cell) - corner${k}) + (half1(first_cell) - corner${k})) / 8.0;
#else
    let corner${k} = half0(first_cell).x;
    var near${k} = corner${k} + add_up(half0(first_cell) - corner${k}) / 4.0;
#endif
#else
    var near${k} = half${k}(x[at]);
#endif
#endif
#endif
#end
#if FOLD == moments
    // Of how many elements.
    var size = 0.0;
#endif
    var best = LOWEST;
    var winner = NOBODY;
    while (left > 0u) {
        var run = min(left, 64u);
#if GENERIC == 0
        if (step_digit > 0u) {
            run = min(run, (args.reduced_extent - digit + step_digit - 1u) / step_digit);
        }
#endif
#repeat k SUMS
        var sum${k} = Cell();
        var sum2_${k} = Cell();
#if FOLD == moments
        var sum3_${k} = Cell();
#endif
#end
        for (var i = 0u; i < run; i++) {
            let cell = x[at];
#if W
            let other = w[at];
#endif
#if FOLD == arg
#if MERGE
            let candidate = other;
#else
            let candidate = r;
#endif
            let value = ${SIGN} * cell;
            // NaN is largest, and equal to itself.
            let is_new = is_nan(value);
            let was = is_nan(best);
            let more = (value > best) | (is_new & !was);
            let equal = (value == best) | (is_new & was);
            if (more | (equal & (candidate < winner))) {
                best = value;
                winner = candidate;
            }
#elif FOLD == lse
#if PEAK == f32
            // A mass of all neighbours below the one peak.
            var peaks = half0(cell);
#if HALVES == 2
            peaks = max(peaks, half1(cell));
#endif
            let top = max(peak0, largest(peaks));
            var masses = Cell();
#repeat h HALVES
            masses += exp_below(below(half${h}(cell), Cell(top)));
#end
            mass0 = mass0 * largest(exp_below(below(Cell(peak0), Cell(top)))) + add_up(masses);
            peak0 = top;
#else
#repeat h HALVES
            let top${h} = max(peak${h}, half${h}(cell));
            let mass_of${h} = exp_below(below(half${h}(cell), top${h}));
#if MERGE
            mass${h} = mass${h} * exp_below(below(peak${h}, top${h})) + half${h}(other) * mass_of${h};
#else
            mass${h} = mass${h} * exp_below(below(peak${h}, top${h})) + mass_of${h};
#endif
            peak${h} = top${h};
#end
#endif
#elif FOLD == moments
#if MERGE
            let more = f32(min(args.part, args.whole - r * args.part));
            let grown = size + more;
#repeat h HALVES
            let away${h} = half${h}(cell) - mean${h};
            mean${h} += away${h} * (more / grown);
            // A square that overflows times a size of 0 would be NaN.
            let weight${h} = size * more / grown;
            let told${h} = half${h}(other);
            let wide${h} = told${h} < Cell();
            spread${h} += select(told${h}, Cell(from_bits(0x7f800000u)), wide${h})
                + away${h} * weight${h} * away${h};
            far${h} += select(told${h} * FAR * FAR, -told${h}, wide${h})
                + (away${h} * FAR) * weight${h} * (away${h} * FAR);
#end
            size = grown;
#else
#repeat h HALVES
            let from${h} = half${h}(cell) - near${h*ACROSS};
            sum${h*ACROSS} += from${h};
            sum2_${h*ACROSS} += from${h} * from${h};
            sum3_${h*ACROSS} += (from${h} * FAR) * (from${h} * FAR);
#end
#endif
#else
#repeat h HALVES
#if FOLD == sum
            sum${h*ACROSS} += half${h}(cell);
#elif FOLD == centered
#if MERGE
            sum${h*ACROSS} += half${h}(cell);
            sum2_${h*ACROSS} += half${h}(other);
#else
            let from_middle${h} = half${h}(cell) - middle${h*ACROSS};
            let far_away${h} = from_middle${h} * FAR;
            sum${h*ACROSS} += from_middle${h} * from_middle${h};
            sum2_${h*ACROSS} += far_away${h} * far_away${h};
#endif
#elif FOLD == mean
#if MERGE
            sum${h*ACROSS} += half${h}(cell);
#else
            sum${h*ACROSS} += half${h}(cell) - corner${h*ACROSS};
#endif
#elif FOLD == product
            sum${h*ACROSS} += half${h}(cell) * half${h}(other);
#elif FOLD == dot
            sum${h*ACROSS} += half${h}(cell);
#if MERGE
            sum2_${h*ACROSS} += half${h}(other);
#else
            sum2_${h*ACROSS} += half${h}(cell) * (half${h}(other) - middle${h*ACROSS});
#endif
#elif FOLD == max
            best${h*ACROSS} = larger(best${h*ACROSS}, ${SIGN} * half${h}(cell));
#endif
#end
#endif
#if GENERIC
            // Past the end the offset is not used.
            r += step;
            at = start + offset(r);
#else
#if COUNTS
            r += step;
#endif
            at += jump;
#endif
        }
#if GENERIC == 0
        digit += run * step_digit;
        if (digit >= args.reduced_extent) {
            digit -= args.reduced_extent;
            at += carry;
        }
#endif
        left -= run;
#if FOLD == moments
#if MERGE == 0
        let more = f32(run) * ${WIDTH}.0;
        let grown = size + more;
#repeat k SUMS
        let first_sum${k} = ${JOIN}(sum${k});
        let squares${k} = ${JOIN}(sum2_${k});
        let difference${k} = squares${k} - first_sum${k} * first_sum${k} / more;
        let kept${k} = select(difference${k}, ${PEAK}(), difference${k} < ${PEAK}());
        // Squares that overflow stay infinite.
        let about_near${k} = select(kept${k}, squares${k}, squares${k} > ${PEAK}(LARGEST));
        let far_sum${k} = first_sum${k} * FAR;
        let far_difference${k} = ${JOIN}(sum3_${k}) - far_sum${k} * far_sum${k} / more;
        let away${k} = near${k} + first_sum${k} / more - mean${k};
        let weight${k} = size * more / grown;
        mean${k} += away${k} * (more / grown);
        spread${k} += about_near${k} + away${k} * weight${k} * away${k};
        far${k} += select(far_difference${k}, ${PEAK}(), far_difference${k} < ${PEAK}())
            + (away${k} * FAR) * weight${k} * (away${k} * FAR);
        near${k} = mean${k};
#end
        size = grown;
#endif
#endif
#repeat k SUMS
        total${k} += sum${k};
        total2_${k} += sum2_${k};
#end
    }

#if FOLD == arg
#if Y2
    y[index] = best;
    y2[index] = winner;
#else
    // Nothing beats the start where all elements are minus infinity.
    y[index] = select(winner, 0u, winner == NOBODY);
#endif
#else
#repeat k SUMS
#if FOLD == max
#if ACROSS
    let first${k} = ${SIGN} * best${k};
#else
    let first${k} = ${SIGN} * join(best${k});
#endif
#elif FOLD == lse
#if Y2
    let first${k} = peak${k};
    let second${k} = mass${k};
#else
    let first${k} = peak${k} + log_each(mass${k});
#endif
#elif FOLD == moments
    let first${k} = mean${k};
    let second${k} = told(spread${k}, far${k});
#elif FOLD == mean
#if Y2
    let first${k} = ${JOIN}(total${k});
    let second${k} = corner${k};
#else
    let first${k} = corner${k} + args.scale * ${JOIN}(total${k});
#endif
#elif FOLD == centered
#if Y2
    let first${k} = ${JOIN}(total${k});
    let second${k} = ${JOIN}(total2_${k});
#else
    let first${k} = told(${JOIN}(total${k}), ${JOIN}(total2_${k}));
#endif
#elif FOLD == dot
    let first${k} = ${JOIN}(total${k});
    let second${k} = ${JOIN}(total2_${k});
#else
    let first${k} = args.scale * ${JOIN}(total${k});
#endif
#end
#if ACROSS
#if HALVES == 2
    y[index] = oct(first0, first1);
#if Y2
    y2[index] = oct(second0, second1);
#endif
#else
    y[index] = stored(first0);
#if Y2
    y2[index] = stored(second0);
#endif
#endif
#else
    y[index] = first0;
#if Y2
    y2[index] = second0;
#endif
#endif
#endif
}
