// Attention without its matrix of scores: a workgroup takes BR rows and goes through the
// columns 32 at a time, whose weights alone lie in workgroup memory. With
// s[r, c] = scale * sum of in0[r, :] in1[c, :], y[r, :] = sum over c of w[r, c] in${X}[c, :]:
//   forward  rows q, columns k; w = e^(s - peak) / mass, peak and mass running over the
//            columns seen so far (Milakov and Gimelshein 2018; Dao et al. 2022), X = v; also
//            lse = log sum e^s
//   dq       w = scale p (g v^T - delta) with p = e^(s - lse), X = k; in2 = g, in3 = v
//   dk       rows k, columns q: the same turned, X = q; in2 = v, in3 = g
//   dv       rows k, columns q: w = p turned, X = g, in2
// lse and delta = sum of g y belong to queries. CAUSAL: query t sees the keys 0..=t.
// 64 invocations: 8 x 8 of them take BR / 8 rows x 4 columns of the scores each, then COLS
// along the vec4s of y take RT rows each. VEC4: all widths are whole vec4s.
// Grid: flat workgroups, over row tiles, then tiles of 4 COLS columns of y, then batch.
// Caller: ops/product/attention.rs
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

const BR = ${BR}u;
const LOWEST = -3.4028235e38f;

// Of every row's 32 weights; one vec4 more, so that rows lie in different banks.
var<workgroup> weights: array<vec4f, ${BR*9}>;
#if MODE == forward
var<workgroup> peak: array<f32, ${BR}>;
var<workgroup> mass: array<f32, ${BR}>;
// What earlier sums are multiplied by.
var<workgroup> shrink: array<f32, ${BR}>;
#endif

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
#if CAUSAL
fn hidden(row: u32, col: u32) -> bool {
#if TURNED
    return row > col;
#else
    return col > row;
#endif
}
#else
fn hidden(row: u32, col: u32) -> bool {
    return false;
}
#endif

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let number = flat_group(group, groups);
    if (number >= args.total) {
        return;
    }
    let tile_row = (number % args.row_tiles) * BR;
    let rest = number / args.row_tiles;
    let matrix = rest / args.wide_tiles;
    let first_row = matrix * args.rows;
    let first_col = matrix * args.cols;

    // In the scores.
    let my_row = local / 8u;
    let my_col = (local % 8u) * 4u;
#repeat i BR/8
    let row${i} = tile_row + my_row + ${8*i}u;
    let from${i} = first_row + min(row${i}, args.rows - 1u);
#end
    // In y.
    let lane = local % ${COLS}u + (rest % args.wide_tiles) * ${COLS}u;
    let inside = 4u * lane < args.wide;
    let column = select(0u, lane, inside);
    let top = (local / ${COLS}u) * ${RT}u;
#repeat i RT
    var sum${i} = vec4f();
#end
#if MODE == forward
    if (local < BR) {
        peak[local] = LOWEST;
        mass[local] = 0.0;
    }
#endif
    let vectors = (args.width + 3u) / 4u;
#if CAUSAL
#if TURNED
    let begin = tile_row & ~31u;
    let end = args.cols;
#else
    let begin = 0u;
    let end = min(args.cols, tile_row + BR);
#endif
#else
    let begin = 0u;
    let end = args.cols;
#endif
    for (var tile_col = begin; tile_col < end; tile_col += 32u) {
#repeat j 4
        let col${j} = tile_col + my_col + ${j}u;
        let to${j} = first_col + min(col${j}, args.cols - 1u);
#end
#repeat i BR/8
        var score${i} = vec4f();
#end
        for (var w = 0u; w < vectors; w++) {
#repeat j 4
            let b${j} = at1(to${j} * args.width, w, args.width);
#end
#repeat i BR/8
            let a${i} = at0(from${i} * args.width, w, args.width);
            score${i} += vec4f(dot(a${i}, b0), dot(a${i}, b1), dot(a${i}, b2), dot(a${i}, b3));
#end
        }
#if SECOND
#repeat i BR/8
        var other${i} = vec4f();
#end
        for (var w = 0u; w < (args.second + 3u) / 4u; w++) {
#repeat j 4
            let b${j} = at3(to${j} * args.second, w, args.second);
#end
#repeat i BR/8
            let a${i} = at2(from${i} * args.second, w, args.second);
            other${i} += vec4f(dot(a${i}, b0), dot(a${i}, b1), dot(a${i}, b2), dot(a${i}, b3));
#end
        }
#endif
#if MODE != forward
#if TURNED
        let logs = vec4f(lse[to0], lse[to1], lse[to2], lse[to3]);
#if SECOND
        let means = vec4f(delta[to0], delta[to1], delta[to2], delta[to3]);
#endif
#endif
#endif
#repeat i BR/8
        score${i} *= args.scale;
#if MODE != forward
#if TURNED == 0
        let logs${i} = vec4f(lse[from${i}]);
        let means${i} = vec4f(delta[from${i}]);
#else
        let logs${i} = logs;
#if SECOND
        let means${i} = means;
#endif
#endif
        let below${i} = score${i} - logs${i};
        let p${i} = vec4f(exp_f32(below${i}.x), exp_f32(below${i}.y), exp_f32(below${i}.z),
            exp_f32(below${i}.w));
#if SECOND
        score${i} = args.scale * (p${i} * (other${i} - means${i}));
#else
        score${i} = p${i};
#endif
        let unseen${i} = vec4<bool>(
            (col0 >= args.cols) | hidden(row${i}, col0),
            (col1 >= args.cols) | hidden(row${i}, col1),
            (col2 >= args.cols) | hidden(row${i}, col2),
            (col3 >= args.cols) | hidden(row${i}, col3));
        score${i} = select(score${i}, vec4f(), unseen${i});
#endif
        weights[(my_row + ${8*i}u) * 9u + my_col / 4u] = score${i};
#end
        workgroupBarrier();
#if MODE == forward
        if (local < BR) {
            let row = tile_row + local;
            let before = peak[local];
            var best = before;
            for (var c = 0u; c < 8u; c++) {
                let s = weights[local * 9u + c];
#repeat j 4
                let key${j} = tile_col + 4u * c + ${j}u;
                best = select(max(best, s[${j}]), best, (key${j} >= args.cols) | hidden(row, key${j}));
#end
            }
            let less = exp_f32(before - best);
            var added = 0.0;
            for (var c = 0u; c < 8u; c++) {
                let s = weights[local * 9u + c];
                var e = vec4f();
#repeat j 4
                let key${j} = tile_col + 4u * c + ${j}u;
                e[${j}] = select(exp_f32(s[${j}] - best), 0.0,
                    (key${j} >= args.cols) | hidden(row, key${j}));
#end
                added += (e.x + e.y) + (e.z + e.w);
                weights[local * 9u + c] = e;
            }
            peak[local] = best;
            mass[local] = mass[local] * less + added;
            shrink[local] = less;
        }
        workgroupBarrier();
#repeat i RT
        sum${i} *= shrink[top + ${i}u];
#end
#endif
        for (var c = 0u; c < 8u; c++) {
            let at = tile_col + 4u * c;
#repeat j 4
            let near${j} = at${X}((first_col + min(at + ${j}u, args.cols - 1u)) * args.wide, column, args.wide);
            let x${j} = select(vec4f(), near${j}, at + ${j}u < args.cols);
#end
#repeat i RT
            let w${i} = weights[(top + ${i}u) * 9u + c];
            sum${i} += w${i}.x * x0 + w${i}.y * x1 + w${i}.z * x2 + w${i}.w * x3;
#end
        }
        workgroupBarrier();
    }

#repeat i RT
    let out${i} = tile_row + top + ${i}u;
    if (inside & (out${i} < args.rows)) {
#if MODE == forward
        let result${i} = sum${i} / mass[top + ${i}u];
#else
        let result${i} = sum${i};
#endif
#if VEC4
        y[(((first_row + out${i}) * args.wide) >> 2u) + lane] = to_quad(result${i});
#else
        let start${i} = (first_row + out${i}) * args.wide + 4u * lane;
#repeat j 4
        if (4u * lane + ${j}u < args.wide) {
            y[start${i} + ${j}u] = result${i}[${j}];
        }
#end
#endif
    }
#end
#if MODE == forward
    if ((rest % args.wide_tiles == 0u) & (local < BR) & (tile_row + local < args.rows)) {
        lse[first_row + tile_row + local] = peak[local] + log_f32(mass[local]);
    }
#endif
}
