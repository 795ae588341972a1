// y[o] = fold over r of x[base(o) + offset(r)], for the folds
//   sum       scale * sum x              centered  scale * sum (x - shift[o])^2
//   product   scale * sum x w            dot       sum x, and sum x (w - shift[o])
//   max       SIGN * max(SIGN * x)       arg       the lowest r where SIGN * x is largest
//   lse       log sum e^x, kept as (peak, sum e^(x - peak)) between the passes
// One invocation folds one part of one output's elements: parts > 1 leaves partial
// results that a later pass (MERGE where they are pairs) folds again, in fixed order.
// VEC4: four neighbours along the reduced axis are read at once; all extents and
// strides of x then count these.
// Sums are blocked by 64 at most, so that rounding grows with the blocks, not the elements.
// Grid: flat over outputs * parts. Caller: ops/fold.rs
#import grid
#import cell
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
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
#if W
@group(0) @binding(2) var<storage, read> w: array<Stored>;
#endif
#if Y2
@group(0) @binding(${2+W}) var<storage, read_write> y2: array<f32>;
#endif
#endif
#if SHIFT
@group(0) @binding(${2+W+Y2}) var<storage, read> shift: array<f32>;
#endif

const LOWEST = -3.4028235e38f;
const NOBODY = 0xffffffffu;

#if GENERIC
fn base(o: u32) -> u32 {
    return ${BASE};
}

fn offset(r: u32) -> u32 {
    return ${OFFSET};
}
#endif

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, 64u);
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
    // The two digits of r advance by runs, within which the inner one does not wrap.
    var digit = r % args.reduced_extent;
    let step_digit = step % args.reduced_extent;
    let jump = (step / args.reduced_extent) * args.reduced_outer + step_digit * args.reduced_inner;
    let carry = args.reduced_outer - args.reduced_extent * args.reduced_inner;
    var at = (o / args.kept_extent) * args.kept_outer + (o % args.kept_extent) * args.kept_inner
        + (r / args.reduced_extent) * args.reduced_outer + digit * args.reduced_inner;
#endif
#if SHIFT
    let middle = shift[o];
#endif

    var total = Cell();
    var total2 = Cell();
#if FOLD == max
    var best = ${SIGN} * cell_of(x[at]);
#else
    var best = LOWEST;
#endif
    var winner = NOBODY;
    while (left > 0u) {
        var run = min(left, 64u);
#if GENERIC == 0
        if (step_digit > 0u) {
            run = min(run, (args.reduced_extent - digit + step_digit - 1u) / step_digit);
        }
#endif
        var sum = Cell();
        var sum2 = Cell();
        for (var i = 0u; i < run; i++) {
            let v = cell_of(x[at]);
#if FOLD == sum
            sum += v;
#elif FOLD == centered
            sum += (v - middle) * (v - middle);
#elif FOLD == product
            sum += v * cell_of(w[at]);
#elif FOLD == dot
            sum += v;
#if MERGE
            sum2 += cell_of(w[at]);
#else
            sum2 += v * (cell_of(w[at]) - middle);
#endif
#elif FOLD == max
            best = max(best, ${SIGN} * v);
#elif FOLD == arg
#if MERGE
            let candidate = w[at];
#else
            let candidate = r;
#endif
            let value = ${SIGN} * v;
            if (value > best || (value == best && candidate < winner)) {
                best = value;
                winner = candidate;
            }
#elif FOLD == lse
#if MERGE
            let mass = cell_of(w[at]);
#else
            let mass = 1.0;
#endif
            if (v > best) {
                total = total * exp_f32(best - v) + mass;
                best = v;
            } else {
                total += mass * exp_f32(v - best);
            }
#endif
#if GENERIC
            // Past the end the offset is not used.
            r += step;
            at = start + offset(r);
#else
#if FOLD == arg
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
        total += sum;
        total2 += sum2;
    }

#if FOLD == max
    y[index] = ${SIGN} * largest(best);
#elif FOLD == arg
#if Y2
    y[index] = best;
    y2[index] = winner;
#else
    // Nothing beats the start where all elements are NaN or minus infinity.
    y[index] = select(winner, 0u, winner == NOBODY);
#endif
#elif FOLD == lse
#if Y2
    y[index] = best;
    y2[index] = total;
#else
    y[index] = best + log_f32(total);
#endif
#elif FOLD == dot
    y[index] = add_up(total);
    y2[index] = add_up(total2);
#else
    y[index] = args.scale * add_up(total);
#endif
}
