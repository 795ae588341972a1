// y[n] = the lowest k that minimises |e_k|^2 / 2 - x_n . e_k, i.e. the distance |x_n - e_k|,
// both measured from the center
//   x [N, D], e [K, D], center [D] of codebook_center, norms [2, K] of codebook_norms,
//   y [N], least [1] the lowest norm; width counts VEC-vectors of D
// One invocation takes ROWS rows of x and CODES codes at a time through registers,
// over its part of the codes; no distance is stored. With SPLIT the parts leave their
// minima in best and index [parts, rows of the dispatch] for codebook_merge.
// Grid: flat, x over row tiles, then parts of the codebook. Caller: ops/index/codebook.rs
#import grid
#import center

struct Args {
    // Rows of this dispatch: the first, and the one past the last.
    first_row: u32,
    end_row: u32,
    codes: u32,
    width: u32,
    tiles: u32,
    // Codes per part, a multiple of CODES.
    part: u32,
    parts: u32,
}
#args

#if VEC == 4
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> e: array<vec4f>;
#else
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> e: array<f32>;
#endif
@group(0) @binding(2) var<storage, read> norms: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<u32>;
#if VEC == 4
@group(0) @binding(4) var<storage, read> center: array<vec4f>;
#else
@group(0) @binding(4) var<storage, read> center: array<f32>;
#endif
@group(0) @binding(5) var<storage, read> least: array<f32>;
#if SPLIT
@group(0) @binding(6) var<storage, read_write> best: array<f32>;
#endif

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, 64u);
    if (index >= args.tiles * args.parts) {
        return;
    }
    let part = index / args.tiles;
    let n0 = (index - part * args.tiles) * ${ROWS}u + args.first_row;
    let first = part * args.part;
    let end = min(first + args.part, args.codes);

    // Rows past the edge repeat the last one; they are not stored.
#repeat r ROWS
    let x${r} = min(n0 + ${r}u, args.end_row - 1u) * args.width;
    var low${r} = 3.4028235e38;
    var at${r} = first;
    var top${r} = 0.0;
#end
    for (var d = 0u; d < args.width; d++) {
        let c = center[d];
#repeat r ROWS
        top${r} = max(top${r}, ${SIZE}(x[x${r} + d] - c));
#end
    }
#repeat r ROWS
    let scale${r} = row_scale(top${r}, least[0]);
#end
    for (var k = first; k < end; k += ${CODES}u) {
        // Codes past the edge repeat the last one, which then is not below itself.
#repeat c CODES
        let k${c} = min(k + ${c}u, args.codes - 1u);
        let e${c} = k${c} * args.width;
#repeat r ROWS
        var dot${r}_${c} = 0.0;
#end
#end
        for (var d = 0u; d < args.width; d++) {
            let c = center[d];
#repeat c CODES
            let ev${c} = e[e${c} + d] - c;
#end
#repeat r ROWS
            let xv${r} = (x[x${r} + d] - c) * scale${r} * scale${r};
#repeat c CODES
#if VEC == 4
            dot${r}_${c} += dot(xv${r}, ev${c});
#else
            dot${r}_${c} += xv${r} * ev${c};
#endif
#end
#end
        }
#repeat c CODES
        let norm${c} = norms[k${c}];
        let small${c} = norms[args.codes + k${c}];
#repeat r ROWS
        let d${r}_${c} = select(norm${c}, small${c}, scale${r} < 1.0) - dot${r}_${c};
        if (d${r}_${c} < low${r}) {
            low${r} = d${r}_${c};
            at${r} = k${c};
        }
#end
#end
    }
#repeat r ROWS
    if (n0 + ${r}u < args.end_row) {
#if SPLIT
        let out = part * (args.end_row - args.first_row) + n0 + ${r}u - args.first_row;
        best[out] = low${r};
#else
        let out = n0 + ${r}u;
#endif
        y[out] = at${r};
    }
#end
}
