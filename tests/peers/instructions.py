"""Counts the instructions of one more prediction, by edge-run and by ONNX Runtime, on a processor with AVX2 alone.

usage: instructions.py BUNDLE PATCH [--int8 BUNDLE PATCH] [--edge-run PATH] [--lengths N,...]
(apt install valgrind; pip install onnx onnxruntime; cargo build --release --bin edge-run)

Both run in valgrind, which shows them a processor without AVX-512, AMX and VNNI, and counts what they execute: the same number
on any machine, however busy. So this is the race of small x86 machines, run on a large one. A count is no time: it ignores
caches and the pipeline. Every text has N tokens. ONNX Runtime has its best settings, as in onnxruntime_ratio.py, and
is spared tokenizer, pooling and head, which edge-run runs.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile

# This file, which runs itself in valgrind.
SELF = os.path.abspath(__file__)
# Runs of a process, and of another whose count is subtracted.
MORE, LESS = 4, 2


def counted(command):
    """Instructions that a process executes."""
    valgrind = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
    # Neither another kernel nor another order of hashes than in the run whose count is subtracted.
    env = {**os.environ, "EDGE_RUN_ISA": "avx2", "PYTHONHASHSEED": "0"}
    done = subprocess.run(valgrind + command, capture_output=True, text=True, env=env)
    found = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
    if done.returncode != 0 or found is None:
        raise SystemExit(f"{' '.join(command)}: expected a count, found exit code {done.returncode}\n{done.stderr}")
    return int(found[1].replace(",", ""))


def one_more(command_of):
    """Of one more run; `command_of` gives the command for a number of them. What all share is subtracted, so runs are warm."""
    return (counted(command_of(MORE)) - counted(command_of(LESS))) // (MORE - LESS)


def ours(edge_run, bundle, patch, length, directory):
    def command(runs):
        texts = os.path.join(directory, f"texts-{runs}.txt")
        with open(texts, "w", encoding="utf-8") as file:
            # Words of one token each; the tokenizer adds two.
            words = "the film was a joy from the first scene to the last".split() * length
            file.write((" ".join(words[: length - 2]) + "\n") * runs)
        return [edge_run, "--bundle", bundle, "--patch", patch, "--batch", "1", "--max-length", str(length), texts]

    return one_more(command)


def theirs(model, vocabulary, length):
    return one_more(lambda runs: [sys.executable, SELF, "--session", model, str(vocabulary), str(length), str(runs)])


def run_session(model, vocabulary, length, runs):
    import onnxruntime_ratio

    session = onnxruntime_ratio.session_of(model)
    feeds = onnxruntime_ratio.feeds_of(session, int(vocabulary), [int(length)])
    for _ in range(int(runs)):
        session.run(["last_hidden_state"], feeds)


def main():
    if sys.argv[1:2] == ["--session"]:
        return run_session(*sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("patch")
    parser.add_argument("--int8", nargs=2, metavar=("BUNDLE", "PATCH"))
    parser.add_argument("--edge-run", default="target/release/edge-run")
    parser.add_argument("--lengths", type=lambda text: [int(n) for n in text.split(",")], default=[8, 32, 128])
    arguments = parser.parse_args()
    import onnxruntime_ratio

    with tempfile.TemporaryDirectory() as directory:
        model = onnxruntime_ratio.graph_of(arguments.bundle, directory)
        rows = [("f32", arguments.bundle, arguments.patch, model)]
        if arguments.int8:
            quantized = os.path.join(directory, "int8.onnx")
            onnxruntime_ratio.quantize(model, quantized)
            rows.append(("int8", *arguments.int8, quantized))
        print(f"{'':4} {'tokens':>6} {'edge-run':>14} {'ONNX Runtime':>14} {'ratio':>6}")
        for name, bundle, patch, model in rows:
            with open(os.path.join(bundle, "bundle.json"), encoding="utf-8") as file:
                vocabulary = json.load(file)["config"]["vocabulary"]
            for length in arguments.lengths:
                a = ours(arguments.edge_run, bundle, patch, length, directory)
                b = theirs(model, vocabulary, length)
                print(f"{name:4} {length:6} {a:14,} {b:14,} {a / b:6.2f}", flush=True)


main()
