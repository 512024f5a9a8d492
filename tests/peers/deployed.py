"""What eight tasks cost as they have to be deployed: biases in edge-run, and what other methods need in ONNX Runtime.

usage: deployed.py BUNDLE [--edge-run PATH] [--fraction F] [--rounds N]
(pip install onnx onnxruntime numpy; cargo build --release --bin edge-run; Linux)

- Biases: patches over one mapped encoder; figures of `edge-run bench`.
- A session each: whatever changes the graph or all weights, such as Houlsby's adapters and full fine-tuning. Each session is of the
  encoder's own graph, which is what is left when a method's few values are not counted.
- One session, weights changed in place: diff pruning. A switch takes the difference of one task away from the weights and adds
  that of the next: values at a FRACTION of the places, and their places. ONNX Runtime itself is left out: its sessions would have to
  be made without prepacking, to see the change.

One thread, 32 tokens. "mixed" is the time for eight texts of eight tasks, divided by that for a batch of eight texts of one task.
Memory is anonymous memory in MB for all eight tasks; Python's own part is subtracted.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time

import numpy as np

import memory
import onnxruntime_ratio

TASKS, TOKENS = 8, 32


def sessions(path, vocabulary, rounds):
    """Memory of a session each, and the time of eight texts, one in each, over that of a batch."""
    before, _ = memory.memory_of("self")
    found = [onnxruntime_ratio.session_of(path) for _ in range(TASKS)]
    one, eight = (onnxruntime_ratio.feeds_of(found[0], vocabulary, [TOKENS] * count) for count in (1, TASKS))
    each = lambda: [session.run(["last_hidden_state"], one) for session in found]
    together = lambda: found[0].run(["last_hidden_state"], eight)
    each()
    used = memory.memory_of("self")[0] - before
    together()
    ratios = [onnxruntime_ratio.median_of(each, 1) / onnxruntime_ratio.median_of(together, 1) for _ in range(rounds)]
    return used, statistics.median(ratios)


def in_place(values, fraction, rounds):
    """Memory of the weights and of eight differences, and the milliseconds of a switch."""
    random = np.random.default_rng(1)
    weights, count = np.zeros(values, np.float32), round(fraction * values)
    tasks = [(np.sort(random.choice(values, count, replace=False)), np.ones(count, np.float32)) for _ in range(TASKS)]

    def switch(last, following):
        weights[last[0]] -= last[1]
        weights[following[0]] += following[1]

    times = []
    for at in range(rounds * TASKS):
        begun = time.perf_counter()
        switch(tasks[at % TASKS], tasks[(at + 1) % TASKS])
        times.append((time.perf_counter() - begun) * 1e3)
    # A place takes four bytes, and a value two.
    return (weights.nbytes + TASKS * count * 6) / 1e6, statistics.median(times)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle")
    parser.add_argument("--edge-run", default="target/release/edge-run")
    parser.add_argument("--fraction", type=float, default=0.005)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    manifest = json.load(open(f"{arguments.bundle}/bundle.json", encoding="utf-8"))
    command = [arguments.edge_run, "bench", arguments.bundle, "--json", "--lengths", str(TOKENS), "--seconds", "1"]
    ours = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    values = sum(int(np.prod(tensor["shape"])) for tensor in manifest["tensors"])
    with tempfile.TemporaryDirectory() as directory:
        path = onnxruntime_ratio.graph_of(arguments.bundle, directory)
        held, mixed = sessions(path, manifest["config"]["vocabulary"], arguments.rounds)
    merged, switch = in_place(values, arguments.fraction, arguments.rounds)
    own = TASKS * ours["task_bytes"] / 1e6
    print(f"| deployed as | anonymous memory, MB | a switch | mixed |\n|---|---|---|---|")
    print(f"| patches in edge-run | {own:.1f} for the tasks | {ours['switch_us']:.1f} µs | {ours['mixed']['ratio']:.2f} |")
    print(f"| a session each | {held:.0f} | none | {mixed:.2f} |")
    print(f"| weights changed in place | {merged:.0f} | {switch * 1e3:.0f} µs | not in a batch |")


if __name__ == "__main__":
    main()
