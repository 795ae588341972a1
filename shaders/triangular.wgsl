// x with T x = b for triangular T [n, n] (stride_t 0: one for the whole batch) and b, x
// [n, columns]. Rows and columns of T are counted from its first unknown on, so that T
// is lower: element i, j stands at corner + i down + j right, row i of x at
// first + i step. Unknowns are solved 8 at a time (one invocation per column), then
// taken out of the rows below (tiles of 4 x 4).
// A zero on the diagonal makes all of the system's x equal to `singular`.
// Grid: one workgroup per matrix and `share` columns. Caller: ops/triangular.rs
#import grid

struct Args {
    batch: u32,
    n: u32,
    columns: u32,
    share: u32,
    stride_t: u32,
    corner: u32,
    down: u32,
    right: u32,
    first: u32,
    step: u32,
    unit: u32,
    singular: f32,
}
#args

@group(0) @binding(0) var<storage, read> t: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;

const LANES = 64u;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_group(group, groups);
    let shares = (args.columns + args.share - 1u) / args.share;
    let matrix = index / shares;
    if (matrix >= args.batch) {
        return;
    }
    let n = args.n;
    let corner = matrix * args.stride_t + args.corner;
    let j0 = (index % shares) * args.share;
    let j1 = min(j0 + args.share, args.columns);
    let row0 = (matrix * n + args.first) * args.columns;
    let step = args.step * args.columns;
    let width = j1 - j0;
    for (var i = local; i < n * width; i += LANES) {
        let at = row0 + (i / width) * step + j0 + i % width;
        x[at] = b[at];
    }
    storageBarrier();
    var singular = false;
    for (var k = 0u; k < n; k += 8u) {
        for (var j = j0 + local; j < j1; j += LANES) {
            let column = row0 + k * step + j;
            let diagonal = corner + k * (args.down + args.right);
#repeat i 8
            var y${i} = 0.0;
            if (k + ${i}u < n) {
                var y = x[column + ${i}u * step];
#repeat s i
                y -= t[diagonal + ${i}u * args.down + ${s}u * args.right] * y${s};
#end
                if (args.unit == 0u) {
                    let d = t[diagonal + ${i}u * (args.down + args.right)];
                    let zero = abs(d) < 1.1754944e-38;
                    singular = singular || zero;
                    y /= select(d, 1.0, zero);
                }
                y${i} = y;
                x[column + ${i}u * step] = y;
            }
#end
        }
        storageBarrier();
        // What is past the edge repeats the last row or column; it is not stored.
        let next = k + 8u;
        if (next < n) {
            let across = (width + 3u) / 4u;
            let tiles = across * ((n - next + 3u) / 4u);
            for (var tile = local; tile < tiles; tile += LANES) {
                let i = next + (tile / across) * 4u;
                let j = j0 + (tile % across) * 4u;
#repeat c 4
                let col${c} = row0 + min(j + ${c}u, j1 - 1u);
#end
#repeat r 4
                let i${r} = min(i + ${r}u, n - 1u);
                let row${r} = i${r} * step;
                let t${r} = corner + i${r} * args.down;
                var sum${r} = vec4f(x[col0 + row${r}], x[col1 + row${r}], x[col2 + row${r}], x[col3 + row${r}]);
#end
                for (var s = k; s < next; s++) {
                    let line = s * step;
                    let y = vec4f(x[col0 + line], x[col1 + line], x[col2 + line], x[col3 + line]);
#repeat r 4
                    sum${r} -= t[t${r} + s * args.right] * y;
#end
                }
#repeat r 4
#repeat c 4
                if (i + ${r}u < n && j + ${c}u < j1) {
                    x[col${c} + row${r}] = sum${r}[${c}];
                }
#end
#end
            }
            storageBarrier();
        }
    }
    if (singular) {
        for (var j = j0 + local; j < j1; j += LANES) {
            for (var i = 0u; i < n; i++) {
                x[row0 + i * step + j] = args.singular;
            }
        }
    }
}
