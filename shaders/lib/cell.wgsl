// What one step of a kernel takes: four neighbours (VEC4) or one float, and how storage
// buffers hold it.
#import wide

#if VEC4
alias Cell = vec4f;
alias Stored = Quad;

fn cell_of(x: Stored) -> vec4f {
    return quad(x);
}

fn stored(c: vec4f) -> Stored {
    return to_quad(c);
}

fn add_up(c: vec4f) -> f32 {
    return (c.x + c.y) + (c.z + c.w);
}

fn largest(c: vec4f) -> f32 {
    return max(max(c.x, c.y), max(c.z, c.w));
}
#else
alias Cell = f32;
alias Stored = f32;

fn cell_of(x: Stored) -> f32 {
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
