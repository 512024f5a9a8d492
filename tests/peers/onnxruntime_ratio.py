"""Times edge-run beside ONNX Runtime on the same texts, one thread, batch 1.

usage: onnxruntime_ratio.py BUNDLE PATCH [--edge-run PATH] [--rounds N] [--json]
(pip install onnx onnxruntime tokenizers; cargo build --release --bin edge-run)

ONNX Runtime gets the same graph with its biases as constants, all optimisations, and no spinning. Rounds alternate between
the two, so that both see the same machine; the figure is the median of the rounds' ratios, below 1 where edge-run is
faster. Times are of running the encoder alone: edge-run's own `--timing`, and the process time of `session.run`.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import tempfile
import time

import numpy as np
import onnx
import onnxruntime
from tokenizers import Tokenizer

LENGTHS = [8, 16, 32, 128]
WORDS = "the film was good and the story of a man who finds his way home is told with care".split()


def session_of(bundle, directory):
    """The graph with its biases as constants: no inputs but ids, mask and types."""
    model = onnx.load(os.path.join(bundle, "encoder.onnx"))
    kept = [i for i in model.graph.input if not i.name.endswith(".bias")]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    path = os.path.join(directory, "constant.onnx")
    onnx.save(model, path, save_as_external_data=True, location="constant.bin")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options)


def text_of(tokenizer, length):
    """A text of exactly so many tokens, special tokens included."""
    text = " ".join(WORDS[at % len(WORDS)] for at in range(length - 2))
    found = len(tokenizer.encode(text).ids)
    assert found == length, f"{found} tokens, expected {length}"
    return text


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle")
    parser.add_argument("patch")
    parser.add_argument("--edge-run", default="target/release/edge-run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    tokenizer = Tokenizer.from_file(os.path.join(arguments.bundle, "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    ratios = {}
    with tempfile.TemporaryDirectory() as directory:
        session = session_of(arguments.bundle, directory)
        if not arguments.json:
            print(f"{'tokens':>6} {'ratio':>6} {'ONNX Runtime':>13} {'edge-run':>9}  rounds")
        for length in LENGTHS:
            encoded = tokenizer.encode(text_of(tokenizer, length))
            feeds = {
                "input_ids": np.array([encoded.ids], dtype=np.int64),
                "attention_mask": np.ones((1, length), dtype=np.int64),
                "token_type_ids": np.zeros((1, length), dtype=np.int64),
            }
            feeds = {i.name: feeds[i.name] for i in session.get_inputs() if i.name in feeds}
            count = max(20, 4000 // length)
            texts = os.path.join(directory, "texts.txt")
            with open(texts, "w", encoding="utf-8") as file:
                file.write((text_of(tokenizer, length) + "\n") * count)
            rounds = []
            for _ in range(arguments.rounds):
                begun = time.process_time()
                for _ in range(count):
                    session.run(["last_hidden_state"], feeds)
                theirs = (time.process_time() - begun) / count * 1e3
                command = [arguments.edge_run, "--bundle", arguments.bundle, "--patch", arguments.patch]
                done = subprocess.run(command + ["--unbuffered", "--timing", texts], capture_output=True, text=True, check=True)
                ours = float(re.search(r"run encoder +([\d.]+) us an answer", done.stderr).group(1)) / 1e3
                rounds.append((ours / theirs, theirs, ours))
            ratio, theirs, ours = (statistics.median(r[at] for r in rounds) for at in range(3))
            ratios[str(length)] = round(ratio, 3)
            if not arguments.json:
                spread = f"{min(r[0] for r in rounds):.2f} to {max(r[0] for r in rounds):.2f}"
                print(f"{length:6} {ratio:6.2f} {theirs:10.2f} ms {ours:6.2f} ms  {spread}", flush=True)
    if arguments.json:
        print(json.dumps({"f32": ratios}))


if __name__ == "__main__":
    main()
