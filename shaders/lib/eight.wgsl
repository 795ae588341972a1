// Rows of a matrix `m` whose columns are taken eight at a time, from cells of so many
// (EIGHT) or of four.
#import wide

#if EIGHT
alias Cell = Oct;
#else
alias Cell = Quad;
#endif

struct Eight {
    low: vec4f,
    high: vec4f,
}

// The columns of cell `at` and, where it has only four, of cell `next`.
fn eight(at: u32, next: u32) -> Eight {
#if EIGHT
    let even = evens(m[at]);
    let odd = odds(m[at]);
    return Eight(vec4f(even.x, odd.x, even.y, odd.y), vec4f(even.z, odd.z, even.w, odd.w));
#else
    return Eight(quad(m[at]), quad(m[next]));
#endif
}
