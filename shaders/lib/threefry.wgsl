// Threefry2x32-20 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011):
// sums, rotations and exclusive ors only, so every adapter gives the same bits.

fn rotate_left(x: u32, by: u32) -> u32 {
    return (x << by) | (x >> (32u - by));
}

fn mix4(x: vec2u, by: vec4u) -> vec2u {
    var y = x;
    y.x += y.y;
    y.y = rotate_left(y.y, by.x) ^ y.x;
    y.x += y.y;
    y.y = rotate_left(y.y, by.y) ^ y.x;
    y.x += y.y;
    y.y = rotate_left(y.y, by.z) ^ y.x;
    y.x += y.y;
    y.y = rotate_left(y.y, by.w) ^ y.x;
    return y;
}

fn threefry(key: vec2u, counter: vec2u) -> vec2u {
    let odd = vec4u(13u, 15u, 26u, 6u);
    let even = vec4u(17u, 29u, 16u, 24u);
    let last = key.x ^ key.y ^ 0x1BD11BDAu;
    var x = mix4(counter + key, odd);
    x = mix4(x + vec2u(key.y, last + 1u), even);
    x = mix4(x + vec2u(last, key.x + 2u), odd);
    x = mix4(x + vec2u(key.x, key.y + 3u), even);
    x = mix4(x + vec2u(key.y, last + 4u), odd);
    return x + vec2u(last, key.x + 5u);
}
