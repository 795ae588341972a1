// Floats that are stored as 16-bit ones, two in a u32, the first in its low half.
// `KernelBuilder::stored("A", slot)` defines TYPE_A, how a binding's words are declared
// (f32, or u32 for halves), and HALF_A (0 or 1): element i is in word i >> HALF_A, and the
// function that is called TYPE_A with _at behind it takes it out. HalfQuad and HalfOct are
// four and eight such floats, as Quad and Oct of wide.wgsl are of whole ones. HALF is
// defined where a kernel reads any halves.
fn f32_at(word: f32, i: u32) -> f32 {
    return word;
}

#if HALF
fn u32_at(word: u32, i: u32) -> f32 {
    return unpack2x16float(word >> (16u * (i & 1u))).x;
}

// The bits of float i.
fn half_bits(word: u32, i: u32) -> u32 {
    return (word >> (16u * (i & 1u))) & 0xffffu;
}

#if WIDE
alias HalfQuad = u64;
alias HalfOct = vec2<u64>;

fn half_quad_of(bits: vec4u) -> HalfQuad {
    return u64(bits.x | bits.y << 16u) | u64(bits.z | bits.w << 16u) << 32u;
}

fn half_quad(x: HalfQuad) -> vec4f {
    return vec4f(unpack2x16float(u32(x)), unpack2x16float(u32(x >> 32u)));
}

fn half_evens(x: HalfOct) -> vec4f {
    let low = vec2u(x);
    let high = vec2u(x >> vec2u(32u));
    return vec4f(unpack2x16float(low.x).x, unpack2x16float(high.x).x,
        unpack2x16float(low.y).x, unpack2x16float(high.y).x);
}

fn half_odds(x: HalfOct) -> vec4f {
    let low = vec2u(x);
    let high = vec2u(x >> vec2u(32u));
    return vec4f(unpack2x16float(low.x).y, unpack2x16float(high.x).y,
        unpack2x16float(low.y).y, unpack2x16float(high.y).y);
}
#else
alias HalfQuad = vec2u;
alias HalfOct = vec4u;

fn half_quad_of(bits: vec4u) -> HalfQuad {
    return vec2u(bits.x | bits.y << 16u, bits.z | bits.w << 16u);
}

fn half_quad(x: HalfQuad) -> vec4f {
    return vec4f(unpack2x16float(x.x), unpack2x16float(x.y));
}

fn half_evens(x: HalfOct) -> vec4f {
    return vec4f(unpack2x16float(x.x).x, unpack2x16float(x.y).x,
        unpack2x16float(x.z).x, unpack2x16float(x.w).x);
}

fn half_odds(x: HalfOct) -> vec4f {
    return vec4f(unpack2x16float(x.x).y, unpack2x16float(x.y).y,
        unpack2x16float(x.z).y, unpack2x16float(x.w).y);
}
#endif
#endif
