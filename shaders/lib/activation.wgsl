// The activation of an epilogue, chosen by ${ACT}; see `Activation` in
// ops/pointwise/activation.rs. Args of a kernel with leaky_relu has its slope.
#import math

fn act(x: f32) -> f32 {
#if ACT == relu
    return relu(x);
#elif ACT == leaky_relu
    return select(args.slope * x, x, x > 0.0);
#elif ACT == sigmoid
    return sigmoid(x);
#elif ACT == tanh
    return tanh_f32(x);
#else
    return x;
#endif
}

fn act4(x: vec4f) -> vec4f {
    return vec4f(act(x.x), act(x.y), act(x.z), act(x.w));
}
