// What all pooling kernels know: x [planes, in_y, in_x], y [planes, out_y, out_x],
// window p covers rows p * stride - padding and on. See `PoolParams` in ops/pool_windows.rs.

struct Args {
    planes: u32,
    in_y: u32,
    in_x: u32,
    out_y: u32,
    out_x: u32,
    kernel_y: u32,
    kernel_x: u32,
    stride_y: u32,
    stride_x: u32,
    padding_y: u32,
    padding_x: u32,
}

// The first pixel of window i along one axis, and the one after its last.
fn covers(i: u32, kernel: u32, stride: u32, padding: u32, extent: u32) -> vec2u {
    let first = i * stride;
    return vec2u(max(first, padding) - padding, min(first + kernel - padding, extent));
}

// Pixels that window i covers of the padded image along one axis.
fn padded(i: u32, kernel: u32, stride: u32, padding: u32, extent: u32) -> u32 {
    let first = i * stride;
    return min(first + kernel, extent + 2u * padding) - first;
}

// The first window that covers pixel i along one axis, and the one after the last.
fn covered_by(i: u32, kernel: u32, stride: u32, padding: u32, windows: u32) -> vec2u {
    let at = i + padding;
    let first = select(0u, (at - kernel) / stride + 1u, at >= kernel);
    return vec2u(first, min(at / stride + 1u, windows));
}
