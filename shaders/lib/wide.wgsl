// Four floats (`Quad`) and eight (`Oct`) that lie next to each other, as storage buffers
// hold them. Software adapters read every component of every lane by itself; where they
// know 64-bit integers, two floats come as one.
#if WIDE
alias Quad = vec2<u64>;
alias Oct = vec4<u64>;

fn quad(x: Quad) -> vec4f {
    let even = vec2u(x);
    let odd = vec2u(x >> vec2u(32u));
    return bitcast<vec4f>(vec4u(even.x, odd.x, even.y, odd.y));
}

fn to_quad(x: vec4f) -> Quad {
    let bits = bitcast<vec4u>(x);
    return vec2<u64>(bits.xz) | vec2<u64>(bits.yw) << vec2u(32u);
}

fn evens(x: Oct) -> vec4f {
    return bitcast<vec4f>(vec4u(x));
}

fn odds(x: Oct) -> vec4f {
    return bitcast<vec4f>(vec4u(x >> vec4u(32u)));
}

fn oct(even: vec4f, odd: vec4f) -> Oct {
    let high = vec4<u64>(bitcast<vec4u>(odd)) << vec4u(32u);
    return vec4<u64>(bitcast<vec4u>(even)) | high;
}
#else
alias Quad = vec4f;
struct Oct {
    first: vec4f,
    second: vec4f,
}

fn quad(x: Quad) -> vec4f {
    return x;
}

fn to_quad(x: vec4f) -> Quad {
    return x;
}

fn evens(x: Oct) -> vec4f {
    return vec4f(x.first.xz, x.second.xz);
}

fn odds(x: Oct) -> vec4f {
    return vec4f(x.first.yw, x.second.yw);
}

fn oct(even: vec4f, odd: vec4f) -> Oct {
    return Oct(vec4f(even.x, odd.x, even.y, odd.y), vec4f(even.z, odd.z, even.w, odd.w));
}
#endif
