// Attention and its gradients as in tile.wgsl, by subgroups: each takes ROWS rows and goes
// through the columns 2 LANES at a time. Lanes hold the scores of two columns for every
// row, then EACH vec4s of y; rows, and the weights of other lanes, come by shuffles. No
// workgroup memory: for software adapters, where barriers cost most.
// Grid: flat invocations, subgroups over row tiles, then tiles of 4 EACH LANES columns of
// y, then batch.
// Caller: ops/attention/lanes.rs
#import grid
#import math
#import wide

struct Args {
    rows: u32,
    cols: u32,
    // Of in0 and in1, of in2 and in3 where they are multiplied, and of y.
    width: u32,
    second: u32,
    wide: u32,
    row_tiles: u32,
    wide_tiles: u32,
    total: u32,
    scale: f32,
}
#args

#repeat s SOURCES
@group(0) @binding(${s}) var<storage, read> in${s}: array<${FLOATS}>;
#end
#if MODE == forward
@group(0) @binding(${SOURCES}) var<storage, read_write> y: array<${FLOATS}>;
@group(0) @binding(${SOURCES+1}) var<storage, read_write> lse: array<f32>;
#else
@group(0) @binding(${SOURCES}) var<storage, read> lse: array<f32>;
#if MODE != dv
@group(0) @binding(${SOURCES+1}) var<storage, read> delta: array<f32>;
#endif
@group(0) @binding(${SOURCES+1+SECOND}) var<storage, read_write> y: array<${FLOATS}>;
#endif

const LANES = ${LANES}u;
const LOWEST = -3.4028235e38f;

#repeat s SOURCES
// Numbers 4 w.. of the row that starts at `base`, zeros behind its width.
fn at${s}(base: u32, w: u32, width: u32) -> vec4f {
#if VEC4
    return quad(in${s}[(base >> 2u) + w]);
#else
    let i = base + 4u * w;
    let last = width - 4u * w - 1u;
    let v = vec4f(in${s}[i], in${s}[i + min(1u, last)], in${s}[i + min(2u, last)],
        in${s}[i + min(3u, last)]);
    return select(vec4f(), v, vec4u(0u, 1u, 2u, 3u) <= vec4u(last));
#endif
}

#end
fn hidden(row: u32, col: u32) -> bool {
#if CAUSAL
#if TURNED
    return row > col;
#else
    return col > row;
#endif
#else
    return false;
#endif
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, 64u);
    let lane = local % LANES;
    let number = index / LANES;
    // All lanes of a subgroup share a tile, so they leave together.
    if (number >= args.total) {
        return;
    }
    let tile_row = (number % args.row_tiles) * ${ROWS}u;
    let rest = number / args.row_tiles;
    let matrix = rest / args.wide_tiles;
    let first_row = matrix * args.rows;
    let first_col = matrix * args.cols;
#repeat h ROWS/LANES
    // The rows that this lane reads for all.
    let held_row${h} = first_row + min(tile_row + ${h*LANES}u + lane, args.rows - 1u);
#end
#repeat v EACH
    let own${v} = (rest % args.wide_tiles) * ${EACH*LANES}u + ${v*LANES}u + lane;
    let column${v} = select(0u, own${v}, 4u * own${v} < args.wide);
#end
#repeat r ROWS
#repeat v EACH
    var sum${r}_${v} = vec4f();
#end
#if MODE == forward
    var peak${r} = LOWEST;
    // The lane's share of it.
    var mass${r} = 0.0;
#endif
#end
#if MODE != forward
#if TURNED == 0
#repeat h ROWS/LANES
    let held_logs${h} = lse[held_row${h}];
    let held_mean${h} = delta[held_row${h}];
#end
#endif
#endif
    let vectors = (args.width + 3u) / 4u;
    var begin = 0u;
    var end = args.cols;
#if CAUSAL
#if TURNED
    begin = tile_row - tile_row % (2u * LANES);
#else
    end = min(args.cols, tile_row + ${ROWS}u);
#endif
#endif
    for (var tile_col = begin; tile_col < end; tile_col += 2u * LANES) {
#repeat c 2
        let col${c} = tile_col + ${c*LANES}u + lane;
        let to${c} = first_col + min(col${c}, args.cols - 1u);
#end
#repeat r ROWS
        var score${r}_0 = 0.0;
        var score${r}_1 = 0.0;
#end
        for (var w = 0u; w < vectors; w++) {
            let b0 = at1(to0 * args.width, w, args.width);
            let b1 = at1(to1 * args.width, w, args.width);
#repeat h ROWS/LANES
            let held${h} = at0(held_row${h} * args.width, w, args.width);
#end
#repeat r ROWS
            let a${r} = subgroupShuffle(held${r/LANES}, ${r%LANES}u);
            score${r}_0 += dot(a${r}, b0);
            score${r}_1 += dot(a${r}, b1);
#end
        }
#if SECOND
#repeat r ROWS
        var other${r}_0 = 0.0;
        var other${r}_1 = 0.0;
#end
        for (var w = 0u; w < (args.second + 3u) / 4u; w++) {
            let b0 = at3(to0 * args.second, w, args.second);
            let b1 = at3(to1 * args.second, w, args.second);
#repeat h ROWS/LANES
            let held${h} = at2(held_row${h} * args.second, w, args.second);
#end
#repeat r ROWS
            let a${r} = subgroupShuffle(held${r/LANES}, ${r%LANES}u);
            other${r}_0 += dot(a${r}, b0);
            other${r}_1 += dot(a${r}, b1);
#end
        }
#endif
#if MODE != forward
#if TURNED
#repeat c 2
        let col_logs${c} = lse[to${c}];
#if SECOND
        let col_mean${c} = delta[to${c}];
#endif
#end
#endif
#endif
        // From scores to weights.
#repeat r ROWS
        {
            let row = tile_row + ${r}u;
            let unseen0 = (col0 >= args.cols) | hidden(row, col0);
            let unseen1 = (col1 >= args.cols) | hidden(row, col1);
            let s0 = args.scale * score${r}_0;
            let s1 = args.scale * score${r}_1;
#if MODE == forward
            var best = select(s0, LOWEST, unseen0);
            best = max(best, select(s1, LOWEST, unseen1));
#repeat k STEPS
            best = max(best, subgroupShuffleXor(best, ${LANES >> (k+1)}u));
#end
            best = max(best, peak${r});
            let less = exp_f32(peak${r} - best);
            peak${r} = best;
            score${r}_0 = select(exp_f32(s0 - best), 0.0, unseen0);
            score${r}_1 = select(exp_f32(s1 - best), 0.0, unseen1);
            mass${r} = mass${r} * less + (score${r}_0 + score${r}_1);
#repeat v EACH
            sum${r}_${v} *= less;
#end
#else
#if TURNED
            let logs0 = col_logs0;
            let logs1 = col_logs1;
#if SECOND
            let mean0 = col_mean0;
            let mean1 = col_mean1;
#endif
#else
            let logs0 = subgroupShuffle(held_logs${r/LANES}, ${r%LANES}u);
            let logs1 = logs0;
            let mean0 = subgroupShuffle(held_mean${r/LANES}, ${r%LANES}u);
            let mean1 = mean0;
#endif
            var p0 = exp_f32(s0 - logs0);
            var p1 = exp_f32(s1 - logs1);
#if SECOND
            p0 = args.scale * (p0 * (other${r}_0 - mean0));
            p1 = args.scale * (p1 * (other${r}_1 - mean1));
#endif
            score${r}_0 = select(p0, 0.0, unseen0);
            score${r}_1 = select(p1, 0.0, unseen1);
#endif
        }
#end
#repeat c 2
#repeat l LANES
        {
            let key = tile_col + ${c*LANES+l}u;
            let start = (first_col + min(key, args.cols - 1u)) * args.wide;
#repeat v EACH
            let near${v} = at${X}(start, column${v}, args.wide);
            let x${v} = select(vec4f(), near${v}, key < args.cols);
#end
#repeat r ROWS
            let w${r} = vec4f(subgroupShuffle(score${r}_${c}, ${l}u));
#repeat v EACH
            sum${r}_${v} = fma(w${r}, x${v}, sum${r}_${v});
#end
#end
        }
#end
#end
    }

#if MODE == forward
#repeat r ROWS
#repeat k STEPS
    mass${r} += subgroupShuffleXor(mass${r}, ${LANES >> (k+1)}u);
#end
    if ((lane == 0u) & (rest % args.wide_tiles == 0u) & (tile_row + ${r}u < args.rows)) {
        lse[first_row + tile_row + ${r}u] = peak${r} + log_f32(mass${r});
    }
#end
#endif
#repeat r ROWS
#repeat v EACH
    if ((4u * own${v} < args.wide) & (tile_row + ${r}u < args.rows)) {
#if MODE == forward
        let result = sum${r}_${v} / mass${r};
#else
        let result = sum${r}_${v};
#endif
        let start = (first_row + tile_row + ${r}u) * args.wide;
#if VEC4
        y[(start >> 2u) + own${v}] = to_quad(result);
#else
#repeat j 4
        if (4u * own${v} + ${j}u < args.wide) {
            y[start + 4u * own${v} + ${j}u] = result[${j}];
        }
#end
#endif
    }
#end
#end
}
