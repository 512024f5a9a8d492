"""Times edge-run beside ONNX Runtime on the same token ids, one thread.

usage: onnxruntime_ratio.py BUNDLE [INT8_BUNDLE] [--edge-run PATH] [--rounds N] [--lengths N,...] [--no-batch] [--json]
(pip install onnx onnxruntime; cargo build --release --bin edge-run)

ONNX Runtime has its best settings: the f32 graph with constant biases, all optimizations, no spinning. For int8, its own
dynamic quantization converts the same graph. Rounds alternate between the two programs, so that both see the same load of
the machine. A figure is the median over the rounds of the ratio of median times; below 1, edge-run is faster. Both run the
same token ids, (7919 at + 1) mod vocabulary for token number `at`, and their outputs are compared.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import tempfile
import time

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import QuantType, quantize_dynamic

# The lengths of edge-run's own batch: 32 texts, shortest first.
BATCH = [4 * at for at in range(1, 33)]


def graph_of(bundle, directory):
    """The graph with its biases as constants: no inputs but ids, mask and types."""
    model = onnx.load(os.path.join(bundle, "encoder.onnx"))
    if any(".lora_" in i.name for i in model.graph.input):
        raise SystemExit(f"{bundle}: expected a graph without inputs for low-rank terms, which cost time; "
                         "export it without --low-rank-inputs")
    kept = [i for i in model.graph.input if not i.name.endswith(".bias")]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    path = os.path.join(directory, "constant.onnx")
    onnx.save(model, path, save_as_external_data=True, location="constant.bin")
    return path


def session_of(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options)


def quantize(path, to):
    """ONNX Runtime's own dynamic quantization of a graph."""
    quantize_dynamic(path, to, weight_type=QuantType.QInt8, extra_options={"MatMulConstBOnly": True})


def feeds_of(session, vocabulary, lengths):
    """A padded batch of sequences of these lengths."""
    longest = max(lengths)
    ids = np.array([[(7919 * at + 1) % vocabulary for at in range(longest)]] * len(lengths), dtype=np.int64)
    mask = np.array([[int(at < length) for at in range(longest)] for length in lengths], dtype=np.int64)
    feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    return {i.name: feeds[i.name] for i in session.get_inputs() if i.name in feeds}


def median_of(run, seconds):
    times, begun = [], time.perf_counter()
    run()
    while len(times) < 5 or time.perf_counter() - begun < seconds:
        at = time.perf_counter()
        run()
        times.append((time.perf_counter() - at) * 1e3)
    return statistics.median(times)


def compare(name, bundle, session, arguments):
    """Ratios by length, and of the batch's throughput."""
    manifest = json.load(open(os.path.join(bundle, "bundle.json"), encoding="utf-8"))
    vocabulary = manifest["config"]["vocabulary"]
    feeds = {length: feeds_of(session, vocabulary, [length]) for length in arguments.lengths}
    command = [arguments.edge_run, "bench", bundle, "--json", "--seconds", str(arguments.seconds)]
    command += ["--lengths", ",".join(str(length) for length in arguments.lengths)]
    rounds = []
    for _ in range(arguments.rounds):
        ours = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        if "uncovered" in ours:
            raise SystemExit(f"{bundle}: expected a graph that edge-run's operators cover, found one that tract runs: "
                             f"{ours['uncovered']}; export it again")
        theirs, cosines = {}, {}
        for found in ours["lengths"]:
            length = found["tokens"]
            hidden = session.run(["last_hidden_state"], feeds[length])[0][0, 0, : len(found["hidden"])]
            both = np.linalg.norm(hidden) * np.linalg.norm(found["hidden"])
            cosines[length] = float(np.dot(hidden, found["hidden"]) / both)
            theirs[length] = median_of(lambda: session.run(["last_hidden_state"], feeds[length]), arguments.seconds)
        # Padded parts of the sorted batch, of the size that is best for ONNX Runtime.
        parts = {}
        for size in [] if arguments.no_batch else [1, 4, 8, 32]:
            batches = [feeds_of(session, vocabulary, BATCH[at : at + size]) for at in range(0, 32, size)]
            run = lambda: [session.run(["last_hidden_state"], batch) for batch in batches]
            parts[size] = median_of(run, arguments.seconds)
        rounds.append((ours, theirs, min(parts.values(), default=math.nan), cosines))
    if not arguments.json:
        print(f"{name}\n{'tokens':>6} {'ratio':>6} {'ONNX Runtime':>13} {'edge-run':>10}   rounds        cosine")
    ratios = {}
    for at, length in enumerate(arguments.lengths):
        ours = [r[0]["lengths"][at]["median_ms"] for r in rounds]
        theirs = [r[1][length] for r in rounds]
        each = [a / b for a, b in zip(ours, theirs)]
        ratios[str(length)] = round(statistics.median(each), 3)
        if not arguments.json:
            spread = f"{min(each):.2f} to {max(each):.2f}"
            cosine = min(r[3][length] for r in rounds)
            times = f"{statistics.median(theirs):10.2f} ms {statistics.median(ours):7.2f} ms"
            print(f"{length:6} {ratios[str(length)]:6.2f} {times}   {spread}  {cosine:.5f}", flush=True)
    if arguments.no_batch:
        return ratios, None
    throughput = statistics.median(r[2] / r[0]["batch"]["median_ms"] for r in rounds)
    if not arguments.json:
        print(f"batch of 32 texts of 4 to 128 tokens: {throughput:.2f} times ONNX Runtime's throughput", flush=True)
    return ratios, round(throughput, 3)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle")
    parser.add_argument("int8_bundle", nargs="?")
    parser.add_argument("--edge-run", default="target/release/edge-run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="for each figure of each round")
    parser.add_argument("--lengths", type=lambda text: [int(n) for n in text.split(",")], default=[8, 16, 32, 128, 256])
    parser.add_argument("--no-batch", action="store_true", help="leave out ONNX Runtime's batches, which take minutes for large encoders")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    ratios, throughput = {}, {}
    with tempfile.TemporaryDirectory() as directory:
        path = graph_of(arguments.bundle, directory)
        ratios["f32"], throughput["f32"] = compare("f32", arguments.bundle, session_of(path), arguments)
        if arguments.int8_bundle:
            quantized = os.path.join(directory, "int8.onnx")
            quantize(path, quantized)
            session = session_of(quantized)
            ratios["int8"], throughput["int8"] = compare("int8", arguments.int8_bundle, session, arguments)
    if arguments.json:
        print(json.dumps({**ratios, "throughput": throughput}))


if __name__ == "__main__":
    main()
