// Threefry2x32-20 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011):
// sums, rotations and exclusive ors only, so every adapter gives the same bits.
// FOUR counters at a time, or one.
#if FOUR
alias Word = vec4u;
#else
alias Word = u32;
#endif

struct Pair {
    x: Word,
    y: Word,
}

fn mix(p: Pair, by: u32) -> Pair {
    let x = p.x + p.y;
    return Pair(x, ((p.y << Word(by)) | (p.y >> Word(32u - by))) ^ x);
}

fn mix4(p: Pair, by: vec4u) -> Pair {
    return mix(mix(mix(mix(p, by.x), by.y), by.z), by.w);
}

fn add(p: Pair, x: Word, y: Word) -> Pair {
    return Pair(p.x + x, p.y + y);
}

fn threefry(key: Pair, counter: Pair) -> Pair {
    let odd = vec4u(13u, 15u, 26u, 6u);
    let even = vec4u(17u, 29u, 16u, 24u);
    let last = key.x ^ key.y ^ Word(0x1BD11BDAu);
    var p = mix4(add(counter, key.x, key.y), odd);
    p = mix4(add(p, key.y, last + 1u), even);
    p = mix4(add(p, last, key.x + 2u), odd);
    p = mix4(add(p, key.x, key.y + 3u), even);
    p = mix4(add(p, key.y, last + 4u), odd);
    return add(p, last, key.x + 5u);
}
