// Rows in pieces, on adapters where every read of a lane has its price: windows of KY x KX
// at steps of SY x SX with padding PY x PX, known when the text is made. A piece is CELL
// pixels of the image, or OUT = CELL / SX windows; the row has CELL / OUT times as many
// pixels as windows. What is read, FROM, comes in pieces of N = 2, 4 or 8.
#import wide

#if N == 8
alias Piece = Oct;
#elif N == 4
alias Piece = Quad;
#else
alias Piece = vec2f;
#endif
#if WRITTEN == 8
alias Written = Oct;
#elif WRITTEN == 4
alias Written = Quad;
#else
alias Written = vec2f;
#endif

#if WIDE
fn pair(x: u64) -> vec2f {
    return bitcast<vec2f>(vec2u(u32(x), u32(x >> 32u)));
}
#endif

@group(0) @binding(0) var<storage, read> ${FROM}: array<Piece>;

// Two numbers before piece j of a row of so many, the piece's own from [2] on, and two behind
// it. Beyond the row stands the nearest number, or zero where BEYOND says so.
fn row_of(row: u32, pieces: u32, j: u32) -> array<f32, ${N+4}> {
    let at = row * pieces + j;
    var v: array<f32, ${N+4}>;
#if N == 8
    let even = evens(${FROM}[at]);
    let odd = odds(${FROM}[at]);
#repeat k 4
    v[${2*k+2}] = even[${k}];
    v[${2*k+3}] = odd[${k}];
#end
#else
#if N == 4
    let all = quad(${FROM}[at]);
#else
    let all = ${FROM}[at];
#endif
#repeat k N
    v[${k+2}] = all[${k}];
#end
#endif
#if LEFT
    let before = at - min(j, 1u);
#if N == 2
    let left = ${FROM}[before];
#elif WIDE
    let left = pair(${FROM}[before][${N/2-1}]);
#elif N == 8
    let left = ${FROM}[before].second.zw;
#else
    let left = ${FROM}[before].zw;
#endif
#if BEYOND == zero
    let beyond_left = 0.0;
#else
    let beyond_left = v[2];
#endif
    v[0] = select(left.x, beyond_left, j == 0u);
    v[1] = select(left.y, beyond_left, j == 0u);
#endif
#if RIGHT
    let is_last = j + 1u == pieces;
    let after = at + select(1u, 0u, is_last);
#if N == 2
    let right = ${FROM}[after];
#elif WIDE
    let right = pair(${FROM}[after].x);
#elif N == 8
    let right = ${FROM}[after].first.xy;
#else
    let right = ${FROM}[after].xy;
#endif
#if BEYOND == zero
    let beyond_right = 0.0;
#else
    let beyond_right = v[${N+1}];
#endif
    v[${N+2}] = select(right.x, beyond_right, is_last);
    v[${N+3}] = select(right.y, beyond_right, is_last);
#endif
    return v;
}

#if WRITTEN == 8
fn written(v: array<f32, 8>) -> Written {
    return oct(vec4f(v[0], v[2], v[4], v[6]), vec4f(v[1], v[3], v[5], v[7]));
}
#elif WRITTEN == 4
fn written(v: array<f32, 4>) -> Written {
    return to_quad(vec4f(v[0], v[1], v[2], v[3]));
}
#else
fn written(v: array<f32, 2>) -> Written {
    return vec2f(v[0], v[1]);
}
#endif
