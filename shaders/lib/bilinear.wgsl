// Bilinear sampling of pictures of args.in_y x args.in_x pixels at places of a grid, as
// PyTorch's grid_sample does with align_corners = false: -1 and 1 are the outer edges, so
// pixel i has its centre at (2 i + 1) / extent - 1. Its weights, or their derivatives by the
// place: ORDER_Y and ORDER_X times (0 or 1). See ops/image/bilinear.rs.

// A pixel along one axis and the weights of it and the next; either may be outside.
struct Pair {
    first: i32,
    weights: vec2f,
}

fn pair(place: f32, extent: u32, order: u32) -> Pair {
    let size = f32(extent);
    let at = ((place + 1.0) * size - 1.0) * 0.5;
#if BORDER
    let limited = clamp(at, 0.0, size - 1.0);
    // Beyond the outer centres the picture does not change.
    let slope = select(0.0, 0.5 * size, (at > 0.0) & (at < size - 1.0));
#else
    // From here on both are outside.
    let limited = clamp(at, -2.0, size + 1.0);
    let slope = 0.5 * size;
#endif
    let low = floor(limited);
    let part = limited - low;
    let weights = select(vec2f(1.0 - part, part), vec2f(-slope, slope), order != 0u);
    return Pair(i32(low), weights);
}

fn row_pair(place: vec2f) -> Pair {
    return pair(place.y, args.in_y, ${ORDER_Y}u);
}

fn column_pair(place: vec2f) -> Pair {
    return pair(place.x, args.in_x, ${ORDER_X}u);
}

fn is_known(place: vec2f) -> bool {
    return !(is_nan(place.x) | is_nan(place.y));
}
