"""Times ONNX Runtime on a graph that takes low-rank terms, none given, beside the same graph without their inputs.

usage: low_rank_inputs.py BUNDLE [--rounds N] [--seconds S] [--lengths N,...]
(pip install onnx onnxruntime; BUNDLE from edge-export --low-rank-inputs)

One thread. Runs of the two graphs alternate, so that both see the same load of the machine; times are the thread's own. A
figure is the median over the rounds of the ratio of median times. The outputs have to be equal, bit for bit.
"""

import argparse
import json
import os
import statistics
import tempfile
import time

import numpy as np
import onnx
import onnxruntime


def without_terms(bundle, directory):
    """The graph with each sum of a product and a term replaced by the product."""
    model = onnx.load(os.path.join(bundle, "encoder.onnx"))
    graph = model.graph
    terms = {i.name for i in graph.input if ".lora_" in i.name}
    modules = {name.removesuffix(".lora_A.weight") for name in terms if name.endswith(".lora_A.weight")}
    assert modules, f"{bundle}: expected inputs for low-rank terms, found none; export it with --low-rank-inputs"
    parts = ["lora_A.transposed", "lora_B.transposed", "lora_A", "lora_B", "sum"]
    dropped = {f"{module}.{part}" for module in modules for part in parts}
    nodes = [node for node in graph.node if node.name not in dropped]
    for node in nodes:
        if node.name in modules:
            node.input[0] = f"{node.name}.product"
    kept = [
        (graph.node, nodes),
        (graph.input, [i for i in graph.input if i.name not in terms]),
        (graph.initializer, [t for t in graph.initializer if t.name not in terms]),
    ]
    for field, values in kept:
        del field[:]
        field.extend(values)
    path = os.path.join(directory, "without.onnx")
    onnx.save(model, path, save_as_external_data=True, location="without.bin")
    return path


def session_of(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # As check_onnxruntime.py: weights of eight bits are floats.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options)


def compare(sessions, vocabulary, length, arguments):
    """The ratio of each round, and the median time without terms, in ms."""
    ids = np.array([[(7919 * at + 1) % vocabulary for at in range(length)]], dtype=np.int64)
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    feeds = {i.name: feeds[i.name] for i in sessions[0].get_inputs()}
    without, given = [session.run(None, feeds) for session in sessions]
    assert all(np.array_equal(a, b) for a, b in zip(without, given)), "terms of rank 0 change the outputs"
    ratios = []
    for _ in range(arguments.rounds):
        times, begun = ([], []), time.perf_counter()
        while len(times[0]) < 5 or time.perf_counter() - begun < arguments.seconds:
            for at in [0, 1, 1, 0]:
                before = time.thread_time()
                sessions[at].run(None, feeds)
                times[at].append((time.thread_time() - before) * 1e3)
        ratios.append(statistics.median(times[1]) / statistics.median(times[0]))
    return ratios, statistics.median(times[0])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2, help="for each round")
    parser.add_argument("--lengths", type=lambda text: [int(n) for n in text.split(",")], default=[32, 128])
    arguments = parser.parse_args()
    with open(os.path.join(arguments.bundle, "bundle.json"), encoding="utf-8") as file:
        vocabulary = json.load(file)["config"]["vocabulary"]
    with tempfile.TemporaryDirectory() as directory:
        paths = [without_terms(arguments.bundle, directory), os.path.join(arguments.bundle, "encoder.onnx")]
        sessions = [session_of(path) for path in paths]
        for length in arguments.lengths:
            ratios, ms = compare(sessions, vocabulary, length, arguments)
            spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
            print(f"{length:4} tokens: {statistics.median(ratios):.3f} times {ms:.2f} ms  ({spread})", flush=True)


if __name__ == "__main__":
    main()
