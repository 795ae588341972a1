// What one step of a kernel takes: eight neighbours (HALVES == 2), four (VEC4) or one float,
// and how storage buffers hold it. Of eight a cell is one half: every other one.
#import wide

#if HALVES == 2
alias Cell = vec4f;
alias Bits = vec4i;
alias Stored = Oct;

fn half0(x: Stored) -> vec4f {
    return evens(x);
}

fn half1(x: Stored) -> vec4f {
    return odds(x);
}
#elif VEC4
alias Cell = vec4f;
alias Bits = vec4i;
alias Stored = Quad;

fn cell_of(x: Stored) -> vec4f {
    return quad(x);
}

fn half0(x: Stored) -> vec4f {
    return quad(x);
}

fn stored(c: vec4f) -> Stored {
    return to_quad(c);
}
#else
alias Cell = f32;
alias Bits = i32;
alias Stored = f32;

fn cell_of(x: Stored) -> f32 {
    return x;
}

fn half0(x: Stored) -> f32 {
    return x;
}

fn stored(c: f32) -> Stored {
    return c;
}

fn add_up(c: f32) -> f32 {
    return c;
}

fn largest(c: f32) -> f32 {
    return c;
}
#endif
#if VEC4

fn add_up(c: vec4f) -> f32 {
    return (c.x + c.y) + (c.z + c.w);
}

fn largest(c: vec4f) -> f32 {
    return max(max(c.x, c.y), max(c.z, c.w));
}
#endif
