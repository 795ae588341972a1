#!/usr/bin/env python3
"""ONNX Runtime's WebGPU provider on the product and convolution rows of this crate.

Optional, beside the comparison with burn. It needs a real GPU, or Mesa 25 or newer as
software adapter, and the packages `onnxruntime-webgpu`, `onnx` and `numpy`:

    pip install onnxruntime-webgpu onnx numpy
    cargo build --release
    python3 ort_webgpu.py --ours target/release/flowgrad-peers

Before and after each row the same row is timed by that program, which has the device to
itself then; its time is the mean of both. A run uploads its inputs, computes, and reads back a single element that depends on the
result, so that the copy of a large result is not timed. Results are compared with numpy
once before. Prints a table, or with --json the same object as the crate does.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

import numpy as np

GEMM = [
    ("gemm 256", (256, 256, 256)),
    ("gemm 512", (512, 512, 512)),
    ("gemm 1024", (1024, 1024, 1024)),
    ("gemm glow hidden 1024x512x512", (1024, 512, 512)),
    ("gemm resnet 3136x64x576", (3136, 64, 576)),
]
CONV = [
    (3, (8, 64, 32, 32), 64),
    (3, (8, 128, 16, 16), 128),
    (3, (1, 64, 56, 56), 64),
    (3, (16, 3, 32, 32), 64),
    (1, (8, 256, 8, 8), 256),
]


def rows():
    """Name, inputs, and the ONNX node of every row."""
    numbers = np.random.default_rng(1)

    def uniform(*shape):
        return numbers.uniform(-1, 1, shape).astype(np.float32)

    for name, (m, n, k) in GEMM:
        yield name, [uniform(m, k), uniform(k, n)], ("MatMul", {})
    for kernel, (n, c, h, w), out in CONV:
        name = f"conv {kernel}x{kernel} {n}x{c}x{h}x{w}->{out}"
        attributes = {"pads": [kernel // 2] * 4, "kernel_shape": [kernel] * 2}
        yield name, [uniform(n, c, h, w), uniform(out, c, kernel, kernel)], ("Conv", attributes)


def reference(inputs, node):
    """The result in float64."""
    a, b = (x.astype(np.float64) for x in inputs)
    if node[0] == "MatMul":
        return a @ b
    pad = node[1]["pads"][0]
    a = np.pad(a, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(a, b.shape[2:], axis=(2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, b, optimize=True)


def session(ort, provider, inputs, node, tiny):
    """A session of one node; `tiny` reads one element of the result instead of all."""
    from onnx import TensorProto, helper, numpy_helper

    kind, attributes = node
    nodes = [helper.make_node(kind, ["a", "b"], ["y"], **attributes)]
    initializers = [numpy_helper.from_array(inputs[1], "b")]
    output = "y"
    if tiny:
        rank = inputs[0].ndim
        for name, value in [("starts", 0), ("ends", 1)]:
            initializers.append(numpy_helper.from_array(np.full(rank, value, np.int64), name))
        nodes.append(helper.make_node("Slice", ["y", "starts", "ends"], ["one"]))
        output = "one"
    graph = helper.make_graph(
        nodes,
        "row",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, inputs[0].shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    return ort.InferenceSession(model.SerializeToString(), providers=[provider])


def time_ours(program, name):
    """Milliseconds of flowgrad on this row."""
    done = subprocess.run([program, "--alone", "--json", name], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return next(r["ours_ms"] for r in json.loads(done.stdout)["rows"] if r["name"] == name)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("filter", nargs="*", help="only rows whose names contain one of these")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--ours", help="the program of this crate, to compare with")
    parser.add_argument("--provider", default="WebGpuExecutionProvider")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    try:
        import onnxruntime as ort
    except ImportError as error:
        sys.exit(f"error: {error}; pip install onnxruntime-webgpu onnx numpy")
    if args.provider not in ort.get_available_providers():
        there = ", ".join(ort.get_available_providers())
        sys.exit(f"error: this onnxruntime has no {args.provider}, only {there}")
    measured = []
    for name, inputs, node in rows():
        if args.filter and not any(f in name for f in args.filter):
            continue
        feed = {"a": inputs[0]}
        whole = session(ort, args.provider, inputs, node, tiny=False)
        if whole.get_providers()[0] != args.provider:
            sys.exit(f"error: {args.provider} does not work on this adapter")
        difference = float(np.abs(whole.run(None, feed)[0] - reference(inputs, node)).max())
        tiny = session(ort, args.provider, inputs, node, tiny=True)
        ours = [time_ours(args.ours, name)] if args.ours else []
        times = []
        for i in range(3 + args.repeats):
            start = time.perf_counter()
            tiny.run(None, feed)
            if i >= 3:
                times.append(1e3 * (time.perf_counter() - start))
        if args.ours:
            ours.append(time_ours(args.ours, name))
        row = {"name": name, "ours_ms": statistics.mean(ours) if ours else None}
        row["peer_ms"] = statistics.median(times)
        row["ratio"] = row["peer_ms"] / row["ours_ms"] if row["ours_ms"] else None
        row["max_abs_diff"] = difference
        measured.append(row)
        if not args.json:
            if len(measured) == 1:
                print("| row | ours ms | ONNX Runtime ms | ratio | max abs diff |")
                print("|---|---|---|---|---|")
            number = lambda v, f: "-" if v is None else format(v, f)
            print(
                f"| {name} | {number(row['ours_ms'], '.3f')} | {row['peer_ms']:.3f} "
                f"| {number(row['ratio'], '.2f')} | {difference:.1e} |",
                flush=True,
            )
    if args.json:
        print(json.dumps({"rows": measured}))


if __name__ == "__main__":
    main()
